//! `fs imatrix`: which columns of a model's matrices a text uses most.

use super::common::{self, INTERRUPTED, ModelArgs, PromptBar};
use anyhow::bail;
use failed_star::session::SessionError;
use failed_star::weights::quantize::importance;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Arguments of `fs imatrix`.
#[derive(clap::Args)]
#[command(after_help = "\
The text should be like what the model will be used for; about 100,000 tokens are enough. `fs quantize --imatrix` reads
the file, which has the layout of llama.cpp's GGUF imatrix files.

Examples:
  fs imatrix calibration.txt qwen3.imatrix.gguf --model qwen3-0.6b
  fs quantize qwen3-0.6b qwen3-q4.gguf --type q4_k_m --imatrix qwen3.imatrix.gguf")]
pub struct Args {
    /// The text to run the model on
    #[arg(value_name = "TEXT")]
    text: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT.gguf")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens that are read together [default: 512, or the context that the model was made for]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// Stop after N chunks [default: the whole text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Replace OUT.gguf if it is there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `fs imatrix`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    common::catch_interrupts()?;
    if args.out.exists() && !args.force {
        bail!("{} is there already; --force replaces it", args.out.display());
    }
    let text = common::read_text(&args.text)?;
    let engine = args.model.load()?;
    let mut ids = engine.tokenizer()?.encode(&text);
    let most = engine.config().max_context();
    let chunk = args.chunk.map_or(most.min(512), |chunk| chunk as usize);
    if chunk > most {
        bail!("--chunk {chunk} is more than the context of {most} tokens that {} was made for", engine.name());
    }
    if let Some(chunks) = args.chunks {
        ids.truncate(chunk.saturating_mul(chunks as usize));
    }
    let bar = PromptBar::new(args.model.device.quiet);
    let sums = engine.collect_importance(&args.model.device.options(), &ids, chunk, &mut |done, total| {
        bar.update(done, total);
        if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.clear();
    let sums = match sums {
        Err(error @ SessionError::Interrupted { .. }) => {
            eprintln!("{error}: nothing was written");
            return Ok(ExitCode::from(130));
        }
        sums => sums?,
    };
    let (tensors, chunks) = (sums.len(), ids.len().div_ceil(chunk));
    let dataset = args.text.file_name().unwrap_or_default().to_string_lossy();
    importance::write(&args.out, &sums, &dataset, chunk as u32, chunks as u32)?;
    let (path, tokens) = (args.out.display().to_string(), ids.len());
    if args.json {
        common::print_json(&serde_json::json!({
            "path": path, "model": engine.name(), "tensors": tensors, "tokens": tokens, "chunks": chunks, "chunk": chunk,
        }))?;
    } else {
        let [matrices, tokens, chunks] =
            [(tensors, "matrix"), (tokens, "token"), (chunks, "chunk")].map(|(n, noun)| common::count(n, noun));
        common::print(format!("{path}: {matrices}, from {tokens} in {chunks}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
