//! A backend that runs another one with a clock beside it: where the time of a forward pass goes.
//!
//! The forward pass runs on it unchanged, and fused operations stay fused, so what is timed is what runs. An operation is
//! timed until its method returns; of a device that computes later, each operation is waited for, and the device's own clock
//! is read.

use super::{Backend, BackendError, BackendInfo, CachePosition, Heads, Peak};
use crate::model::kv_cache::KvLayout;
use crate::weights::Tensor;
use std::collections::BTreeMap;
use std::sync::Mutex;
use crate::clock::Instant;

/// Runs `inner` and adds up the time of each operation.
pub struct Timed<B> {
    inner: B,
    times: Mutex<BTreeMap<Key, OperationTime>>,
    /// What a device said when an operation was waited for; whoever reads a result hears it.
    failure: Mutex<Option<BackendError>>,
}

/// An operation, and the shape of its weights: a backend may be fast at one shape and slow at another.
type Key = (&'static str, Option<[usize; 2]>);

/// All calls of one operation on weights of one shape.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OperationTime {
    /// The operation's name in [`Backend`].
    pub operation: &'static str,
    /// The shape of its weights, `[out, in]`; of fused projections, all rows together.
    pub weights: Option<[usize; 2]>,
    /// How often it ran.
    pub calls: u64,
    /// How long it took in all.
    pub seconds: f64,
    /// Bytes of weights and KV cache that it had to read; 0 where it reads activations alone.
    pub bytes: u64,
    /// Multiplications and additions of its dot products; 0 where there are none.
    pub flop: u64,
}

/// A weight, its shape as a matrix, and the bytes it takes where it is stored.
pub struct TimedWeight<W> {
    weight: W,
    shape: [usize; 2],
    bytes: usize,
}

/// What an operation has to do, as far as it is known.
#[derive(Default)]
struct Work {
    weights: Option<[usize; 2]>,
    bytes: usize,
    flop: usize,
}

impl Work {
    /// `rows` rows through matrices that have the same number of columns.
    fn linear<W>(weights: &[&TimedWeight<W>], rows: usize) -> Self {
        let [out, columns] = [weights.iter().map(|w| w.shape[0]).sum(), weights[0].shape[1]];
        let bytes = weights.iter().map(|w| w.bytes).sum();
        Self { weights: Some([out, columns]), bytes, flop: 2 * rows * out * columns }
    }
}

impl<B: Backend> Timed<B> {
    /// Times what `inner` does.
    pub fn new(inner: B) -> Self {
        Self { inner, times: Mutex::default(), failure: Mutex::default() }
    }

    /// What has been added up since the last call, the longest first.
    pub fn take_times(&self) -> Vec<OperationTime> {
        let times = std::mem::take(&mut *self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let mut times: Vec<OperationTime> = times.into_values().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        times
    }

    fn take_failure(&self) -> Result<(), BackendError> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().map_or(Ok(()), Err)
    }

    fn time<R>(&self, operation: &'static str, work: Work, run: impl FnOnce(&B) -> R) -> R {
        let before = self.inner.counters();
        let started = Instant::now();
        let result = run(&self.inner);
        let seconds = match before {
            None => started.elapsed().as_secs_f64(),
            Some(before) => {
                if let Err(error) = self.inner.finish() {
                    self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                }
                self.inner.counters().map_or(0.0, |after| after.device_seconds - before.device_seconds)
            }
        };
        let Work { weights, bytes, flop } = work;
        let mut times = self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let new = OperationTime { operation, weights, calls: 0, seconds: 0.0, bytes: 0, flop: 0 };
        let total = times.entry((operation, weights)).or_insert(new);
        total.calls += 1;
        total.seconds += seconds;
        total.bytes += bytes as u64;
        total.flop += flop as u64;
        result
    }
}

impl<B: Backend> Backend for Timed<B> {
    type Weight = TimedWeight<B::Weight>;
    type Buffer = B::Buffer;
    type KvCache = (B::KvCache, KvLayout);

    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    fn read_bandwidth(&self) -> Option<f64> {
        self.inner.read_bandwidth()
    }

    fn peak_ops(&self) -> Vec<Peak> {
        self.inner.peak_ops()
    }

    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, BackendError> {
        let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
        let shape = [tensor.elements() / columns, columns];
        Ok(TimedWeight { weight: self.inner.load(tensor)?, shape, bytes: tensor.data.len() })
    }

    fn buffer(&self, len: usize) -> Self::Buffer {
        self.time("buffer", Work::default(), |b| b.buffer(len))
    }

    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) {
        self.time("write", Work::default(), |b| b.write(buffer, values));
    }

    fn read(&self, buffer: &Self::Buffer, len: usize) -> Result<Vec<f32>, BackendError> {
        let result = self.time("read", Work::default(), |b| b.read(buffer, len));
        self.take_failure()?;
        result
    }

    fn finish(&self) -> Result<(), BackendError> {
        let result = self.time("finish", Work::default(), |b| b.finish());
        self.take_failure()?;
        result
    }

    fn admit(&self, bytes: u64) -> Result<(), BackendError> {
        self.inner.admit(bytes)
    }

    fn argmax(&self, buffer: &Self::Buffer, len: usize) -> Result<(u32, f32), BackendError> {
        let result = self.time("argmax", Work::default(), |b| b.argmax(buffer, len));
        self.take_failure()?;
        result
    }

    fn kv_cache(&self, layout: KvLayout) -> Self::KvCache {
        (self.inner.kv_cache(layout), layout)
    }

    fn reserve_kv(&self, (cache, _): &mut Self::KvCache, positions: usize) {
        self.time("reserve_kv", Work::default(), |b| b.reserve_kv(cache, positions));
    }

    fn embed(&self, out: &mut Self::Buffer, table: &Self::Weight, ids: &[u32]) {
        let bytes = ids.len() * table.bytes / table.shape[0];
        let work = Work { weights: Some(table.shape), bytes, flop: 0 };
        self.time("embed", work, |b| b.embed(out, &table.weight, ids));
    }

    fn rms_norm(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        self.time("rms_norm", Work::default(), |b| b.rms_norm(out, x, &weight.weight, eps, rows));
    }

    fn head_norm(&self, x: &mut Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        self.time("head_norm", Work::default(), |b| b.head_norm(x, &weight.weight, eps, rows));
    }

    fn linear(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, rows: usize) {
        self.time("linear", Work::linear(&[weight], rows), |b| b.linear(out, x, &weight.weight, rows));
    }

    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Weight, rows: usize) {
        self.time("add_bias", Work::default(), |b| b.add_bias(x, &bias.weight, rows));
    }

    fn rope(&self, x: &mut Self::Buffer, cos_sin: &Self::Buffer, tokens: usize, heads: usize, head_dim: usize) {
        self.time("rope", Work::default(), |b| b.rope(x, cos_sin, tokens, heads, head_dim));
    }

    fn store_kv(&self, (cache, _): &mut Self::KvCache, k: &Self::Buffer, v: &Self::Buffer, at: CachePosition) {
        self.time("store_kv", Work::default(), |b| b.store_kv(cache, k, v, at));
    }

    fn attention(
        &self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        (cache, layout): &Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        // Row t looks at at.start + t + 1 positions, with a multiplication and an addition for each key and each value.
        let pairs = at.tokens * at.start + at.tokens * (at.tokens + 1) / 2;
        let bytes = (at.start + at.tokens) * layout.bytes_per_token() / layout.layers.max(1);
        let work = Work { weights: None, bytes, flop: 4 * heads.heads * heads.head_dim * pairs };
        self.time("attention", work, |b| b.attention(out, q, cache, heads, at));
    }

    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) {
        self.time("swiglu", Work::default(), |b| b.swiglu(gate, up, len));
    }

    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) {
        self.time("add", Work::default(), |b| b.add(x, y, len));
    }

    fn copy_rows(&self, out: &mut Self::Buffer, x: &Self::Buffer, first: usize, rows: usize, columns: usize) {
        self.time("copy_rows", Work::default(), |b| b.copy_rows(out, x, first, rows, columns));
    }

    fn linear_qkv(&self, out: [&mut Self::Buffer; 3], x: &Self::Buffer, weights: [&Self::Weight; 3], rows: usize) {
        let work = Work::linear(&weights, rows);
        self.time("linear_qkv", work, |b| b.linear_qkv(out, x, weights.map(|w| &w.weight), rows));
    }

    fn norm_rope_store(
        &self,
        qkv: [&mut Self::Buffer; 3],
        norms: [&Self::Weight; 2],
        eps: f32,
        cos_sin: &Self::Buffer,
        (cache, _): &mut Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        let norms = norms.map(|w| &w.weight);
        self.time("norm_rope_store", Work::default(), |b| {
            b.norm_rope_store(qkv, norms, eps, cos_sin, cache, heads, at)
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
        let work = Work::linear(&weights, rows);
        let weights = weights.map(|w| &w.weight);
        self.time("linear_swiglu", work, |b| b.linear_swiglu(gate, up, x, weights, rows, intermediate));
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
        let work = Work::linear(&[weight], rows);
        self.time("linear_add", work, |b| b.linear_add(x, scratch, y, &weight.weight, rows, features));
    }
}
