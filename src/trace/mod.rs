//! What ran: every operation of a forward pass with its shapes, bytes, arithmetic, time and values, and what the model would say
//! after each layer. One format, written here and read by `fs trace`, the browser and the course.
//!
//! # The format, version 1
//!
//! [`Trace`] as JSON: an object whose `format` is [`FORMAT`] and whose `version` is [`VERSION`]; the fields are those of the
//! structs below. A change that a reader could notice, other than a new field, is a new version.
//!
//! - Operations are the plain ones of [`Backend`](crate::backend::Backend): fused ones are taken apart, so that each step has its
//!   values. Their sum is therefore slower than the model is; `fs bench --ops` times what really runs.
//! - Bytes are what an operation reads and writes at least, each value once; activations are f32. FLOPs are the multiplications
//!   and additions of dot products, as everywhere in this crate: other arithmetic counts 0.
//! - Values, attention and lens are those of some tokens at hand, oldest first: [`Rows`] says which.

mod record;
mod run;

pub use run::trace;

use crate::model::kv_cache::KvDType;
use crate::weights::Config;
use serde::Serialize;

/// What [`Trace::format`] is.
pub const FORMAT: &str = "failed-star.trace";

/// What [`Trace::version`] is.
pub const VERSION: u32 = 1;

/// What to trace.
#[derive(Clone, Copy, Debug)]
pub struct TraceOptions {
    /// Element type of the KV cache.
    pub kv_dtype: KvDType,
    /// Tokens to decode greedily after the prompt, one pass each.
    pub generate: usize,
    /// Whether operations are listed, or only their totals.
    pub operations: bool,
    /// Whose values, attention and lens are recorded.
    pub rows: Rows,
    /// The most values of a row; 0 records none, and `usize::MAX` whole rows.
    pub values: usize,
    /// The most likely tokens of the lens; 0 leaves the lens out.
    pub top: usize,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self { kv_dtype: KvDType::F16, generate: 0, operations: true, rows: Rows::Last, values: 8, top: 5 }
    }
}

/// Some of the tokens of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// The last one, whose logits choose the next token.
    #[default]
    Last,
    /// All.
    All,
}

impl Rows {
    /// How many of `tokens`; they are the last ones.
    fn count(self, tokens: usize) -> usize {
        match self {
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}

impl std::str::FromStr for Rows {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "last" => Ok(Self::Last),
            "all" => Ok(Self::All),
            _ => Err(format!("`{name}` is neither `last` nor `all`")),
        }
    }
}

/// A prompt's way through the model, and that of the tokens decoded after it.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// [`FORMAT`].
    pub format: &'static str,
    /// [`VERSION`].
    pub version: u32,
    /// The model's name.
    pub model: String,
    /// The dtype of most of its weights.
    pub dtype: &'static str,
    /// Its shape.
    pub config: Config,
    /// What it ran on.
    pub backend: &'static str,
    /// The instruction set or device.
    pub device: String,
    /// Threads that computed.
    pub threads: usize,
    /// Element type of the KV cache.
    pub kv: &'static str,
    /// Bytes of the KV cache that one token takes.
    pub kv_bytes_per_token: usize,
    /// Bytes of weights that decoding one token reads.
    pub weight_bytes_per_token: usize,
    /// The prompt, and what was decoded.
    pub tokens: Vec<Token>,
    /// How many of them are the prompt.
    pub prompt_tokens: usize,
    /// Whose values, attention and lens there are.
    pub rows: Rows,
    /// The prompt, and then each decoded token.
    pub passes: Vec<Pass>,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text; bytes that are not UTF-8 by themselves are replaced. Empty without a tokenizer.
    pub text: String,
}

/// One forward pass.
#[derive(Clone, Debug, Serialize)]
pub struct Pass {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// The position of its first token: how many are in the cache.
    pub start: usize,
    /// Tokens at hand.
    pub tokens: usize,
    /// How often it ran an operation.
    pub operation_count: usize,
    /// Of all operations.
    pub bytes: Bytes,
    /// Of all operations.
    pub flop: u64,
    /// What it would be without a cache: of all tokens up to this pass's last.
    pub flop_without_cache: u64,
    /// Of all operations.
    pub seconds: f64,
    /// In the order in which they ran; empty if they were not asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// What the model would say after each stage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lens: Vec<Lens>,
    /// The token with the largest logit.
    pub next: Token,
}

/// Bytes that are read and written at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Weights, as they are stored.
    pub weights: u64,
    /// Keys and values that are read from the cache.
    pub kv_read: u64,
    /// Keys and values that are written to it.
    pub kv_written: u64,
    /// f32 activations that are read.
    pub activations_read: u64,
    /// f32 activations that are written.
    pub activations_written: u64,
}

impl std::ops::AddAssign for Bytes {
    fn add_assign(&mut self, more: Self) {
        self.weights += more.weights;
        self.kv_read += more.kv_read;
        self.kv_written += more.kv_written;
        self.activations_read += more.activations_read;
        self.activations_written += more.activations_written;
    }
}

/// One operation.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// Its name in [`Backend`](crate::backend::Backend).
    pub operation: &'static str,
    /// The transformer block; `None` before the first and after the last.
    pub layer: Option<usize>,
    /// The tensor that it uses.
    pub tensor: Option<String>,
    /// How that is stored.
    pub dtype: Option<&'static str>,
    /// That tensor's shape, `[out, in]` or `[n]`.
    pub weights: Vec<usize>,
    /// What it reads and leaves, `[rows, columns]` each.
    pub inputs: Vec<[usize; 2]>,
    /// What it writes.
    pub outputs: Vec<[usize; 2]>,
    /// Whether the output was an input, too.
    pub in_place: bool,
    /// Bytes.
    pub bytes: Bytes,
    /// Multiplications and additions of dot products.
    pub flop: u64,
    /// How long it took.
    pub seconds: f64,
    /// What came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
    /// Of `attention`: the weight of every position up to the token's own, `[rows][heads][positions]`; each sums to 1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<Vec<Vec<f32>>>,
}

/// Samples of an operation's first output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Values {
    /// The first values of each recorded token's part.
    pub rows: Vec<Vec<f32>>,
    /// The smallest of all values, recorded or not.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// Their mean.
    pub mean: f64,
    /// The root of the mean of their squares.
    pub rms: f64,
}

/// The logit lens (nostalgebraist, 2020): the final norm and the head on the residual stream as it is after a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lens {
    /// `embedding`, or `block_` and its number; the last block's are the model's logits.
    pub stage: String,
    /// For each recorded token, the most likely next ones.
    pub rows: Vec<Vec<TopToken>>,
}

/// A likely token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopToken {
    /// Its id.
    pub id: u32,
    /// Its text; see [`Token::text`].
    pub text: String,
    /// Its logit.
    pub logit: f32,
    /// Its share in the softmax of all logits.
    pub probability: f32,
}
