//! `fs synth`: a full-size model with random weights, from a configuration.

use super::common::{self, INTERRUPTED};
use failed_star::weights::synth::{SynthOptions, synthesize};
use failed_star::weights::{ModelSource, WeightsError};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Arguments of `fs synth`.
#[derive(clap::Args)]
#[command(
    long_about = "Make a full-size model with random weights from a configuration alone\n\nSpeed depends on a model's shape \
                  and not on its values: this is how a shape is timed without its weights. The text it writes is noise.",
    after_help = "\
Examples:
  fs synth qwen3-0.6b /tmp/shape            1.2 GB of BF16 weights in the shape of Qwen3-0.6B
  fs bench --model /tmp/shape
  fs synth path/to/config.json /tmp/shape --seed 7 --force"
)]
pub struct Args {
    /// A configuration file, a model's directory, or a model's name
    #[arg(value_name = "CONFIG")]
    source: String,
    /// The directory to make: config.json, model.safetensors, and the tokenizer where CONFIG has one
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The same seed gives the same weights
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Replace the model that is in OUT
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `fs synth`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = ModelSource::resolve_config(&args.source)?;
    common::catch_interrupts()?;
    let bar = match !args.quiet && std::io::stderr().is_terminal() {
        true => ProgressBar::no_length(),
        false => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
    )?);
    let started = Instant::now();
    let options = SynthOptions { seed: args.seed, force: args.force };
    let result = synthesize(&source, &args.out, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let made = match result {
        Err(WeightsError::Io { source, .. }) if source.kind() == std::io::ErrorKind::Interrupted => {
            eprintln!("{source}");
            return Ok(ExitCode::from(130));
        }
        result => result?,
    };
    if args.json {
        common::print_json(&serde_json::to_value(&made)?)?;
    } else {
        let (parameters, bytes) = (made.parameters as f64 / 1e6, DecimalBytes(made.bytes));
        common::print(format!(
            "{}: {}, {parameters:.1} M parameters, {bytes} in {:.1} s\n",
            made.path.display(),
            common::count(made.tensors, "tensor"),
            started.elapsed().as_secs_f64()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
