//! `fs pull`: downloads a model and says how to run it.

use super::common::{INTERRUPTED, catch_interrupts};
use clap::error::ErrorKind;
use failed_star::weights::download::{self, DownloadError, Event, HubOptions, Plan, Reference, free_space};
use failed_star::weights::known_models::KNOWN;
use failed_star::weights::model_directory;
use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  fs pull qwen3-0.6b                         the model to begin with: 1.5 GB
  fs pull qwen3-8b --dry-run                 what would be downloaded, and how much
  fs pull Qwen/Qwen3-0.6B-Base@main          any Qwen3 model, at a branch, tag or commit
  fs pull https://huggingface.co/Qwen/Qwen3-1.7B

An interrupted download goes on where it stopped: run the same command again.

Environment:
  FS_MODELS                 where models are stored (`fs models --path` shows it)
  HF_ENDPOINT               another hub than https://huggingface.co
  HF_TOKEN                  a token for gated or private models; otherwise HUGGING_FACE_HUB_TOKEN,
                            the file HF_TOKEN_PATH, $HF_HOME/token, ~/.cache/huggingface/token
  HF_HUB_DOWNLOAD_TIMEOUT   seconds that a connection may stay silent (30)";

/// Arguments of `fs pull`.
#[derive(clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\nKnown models: {}.", KNOWN.map(|row| row.0).join(", ")))]
pub struct Args {
    /// qwen3-0.6b and its sisters, OWNER/NAME, or the address of a model's page; with @REVISION if wanted
    model: String,
    /// Branch, tag or commit
    #[arg(long)]
    revision: Option<String>,
    /// Download again what is there and complete
    #[arg(long)]
    force: bool,
    /// Show what would be downloaded, and store nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// How often a failed request is repeated before giving up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
}

/// Runs `fs pull`.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut reference = Reference::parse(&args.model)?;
    if let Some(revision) = args.revision {
        if reference.revision.as_ref().is_some_and(|other| *other != revision) {
            let message = format!("{} and --revision {revision} name different revisions\n", args.model);
            clap::Error::raw(ErrorKind::ArgumentConflict, message).exit();
        }
        reference = Reference::parse(&format!("{}@{revision}", reference.repo))?;
    }
    let options = HubOptions { retries: args.retries, ..HubOptions::from_environment()? };
    let root = model_directory()?;
    let path = root.join(&reference.directory);
    let (start, mut progress) = (Instant::now(), Progress::default());
    catch_interrupts()?;
    // What the signals did if they were not caught, with a word on what happens to the parts.
    std::thread::spawn(|| {
        while !INTERRUPTED.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("\ninterrupted: the same command goes on from here");
        std::process::exit(130);
    });

    let plan = Plan::new(&options, reference, &mut |event| progress.show(event)).map_err(|error| {
        let usable = path.is_dir() && matches!(error, DownloadError::GaveUp { .. });
        let error = anyhow::Error::from(error);
        if usable { error.context(format!("can't ask for news; {} is still usable", path.display())) } else { error }
    })?;
    let mut summary = serde_json::json!({
        "model": plan.reference.name, "repo": plan.reference.repo, "commit": plan.commit,
        "path": path, "size": plan.size(), "files": plan.files,
    });
    if args.dry_run {
        let free = free_space(&root)?;
        if args.json {
            summary["status"] = "dry-run".into();
            summary["free"] = free.into();
            return super::common::print(format!("{summary:#}\n"));
        }
        let mut text = format!("{} at {}\n", plan.reference.repo, plan.commit);
        for file in &plan.files {
            writeln!(text, "  {:<34} {:>12}", file.name, DecimalBytes(file.size).to_string())?;
        }
        let (total, free) = (DecimalBytes(plan.size()).to_string(), DecimalBytes(free));
        writeln!(text, "  {:<34} {total:>12}\nto {} ({free} free)", "total", path.display())?;
        return super::common::print(&text);
    }

    if !args.json {
        eprintln!("{} at {:.12}: {}", plan.reference.repo, plan.commit, DecimalBytes(plan.size()));
    }
    let result = download::pull(&options, &plan, &root, args.force, &mut |event| progress.show(event));
    progress.clear();
    let outcome = result.map_err(|error| {
        let hint =
            if matches!(error, DownloadError::GaveUp { .. }) { "; the same command goes on from here" } else { "" };
        anyhow::Error::from(error).context(format!("can't pull {}{hint}", plan.reference.name))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        summary["status"] = if outcome.up_to_date { "up-to-date" } else { "pulled" }.into();
        summary["downloaded"] = outcome.downloaded.into();
        summary["seconds"] = seconds.into();
        return super::common::print(format!("{summary:#}\n"));
    }
    let (name, size) = (&plan.reference.name, DecimalBytes(plan.size()));
    let state = match outcome.up_to_date {
        true => "is already complete and up to date".to_string(),
        false => format!("is complete ({} downloaded in {seconds:.1} s)", DecimalBytes(outcome.downloaded)),
    };
    super::common::print(format!(
        "{name} {state}: {}, {size}\n\n  fs generate --model {name} \"Once upon a time\"\n  fs chat --model {name}\n",
        outcome.path.display()
    ))
}

/// What is shown on stderr: on a terminal a bar for the file in transfer, otherwise a line for each file.
#[derive(Default)]
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn show(&mut self, event: Event) {
        match event {
            Event::Start { file, size, have } => {
                self.clear();
                if !std::io::stderr().is_terminal() {
                    let rest = if have > 0 { format!(", {} already here", DecimalBytes(have)) } else { String::new() };
                    return eprintln!("{file}: {}{rest}", DecimalBytes(size));
                }
                self.bar = Some(bar(file, size, have));
            }
            Event::Received { have, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(have);
                }
            }
            Event::Retry { error, wait } => self.line(&format!("{error}; next try in {:.1} s", wait.as_secs_f64())),
            Event::WrongChecksum { file } => self.line(&format!("{file}: wrong checksum, downloading it once more")),
            // Below this, it takes no time that anyone notices.
            Event::Checking { file, bytes } if bytes > 100_000_000 => {
                self.line(&format!("{file}: checking the {} that are here", DecimalBytes(bytes)));
            }
            Event::Checking { .. } => {}
            Event::Present { file } => self.line(&format!("{file}: already here")),
            Event::Done { file } => {
                self.clear();
                if std::io::stderr().is_terminal() {
                    eprintln!("{file}: done");
                }
            }
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar whose rate is of what is received now, not of what was here before.
fn bar(file: &str, size: u64, have: u64) -> ProgressBar {
    let rate = move |state: &ProgressState| state.pos().saturating_sub(have) as f64 / state.elapsed().as_secs_f64();
    let show_rate = move |state: &ProgressState, text: &mut dyn Write| {
        let _ = write!(text, "{}/s", DecimalBytes(rate(state) as u64));
    };
    let show_rest = move |state: &ProgressState, text: &mut dyn Write| {
        let seconds = size.saturating_sub(state.pos()) as f64 / rate(state);
        if seconds.is_finite() {
            let _ = write!(text, "{:#}", HumanDuration(Duration::from_secs(seconds.min(1e6) as u64)));
        }
    };
    let template = "{msg:34!} {wide_bar} {decimal_bytes:>10}/{decimal_total_bytes} {rate:>12} {rest:>4}";
    let style = ProgressStyle::with_template(template).expect("a valid template");
    let style = style.with_key("rate", show_rate).with_key("rest", show_rest);
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    bar.with_style(style).with_message(file.to_string()).with_position(have)
}
