//! `fs bench`: how fast a model runs, and how near that is to what the machine can do.

mod svg;

use super::common::{self, ModelArgs};
use failed_star::model::kv_cache::KvDType;
use failed_star::session::bench::{BenchOptions, BenchReport, Measured, PhaseOperations, bench, time_operations};
use failed_star::weights::ModelSource;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Arguments of `fs bench`.
#[derive(clap::Args)]
#[command(
    long_about = "Measure a model's prefill and decode, and the machine's limits beside them\n\nPrefill (the prompt at once) is \
                  bound by arithmetic, decode (token by token) by reading the weights and the cache from memory. Each number \
                  is the median over the repeats, with the least and the greatest behind it. Needs no tokenizer: the tokens are \
                  arbitrary.",
    after_help = "\
Examples:
  fs bench                                               the default model, an empty cache
  fs bench -m qwen3-0.6b --depth 0,2048,8192 --kv f16,f32
  fs bench -m qwen3-0.6b --prompt 0 --generate 64 --ops  where the time of decoding goes
  fs bench --json | jq '.results[].decode.tokens_per_second.median'
  fs bench --depth 0,256,512 --svg bench.svg             tokens/s against depth, and the roofline

`fs synth` makes a model of any shape to measure."
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt; 0 leaves prefill out
    #[arg(short, long, default_value_t = 512, value_name = "N")]
    prompt: u32,
    /// Tokens to decode one by one; 0 leaves decode out
    #[arg(short = 'n', long, default_value_t = 128, value_name = "N")]
    generate: u32,
    /// How many tokens the cache holds before; several with commas between
    #[arg(short, long, default_value = "0", value_delimiter = ',', value_name = "N,…")]
    depth: Vec<u32>,
    /// Element types of the KV cache; several with commas between
    #[arg(long, default_value = "f16", value_delimiter = ',', value_name = "TYPE,…")]
    kv: Vec<KvDType>,
    /// How often each is measured
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Break the time down by operation, in a run of its own
    #[arg(long)]
    ops: bool,
    /// One JSON object instead of a table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Comma-separated values instead of a table, a row for each phase (--ops: for each operation)
    #[arg(long)]
    csv: bool,
    /// Also draw tokens/s against depth and the roofline into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs `fs bench`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.prompt == 0 && args.generate == 0 {
        let message = "--prompt 0 and --generate 0 leave nothing to measure";
        common::usage_error(clap::error::ErrorKind::ArgumentConflict, message);
    }
    let options = BenchOptions {
        prompt: args.prompt as usize,
        generate: args.generate as usize,
        depths: distinct(args.depth.iter().map(|&n| n as usize)),
        kv: distinct(args.kv),
        repeats: args.repeats as usize,
    };
    let source = ModelSource::resolve(args.model.model.as_deref())?;
    // Before the weights are loaded, which may take a while.
    options.check(source.name(), &source.config()?)?;
    if let Some(path) = &args.svg {
        check_writable(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    let started = Instant::now();
    let engine = common::load(&source, &args.model.device)?;
    let load_seconds = started.elapsed().as_secs_f64();

    let bar = match !args.model.device.quiet && std::io::stderr().is_terminal() {
        true => ProgressBar::no_length(),
        false => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template("measuring {bar:30} {pos}/{len}, {eta} left")?);
    let mut report = bench(&engine, &options, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if args.ops {
        report.operations = time_operations(&engine, &args.model.device.options(), &options)?;
    }

    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["load_seconds"] = load_seconds.into();
        common::print_json(&value)?;
    } else if args.csv {
        common::print(if args.ops { operations_csv(&report) } else { csv(&report) })?;
    } else {
        common::print(table(&report, load_seconds)?)?;
    }
    // After the numbers, which would be lost if the file can no longer be written.
    if let Some(path) = args.svg {
        std::fs::write(&path, svg::draw(&report)).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is given twice is measured once.
fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    values.into_iter().fold(Vec::new(), |mut distinct, value| {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
        distinct
    })
}

/// Whether a picture can be written there, asked before the minutes that a benchmark takes; leaves what is there as it is. A
/// picture of before may be replaced, anything else (a model, by a slip of the hand) may not.
fn check_writable(path: &Path) -> std::io::Result<()> {
    let is_new = !path.exists();
    let mut start = [0; 4];
    if !is_new && (std::fs::File::open(path)?.read(&mut start)? > 0 && start != *b"<svg") {
        return Err(std::io::Error::other("a file that is no SVG picture is there already; choose another name"));
    }
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if is_new { std::fs::remove_file(path) } else { Ok(()) }
}

fn table(report: &BenchReport, load_seconds: f64) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let machine = &report.machine;
    let reads = machine.read_bytes_per_second.map(|bandwidth| format!("reads {:.1} GB/s", bandwidth / 1e9));
    let computes =
        machine.peaks.iter().map(|peak| format!("{} {:.0} Gop/s", peak.instruction, peak.ops_per_second / 1e9));
    let limits: Vec<String> = reads.into_iter().chain(computes).collect();
    match limits.is_empty() {
        true => write!(text, "machine  its limits mean nothing to the {} backend", report.backend)?,
        false => write!(text, "machine  {}", limits.join(" · "))?,
    }
    let BenchReport { model, dtype, backend, device, threads, .. } = report;
    write!(text, "\nmodel    {model} · {dtype} · {backend} {device} · {}", common::count(*threads, "thread"))?;
    write!(text, "\n         {:.3} GB of weights a token", report.weight_bytes_per_token as f64 / 1e9)?;
    write!(text, " · loaded in {load_seconds:.2} s")?;
    if let Some(bytes) = report.peak_resident_bytes {
        write!(text, " · peak memory {:.2} GB", bytes as f64 / 1e9)?;
    }
    let peak = report.peak().map_or("peak", |peak| peak.instruction);
    writeln!(text, "\n")?;
    for (phase, limit) in [("prefill", peak), ("decode", "read")] {
        let row = |point| phase_of(point, phase);
        if report.results.iter().all(|point| row(point).is_none()) {
            continue;
        }
        let tokens = report.results.iter().find_map(row).map_or(0, |measured| measured.tokens);
        let title = format!("{phase} {tokens}");
        let (unit, first) = if phase == "prefill" { ("GFLOP/s", "first token") } else { ("GB/s", "") };
        let limit = format!("of {limit}");
        let header = format!(
            "{title:<14} {:>4} {:>7} {:>10} {:>19} {unit:>9} {limit:>14} {first:>12}",
            "kv", "depth", "tokens/s", "(least to most)",
        );
        writeln!(text, "{}", header.trim_end())?;
        for point in &report.results {
            let Some(measured) = row(point) else { continue };
            let rate = &measured.tokens_per_second;
            let (value, share) = match phase {
                "prefill" => (measured.flop_per_second, measured.share_of_peak),
                _ => (measured.bytes_per_second, measured.share_of_read_bandwidth),
            };
            let share = share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share));
            let first = point.seconds_to_first_token.filter(|_| phase == "prefill");
            let line = format!(
                "{:<14} {:>4} {:>7} {:>10.1} {:>19} {:>9.1} {share:>14} {:>12}",
                "",
                point.kv,
                point.depth,
                rate.median,
                format!("({:.1} to {:.1})", rate.min, rate.max),
                value / 1e9,
                first.map_or(String::new(), |seconds| format!("{seconds:.3} s")),
            );
            writeln!(text, "{}", line.trim_end())?;
            if let Some(work) = &measured.device {
                writeln!(
                    text,
                    "{:<14} each pass: {:.1} dispatches, {:.1} barriers, {:.1} waits, {:.3} ms on the device",
                    "",
                    work.dispatches,
                    work.barriers,
                    work.waits,
                    1e3 * work.seconds,
                )?;
            }
        }
    }
    let shares = report.results.iter().filter_map(|point| point.decode.as_ref()?.share_of_read_bandwidth);
    if shares.fold(0.0, f64::max) > 1.0 {
        writeln!(text, "\nAbove 100 %: weights as small as these stay in the processor's caches.")?;
    }
    for phase in &report.operations {
        operations_table(&mut text, phase)?;
    }
    Ok(text)
}

fn operations_table(text: &mut String, phase: &PhaseOperations) -> std::fmt::Result {
    let title = format!("{} at depth {}, kv {}", phase.phase, phase.depth, phase.kv);
    let on_device = phase.operations.iter().any(|time| time.dispatches.is_some());
    let kernels = if on_device { "    kernels" } else { "" };
    writeln!(text, "\n{title:<34} {:>7} {:>10} {:>7} {:>9} {:>9}{kernels}", "calls", "ms", "share", "GB/s", "GFLOP/s")?;
    let mut between = phase.seconds;
    for time in &phase.operations {
        let weights = time.weights.map_or(String::new(), |[out, columns]| format!("[{out}, {columns}]"));
        let rate = |n: u64| if n == 0 { "-".into() } else { format!("{:.1}", n as f64 / time.seconds / 1e9) };
        let kernels = time.dispatches.map_or(String::new(), |count| format!(" {count:>10}"));
        writeln!(
            text,
            "  {:<15} {weights:<16} {:>7} {:>10.2} {:>5.1} % {:>9} {:>9}{kernels}",
            time.operation,
            time.calls,
            1e3 * time.seconds,
            100.0 * time.seconds / phase.seconds,
            rate(time.bytes),
            rate(time.flop),
        )?;
        between -= time.seconds;
    }
    let (between, share) = (1e3 * between, 100.0 * between / phase.seconds);
    // On a device each operation is a command buffer of its own here, and its time the device's.
    let name = if on_device { "encoding and waiting for each by itself" } else { "between operations" };
    writeln!(text, "  {name:<40} {between:>10.2} {share:>5.1} %")
}

/// The phase with this name, if it was measured.
fn phase_of<'a>(point: &'a failed_star::session::bench::Point, phase: &str) -> Option<&'a Measured> {
    if phase == "prefill" { point.prefill.as_ref() } else { point.decode.as_ref() }
}

/// What every row of a CSV begins with.
fn csv_prefix(report: &BenchReport) -> String {
    // A directory may be called anything.
    let model = match report.model.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", report.model.replace('"', "\"\"")),
        false => report.model.clone(),
    };
    format!("{model},{},{},{},{}", report.dtype, report.backend, report.device, report.threads)
}

fn csv(report: &BenchReport) -> String {
    let mut text = String::from(
        "model,dtype,backend,device,threads,kv,depth,phase,tokens,repeats,tokens_per_second_median,tokens_per_second_min,\
         tokens_per_second_max,bytes_per_second,share_of_read_bandwidth,flop_per_second,share_of_peak\n",
    );
    let prefix = csv_prefix(report);
    let share = |share: Option<f64>| share.map_or(String::new(), |share| format!("{share:.4}"));
    for point in &report.results {
        for phase in ["prefill", "decode"] {
            let Some(m) = phase_of(point, phase) else { continue };
            let rate = &m.tokens_per_second;
            text += &format!(
                "{prefix},{},{},{phase},{},{},{:.3},{:.3},{:.3},{:.0},{},{:.0},{}\n",
                point.kv,
                point.depth,
                m.tokens,
                rate.samples.len(),
                rate.median,
                rate.min,
                rate.max,
                m.bytes_per_second,
                share(m.share_of_read_bandwidth),
                m.flop_per_second,
                share(m.share_of_peak),
            );
        }
    }
    text
}

fn operations_csv(report: &BenchReport) -> String {
    let mut text =
        String::from("model,dtype,backend,device,threads,kv,depth,phase,operation,out,in,calls,seconds,bytes,flop\n");
    let prefix = csv_prefix(report);
    for PhaseOperations { kv, depth, phase, operations, .. } in &report.operations {
        for time in operations {
            let shape = time.weights.map_or(",".into(), |[out, columns]| format!("{out},{columns}"));
            text += &format!(
                "{prefix},{kv},{depth},{phase},{},{shape},{},{:.6},{},{}\n",
                time.operation, time.calls, time.seconds, time.bytes, time.flop
            );
        }
    }
    text
}
