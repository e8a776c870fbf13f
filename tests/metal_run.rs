//! The story model on the Metal backend, for many tokens, each begun before the one in front of it is known: the text is that of
//! the reference, nothing is left behind by a token, and weights stay where the file is mapped. Objects and memory of the process
//! are counted, so one test runs at a time.

#![cfg(all(feature = "metal-standin", not(target_os = "macos")))]

use failed_star::backend::BackendKind;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::{Engine, EngineOptions, GenerateOptions, SessionOptions, StopReason};
use failed_star::weights::ModelSource;
use metal_standin::compiler::{Kernel, Target};
use metal_standin::cpu::{CpuExecutor, Options};
use metal_standin::executor::{Allocation, Command, Executor, Pipeline, Storage, Ticket, Timing};
use metal_standin::live_objects;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of buffers made so far, by storage: with memory of their own, and over pages of the program.
static OWN: AtomicUsize = AtomicUsize::new(0);
static MAPPED: AtomicUsize = AtomicUsize::new(0);
/// Buffers that are alive.
static BUFFERS: AtomicUsize = AtomicUsize::new(0);

/// The CPU executor, with its memory counted.
struct Counting(CpuExecutor);

impl Executor for Counting {
    fn name(&self) -> String {
        self.0.name()
    }

    fn target(&self) -> Target {
        self.0.target()
    }

    fn allocate(&self, length: usize, storage: Storage) -> Result<Allocation, String> {
        let counter = if matches!(storage, Storage::NoCopy(_)) { &MAPPED } else { &OWN };
        counter.fetch_add(length, Relaxed);
        BUFFERS.fetch_add(1, Relaxed);
        self.0.allocate(length, storage)
    }

    fn release(&self, allocation: Allocation) {
        BUFFERS.fetch_sub(1, Relaxed);
        self.0.release(allocation);
    }

    fn prepare(&self, kernel: Kernel) -> Result<Pipeline, String> {
        self.0.prepare(kernel)
    }

    fn submit(&self, commands: Vec<Command>) -> Ticket {
        self.0.submit(commands)
    }

    fn wait(&self, ticket: Ticket) -> Result<Timing, String> {
        self.0.wait(ticket)
    }
}

/// Objects by class, and buffers at the executor.
fn alive() -> (Vec<(&'static str, usize)>, usize) {
    (live_objects(), BUFFERS.load(Relaxed))
}

fn engine(backend: BackendKind) -> Engine {
    // Not the embedded one: a file is mapped.
    let source = ModelSource::resolve(Some(concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories"))).unwrap();
    Engine::load(&source, &EngineOptions { backend, ..EngineOptions::default() }).unwrap()
}

#[test]
fn a_hundred_tokens() {
    run(100, 70);
}

#[test]
#[ignore = "minutes: tools/test-metal runs it"]
fn a_thousand_tokens() {
    // From the 257th position on attention has a second kernel.
    run(1000, 300);
}

/// From `settled` tokens on nothing is new but the cache's room, which grows by an eighth at a time.
fn run(count: usize, settled: usize) {
    let executor = CpuExecutor::new(Options { check: false, shuffle: None }).expect("an executor");
    assert!(metal_standin::install(Box::new(Counting(executor))), "nothing was chosen before");
    let nothing = alive();
    let metal = engine(BackendKind::Metal);

    // Every matrix of this model is bf16 and begins at a multiple of 16 bytes; only norms are copied, as f32.
    let (own, mapped) = (OWN.load(Relaxed), MAPPED.load(Relaxed));
    let weights = metal.weight_bytes_per_token();
    assert!(mapped >= weights, "{mapped} bytes bound where they are mapped, of {weights}");
    assert!(own < weights / 100, "{own} bytes were copied, of {weights}");

    // The cache holds what the reference's holds: f32, since rounding to f16 makes a last bit's difference a larger one.
    let options = SessionOptions { kv_dtype: KvDType::F32, ..SessionOptions::default() };
    let mut session = metal.session(options).unwrap();
    let prompt = metal.tokenizer().unwrap().encode("Once upon a time");
    let mut tokens = prompt.clone();
    let (mut before, mut made, mut grown) = (None, 0, 0);
    while tokens.len() < prompt.len() + count {
        tokens.push(session.evaluate_best_ahead(&tokens, true).unwrap().0);
        if tokens.len() == prompt.len() + settled {
            before = Some(alive());
        }
        let own = OWN.load(Relaxed);
        grown += usize::from(before.is_some() && own != made);
        made = own;
    }
    assert_eq!(Some(alive()), before, "tokens after the {settled}th left something");
    // The first is the cache that is there already.
    let eighths = (count as f64 / settled as f64).log(9.0 / 8.0).ceil() as usize;
    assert!(
        grown <= 1 + eighths,
        "memory was made at {grown} tokens after the {settled}th; the cache grows {eighths} times"
    );

    let reference = engine(BackendKind::Reference);
    let mut check = reference.session(options).unwrap();
    // All tokens at once: each must be the best after those before it. So a difference shows where it begins.
    let logits = check.evaluate_rows(&tokens, prompt.len() - 1).unwrap();
    let vocab = reference.config().vocab_size;
    for (i, (row, &id)) in logits.chunks_exact(vocab).zip(&tokens[prompt.len()..]).enumerate() {
        let best = (0..vocab).reduce(|best, at| if row[at] > row[best] { at } else { best }).unwrap();
        assert_eq!(best as u32, id, "token {i}: the reference's has logit {}, ours {}", row[best], row[id as usize]);
    }

    // A stop string comes with a token; the pass that ran ahead of it is forgotten.
    let stop = GenerateOptions { stop_strings: vec![".".into()], ..GenerateOptions::default() };
    let done = session.generate(&prompt, &stop, &mut |_| ControlFlow::Continue(())).unwrap();
    let end = prompt.len() + done.ids.len();
    assert_eq!(done.stop_reason, StopReason::StopString);
    assert_eq!(session.tokens(), &tokens[..end - 1]);
    assert_eq!(session.evaluate_best(&tokens[..end]).unwrap().0, tokens[end]);

    drop((session, metal));
    assert_eq!(alive(), nothing, "objects outlive the engine");
}
