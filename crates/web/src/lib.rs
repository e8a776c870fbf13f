//! The engine for a web page.
//!
//! A page writes a request as JSON, and reads the answer as JSON; only the model goes in as bytes. [`Live`] answers requests,
//! the same on every machine; `exports` puts it behind five functions of a wasm module, which `docs/live/engine.js` calls.
//! Generation goes in steps, because a worker hears the page only between calls: that is how a story can be stopped.

mod cost;
#[cfg(target_family = "wasm")]
mod exports;
#[cfg(not(target_family = "wasm"))]
pub mod recorded;
#[cfg(not(target_family = "wasm"))]
pub mod roofline;
mod sampling;

pub use sampling::SamplingRequest;

use failed_star::backend::BackendKind;
use failed_star::backend::cpu::simd::Level;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::sampling::{SamplingError, SamplingParams};
use failed_star::session::{
    Engine, EngineOptions, GenerateOptions, Generation, Session, SessionError, SessionOptions, StopReason,
};
use failed_star::trace::{Rows, TraceOptions, trace};
use failed_star::weights::{ModelSource, WeightsError};
use serde::Deserialize;
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// What can be asked.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What runs: the model, its shape, the backend.
    Model,
    /// Another backend for the model at hand: `cpu` or `reference`, and a SIMD level of `cpu`.
    Backend {
        /// Its name.
        name: String,
        /// The level; the fastest if absent.
        simd: Option<String>,
    },
    /// Every step from text to token ids.
    Tokenize {
        /// The text.
        text: String,
    },
    /// The logits after a text.
    Logits {
        /// The text.
        text: String,
    },
    /// A row of a weight, as numbers.
    Weights {
        /// The tensor's name.
        tensor: String,
        /// Which row; a vector has one.
        row: usize,
    },
    /// What a pass through another model would cost, which is not loaded.
    Cost {
        /// The fields of its `config.json` that decide it.
        config: serde_json::Map<String, Value>,
    },
    /// What the sampler makes of the logits after a text, step by step.
    Candidates {
        /// The text.
        text: String,
        /// The sampler's parameters.
        #[serde(default)]
        sampling: SamplingRequest,
        /// How many tokens to list, the most likely ones.
        #[serde(default = "ten")]
        top: usize,
        /// How many tokens to draw.
        #[serde(default)]
        draws: usize,
    },
    /// Computes a prompt and begins to continue it.
    Start {
        /// The prompt.
        text: String,
        /// The sampler's parameters.
        #[serde(default)]
        sampling: SamplingRequest,
        /// The most tokens to generate.
        max_tokens: Option<usize>,
    },
    /// The next tokens of what was started.
    Step {
        /// How many at most.
        #[serde(default = "one")]
        count: usize,
    },
    /// [`failed_star::trace`] of a text.
    Trace {
        /// The text.
        text: String,
        /// Tokens to decode after it.
        #[serde(default)]
        generate: usize,
        /// Whether to list operations.
        #[serde(default = "yes")]
        operations: bool,
        /// `last` or `all`.
        #[serde(default)]
        rows: Option<String>,
        /// The most values of a row.
        #[serde(default = "eight")]
        values: usize,
        /// The most likely tokens after each layer.
        #[serde(default = "five")]
        top: usize,
        /// Element type of the KV cache.
        #[serde(default)]
        kv: Option<String>,
    },
}

fn yes() -> bool {
    true
}
fn one() -> usize {
    1
}
fn five() -> usize {
    5
}
fn eight() -> usize {
    8
}
fn ten() -> usize {
    10
}

/// Why a request could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The request is not one.
    #[error("not a request: {0}")]
    Request(#[from] serde_json::Error),
    /// A name that stands for nothing.
    #[error("{0}")]
    Name(String),
    /// There is no model yet.
    #[error("no model has been loaded")]
    NoModel,
    /// Nothing has been started, or it is over.
    #[error("nothing is being generated")]
    NotStarted,
    /// The model's bytes.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The engine.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The sampler.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// A model, its session, and what is being generated on it.
#[derive(Default)]
pub struct Live {
    model: Option<Model>,
}

struct Model {
    source: ModelSource,
    options: EngineOptions,
    engine: Engine,
    session: Session,
    generation: Option<Generation>,
}

impl Model {
    fn load(source: ModelSource, options: EngineOptions) -> Result<Model, LiveError> {
        let engine = Engine::load(&source, &options)?;
        let session = engine.session(SessionOptions::default())?;
        Ok(Model { source, options, engine, session, generation: None })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, LiveError> {
        Ok(self.engine.tokenizer()?.encode(text))
    }

    fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.engine.token_bytes(id)).into_owned()
    }

    /// Row `row` of a tensor, dequantized.
    fn weights(&self, name: &str, row: usize) -> Result<Vec<f32>, LiveError> {
        let checkpoint = self.source.require_checkpoint()?;
        let tensor = checkpoint.get(name).ok_or_else(|| LiveError::Name(format!("there is no tensor {name}")))?;
        let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
        let stored = tensor.dtype.bytes(columns).filter(|&bytes| bytes > 0);
        let bytes = stored.and_then(|bytes| tensor.data.chunks_exact(bytes).nth(row));
        let bytes = bytes.ok_or_else(|| LiveError::Name(format!("{name} has no row {row}")))?;
        let mut values = vec![0.0; columns];
        tensor.dtype.widen(bytes, &mut values);
        Ok(values)
    }

    /// The next tokens, and why it ended if it did.
    fn step(&mut self, count: usize) -> Result<Value, LiveError> {
        let mut generation = self.generation.take().ok_or(LiveError::NotStarted)?;
        let mut tokens = Vec::new();
        for _ in 0..count {
            match generation.step(&mut self.session)? {
                Some(token) => tokens.push(json!({"id": token.id, "text": token.text})),
                None => {
                    let (completion, rest) = generation.finish();
                    return Ok(json!({"tokens": tokens, "rest": rest, "end": end(&completion.stop_reason),
                        "decoded": completion.timings.decoded_tokens,
                        "decode_seconds": completion.timings.decode.as_secs_f64()}));
                }
            }
        }
        self.generation = Some(generation);
        Ok(json!({"tokens": tokens, "rest": null, "end": null}))
    }
}

fn end(reason: &StopReason) -> Value {
    serde_json::to_value(reason).unwrap_or_default()
}

/// A name from a request, or the default.
fn parse<T: std::str::FromStr<Err = String> + Default>(name: Option<String>) -> Result<T, LiveError> {
    name.map_or(Ok(T::default()), |name| name.parse().map_err(LiveError::Name))
}

impl Live {
    /// Takes a model: the bytes of a GGUF file.
    pub fn load(&mut self, bytes: Vec<u8>) -> Result<(), LiveError> {
        // The model before, if there was one, makes room first.
        self.model = None;
        let source = ModelSource::from_gguf("stories", bytes)?;
        self.model = Some(Model::load(source, EngineOptions::default())?);
        Ok(())
    }

    /// Answers one request; both are JSON.
    pub fn answer(&mut self, request: &[u8]) -> Result<Vec<u8>, LiveError> {
        let request: Request = serde_json::from_slice(request)?;
        // The only question without a model, and so without its download.
        if let Request::Cost { config } = request {
            return Ok(serde_json::to_vec(&cost::model("your model", &cost::config(config)?))?);
        }
        let model = self.model.as_mut().ok_or(LiveError::NoModel)?;
        let answer = match request {
            Request::Model => {
                let (engine, backend) = (&model.engine, model.engine.backend());
                json!({
                    "name": engine.name(), "dtype": engine.weights_dtype(), "config": engine.config(),
                    "backend": backend.name, "device": backend.device, "threads": backend.threads,
                    "weight_bytes_per_token": engine.weight_bytes_per_token(),
                    "kv_bytes_per_token": model.session.kv_bytes_per_token(),
                    "sampling": SamplingRequest::recommended(engine),
                })
            }
            Request::Backend { name, simd } => {
                let backend: BackendKind = name.parse().map_err(LiveError::Name)?;
                let simd: Option<Level> = simd.map(|name| name.parse().map_err(LiveError::Name)).transpose()?;
                let options = EngineOptions { backend, simd, ..EngineOptions::default() };
                let source = model.source.clone();
                self.model = Some(Model::load(source, options)?);
                Value::Null
            }
            Request::Tokenize { text } => serde_json::to_value(model.engine.tokenizer()?.trace(&text))?,
            Request::Logits { text } => {
                let ids = model.encode(&text)?;
                let logits = model.session.evaluate(&ids)?.to_vec();
                json!({"ids": ids, "logits": logits})
            }
            Request::Weights { tensor, row } => {
                let values = model.weights(&tensor, row)?;
                return Ok(serde_json::to_vec(&values)?);
            }
            Request::Cost { .. } => unreachable!("answered above"),
            Request::Candidates { text, sampling, top, draws } => {
                let ids = model.encode(&text)?;
                let logits = model.session.evaluate(&ids)?.to_vec();
                sampling::candidates(&logits, &sampling.params(&model.engine), top, draws, |id| model.text(id))?
            }
            Request::Start { text, sampling, max_tokens } => {
                model.generation = None;
                let ids = model.encode(&text)?;
                let options = GenerateOptions {
                    sampling: SamplingParams { logprobs: None, ..sampling.params(&model.engine) },
                    max_tokens,
                    stop_tokens: model.engine.stop_tokens(),
                    stop_strings: Vec::new(),
                };
                let go_on = &mut |_, _| ControlFlow::Continue(());
                model.generation = Some(Generation::new(&mut model.session, &ids, options, go_on)?);
                json!({"ids": ids})
            }
            Request::Step { count } => model.step(count)?,
            Request::Trace { text, generate, operations, rows, values, top, kv } => {
                let ids = model.encode(&text)?;
                let (rows, kv_dtype): (Rows, KvDType) = (parse(rows)?, parse(kv)?);
                let options = TraceOptions { kv_dtype, generate, operations, rows, values, top };
                let trace = trace(&model.engine, &model.options, &ids, &options)?;
                // Not through `Value`, which would take several times the memory, and f32 in the digits of f64.
                return Ok(serde_json::to_vec(&trace)?);
            }
        };
        Ok(serde_json::to_vec(&answer)?)
    }
}
