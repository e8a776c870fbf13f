//! Measuring a model: tokens a second, how far that is from what the machine can do, and where the time goes.
//!
//! Prefill and decode are measured apart, at each depth: the cache is filled with `depth` tokens, and then, repeat by repeat,
//! rewound to them; prefill computes `prompt` tokens more and decode continues greedily by `generate` tokens, each the best one
//! after those before it: of a token's logits, only the largest leaves a device.
//!
//! Decode reads all weights and the cache for each token, so its limit is how fast the machine reads memory; prefill uses
//! each weight for many tokens, so its limit is arithmetic. Both limits are measured in the same run.

use super::engine::{Engine, EngineOptions, Session, SessionOptions, WithBackend};
use super::error::SessionError;
use crate::backend::observed::Observed;
use crate::backend::timed::{OperationTime, Timed};
use crate::backend::{Backend, Counters, Peak};
use crate::clock::Instant;
use crate::model::expected;
use crate::model::kv_cache::KvDType;
use crate::model::qwen3::{Input, LogitsFor, Qwen3};
use crate::weights::Config;
use serde::Serialize;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Tokens of a prompt; 0 leaves prefill out.
    pub prompt: usize,
    /// Tokens decoded one by one; 0 leaves decode out.
    pub generate: usize,
    /// Tokens in the cache before.
    pub depths: Vec<usize>,
    /// Element types of the cache.
    pub kv: Vec<KvDType>,
    /// Measurements of each; the median counts.
    pub repeats: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The version of this program.
    pub version: &'static str,
    /// The model's name.
    pub model: String,
    /// The dtype of most of its weights.
    pub dtype: &'static str,
    /// What it ran on.
    pub backend: &'static str,
    /// The instruction set or device.
    pub device: String,
    /// Threads that computed.
    pub threads: usize,
    /// What the machine can do.
    pub machine: Machine,
    /// Bytes of weights that one decoded token reads.
    pub weight_bytes_per_token: usize,
    /// The most memory that the process held at any time, mapped weights included; `None` where the system does not tell.
    pub peak_resident_bytes: Option<u64>,
    /// By cache type and depth.
    pub results: Vec<Point>,
    /// Where the time goes, if it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<PhaseOperations>,
}

/// The machine's limits, measured in this run; empty where the backend cannot tell.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Bytes a second read from memory: the better of a measurement before the model's and one after.
    pub read_bytes_per_second: Option<f64>,
    /// Arithmetic on registers alone.
    pub peaks: Vec<Peak>,
}

/// One cache type at one depth.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Element type of the cache.
    pub kv: &'static str,
    /// Tokens in the cache before.
    pub depth: usize,
    /// From the prompt to the logits that the first token is taken from; the median.
    pub seconds_to_first_token: Option<f64>,
    /// The prompt, all at once.
    pub prefill: Option<Measured>,
    /// Token by token.
    pub decode: Option<Measured>,
}

/// One phase: its rate, and how near it comes to the machine's limits.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Tokens in one repeat.
    pub tokens: usize,
    /// Over all repeats.
    pub tokens_per_second: Spread,
    /// Bytes of weights and cache that one repeat reads at least.
    pub bytes: f64,
    /// Multiplications and additions of one repeat's dot products.
    pub flop: f64,
    /// At the median.
    pub bytes_per_second: f64,
    /// Of [`Machine::read_bytes_per_second`].
    pub share_of_read_bandwidth: Option<f64>,
    /// At the median.
    pub flop_per_second: f64,
    /// Of the highest peak that these weights can use.
    pub share_of_peak: Option<f64>,
    /// What a device was given to do; `None` on a backend that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceWork>,
}

/// What a device was given to do, on average over all repeats.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DeviceWork {
    /// Forward passes: one a token in decode, one a chunk of a prompt.
    pub passes: usize,
    /// Kernels of a pass.
    pub dispatches: f64,
    /// Barriers of a pass.
    pub barriers: f64,
    /// Times that the processor waited in a pass.
    pub waits: f64,
    /// How long the device was at work in a pass.
    pub seconds: f64,
}

/// Several measurements of one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one (of two in the middle, their mean).
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// All, in the order in which they were taken.
    pub samples: Vec<f64>,
}

/// The operations of one phase.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseOperations {
    /// Element type of the cache.
    pub kv: &'static str,
    /// Tokens in the cache before.
    pub depth: usize,
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// The whole phase, with what lies between operations.
    pub seconds: f64,
    /// The longest first.
    pub operations: Vec<OperationTime>,
}

impl Spread {
    /// Of at least one sample.
    pub fn new(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { median: (low + high) / 2.0, min: sorted[0], max: sorted[sorted.len() - 1], samples }
    }
}

impl BenchReport {
    /// The highest of the machine's peaks that these weights can use.
    pub fn peak(&self) -> Option<&Peak> {
        let usable = self.machine.peaks.iter().filter(|peak| peak.operands.serve(self.dtype));
        usable.max_by(|a, b| a.ops_per_second.total_cmp(&b.ops_per_second))
    }
}

impl BenchOptions {
    /// Refuses depths that the model's context does not hold.
    pub fn check(&self, model: &str, config: &Config) -> Result<(), SessionError> {
        let (context, tokens) = (config.max_context(), self.prompt.max(self.generate));
        let fits = |depth: usize| depth.checked_add(tokens).is_some_and(|needed| needed <= context);
        match self.depths.iter().copied().find(|&depth| !fits(depth)) {
            Some(depth) => Err(SessionError::DepthBeyondModel { depth, tokens, context, model: model.into() }),
            None => Ok(()),
        }
    }
}

/// Measures everything that `options` asks for. `progress` hears how many of how many measurements are done.
pub fn bench(
    engine: &Engine,
    options: &BenchOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BenchReport, SessionError> {
    options.check(engine.name(), engine.config())?;
    let backend = engine.backend();
    let loaded = peak_resident_bytes();
    let machine = Machine { read_bytes_per_second: engine.read_bandwidth(), peaks: engine.peak_ops() };
    forget_peak_resident();
    let mut report = BenchReport {
        version: env!("CARGO_PKG_VERSION"),
        model: engine.name().into(),
        dtype: engine.weights_dtype(),
        backend: backend.name,
        device: backend.device,
        threads: backend.threads,
        machine,
        weight_bytes_per_token: engine.weight_bytes_per_token(),
        peak_resident_bytes: None,
        results: Vec::new(),
        operations: Vec::new(),
    };

    let (mut done, total) = (0, options.kv.len() * options.depths.len() * (options.repeats + 1));
    for &kv in &options.kv {
        let mut session = engine.session(SessionOptions { kv_dtype: kv, ..SessionOptions::default() })?;
        // Deeper ones continue the cache of shallower ones.
        let mut depths = options.depths.clone();
        depths.sort_unstable();
        for depth in depths {
            let mut runner = Runner::new(&mut session, depth, options);
            runner.warm_up()?;
            let (mut prefill, mut decode) = (Vec::new(), Vec::new());
            let mut work = [None; 2];
            for _ in 0..options.repeats {
                done += 1;
                progress(done, total);
                let before = engine.counters();
                prefill.extend(runner.prefill()?);
                let between = engine.counters();
                decode.extend(runner.decode()?);
                add_work(&mut work[0], before, between);
                add_work(&mut work[1], between, engine.counters());
            }
            done += 1;
            progress(done, total);
            report.results.push(runner.point(kv, prefill, decode, work));
        }
    }
    report.peak_resident_bytes = loaded.max(peak_resident_bytes());
    // Limits are the best that was seen: whoever else uses the machine can only lower them.
    let again = engine.read_bandwidth();
    let bandwidth = &mut report.machine.read_bytes_per_second;
    *bandwidth = bandwidth.zip(again).map(|(a, b)| a.max(b));
    for (peak, again) in report.machine.peaks.iter_mut().zip(engine.peak_ops()) {
        peak.ops_per_second = peak.ops_per_second.max(again.ops_per_second);
    }
    report.add_shares();
    Ok(report)
}

impl BenchReport {
    fn add_shares(&mut self) {
        let (bandwidth, peak) = (self.machine.read_bytes_per_second, self.peak().map(|peak| peak.ops_per_second));
        let phases = self.results.iter_mut().flat_map(|point| [&mut point.prefill, &mut point.decode]);
        for measured in phases.flatten() {
            measured.share_of_read_bandwidth = bandwidth.map(|limit| measured.bytes_per_second / limit);
            measured.share_of_peak = peak.map(|limit| measured.flop_per_second / limit);
        }
    }
}

/// One cache at one depth.
struct Runner<'a> {
    session: &'a mut Session,
    depth: usize,
    /// As many as the longest phase reaches.
    tokens: Vec<u32>,
    prompt: usize,
    generate: usize,
}

impl<'a> Runner<'a> {
    fn new(session: &'a mut Session, depth: usize, options: &BenchOptions) -> Self {
        let (prompt, generate) = (options.prompt, options.generate);
        let tokens = some_tokens(depth + prompt.max(generate), session.engine().config().vocab_size);
        Self { session, depth, tokens, prompt, generate }
    }

    /// Fills the cache, makes buffers of the size that will be measured, and wakes the machine.
    fn warm_up(&mut self) -> Result<(), SessionError> {
        if self.depth > 0 {
            self.session.evaluate(&self.tokens[..self.depth])?;
        }
        self.prefill()?;
        for end in self.depth + 1..=self.depth + self.generate.min(2) {
            self.session.rewind(end - 1);
            self.session.evaluate_best(&self.tokens[..end])?;
        }
        Ok(())
    }

    /// Seconds for the prompt; `None` if there is none.
    fn prefill(&mut self) -> Result<Option<f64>, SessionError> {
        self.session.rewind(self.depth);
        let tokens = &self.tokens[..self.depth + self.prompt];
        if self.prompt == 0 {
            return Ok(None);
        }
        let started = Instant::now();
        self.session.evaluate(tokens)?;
        Ok(Some(started.elapsed().as_secs_f64()))
    }

    /// Seconds for all decoded tokens, the first of which is given; `None` if there are none.
    fn decode(&mut self) -> Result<Option<f64>, SessionError> {
        self.session.rewind(self.depth);
        if self.generate == 0 {
            return Ok(None);
        }
        let started = Instant::now();
        let mut tokens = self.tokens[..=self.depth].to_vec();
        for left in (0..self.generate).rev() {
            tokens.push(self.session.evaluate_best_ahead(&tokens, left > 0)?.0);
        }
        Ok(Some(started.elapsed().as_secs_f64()))
    }

    fn point(&self, kv: KvDType, prefill: Vec<f64>, decode: Vec<f64>, work: [Option<Counters>; 2]) -> Point {
        let (config, depth) = (self.session.engine().config(), self.depth);
        let engine = self.session.engine();
        let cache = self.session.kv_bytes_per_token() as f64;
        // Each chunk of a prompt reads the weights and the cache once; so does each decoded token.
        let reads = |step: usize, tokens: usize| -> f64 {
            let chunks = (0..tokens).step_by(step).map(|first| (first, tokens.min(first + step)));
            chunks.map(|(first, end)| engine.weight_bytes(end - first) as f64 + cache * (depth + end) as f64).sum()
        };
        let measured = |tokens: usize, seconds: &[f64], bytes: f64, flop: f64, step: usize, work: Option<Counters>| {
            let rates: Vec<f64> = seconds.iter().map(|seconds| tokens as f64 / seconds).collect();
            (!rates.is_empty()).then(|| {
                let tokens_per_second = Spread::new(rates);
                let repeats_per_second = tokens_per_second.median / tokens as f64;
                let passes = tokens.div_ceil(step);
                let each = (passes * seconds.len()) as f64;
                let device = work.map(|work| DeviceWork {
                    passes,
                    dispatches: work.dispatches as f64 / each,
                    barriers: work.barriers as f64 / each,
                    waits: work.waits as f64 / each,
                    seconds: work.device_seconds / each,
                });
                Measured {
                    tokens,
                    tokens_per_second,
                    bytes,
                    flop,
                    bytes_per_second: bytes * repeats_per_second,
                    share_of_read_bandwidth: None,
                    flop_per_second: flop * repeats_per_second,
                    share_of_peak: None,
                    device,
                }
            })
        };
        let chunk = SessionOptions::default().chunk;
        let one_by_one = (0..self.generate).map(|i| expected::flop(config, depth + i, 1)).sum();
        Point {
            kv: kv.name(),
            depth,
            prefill: measured(
                self.prompt,
                &prefill,
                reads(chunk, self.prompt),
                expected::flop(config, depth, self.prompt),
                chunk,
                work[0],
            ),
            decode: measured(self.generate, &decode, reads(1, self.generate), one_by_one, 1, work[1]),
            seconds_to_first_token: (!prefill.is_empty()).then(|| Spread::new(prefill).median),
        }
    }
}

/// Adds what was done between two readings of a device's counters.
fn add_work(sum: &mut Option<Counters>, from: Option<Counters>, to: Option<Counters>) {
    if let (Some(from), Some(to)) = (from, to) {
        let sum = sum.get_or_insert_default();
        sum.waits += to.waits - from.waits;
        sum.dispatches += to.dispatches - from.dispatches;
        sum.barriers += to.barriers - from.barriers;
        sum.device_seconds += to.device_seconds - from.device_seconds;
    }
}

/// Tokens that stand for a text: all over the vocabulary, the same in each run.
fn some_tokens(count: usize, vocab_size: usize) -> Vec<u32> {
    // Multiples of the golden ratio spread evenly over any range (Knuth, The Art of Computer Programming, 6.4).
    let spread = |i: u32| (u64::from(i.wrapping_mul(0x9e37_79b9)) * vocab_size as u64) >> 32;
    (1..).take(count).map(|i| spread(i) as u32).collect()
}

/// Where the time goes, operation by operation: one prompt and `generate` tokens for each cache type and depth, on a
/// backend like the engine's, which `device` describes, with a clock beside every operation.
pub fn time_operations(
    engine: &Engine,
    device: &EngineOptions,
    options: &BenchOptions,
) -> Result<Vec<PhaseOperations>, SessionError> {
    options.check(engine.name(), engine.config())?;
    device.with_backend(TimeOn { engine, options })
}

/// Times the operations of a backend.
struct TimeOn<'a> {
    engine: &'a Engine,
    options: &'a BenchOptions,
}

impl WithBackend for TimeOn<'_> {
    type Out = Vec<PhaseOperations>;

    fn run<B: Backend>(self, backend: B) -> Result<Self::Out, SessionError> {
        let Self { engine, options } = self;
        let model =
            Qwen3::load(Observed::new(backend, Timed::default()), engine.config().clone(), engine.checkpoint())?;
        let chunk = SessionOptions::default().chunk;
        let mut phases = Vec::new();
        for (&kv, &depth) in options.kv.iter().flat_map(|kv| options.depths.iter().map(move |depth| (kv, depth))) {
            let tokens = some_tokens(depth + options.prompt.max(options.generate), engine.config().vocab_size);
            let mut state = model.state(kv);
            let mut append = |from: usize, to: usize, step: usize, keep: bool| -> Result<_, SessionError> {
                state.truncate(from);
                model.backend().observer().take_times();
                let started = Instant::now();
                for first in (from..to).step_by(step) {
                    let last = first + step >= to;
                    let wanted = if keep && (last || step == 1) { LogitsFor::Last } else { LogitsFor::None };
                    let part = Input::Tokens(&tokens[first..to.min(first + step)]);
                    model.append(&mut state, part, wanted, None)?;
                }
                Ok((started.elapsed().as_secs_f64(), model.backend().observer().take_times()))
            };
            append(0, depth, chunk, false)?;
            for (phase, count, step) in [("prefill", options.prompt, chunk), ("decode", options.generate, 1)] {
                if count > 0 {
                    // Once untimed, as in the measurement: buffers and cache have grown, the weights have been touched.
                    append(depth, depth + count.min(step), step, true)?;
                    let (seconds, operations) = append(depth, depth + count, step, true)?;
                    phases.push(PhaseOperations { kv: kv.name(), depth, phase, seconds, operations });
                }
            }
        }
        Ok(phases)
    }
}

/// The most memory that this process has held: `VmHWM` of `/proc/self/status`, which only Linux has.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Makes [`peak_resident_bytes`] begin again from now (proc(5), `clear_refs`): what measuring the machine takes is not the
/// model's.
fn forget_peak_resident() {
    // Where this is not allowed, the peak is up to 403 MB too high for weights that a cache may hold.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
