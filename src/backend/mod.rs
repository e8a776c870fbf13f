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
//! The rest are fused operations: methods with a default body made of these ([`plain`]), which a backend may override. A fused
//! version keeps the plain one's order of reduction, so the two agree.
//!
//! A backend may compute later than its methods return: results and failures come from [`read`](Backend::read),
//! [`argmax`](Backend::argmax), [`top_k`](Backend::top_k) and [`finish`](Backend::finish), and every forward pass ends with
//! one of them, or with [`argmax_ahead`](Backend::argmax_ahead), whose answer is asked for later.
//!
//! Shapes are the model's business and are checked when a model is loaded; inside an operation a wrong one is a bug in
//! this crate, and panics. Token ids and positions come from outside and are checked by the session.

pub mod collect;
pub mod compare;
pub mod cpu;
pub(crate) mod huge_bytes;
pub mod matrix;
#[cfg(any(target_os = "macos", feature = "metal-standin"))]
pub mod metal;
pub mod observed;
pub mod plain;
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

impl Operands {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Whether such an instruction can multiply weights of the type named `dtype`, as [`DType::name`](crate::weights::DType::name)
    /// has it: all can be widened to f32, bf16 is of use to bf16 alone, and 8 bits to quantized weights.
    pub fn serve(self, dtype: &str) -> bool {
        match dtype {
            "F32" | "F16" => self == Self::F32,
            "BF16" => self != Self::Int8,
            _ => self != Self::Bf16,
        }
    }
}

/// What a device has been given to do; see [`Backend::counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Counters {
    /// Times that the processor waited for the device.
    pub waits: u64,
    /// Kernels that ran.
    pub dispatches: u64,
    /// Places where a kernel had to wait for those before it.
    pub barriers: u64,
    /// How long the device was at work.
    pub device_seconds: f64,
}

/// The token with the largest logit, which a device may still be looking for; see [`Backend::argmax_ahead`].
#[derive(Debug, PartialEq)]
pub enum Ahead {
    /// It is known, with its logit.
    Known(u32, f32),
    /// The backend knows it by this number.
    Number(u64),
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

    /// Bytes a second that this device reads from memory, measured now: what decoding can reach at most. It reads some of
    /// `weights`, and takes no memory for it; where there are none, memory of its own. `None` where it means nothing: for
    /// weights that a cache may hold, for example.
    fn read_bandwidth(&self, _weights: &[&Self::Weight]) -> Option<f64> {
        None
    }

    /// Operations a second that this device reaches on registers alone, measured now, for each kind of instruction that it
    /// multiplies matrices with: what prefill can reach at most. Empty where it means nothing.
    fn peak_ops(&self) -> Vec<Peak> {
        Vec::new()
    }

    /// Whether weights of so many bytes in all are worth loading; refuses what the device has no memory for, and says in which
    /// format so many values would fit.
    fn admit(&self, _bytes: u64, _values: u64) -> Result<(), BackendError> {
        Ok(())
    }

    /// Takes a weight over, without a copy where the layout allows it.
    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, BackendError>;

    /// A buffer of `len` zeros.
    fn buffer(&self, len: usize) -> Self::Buffer;

    /// Overwrites the first `values.len()` values.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]);

    /// The first `len` values, after everything encoded before has run. Device failures surface here.
    fn read(&self, buffer: &Self::Buffer, len: usize) -> Result<Vec<f32>, BackendError>;

    /// Waits until everything encoded before has run. Device failures surface here too.
    fn finish(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// What this thread has given the device to do so far; `None` where operations are over when their methods return.
    fn counters(&self) -> Option<Counters> {
        None
    }

    /// Writes a trace of what the device does from now on to a file, for the vendor's tools, until the backend is dropped.
    fn capture(&self, _path: &std::path::Path) -> Result<(), BackendError> {
        let message = "only the metal backend on macOS writes GPU traces".into();
        Err(BackendError { backend: self.info().name, message })
    }

    /// The index of the largest of the first `len` values, and that value. The first of equal ones wins; NaN counts as the
    /// largest, so that it is seen.
    fn argmax(&self, buffer: &Self::Buffer, len: usize) -> Result<(u32, f32), BackendError> {
        Ok(plain::argmax(&self.read(buffer, len)?))
    }

    /// The `k` largest of the first `len` values and their indices, the largest first, and of equal ones the first first; all
    /// if there are fewer. NaN counts as the largest.
    fn top_k(&self, buffer: &Self::Buffer, len: usize, k: usize) -> Result<Vec<(u32, f32)>, BackendError> {
        Ok(plain::top_k(&self.read(buffer, len)?, k))
    }

    /// [`argmax`](Self::argmax) as a promise: a device is given everything encoded so far and is not waited for, so that the
    /// next token can be encoded while it works. [`embed_ahead`](Self::embed_ahead) takes the index from where the device has
    /// put it. Every promise is [`settle`](Self::settle)d once.
    fn argmax_ahead(&self, buffer: &Self::Buffer, len: usize) -> Result<Ahead, BackendError> {
        self.argmax(buffer, len).map(|(index, value)| Ahead::Known(index, value))
    }

    /// The answer to an [`argmax_ahead`](Self::argmax_ahead), as soon as it is there. Failures of what was encoded before it
    /// surface here.
    fn settle(&self, ahead: Ahead) -> Result<(u32, f32), BackendError> {
        match ahead {
            Ahead::Known(index, value) => Ok((index, value)),
            Ahead::Number(_) => unreachable!("a backend that gives numbers away takes them back"),
        }
    }

    /// [`embed`](Self::embed) of one token, that which an unsettled promise will name.
    fn embed_ahead(&self, out: &mut Self::Buffer, table: &Self::Weight, ahead: &Ahead) {
        match ahead {
            Ahead::Known(index, _) => self.embed(out, table, &[*index]),
            Ahead::Number(_) => unreachable!("a backend that gives numbers away takes them back"),
        }
    }

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
        plain::linear_qkv(self, out, x, weights, rows);
    }

    /// [`rms_norm`](Self::rms_norm) of `x`, for which `h` is scratch of the same shape, and the three projections of it.
    fn norm_linear_qkv(
        &self,
        out: [&mut Self::Buffer; 3],
        h: &mut Self::Buffer,
        x: &Self::Buffer,
        norm: &Self::Weight,
        eps: f32,
        weights: [&Self::Weight; 3],
        rows: usize,
    ) {
        plain::norm_linear_qkv(self, out, h, x, norm, eps, weights, rows);
    }

    /// QK-norm, RoPE and [`store_kv`](Self::store_kv). `q` is needed afterwards, `k` and `v` are not.
    fn norm_rope_store(
        &self,
        qkv: [&mut Self::Buffer; 3],
        norms: [&Self::Weight; 2],
        eps: f32,
        cos_sin: &Self::Buffer,
        cache: &mut Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        plain::norm_rope_store(self, qkv, norms, eps, cos_sin, cache, heads, at);
    }

    /// `gate = silu(x · W_gateᵀ) * (x · W_upᵀ)`, with `up` as scratch: `[rows, intermediate]`.
    fn linear_swiglu(
        &self,
        gate: &mut Self::Buffer,
        up: &mut Self::Buffer,
        x: &Self::Buffer,
        weights: [&Self::Weight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        plain::linear_swiglu(self, gate, up, x, weights, rows, intermediate);
    }

    /// [`rms_norm`](Self::rms_norm) of `x`, for which `h` is scratch of the same shape, and
    /// [`linear_swiglu`](Self::linear_swiglu) of it; `out` is its gate and up.
    fn norm_linear_swiglu(
        &self,
        out: [&mut Self::Buffer; 2],
        h: &mut Self::Buffer,
        x: &Self::Buffer,
        norm: &Self::Weight,
        eps: f32,
        weights: [&Self::Weight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        plain::norm_linear_swiglu(self, out, h, x, norm, eps, weights, rows, intermediate);
    }

    /// `x += y · Wᵀ`, with `scratch` as large as `x`: `[rows, features]`.
    fn linear_add(
        &self,
        x: &mut Self::Buffer,
        scratch: &mut Self::Buffer,
        y: &Self::Buffer,
        weight: &Self::Weight,
        rows: usize,
        features: usize,
    ) {
        plain::linear_add(self, x, scratch, y, weight, rows, features);
    }
}

/// The backends that `fs` has, one row each: kind, name, what it is.
pub const BACKENDS: [(BackendKind, &str, &str); 4] = [
    (BackendKind::Auto, "auto", "metal on a Mac, else cpu"),
    (BackendKind::Metal, "metal", "our own kernels on an Apple GPU"),
    (BackendKind::Cpu, "cpu", "fast CPU path: SIMD chosen at run time, threads"),
    (BackendKind::Reference, "reference", "plain f32 loops, one thread: the lesson and the oracle"),
];

/// Why there is no [`BackendKind::Metal`] in this program.
#[cfg(not(any(target_os = "macos", feature = "metal-standin")))]
pub const METAL_IS_NOT_BUILT: &str =
    "this fs was built without it: Metal is there on a Mac, and elsewhere with cargo's feature `metal-standin`";

/// Which backend to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// [`Metal`](Self::Metal) on a Mac that can run it, else [`Cpu`](Self::Cpu).
    #[default]
    Auto,
    /// `metal::Metal`, where it is built: on macOS, and elsewhere with the feature `metal-standin`.
    Metal,
    /// [`cpu::Cpu`].
    Cpu,
    /// [`reference::Reference`].
    Reference,
}

impl BackendKind {
    /// What [`Auto`](Self::Auto) stands for on this machine.
    pub fn resolve(self) -> BackendKind {
        match self {
            #[cfg(target_os = "macos")]
            Self::Auto if metal::Metal::new(false).is_ok() => Self::Metal,
            Self::Auto => Self::Cpu,
            other => other,
        }
    }

    /// The name on screen.
    pub fn name(self) -> &'static str {
        BACKENDS.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }
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
