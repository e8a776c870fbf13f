//! `fs quantize`: write a model as one GGUF file, in fewer bits.

use super::common::{self, INTERRUPTED};
use clap::error::ErrorKind;
use failed_star::weights::ModelSource;
use failed_star::weights::quantize::{Importance, Options, QuantizeError, Recipe, Summary, quantize};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Arguments of `fs quantize`.
#[derive(clap::Args)]
#[command(after_help = "\
Types, from large to small: f32, bf16, f16, q8_0 (8.5 bits a value, nearly lossless), q6_k (6.6), q5_k_m (5.7), q4_k_m (4.9),
q4_0 (4.5). In the _m mixes some tensors have more bits; the head has 6.6 in all below q8_0.

Examples:
  fs quantize qwen3-0.6b qwen3-0.6b-q4_k_m.gguf --type q4_k_m
  fs quantize stories stories.gguf --type q8_0 && fs generate --model stories.gguf \"Once upon a time\"
  fs imatrix calibration.txt qwen3.imatrix.gguf --model qwen3-0.6b
  fs quantize qwen3-0.6b qwen3-q4.gguf --type q4_0 --imatrix qwen3.imatrix.gguf")]
pub struct Args {
    /// The model: a name, a directory or a file, in bf16, f16 or f32
    #[arg(value_name = "MODEL")]
    source: String,
    /// The GGUF file to write
    #[arg(value_name = "OUT.gguf")]
    out: PathBuf,
    /// How to store the weights
    #[arg(long, short = 'T', value_name = "TYPE", value_parser = parse_recipe)]
    r#type: &'static Recipe,
    /// Let the columns that are used most come back nearest, at 4 to 6 bits; written by `fs imatrix`, or a GGUF file of llama-imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Threads [default: one a core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    threads: Option<u16>,
    /// Replace OUT.gguf if it is there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_recipe(name: &str) -> Result<&'static Recipe, String> {
    Recipe::find(name).ok_or_else(|| {
        let names: Vec<&str> = Recipe::TABLE.iter().map(|recipe| recipe.name).collect();
        format!("there is no type `{name}`; there are: {}", names.join(", "))
    })
}

/// Runs `fs quantize`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    common::catch_interrupts()?;
    if args.imatrix.is_some() && !args.r#type.weighs_errors() {
        let message = format!("--imatrix has no use with --type {}, which has no errors to weigh", args.r#type.name);
        common::usage_error(ErrorKind::ArgumentConflict, &message);
    }
    let source = ModelSource::resolve(Some(&args.source))?;
    let importance = args.imatrix.as_deref().map(Importance::open).transpose()?;
    let threads = args.threads.map(usize::from);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let options = Options { recipe: args.r#type, importance: importance.as_ref(), threads, force: args.force };

    let bar = bar();
    let start = Instant::now();
    let result = quantize(&source, &args.out, &options, &mut |done, total, tensor| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(tensor.to_string());
        if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let summary = match result {
        Err(QuantizeError::Interrupted) => {
            eprintln!("{}", QuantizeError::Interrupted);
            return Ok(ExitCode::from(130));
        }
        result => result?,
    };
    let seconds = start.elapsed().as_secs_f64();
    if summary.tensors.iter().any(|tensor| tensor.name.ends_with("attn_output.bias")) {
        eprintln!("note: llama.cpp does not open Qwen3 files with attention biases like this one's; fs does");
    }
    if args.json {
        let mut value = serde_json::to_value(&summary)?;
        value["model"] = source.name().into();
        value["type"] = options.recipe.name.into();
        value["path"] = args.out.display().to_string().into();
        value["seconds"] = seconds.into();
        common::print_json(&value)?;
    } else {
        common::print(table(&summary))?;
        let (before, after) = (DecimalBytes(summary.bytes_before), DecimalBytes(summary.file_bytes));
        let path = args.out.display();
        common::print(format!(
            "\n{path}: {after}, from {before}; {:.2} bits a value, relative error {:.3} %; {seconds:.1} s, {}\n",
            summary.bits_per_value,
            100.0 * summary.relative,
            common::count(threads, "thread"),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:28!} {wide_bar} {percent:>3} % {eta:>4}").expect("a valid template");
    ProgressBar::no_length().with_style(style)
}

/// A line for each tensor.
fn table(summary: &Summary) -> String {
    let width = summary.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<width$}  {:<14} {:>4} -> {:<4}  {:>12}  {:>10}  {:>9}",
        "tensor", "shape", "from", "to", "bytes", "rmse", "relative"
    );
    for tensor in &summary.tensors {
        let (name, shape, from, to) = (&tensor.name, format!("{:?}", tensor.shape), tensor.from, tensor.to);
        let (bytes, rmse, relative) = (tensor.bytes, tensor.rmse, 100.0 * tensor.relative);
        let note = tensor.note.as_ref().map_or(String::new(), |note| format!("  {note}"));
        let weighted = if tensor.weighted { "  by importance" } else { "" };
        let _ = writeln!(
            out,
            "{name:<width$}  {shape:<14} {from:>4} -> {to:<4}  {bytes:>12}  {rmse:>10.3e}  {relative:>7.3} %{weighted}{note}"
        );
    }
    out
}
