//! The operations of the forward pass, their shapes and contracts, and what runs them.
//!
//! A [`Backend`] is anything that can run these operations. All activations are f32 and row-major; a buffer holds
//! `[rows, columns]` values one row after the other, so a `[tokens, heads * head_dim]` buffer is also a
//! `[tokens * heads, head_dim]` one. Every operation names how many rows it works on, since a buffer made for a
//! long prompt also serves a single token.
//!
//! | operation | computes | shapes |
//! | --- | --- | --- |
//! | [`embed`](Backend::embed) | rows of a table | `ids: [tokens]` → `[tokens, hidden]` |
//! | [`rms_norm`](Backend::rms_norm) | `x / sqrt(mean(x²) + eps) * weight` | `[rows, n]` → `[rows, n]` |
//! | [`head_norm`](Backend::head_norm) | the same, in place, a head at a time | `[tokens * heads, head_dim]` |
//! | [`linear`](Backend::linear) | `x · Wᵀ` | `[rows, in]`, `W: [out, in]` → `[rows, out]` |
//! | [`add_bias`](Backend::add_bias) | `x += bias` on every row | `[rows, n]`, `bias: [n]` |
//! | [`rope`](Backend::rope) | rotates pairs `(i, i + head_dim/2)` by an angle per position | `[tokens, heads, head_dim]` |
//! | [`store_kv`](Backend::store_kv) | appends keys and values to the cache | `[tokens, kv_heads, head_dim]` |
//! | [`attention`](Backend::attention) | causal softmax attention over the cache | `q: [tokens, heads, head_dim]` → same |
//! | [`swiglu`](Backend::swiglu) | `silu(gate) * up`, into `gate` | `[rows, intermediate]` |
//! | [`add`](Backend::add) | `x += y` | `[rows, n]` |
//! | [`copy_rows`](Backend::copy_rows) | some rows of a buffer | `[rows, n]` |
//!
//! The rest are fused operations: methods with a default body made of these, which a backend may override. A fused
//! version keeps the plain one's order of reduction, so the two agree.
//!
//! Shapes are the model's business and are checked when a model is loaded; inside an operation a wrong one is a bug in
//! this crate, and panics. Token ids and positions come from outside and are checked by the session.

pub mod collect;
pub mod compare;
pub mod cpu;
pub mod matrix;
pub mod reference;
pub mod timed;

use crate::model::kv_cache::{HostKvCache, KvLayout};
use crate::weights::Tensor;

/// A backend could not do what was asked: out of memory, a device that failed.
#[derive(Debug, thiserror::Error)]
#[error("{backend} backend: {message}")]
pub struct BackendError {
    /// Which backend.
    pub backend: &'static str,
    /// What happened, and what to do.
    pub message: String,
}

/// What a backend runs on, for the line that `fs` prints at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// `reference`, `cpu`, …
    pub name: &'static str,
    /// The instruction set or device, e.g. `avx512`.
    pub device: String,
    /// How many threads compute.
    pub threads: usize,
}

/// How many operations a second one kind of instruction reaches.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Peak {
    /// The instruction, e.g. `f32 FMA`.
    pub instruction: &'static str,
    /// What it multiplies, and so which weights can use it.
    pub operands: Operands,
    /// Multiplications and additions a second.
    pub ops_per_second: f64,
}

/// What an instruction multiplies; all add up in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operands {
    /// Single precision, to which every weight can be widened.
    F32,
    /// bfloat16 weights, and activations rounded to it.
    Bf16,
    /// The codes of quantized weights, and activations quantized to 8 bits.
    Int8,
}

/// Where in the KV cache an operation works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePosition {
    /// The transformer block.
    pub layer: usize,
    /// The position of the first of the rows at hand; the rows before it are in the cache already.
    pub start: usize,
    /// How many rows are at hand.
    pub tokens: usize,
}

/// The shape of attention's heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of each.
    pub head_dim: usize,
}

/// Runs the operations. See the [module](self) for the table of shapes.
pub trait Backend: Send + Sync + 'static {
    /// A tensor of the model, laid out as this backend likes it.
    type Weight: Send + Sync;
    /// f32 activations.
    type Buffer: Send;
    /// Keys and values of all layers.
    type KvCache: Send;

    /// What this backend runs on.
    fn info(&self) -> BackendInfo;

    /// Bytes a second that this device reads from memory, measured now: what decoding can reach at most. `None` where
    /// it means nothing.
    fn read_bandwidth(&self) -> Option<f64> {
        None
    }

    /// Operations a second that this device reaches on registers alone, measured now, for each kind of instruction that it
    /// multiplies matrices with: what prefill can reach at most. Empty where it means nothing.
    fn peak_ops(&self) -> Vec<Peak> {
        Vec::new()
    }

    /// Takes a weight over, without a copy where the layout allows it.
    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, BackendError>;

    /// A buffer of `len` zeros.
    fn buffer(&self, len: usize) -> Self::Buffer;

    /// Overwrites the first `values.len()` values.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]);

    /// The first `len` values, after everything encoded before has run. Device failures surface here.
    fn read(&self, buffer: &Self::Buffer, len: usize) -> Result<Vec<f32>, BackendError>;

    /// An empty cache of this layout.
    fn kv_cache(&self, layout: KvLayout) -> Self::KvCache;

    /// Makes room for `positions` positions in all; what is stored stays.
    fn reserve_kv(&self, cache: &mut Self::KvCache, positions: usize);

    /// `out[t] = table[ids[t]]`, with `table: [vocab, hidden]` and `out: [tokens, hidden]`.
    fn embed(&self, out: &mut Self::Buffer, table: &Self::Weight, ids: &[u32]);

    /// `out[r] = x[r] / sqrt(mean(x[r]²) + eps) * weight`, over `rows` rows of `weight.len()` values.
    fn rms_norm(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize);

    /// [`rms_norm`](Self::rms_norm) in place, for QK-norm: `rows = tokens * heads` rows of `head_dim` values.
    fn head_norm(&self, x: &mut Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize);

    /// `out[r][o] = Σ_i x[r][i] * weight[o][i]`: `x: [rows, in]`, `weight: [out, in]`, `out: [rows, out]`.
    fn linear(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, rows: usize);

    /// `x[r] += bias` for each of `rows` rows of `bias.len()` values.
    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Weight, rows: usize);

    /// Rotates each pair `(x[i], x[i + head_dim/2])` of every head by the angle of its position.
    ///
    /// `x: [tokens, heads, head_dim]`; `cos_sin: [tokens, head_dim]`, a row being `head_dim/2` cosines and then as
    /// many sines (see [`crate::model::rope`]).
    fn rope(&self, x: &mut Self::Buffer, cos_sin: &Self::Buffer, tokens: usize, heads: usize, head_dim: usize);

    /// Stores `k` and `v: [tokens, kv_heads, head_dim]` in the cache at `at`, rounded to the cache's dtype.
    fn store_kv(&self, cache: &mut Self::KvCache, k: &Self::Buffer, v: &Self::Buffer, at: CachePosition);

    /// Causal attention: `out[t][h] = softmax(q[t][h] · Kᵀ / sqrt(head_dim)) · V`, over positions `0..=at.start + t`
    /// of the cache. `q` and `out: [tokens, heads, head_dim]`; query head `h` reads KV head `h / (heads / kv_heads)`.
    /// Rows at hand must have been stored before.
    fn attention(
        &self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::KvCache,
        heads: Heads,
        at: CachePosition,
    );

    /// `gate[i] = silu(gate[i]) * up[i]` over `len` values, with `silu(x) = x / (1 + exp(-x))`.
    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize);

    /// `x[i] += y[i]` over `len` values.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize);

    /// `out[r] = x[first + r]` for `rows` rows of `columns` values.
    fn copy_rows(&self, out: &mut Self::Buffer, x: &Self::Buffer, first: usize, rows: usize, columns: usize);

    // Fused operations.

    /// The three projections of one input: three [`linear`](Self::linear)s.
    fn linear_qkv(&self, out: [&mut Self::Buffer; 3], x: &Self::Buffer, weights: [&Self::Weight; 3], rows: usize) {
        for (out, weight) in out.into_iter().zip(weights) {
            self.linear(out, x, weight, rows);
        }
    }

    /// QK-norm, RoPE and [`store_kv`](Self::store_kv).
    fn norm_rope_store(
        &self,
        [q, k, v]: [&mut Self::Buffer; 3],
        [q_norm, k_norm]: [&Self::Weight; 2],
        eps: f32,
        cos_sin: &Self::Buffer,
        cache: &mut Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        self.head_norm(q, q_norm, eps, at.tokens * heads.heads);
        self.head_norm(k, k_norm, eps, at.tokens * heads.kv_heads);
        self.rope(q, cos_sin, at.tokens, heads.heads, heads.head_dim);
        self.rope(k, cos_sin, at.tokens, heads.kv_heads, heads.head_dim);
        self.store_kv(cache, k, v, at);
    }

    /// `gate = silu(x · W_gateᵀ) * (x · W_upᵀ)`, with `up` as scratch: `[rows, intermediate]`.
    fn linear_swiglu(
        &self,
        gate: &mut Self::Buffer,
        up: &mut Self::Buffer,
        x: &Self::Buffer,
        [gate_weight, up_weight]: [&Self::Weight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        self.linear(gate, x, gate_weight, rows);
        self.linear(up, x, up_weight, rows);
        self.swiglu(gate, up, rows * intermediate);
    }
}

/// The backends that `fs` has, one row each: kind, name, what it is.
pub const BACKENDS: [(BackendKind, &str, &str); 2] = [
    (BackendKind::Cpu, "cpu", "fast CPU path: SIMD chosen at run time, threads"),
    (BackendKind::Reference, "reference", "plain f32 loops, one thread: the lesson and the oracle"),
];

/// Which backend to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// [`cpu::Cpu`].
    #[default]
    Cpu,
    /// [`reference::Reference`].
    Reference,
}

impl std::str::FromStr for BackendKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        BACKENDS.iter().find(|row| row.1 == name).map(|row| row.0).ok_or_else(|| {
            let names: Vec<&str> = BACKENDS.iter().map(|row| row.1).collect();
            format!("there is no backend `{name}`; there are: {}", names.join(", "))
        })
    }
}

/// Checks a stored row index range against a cache; shared by the backends whose cache is in host memory.
pub(crate) fn assert_in_cache(cache: &HostKvCache, at: CachePosition) {
    assert!(
        at.start + at.tokens <= cache.capacity(),
        "positions {}..{} in a cache of {}",
        at.start,
        at.start + at.tokens,
        cache.capacity()
    );
}
