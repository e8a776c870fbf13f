//! `fs perplexity`: how well a model predicts a text, and how far one model is from another.

use super::common::{self, INTERRUPTED, ModelArgs};
use clap::error::ErrorKind;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::perplexity::{self, Estimate, PerplexityOptions, Report, Scores};
use failed_star::weights::ModelSource;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The context that published perplexities of llama.cpp are of.
const DEFAULT_CONTEXT: usize = 512;

/// Arguments of `fs perplexity`.
#[derive(clap::Args)]
#[command(after_help = "\
The text is tokenized once and cut into windows of --context tokens, which the model sees one at a time, from position 0.

Without --stride, windows follow one another, and of each the second half is scored: the logits at positions context/2 to \
context - 2 score the tokens one further. What is left at the end of the text is not scored. These are the windows of \
llama.cpp's llama-perplexity (tools/perplexity/perplexity.cpp).

With --stride N, windows overlap, each N tokens further, and score the tokens that no window before has seen: every token \
but the text's first, once. This is transformers' sliding window (docs/source/en/perplexity.md).

A text shorter than one window is one window, and all its tokens but the first are scored. Compare perplexities only \
between equal windows and within one tokenizer; bits per byte also between tokenizers. Errors are standard errors that \
take tokens for independent, so they are lower bounds. Ctrl-C reports what is scored so far and exits with 130.

With --against REFERENCE, in every scored place: KL(reference || model) over the whole vocabulary, whether both find the \
same token most likely, and by how much the probability of the text's token changed.

Examples:
  fs perplexity story.txt
  fs perplexity wiki.test.raw --model qwen3-0.6b --context 2048 --stride 512 --json
  fs perplexity story.txt --model build/small --against stories
  fs perplexity story.txt --kv q8 --against-kv f16    what a cache of 8 bits costs")]
pub struct Args {
    /// The text, in UTF-8; `-` reads stdin
    file: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Compare with this model: a name, a directory or a weights file with the same vocabulary
    #[arg(long, value_name = "REFERENCE")]
    against: Option<String>,
    /// Tokens of a window [default: 512, or what the model was made for if that is less]
    #[arg(short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(3..))]
    context: Option<u32>,
    /// Let windows overlap, each N tokens further than the one before; below --context
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
    /// Element type of the KV cache: f16, f32 or q8
    #[arg(long, default_value = "f16", value_name = "TYPE")]
    kv: KvDType,
    /// Element type of the reference's KV cache [default: that of --kv]; without --against the reference is the model itself
    #[arg(long, value_name = "TYPE")]
    against_kv: Option<KvDType>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `fs perplexity`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    common::catch_interrupts()?;
    let context = args.context.map(|n| n as usize);
    let stride = args.stride.map(|n| n as usize);
    if let (Some(stride), context) = (stride, context.unwrap_or(DEFAULT_CONTEXT))
        && stride >= context
    {
        let message = format!("--stride {stride} must be below the context of {context} tokens");
        common::usage_error(ErrorKind::ValueValidation, &message);
    }
    let text = if args.file == Path::new("-") { common::read_stdin()? } else { common::read_text(&args.file)? };
    let engine = args.model.load()?;
    let reference = match &args.against {
        Some(name) => Some(common::load(&ModelSource::resolve(Some(name))?, &args.model.device)?),
        None => args.against_kv.map(|_| engine.clone()),
    };
    let ids = perplexity::tokenize(&engine, reference.as_ref(), &text)?;
    let options = PerplexityOptions {
        context: context.unwrap_or(DEFAULT_CONTEXT.min(engine.config().max_context())),
        stride,
        kv_dtype: args.kv,
        against_kv_dtype: args.against_kv.unwrap_or(args.kv),
    };

    let bar = Bar::new(args.model.device.quiet);
    let started = Instant::now();
    let mut passed = 0;
    let scores = perplexity::score(&engine, reference.as_ref(), &ids, &options, &mut |progress| {
        passed = progress.done;
        bar.update(&progress);
        if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.clear();
    let scores = scores?;
    let seconds = started.elapsed().as_secs_f64();
    if !scores.interrupted {
        passed = scores.windows.iter().map(|window| window.tokens.len() - 1).sum();
    }
    let code = ExitCode::from(if scores.interrupted { 130 } else { 0 });
    let Some(report) = Report::new(&engine, &ids, &scores) else {
        eprintln!("interrupted before the first token was scored");
        return Ok(code);
    };
    if scores.interrupted {
        let all: usize = scores.windows.iter().map(|window| window.scored()).sum();
        eprintln!("interrupted: this is of the first {} of {all} tokens to score", report.tokens);
    }
    if args.json {
        let mut value = serde_json::json!({
            "file": args.file.display().to_string(),
            "model": engine.name(),
            "context": options.context,
            "stride": options.stride,
            "kv": args.kv.name(),
            "text_tokens": ids.len(),
            "windows": scores.windows.len(),
            "interrupted": scores.interrupted,
            "seconds": seconds,
        });
        if let (Some(value), serde_json::Value::Object(report)) =
            (value.as_object_mut(), serde_json::to_value(&report)?)
        {
            value.extend(report);
        }
        if let Some(reference) = &reference {
            value["against"]["model"] = reference.name().into();
            value["against"]["kv"] = options.against_kv_dtype.name().into();
        }
        common::print_json(&value)?;
    } else {
        common::print(table(&ids, &options, &scores, &report, reference.as_ref().map(|engine| engine.name()))?)?;
    }
    if !args.model.device.quiet {
        let models = if reference.is_some() { "both models" } else { "the model" };
        let tokens = common::count(passed, "token");
        eprintln!("{tokens} through {models} in {seconds:.1} s: {:.0} tok/s", passed as f64 / seconds);
    }
    Ok(code)
}

fn table(
    ids: &[u32],
    options: &PerplexityOptions,
    scores: &Scores,
    report: &Report,
    reference: Option<&str>,
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let context = options.context;
    let windows = common::count(scores.windows.len(), "window");
    let cut = match options.stride {
        _ if ids.len() < context => format!("shorter than one window of {context}: all but the first scored"),
        None => format!("{windows} of {context}, the second half of each scored"),
        Some(stride) => {
            format!("{windows} of {context}, each {stride} further, all but the first token scored")
        }
    };
    writeln!(out, "text              {}; {cut}", common::count(ids.len(), "token"))?;
    writeln!(out, "scored            {} of {} bytes", common::count(report.tokens, "token"), report.bytes)?;
    writeln!(out, "NLL               {} nats a token", show(report.nll, 1.0))?;
    if let Some(bits) = report.bits_per_byte {
        writeln!(out, "bits per byte     {bits:.4}")?;
    }
    writeln!(out, "perplexity        {}", show(report.perplexity, 1.0))?;
    if let (Some(c), Some(reference)) = (&report.against, reference) {
        writeln!(out, "\nagainst {reference}, whose perplexity is {}", show(c.perplexity, 1.0))?;
        writeln!(out, "perplexity ratio  {}", show(c.perplexity_ratio, 1.0))?;
        writeln!(
            out,
            "KL divergence     {} nats a token; median {:.3e}, p99 {:.3e}, largest {:.3e}",
            show(c.kl, 1.0),
            c.kl_median,
            c.kl_p99,
            c.kl_max
        )?;
        writeln!(out, "same top token    {} %", show(c.same_top, 100.0))?;
        writeln!(out, "change of p       {} percentage points", show(c.probability_change, 100.0))?;
    }
    Ok(out)
}

/// A mean with its error, to two digits of the error's, and to four decimals at least: the errors of two models on one text go
/// together, so their difference may mean something where it is far below them.
fn show(Estimate { mean, standard_error }: Estimate, unit: f64) -> String {
    let mean = mean * unit;
    match standard_error.map(|error| error * unit) {
        Some(error) if error > 0.0 && error.is_finite() => {
            let digits = (1.0 - error.log10().floor()).clamp(4.0, 12.0) as usize;
            format!("{mean:.digits$} ± {error:.digits$}")
        }
        Some(error) => format!("{mean} ± {error}"),
        None => format!("{mean:.4}"),
    }
}

/// A bar on stderr with the estimate so far, if anybody is there to see it.
struct Bar(Option<indicatif::ProgressBar>);

impl Bar {
    fn new(quiet: bool) -> Self {
        let style = indicatif::ProgressStyle::with_template("perplexity {msg} {bar:20} {pos}/{len} tokens, {eta} left");
        Self(match style {
            Ok(style) if !quiet && std::io::stderr().is_terminal() => {
                Some(indicatif::ProgressBar::no_length().with_style(style))
            }
            _ => None,
        })
    }

    fn update(&self, progress: &perplexity::Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
            if progress.scored > 0 {
                bar.set_message(format!("{:.4}", progress.nll.exp()));
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
