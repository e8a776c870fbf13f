//! What commands that run a model share: the model's arguments, the sampling arguments, and the lines on stderr.

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use failed_star::backend::BackendKind;
use failed_star::backend::cpu::simd::Level;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::sampling::SamplingParams;
use failed_star::session::{Engine, EngineOptions, Session, SessionOptions, Timings};
use failed_star::weights::ModelSource;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// Which model, and what to run it on.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// A model's name, its directory, or its weights file [default: $FS_MODEL, else a pulled qwen3-0.6b, else the
    /// embedded story model]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// What to run a model on.
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// What to run on: metal, cpu, reference (plain loops, slow, the oracle), or auto (metal on a Mac, else cpu); see
    /// `fs devices`
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub backend: BackendKind,
    /// Plain kernels in place of the fused and fast ones, on the metal backend: slower, and the oracle of the others
    #[arg(long)]
    pub metal_plain: bool,
    /// Write a trace of what the GPU does to this .gputrace, for Xcode; macOS, with METAL_CAPTURE_ENABLED=1 set
    #[arg(long, value_name = "FILE")]
    pub metal_capture: Option<std::path::PathBuf>,
    /// Threads of the cpu backend [default: one a core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    pub threads: Option<u16>,
    #[arg(long, help = simd_help(), value_name = "LEVEL")]
    pub simd: Option<Level>,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl DeviceArgs {
    /// These arguments as the engine takes them.
    pub fn options(&self) -> EngineOptions {
        if self.metal_plain && matches!(self.backend, BackendKind::Cpu | BackendKind::Reference) {
            usage_error(
                ErrorKind::ArgumentConflict,
                "--metal-plain chooses kernels of the metal backend; leave it out, or run with --backend metal",
            );
        }
        EngineOptions {
            backend: self.backend,
            threads: self.threads.map(usize::from),
            simd: self.level(),
            metal_plain: self.metal_plain,
        }
    }

    /// The SIMD level: `--simd`, else `FS_SIMD`, which counts for the cpu backend only; `None` is the fastest one.
    pub fn level(&self) -> Option<Level> {
        if !matches!(self.backend, BackendKind::Auto | BackendKind::Cpu) {
            return None;
        }
        let name = std::env::var_os("FS_SIMD").filter(|name| !name.is_empty() && self.simd.is_none());
        let from_environment = name.map(|name| match name.to_string_lossy().parse() {
            Ok(level) => level,
            Err(error) => usage_error(ErrorKind::InvalidValue, &format!("FS_SIMD: {error}")),
        });
        self.simd.or(from_environment)
    }

    /// Refuses what contradicts itself, and warns of what is slow.
    fn check(&self) {
        if self.simd.is_some() && !matches!(self.backend, BackendKind::Auto | BackendKind::Cpu) {
            usage_error(ErrorKind::ArgumentConflict, "--simd is for the cpu backend; the others have no SIMD levels");
        }
        let cores = std::thread::available_parallelism().map_or(usize::MAX, |n| n.get());
        if let Some(threads) = self.threads.filter(|&threads| usize::from(threads) > cores && !self.quiet) {
            let cores = count(cores, "core");
            eprintln!("warning: {threads} threads on {cores}: they wait for one another; one a core is fastest");
        }
    }
}

fn simd_help() -> String {
    let here = Level::available().into_iter().map(Level::name);
    let missing = Level::missing().into_iter().map(|name| format!("{name} (not on this machine)"));
    let names: Vec<String> = here.map(str::to_string).chain(missing).collect();
    format!(
        "Instructions of the cpu backend: {} [env: FS_SIMD] [default: the fastest that this machine has]",
        names.join(", ")
    )
}

/// Ends the program as wrong usage does: with a word on stderr and exit code 2.
pub fn usage_error(kind: ErrorKind, message: &str) -> ! {
    clap::Error::raw(kind, format!("{message}\n")).exit()
}

impl ModelArgs {
    /// Loads the model and says on stderr what runs.
    pub fn load(&self) -> anyhow::Result<Engine> {
        let source = ModelSource::resolve(self.model.as_deref())?;
        load(&source, &self.device)
    }
}

/// Loads a model and says on stderr what runs.
pub fn load(source: &ModelSource, device: &DeviceArgs) -> anyhow::Result<Engine> {
    device.check();
    let engine = Engine::load(source, &device.options())?;
    if let Some(path) = &device.metal_capture {
        engine.capture(path)?;
    }
    if !device.quiet {
        if let Some(notice) = source.default_notice() {
            eprintln!("{notice}");
        }
        let backend = engine.backend();
        let threads = count(backend.threads, "thread");
        let dtype = engine.weights_dtype();
        let threads = if backend.name == "metal" { String::new() } else { format!(" · {threads}") };
        eprintln!("{} · {dtype} · {} {}{threads}", engine.name(), backend.name, backend.device);
    }
    Ok(engine)
}

/// The cache of a session.
#[derive(clap::Args)]
pub struct CacheArgs {
    /// The most tokens of prompt and answer together [default: what the model was made for]
    #[arg(short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Element type of the KV cache: f16, f32 or q8
    #[arg(long, default_value = "f16", value_name = "TYPE")]
    pub kv: KvDType,
}

impl CacheArgs {
    /// Starts a session.
    pub fn session(&self, engine: &Engine) -> anyhow::Result<Session> {
        let context = self.context.map(|n| n as usize);
        Ok(engine.session(SessionOptions { context, kv_dtype: self.kv, ..SessionOptions::default() })?)
    }
}

/// How to choose tokens. What is not given is the model's own recommendation (generation_config.json).
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling (default: what the model recommends)")]
pub struct SamplingArgs {
    /// Divides the logits: 0 always takes the most likely token, 1 samples as the model says
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = parse_at_least_zero)]
    temperature: Option<f32>,
    /// Keeps the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keeps the most likely tokens that together have probability P; 1 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = parse_share)]
    top_p: Option<f32>,
    /// Keeps tokens at least P times as likely as the most likely one; 0 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = parse_share)]
    min_p: Option<f32>,
    /// Makes tokens already seen less likely; 1 does nothing
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = parse_positive)]
    repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens already generated
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it was generated
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Adds X to the logit of token ID; may be given several times
    #[arg(long, value_name = "ID=X", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn parse_number(text: &str, expected: &str, allowed: impl Fn(f32) -> bool) -> Result<f32, String> {
    let number = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if allowed(number) { Ok(number) } else { Err(format!("it must be {expected}")) }
}

fn parse_at_least_zero(text: &str) -> Result<f32, String> {
    parse_number(text, "0 or more", |number| number >= 0.0 && number.is_finite())
}

fn parse_positive(text: &str) -> Result<f32, String> {
    parse_number(text, "more than 0", |number| number > 0.0 && number.is_finite())
}

fn parse_share(text: &str) -> Result<f32, String> {
    parse_number(text, "from 0 to 1", |number| (0.0..=1.0).contains(&number))
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=X, for example 151645=-5")?;
    let id = id.trim().parse().map_err(|_| format!("`{id}` is not a token id"))?;
    let bias = bias.trim().parse().map_err(|_| format!("`{bias}` is not a number"))?;
    Ok((id, bias))
}

impl SamplingArgs {
    /// The model's recommendations, changed by what was given.
    pub fn params(&self, engine: &Engine) -> SamplingParams {
        let mut params = SamplingParams::from_generation_config(engine.generation_config());
        params.temperature = self.temperature.unwrap_or(params.temperature);
        params.top_k = self.top_k.unwrap_or(params.top_k);
        params.top_p = self.top_p.unwrap_or(params.top_p);
        params.min_p = self.min_p.unwrap_or(params.min_p);
        params.repetition_penalty = self.repetition_penalty.unwrap_or(params.repetition_penalty);
        params.presence_penalty = self.presence_penalty.unwrap_or(params.presence_penalty);
        params.frequency_penalty = self.frequency_penalty.unwrap_or(params.frequency_penalty);
        params.logit_bias = self.logit_bias.clone();
        params.seed = self.seed.unwrap_or_else(|| {
            // Small enough to be typed again.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |time| u64::from(time.subsec_nanos()))
        });
        params
    }
}

/// What a prompt was given as.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct PromptArgs {
    /// The text; without one, --ids or --file, stdin is read
    text: Option<String>,
    /// Token ids instead of text, separated by commas or spaces
    #[arg(long, value_name = "IDS", value_parser = parse_ids)]
    ids: Option<Ids>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<std::path::PathBuf>,
}

/// A list of token ids on the command line.
#[derive(Clone, Debug)]
pub struct Ids(pub Vec<u32>);

/// Parses token ids separated by commas, spaces or brackets.
pub fn parse_ids(text: &str) -> Result<Ids, String> {
    let words = text.split([',', ' ', '\n', '\t', '[', ']']).filter(|word| !word.is_empty());
    let ids = words.map(|word| word.parse().map_err(|_| format!("`{word}` is not a token id")));
    ids.collect::<Result<_, _>>().map(Ids)
}

impl PromptArgs {
    /// The prompt's token ids.
    pub fn tokens(&self, engine: &Engine) -> anyhow::Result<Vec<u32>> {
        let text = match self {
            Self { ids: Some(Ids(ids)), .. } => return Ok(ids.clone()),
            Self { text: Some(text), .. } => text.clone(),
            Self { file: Some(file), .. } => read_text(file)?,
            _ => read_stdin()?,
        };
        Ok(engine.tokenizer()?.encode(&text))
    }
}

/// A whole file as text; bytes that are not UTF-8 are an error with their offset.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    utf8(bytes, &path.display().to_string())
}

/// All of stdin as text.
pub fn read_stdin() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        eprintln!("reading from the terminal; end it with Ctrl-D");
    }
    let mut bytes = Vec::new();
    wait(|| std::io::stdin().lock().read_to_end(&mut bytes)).context("stdin")?;
    utf8(bytes, "stdin")
}

/// Bytes as text; `name` is where they came from.
pub fn utf8(bytes: Vec<u8>, name: &str) -> anyhow::Result<String> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            bail!("{name}: not UTF-8: byte {at} is 0x{:02x}; convert the text to UTF-8 first", error.as_bytes()[at])
        }
    }
}

/// Set by Ctrl-C and SIGTERM; whoever works looks at it between tokens, or parts of a file.
pub static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether nothing is done but wait for input: there is nothing to end cleanly.
static WAITING: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Makes Ctrl-C and SIGTERM set [`INTERRUPTED`]; a second one before anybody looked ends the program.
pub fn catch_interrupts() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order, so that a first signal does not find its own mark.
        flag::register_conditional_shutdown(signal, 130, INTERRUPTED.clone())
            .and_then(|_| flag::register_conditional_shutdown(signal, 130, WAITING.clone()))
            .and_then(|_| flag::register(signal, INTERRUPTED.clone()))
            .context("cannot catch Ctrl-C")?;
    }
    Ok(())
}

/// Makes a limit on the size of files (`ulimit -f`) an error of the write that meets it, as a full disk is. Uncaught, its
/// signal ends the program and leaves a partial file.
pub fn catch_file_size_limit() -> anyhow::Result<()> {
    #[cfg(unix)]
    flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).context("cannot catch SIGXFSZ")?;
    Ok(())
}

/// Waits for input; the first signal ends the program meanwhile.
pub fn wait<T>(read: impl FnOnce() -> T) -> T {
    WAITING.store(true, Ordering::Relaxed);
    let input = read();
    WAITING.store(false, Ordering::Relaxed);
    input
}

/// `1 chunk`, `2 chunks`.
pub fn count(n: usize, noun: &str) -> String {
    let plural = match noun.strip_suffix("ix") {
        Some(stem) => format!("{stem}ices"),
        None => format!("{noun}s"),
    };
    if n == 1 { format!("1 {noun}") } else { format!("{n} {plural}") }
}

/// A bar on stderr for a long prompt, if anybody is there to see it.
pub struct PromptBar(Option<indicatif::ProgressBar>);

impl PromptBar {
    /// A bar that is not shown yet.
    pub fn new(quiet: bool) -> Self {
        let show = !quiet && std::io::stderr().is_terminal();
        let style = indicatif::ProgressStyle::with_template(
            "reading the prompt {bar:30} {pos}/{len} tokens, {per_sec}, {eta} left",
        );
        Self(match style {
            Ok(style) if show => Some(indicatif::ProgressBar::hidden().with_style(style)),
            _ => None,
        })
    }

    /// Shows that `done` of `total` tokens are computed. Short prompts are over before a bar could be read.
    pub fn update(&self, done: usize, total: usize) {
        if let Some(bar) = &self.0
            && total > 1024
        {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Takes the bar away, before text is printed.
    pub fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// One line about speed: prompt and generated tokens a second, bytes read a second, and the share of what this machine
/// can read, where the weights are too many for a cache.
pub fn speed_line(session: &Session, timings: &Timings) -> String {
    let engine = session.engine();
    let mut line = format!(
        "prompt {}{} at {:.0} tok/s · decoded {} at {:.1} tok/s",
        count(timings.prompt_tokens, "token"),
        if timings.cached_tokens > 0 { format!(" ({} cached)", timings.cached_tokens) } else { String::new() },
        timings.prefill_rate(),
        timings.decoded_tokens,
        timings.decode_rate(),
    );
    if let Some(bytes) = decode_bytes_per_second(session, timings) {
        line += &format!(" · {:.1} GB/s of weights and KV", bytes / 1e9);
        if let Some(bandwidth) = engine.read_bandwidth_of_weights() {
            line += &format!(" ({:.0} % of this machine's {:.1})", 100.0 * bytes / bandwidth, bandwidth / 1e9);
        }
    }
    line
}

/// Bytes of weights and KV cache that decoding read a second; the cache is read up to each token's own position.
pub fn decode_bytes_per_second(session: &Session, timings: &Timings) -> Option<f64> {
    let passes = Some(timings.decoded_tokens).filter(|&passes| passes > 0)?;
    let mean_context = timings.prompt_tokens as f64 + passes as f64 / 2.0;
    let bytes = session.engine().weight_bytes_per_token() as f64 + mean_context * session.kv_bytes_per_token() as f64;
    Some(bytes * passes as f64 / timings.decode.as_secs_f64())
}

/// Stdout, whose errors say that they are stdout's.
pub struct Stdout(std::io::StdoutLock<'static>);

/// Takes stdout for as long as the result lives.
pub fn stdout() -> Stdout {
    Stdout(std::io::stdout().lock())
}

fn of_stdout<T>(result: std::io::Result<T>) -> std::io::Result<T> {
    result.map_err(|error| match error.kind() {
        // `write_all` goes on after this one.
        std::io::ErrorKind::Interrupted => error,
        kind => std::io::Error::new(kind, format!("cannot write to stdout: {error}")),
    })
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        of_stdout(self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        of_stdout(self.0.flush())
    }
}

/// Prints one JSON value and a newline.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = stdout();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Writes text, or exact bytes, to stdout now.
pub fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut out = stdout();
    out.write_all(text.as_ref())?;
    out.flush()?;
    Ok(())
}
