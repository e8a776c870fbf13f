//! A backend that watches another: for every matrix, the squares of what goes into it, summed by column.
//!
//! The forward pass runs on it unchanged. This is how `fs imatrix` learns which columns of a matrix matter.

use super::{Backend, BackendError, BackendInfo, CachePosition, Heads};
use crate::model::kv_cache::KvLayout;
use crate::weights::Tensor;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Runs `inner` and sums up the inputs of its linear layers.
pub struct Collect<B: Backend> {
    inner: B,
    sums: Mutex<BTreeMap<Arc<str>, Sums>>,
    /// The first failure of a device; whoever reads a result hears it.
    failure: Mutex<Option<BackendError>>,
}

/// What went into a matrix.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// `[columns]`: sums of squares.
    pub squares: Vec<f64>,
    /// Rows that were summed.
    pub rows: u64,
}

/// A weight with its name and the width of its inputs.
pub struct Named<W> {
    weight: W,
    name: Arc<str>,
    columns: usize,
}

impl<B: Backend> Collect<B> {
    /// Watches `inner`.
    pub fn new(inner: B) -> Self {
        Self { inner, sums: Mutex::default(), failure: Mutex::default() }
    }

    /// What has been summed up since the last call, by the tensor's name.
    pub fn take_sums(&self) -> BTreeMap<Arc<str>, Sums> {
        std::mem::take(&mut self.sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl<B: Backend> Backend for Collect<B> {
    type Weight = Named<B::Weight>;
    type Buffer = B::Buffer;
    type KvCache = B::KvCache;

    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, BackendError> {
        let columns = tensor.shape.last().copied().unwrap_or(0);
        Ok(Named { weight: self.inner.load(tensor)?, name: tensor.name.as_str().into(), columns })
    }

    fn buffer(&self, len: usize) -> Self::Buffer {
        self.inner.buffer(len)
    }

    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) {
        self.inner.write(buffer, values);
    }

    fn read(&self, buffer: &Self::Buffer, len: usize) -> Result<Vec<f32>, BackendError> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().map_or(Ok(()), Err)?;
        self.inner.read(buffer, len)
    }

    fn finish(&self) -> Result<(), BackendError> {
        self.inner.finish()
    }

    fn admit(&self, bytes: u64) -> Result<(), BackendError> {
        self.inner.admit(bytes)
    }

    fn kv_cache(&self, layout: KvLayout) -> Self::KvCache {
        self.inner.kv_cache(layout)
    }

    fn reserve_kv(&self, cache: &mut Self::KvCache, positions: usize) {
        self.inner.reserve_kv(cache, positions);
    }

    fn embed(&self, out: &mut Self::Buffer, table: &Self::Weight, ids: &[u32]) {
        self.inner.embed(out, &table.weight, ids);
    }

    fn rms_norm(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        self.inner.rms_norm(out, x, &weight.weight, eps, rows);
    }

    fn head_norm(&self, x: &mut Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        self.inner.head_norm(x, &weight.weight, eps, rows);
    }

    /// All matrices come through here: fused operations are left to their default bodies.
    fn linear(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, rows: usize) {
        let inputs = self.inner.read(x, rows * weight.columns);
        let keep = |error| {
            self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
        };
        if let Ok(inputs) = inputs.map_err(keep) {
            let mut all = self.sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let sums = all.entry(weight.name.clone()).or_default();
            sums.squares.resize(weight.columns, 0.0);
            sums.rows += rows as u64;
            for row in inputs.chunks_exact(weight.columns) {
                for (sum, x) in sums.squares.iter_mut().zip(row) {
                    *sum += f64::from(*x).powi(2);
                }
            }
        }
        self.inner.linear(out, x, &weight.weight, rows);
    }

    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Weight, rows: usize) {
        self.inner.add_bias(x, &bias.weight, rows);
    }

    fn rope(&self, x: &mut Self::Buffer, cos_sin: &Self::Buffer, tokens: usize, heads: usize, head_dim: usize) {
        self.inner.rope(x, cos_sin, tokens, heads, head_dim);
    }

    fn store_kv(&self, cache: &mut Self::KvCache, k: &Self::Buffer, v: &Self::Buffer, at: CachePosition) {
        self.inner.store_kv(cache, k, v, at);
    }

    fn attention(
        &self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        self.inner.attention(out, q, cache, heads, at);
    }

    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) {
        self.inner.swiglu(gate, up, len);
    }

    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) {
        self.inner.add(x, y, len);
    }

    fn copy_rows(&self, out: &mut Self::Buffer, x: &Self::Buffer, first: usize, rows: usize, columns: usize) {
        self.inner.copy_rows(out, x, first, rows, columns);
    }
}
