//! A backend that runs another one and tells an [`Observer`] what ran: the operation, its tensors, the shapes, what it had to
//! read and compute, how long it took, and the buffers, to look into.
//!
//! The forward pass runs on it unchanged. A clock ([`super::timed`]), sums of what goes into matrices ([`super::collect`]) and
//! the trace ([`crate::trace`]) are observers.

use super::{Backend, BackendError, BackendInfo, CachePosition, Heads, Peak, plain};
use crate::clock::Instant;
use crate::model::kv_cache::KvLayout;
use crate::weights::{DType, Tensor};
use std::sync::Mutex;

/// Is told of every operation, after it ran.
pub trait Observer<B: Backend>: Send + Sync + 'static {
    /// Whether fused operations are run as the plain ones that they stand for, so that each of these is seen.
    const PLAIN: bool;

    /// An operation ran. A failure is kept for whoever reads a result next.
    fn ran(&self, backend: &B, call: Call<'_, B>) -> Result<(), BackendError>;
}

/// Runs `inner` under the eyes of an observer.
pub struct Observed<B: Backend, O> {
    inner: B,
    observer: O,
    /// The first failure of a device, or of the observer.
    failure: Mutex<Option<BackendError>>,
}

/// What a tensor is, without its values.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Bytes it takes where it is stored.
    pub bytes: usize,
}

impl TensorInfo {
    /// Rows and columns; a vector is one row.
    pub fn matrix(&self) -> [usize; 2] {
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        [self.shape.iter().product::<usize>() / columns, columns]
    }
}

/// A weight, and what it is.
pub struct ObservedWeight<W> {
    weight: W,
    info: TensorInfo,
}

/// Activations that an operation read or wrote: a buffer, and its rows and columns.
pub struct Operand<'a, B: Backend>(pub &'a B::Buffer, pub [usize; 2]);

impl<B: Backend> Operand<'_, B> {
    /// The values, `[rows, columns]`.
    pub fn read(&self, backend: &B) -> Result<Vec<f32>, BackendError> {
        backend.read(self.0, self.1[0] * self.1[1])
    }
}

/// What an operation has to read, write and compute at least, activations not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights that are read.
    pub weight_bytes: usize,
    /// Bytes of the KV cache that are read.
    pub kv_read: usize,
    /// Bytes of the KV cache that are written.
    pub kv_written: usize,
    /// Multiplications and additions of dot products; 0 where there are none.
    pub flop: usize,
}

/// An operation that ran.
pub struct Call<'a, B: Backend> {
    /// Its name in [`Backend`].
    pub operation: &'static str,
    /// Where in the cache it worked, if it did.
    pub at: Option<CachePosition>,
    /// The tensors that it used, in the order of its arguments.
    pub tensors: &'a [&'a TensorInfo],
    /// What it read and left as it was.
    pub inputs: &'a [Operand<'a, B>],
    /// What it wrote.
    pub outputs: &'a [Operand<'a, B>],
    /// Whether the first of its outputs was an input, too.
    pub in_place: bool,
    /// What it had to do.
    pub work: Work,
    /// What it took.
    pub cost: Cost,
}

/// What an operation took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// How long, in seconds: until its method returned, or, of a device that computes later, by that device's own clock.
    pub seconds: f64,
    /// Kernels that a device ran for it; `None` on a backend that has none.
    pub dispatches: Option<u64>,
}

impl<B: Backend> Call<'_, B> {
    fn new(operation: &'static str, cost: Cost) -> Self {
        let work = Work::default();
        Self { operation, at: None, tensors: &[], inputs: &[], outputs: &[], in_place: false, work, cost }
    }
}

impl Work {
    /// Reads some tensors.
    fn reads(tensors: &[&TensorInfo]) -> Self {
        Self { weight_bytes: tensors.iter().map(|t| t.bytes).sum(), ..Self::default() }
    }

    /// `rows` rows through matrices.
    fn linear(tensors: &[&TensorInfo], rows: usize) -> Self {
        let products = tensors.iter().map(|t| t.matrix()).map(|[out, columns]| out * columns).sum::<usize>();
        Self { flop: 2 * rows * products, ..Self::reads(tensors) }
    }

    /// And reads this one.
    fn with(self, tensor: &TensorInfo) -> Self {
        Self { weight_bytes: self.weight_bytes + tensor.bytes, ..self }
    }

    /// Keys and values of `tokens` tokens into one layer of the cache.
    fn store(layout: &KvLayout, tokens: usize) -> Self {
        Self { kv_written: tokens * layout.bytes_per_token() / layout.layers.max(1), ..Self::default() }
    }
}

impl<B: Backend, O: Observer<B>> Observed<B, O> {
    /// Lets `observer` see what `inner` does.
    pub fn new(inner: B, observer: O) -> Self {
        Self { inner, observer, failure: Mutex::default() }
    }

    /// The observer.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    fn fail(&self, error: BackendError) {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
    }

    fn take_failure(&self) -> Result<(), BackendError> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().map_or(Ok(()), Err)
    }

    /// Runs an operation and returns what it took; a device is waited for.
    fn clock<R>(&self, run: impl FnOnce(&B) -> R) -> (R, Cost) {
        let before = self.inner.counters();
        let started = Instant::now();
        let result = run(&self.inner);
        let Some(before) = before else {
            return (result, Cost { seconds: started.elapsed().as_secs_f64(), dispatches: None });
        };
        if let Err(error) = self.inner.finish() {
            self.fail(error);
        }
        let after = self.inner.counters().unwrap_or(before);
        let dispatches = Some(after.dispatches - before.dispatches);
        (result, Cost { seconds: after.device_seconds - before.device_seconds, dispatches })
    }

    fn tell(&self, call: Call<'_, B>) {
        if let Err(error) = self.observer.ran(&self.inner, call) {
            self.fail(error);
        }
    }

    /// Runs what is no operation of the model, but takes time.
    fn service<R>(&self, name: &'static str, run: impl FnOnce(&B) -> R) -> R {
        let (result, cost) = self.clock(run);
        self.tell(Call::new(name, cost));
        result
    }
}

impl<B: Backend, O: Observer<B>> Backend for Observed<B, O> {
    type Weight = ObservedWeight<B::Weight>;
    type Buffer = B::Buffer;
    type KvCache = (B::KvCache, KvLayout);

    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    fn read_bandwidth(&self, weights: &[&Self::Weight]) -> Option<f64> {
        self.inner.read_bandwidth(&weights.iter().map(|weight| &weight.weight).collect::<Vec<_>>())
    }

    fn peak_ops(&self) -> Vec<Peak> {
        self.inner.peak_ops()
    }

    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, BackendError> {
        let (dtype, bytes) = (tensor.dtype, tensor.data.len());
        let info = TensorInfo { name: tensor.name.clone(), dtype, shape: tensor.shape.clone(), bytes };
        Ok(ObservedWeight { weight: self.inner.load(tensor)?, info })
    }

    fn buffer(&self, len: usize) -> Self::Buffer {
        self.service("buffer", |b| b.buffer(len))
    }

    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) {
        self.service("write", |b| b.write(buffer, values));
    }

    fn read(&self, buffer: &Self::Buffer, len: usize) -> Result<Vec<f32>, BackendError> {
        let result = self.service("read", |b| b.read(buffer, len));
        self.take_failure()?;
        result
    }

    fn finish(&self) -> Result<(), BackendError> {
        let result = self.service("finish", |b| b.finish());
        self.take_failure()?;
        result
    }

    fn admit(&self, bytes: u64, values: u64) -> Result<(), BackendError> {
        self.inner.admit(bytes, values)
    }

    fn argmax(&self, buffer: &Self::Buffer, len: usize) -> Result<(u32, f32), BackendError> {
        let result = self.service("argmax", |b| b.argmax(buffer, len));
        self.take_failure()?;
        result
    }

    // `argmax_ahead` is this, too: an observer waits for every operation, so nothing runs ahead of it.

    fn top_k(&self, buffer: &Self::Buffer, len: usize, k: usize) -> Result<Vec<(u32, f32)>, BackendError> {
        let result = self.service("top_k", |b| b.top_k(buffer, len, k));
        self.take_failure()?;
        result
    }

    fn kv_cache(&self, layout: KvLayout) -> Self::KvCache {
        (self.inner.kv_cache(layout), layout)
    }

    fn reserve_kv(&self, (cache, _): &mut Self::KvCache, positions: usize) {
        self.service("reserve_kv", |b| b.reserve_kv(cache, positions));
    }

    fn embed(&self, out: &mut Self::Buffer, table: &Self::Weight, ids: &[u32]) {
        let ((), cost) = self.clock(|b| b.embed(out, &table.weight, ids));
        let [rows, columns] = table.info.matrix();
        self.tell(Call {
            tensors: &[&table.info],
            outputs: &[Operand(out, [ids.len(), columns])],
            work: Work { weight_bytes: ids.len() * table.info.bytes / rows.max(1), ..Work::default() },
            ..Call::new("embed", cost)
        });
    }

    fn rms_norm(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        let ((), cost) = self.clock(|b| b.rms_norm(out, x, &weight.weight, eps, rows));
        let shape = [rows, weight.info.matrix()[1]];
        self.tell(Call {
            tensors: &[&weight.info],
            inputs: &[Operand(x, shape)],
            outputs: &[Operand(out, shape)],
            work: Work::reads(&[&weight.info]),
            ..Call::new("rms_norm", cost)
        });
    }

    fn head_norm(&self, x: &mut Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        let ((), cost) = self.clock(|b| b.head_norm(x, &weight.weight, eps, rows));
        self.tell(Call {
            tensors: &[&weight.info],
            outputs: &[Operand(x, [rows, weight.info.matrix()[1]])],
            in_place: true,
            work: Work::reads(&[&weight.info]),
            ..Call::new("head_norm", cost)
        });
    }

    fn linear(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, rows: usize) {
        let ((), cost) = self.clock(|b| b.linear(out, x, &weight.weight, rows));
        let [features, columns] = weight.info.matrix();
        self.tell(Call {
            tensors: &[&weight.info],
            inputs: &[Operand(x, [rows, columns])],
            outputs: &[Operand(out, [rows, features])],
            work: Work::linear(&[&weight.info], rows),
            ..Call::new("linear", cost)
        });
    }

    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Weight, rows: usize) {
        let ((), cost) = self.clock(|b| b.add_bias(x, &bias.weight, rows));
        self.tell(Call {
            tensors: &[&bias.info],
            outputs: &[Operand(x, [rows, bias.info.matrix()[1]])],
            in_place: true,
            work: Work::reads(&[&bias.info]),
            ..Call::new("add_bias", cost)
        });
    }

    fn rope(&self, x: &mut Self::Buffer, cos_sin: &Self::Buffer, tokens: usize, heads: usize, head_dim: usize) {
        let ((), cost) = self.clock(|b| b.rope(x, cos_sin, tokens, heads, head_dim));
        self.tell(Call {
            inputs: &[Operand(cos_sin, [tokens, head_dim])],
            outputs: &[Operand(x, [tokens, heads * head_dim])],
            in_place: true,
            ..Call::new("rope", cost)
        });
    }

    fn store_kv(&self, (cache, layout): &mut Self::KvCache, k: &Self::Buffer, v: &Self::Buffer, at: CachePosition) {
        let ((), cost) = self.clock(|b| b.store_kv(cache, k, v, at));
        let shape = [at.tokens, layout.kv_heads * layout.head_dim];
        self.tell(Call {
            at: Some(at),
            inputs: &[Operand(k, shape), Operand(v, shape)],
            work: Work::store(layout, at.tokens),
            ..Call::new("store_kv", cost)
        });
    }

    fn attention(
        &self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        (cache, layout): &Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        let ((), cost) = self.clock(|b| b.attention(out, q, cache, heads, at));
        // Row t looks at at.start + t + 1 positions, with a multiplication and an addition for each key and each value.
        let pairs = at.tokens * at.start + at.tokens * (at.tokens + 1) / 2;
        let shape = [at.tokens, heads.heads * heads.head_dim];
        self.tell(Call {
            at: Some(at),
            inputs: &[Operand(q, shape)],
            outputs: &[Operand(out, shape)],
            work: Work {
                kv_read: (at.start + at.tokens) * layout.bytes_per_token() / layout.layers.max(1),
                flop: 4 * heads.heads * heads.head_dim * pairs,
                ..Work::default()
            },
            ..Call::new("attention", cost)
        });
    }

    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) {
        let ((), cost) = self.clock(|b| b.swiglu(gate, up, len));
        self.tell(Call {
            inputs: &[Operand(up, [1, len])],
            outputs: &[Operand(gate, [1, len])],
            in_place: true,
            ..Call::new("swiglu", cost)
        });
    }

    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) {
        let ((), cost) = self.clock(|b| b.add(x, y, len));
        self.tell(Call {
            inputs: &[Operand(y, [1, len])],
            outputs: &[Operand(x, [1, len])],
            in_place: true,
            ..Call::new("add", cost)
        });
    }

    fn copy_rows(&self, out: &mut Self::Buffer, x: &Self::Buffer, first: usize, rows: usize, columns: usize) {
        let ((), cost) = self.clock(|b| b.copy_rows(out, x, first, rows, columns));
        self.tell(Call {
            // As many rows as were read; looking at them would show the buffer's first ones.
            inputs: &[Operand(x, [rows, columns])],
            outputs: &[Operand(out, [rows, columns])],
            ..Call::new("copy_rows", cost)
        });
    }

    fn linear_qkv(&self, out: [&mut Self::Buffer; 3], x: &Self::Buffer, weights: [&Self::Weight; 3], rows: usize) {
        if O::PLAIN {
            return plain::linear_qkv(self, out, x, weights, rows);
        }
        let [q, k, v] = out;
        let run = |b: &B| b.linear_qkv([&mut *q, &mut *k, &mut *v], x, weights.map(|w| &w.weight), rows);
        let ((), cost) = self.clock(run);
        let tensors = weights.map(|w| &w.info);
        let features = tensors.map(|t| t.matrix()[0]);
        self.tell(Call {
            tensors: &tensors,
            inputs: &[Operand(x, [rows, tensors[0].matrix()[1]])],
            outputs: &[
                Operand(q, [rows, features[0]]),
                Operand(k, [rows, features[1]]),
                Operand(v, [rows, features[2]]),
            ],
            work: Work::linear(&tensors, rows),
            ..Call::new("linear_qkv", cost)
        });
    }

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
        if O::PLAIN {
            return plain::norm_linear_qkv(self, out, h, x, norm, eps, weights, rows);
        }
        let [q, k, v] = out;
        let ((), cost) = self.clock(|b| {
            let weights = weights.map(|w| &w.weight);
            b.norm_linear_qkv([&mut *q, &mut *k, &mut *v], h, x, &norm.weight, eps, weights, rows);
        });
        let matrices = weights.map(|w| &w.info);
        let [q_shape, k_shape, v_shape] = matrices.map(|t| [rows, t.matrix()[0]]);
        self.tell(Call {
            tensors: &[&norm.info, matrices[0], matrices[1], matrices[2]],
            inputs: &[Operand(x, [rows, norm.info.matrix()[1]])],
            outputs: &[Operand(q, q_shape), Operand(k, k_shape), Operand(v, v_shape)],
            work: Work::linear(&matrices, rows).with(&norm.info),
            ..Call::new("norm_linear_qkv", cost)
        });
    }

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
        if O::PLAIN {
            return plain::norm_rope_store(self, qkv, norms, eps, cos_sin, cache, heads, at);
        }
        let ([q, k, v], (cache, layout)) = (qkv, cache);
        let ((), cost) = self.clock(|b| {
            b.norm_rope_store([&mut *q, k, v], norms.map(|w| &w.weight), eps, cos_sin, cache, heads, at);
        });
        let tensors = norms.map(|w| &w.info);
        let Work { weight_bytes, .. } = Work::reads(&tensors);
        self.tell(Call {
            at: Some(at),
            tensors: &tensors,
            inputs: &[Operand(cos_sin, [at.tokens, heads.head_dim])],
            outputs: &[Operand(q, [at.tokens, heads.heads * heads.head_dim])],
            in_place: true,
            work: Work { weight_bytes, ..Work::store(layout, at.tokens) },
            ..Call::new("norm_rope_store", cost)
        });
    }

    fn linear_swiglu(
        &self,
        gate: &mut Self::Buffer,
        up: &mut Self::Buffer,
        x: &Self::Buffer,
        weights: [&Self::Weight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        if O::PLAIN {
            return plain::linear_swiglu(self, gate, up, x, weights, rows, intermediate);
        }
        let run = |b: &B| b.linear_swiglu(gate, up, x, weights.map(|w| &w.weight), rows, intermediate);
        let ((), cost) = self.clock(run);
        let tensors = weights.map(|w| &w.info);
        self.tell(Call {
            tensors: &tensors,
            inputs: &[Operand(x, [rows, tensors[0].matrix()[1]])],
            outputs: &[Operand(gate, [rows, intermediate])],
            work: Work::linear(&tensors, rows),
            ..Call::new("linear_swiglu", cost)
        });
    }

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
        if O::PLAIN {
            return plain::norm_linear_swiglu(self, out, h, x, norm, eps, weights, rows, intermediate);
        }
        let [gate, up] = out;
        let ((), cost) = self.clock(|b| {
            let weights = weights.map(|w| &w.weight);
            b.norm_linear_swiglu([&mut *gate, up], h, x, &norm.weight, eps, weights, rows, intermediate);
        });
        let matrices = weights.map(|w| &w.info);
        self.tell(Call {
            tensors: &[&norm.info, matrices[0], matrices[1]],
            inputs: &[Operand(x, [rows, norm.info.matrix()[1]])],
            outputs: &[Operand(gate, [rows, intermediate])],
            work: Work::linear(&matrices, rows).with(&norm.info),
            ..Call::new("norm_linear_swiglu", cost)
        });
    }

    fn linear_add(
        &self,
        x: &mut Self::Buffer,
        scratch: &mut Self::Buffer,
        y: &Self::Buffer,
        weight: &Self::Weight,
        rows: usize,
        features: usize,
    ) {
        if O::PLAIN {
            return plain::linear_add(self, x, scratch, y, weight, rows, features);
        }
        let ((), cost) = self.clock(|b| b.linear_add(x, scratch, y, &weight.weight, rows, features));
        self.tell(Call {
            tensors: &[&weight.info],
            inputs: &[Operand(y, [rows, weight.info.matrix()[1]])],
            outputs: &[Operand(x, [rows, features])],
            in_place: true,
            work: Work::linear(&[&weight.info], rows),
            ..Call::new("linear_add", cost)
        });
    }
}
