//! A backend that runs two: every operation on both, from the same inputs, with the difference recorded.
//!
//! The forward pass runs on it unchanged, so this compares any backend with [`super::reference`] operation by operation
//! on any prompt. The inputs of each operation are copied from the reference's values first: an error shows up where it
//! is made and nowhere else.

use super::{Backend, BackendError, BackendInfo, CachePosition, Heads};
use crate::model::kv_cache::KvLayout;
use crate::weights::Tensor;
use std::sync::Mutex;

/// Runs `subject` beside `oracle`; the values that go on are the oracle's.
pub struct Compare<O: Backend, S: Backend> {
    oracle: O,
    subject: S,
    records: Mutex<Vec<Record>>,
    /// The first failure of either; whoever reads a result hears it.
    failure: Mutex<Option<BackendError>>,
}

/// The difference of one operation's outputs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Record {
    /// The operation's name in [`Backend`].
    pub operation: &'static str,
    /// The transformer block it ran in, where it knows.
    pub layer: Option<usize>,
    /// Values compared.
    pub values: usize,
    /// Largest absolute difference.
    pub max_abs: f32,
    /// Normalized mean square error: `Σ(subject - oracle)² / Σ oracle²`.
    pub nmse: f64,
}

impl Record {
    /// Compares two outputs; NaN on either side alone counts as an infinite difference.
    pub fn new(operation: &'static str, layer: Option<usize>, oracle: &[f32], subject: &[f32]) -> Self {
        let (mut max_abs, mut error, mut energy) = (0.0f32, 0.0f64, 0.0f64);
        for (a, b) in oracle.iter().zip(subject) {
            let difference = if a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() };
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            max_abs = max_abs.max(difference);
            error += f64::from(difference).powi(2);
            energy += if a.is_nan() { 0.0 } else { f64::from(*a).powi(2) };
        }
        // Outputs that are all zero have no scale of their own.
        let nmse = if error == 0.0 { 0.0 } else { error / energy.max(f64::MIN_POSITIVE) };
        Self { operation, layer, values: oracle.len(), max_abs, nmse }
    }
}

/// Something of each backend.
pub struct Pair<A, B> {
    oracle: A,
    subject: B,
}

/// A pair of buffers, and how long they are.
pub struct PairBuffer<A, B> {
    pair: Pair<A, B>,
    len: usize,
}

impl<O: Backend, S: Backend> Compare<O, S> {
    /// Compares `subject` with `oracle`.
    pub fn new(oracle: O, subject: S) -> Self {
        Self { oracle, subject, records: Mutex::default(), failure: Mutex::default() }
    }

    /// What has been recorded since the last call.
    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Copies the oracle's values over the subject's, so that the next operation starts from the same.
    fn same(&self, buffer: &mut <Self as Backend>::Buffer) {
        // The oracle is host arithmetic; reading it back cannot fail on a device.
        if let Ok(values) = self.oracle.read(&buffer.pair.oracle, buffer.len) {
            self.subject.write(&mut buffer.pair.subject, &values);
        }
    }

    fn check(&self, operation: &'static str, layer: Option<usize>, out: &mut <Self as Backend>::Buffer, len: usize) {
        let oracle = self.oracle.read(&out.pair.oracle, len);
        let subject = self.subject.read(&out.pair.subject, len);
        let record = match (oracle, subject) {
            (Ok(oracle), Ok(subject)) => Record::new(operation, layer, &oracle, &subject),
            (Err(error), _) | (_, Err(error)) => {
                self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                return;
            }
        };
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(record);
        self.same(out);
    }
}

type Weight<O, S> = (Pair<<O as Backend>::Weight, <S as Backend>::Weight>, Vec<usize>);

impl<O: Backend, S: Backend> Backend for Compare<O, S> {
    /// Both weights, and the tensor's shape.
    type Weight = Weight<O, S>;
    type Buffer = PairBuffer<O::Buffer, S::Buffer>;
    type KvCache = Pair<O::KvCache, S::KvCache>;

    fn info(&self) -> BackendInfo {
        self.subject.info()
    }

    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, BackendError> {
        let pair = Pair { oracle: self.oracle.load(tensor)?, subject: self.subject.load(tensor)? };
        Ok((pair, tensor.shape.clone()))
    }

    fn buffer(&self, len: usize) -> Self::Buffer {
        PairBuffer { pair: Pair { oracle: self.oracle.buffer(len), subject: self.subject.buffer(len) }, len }
    }

    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) {
        self.oracle.write(&mut buffer.pair.oracle, values);
        self.subject.write(&mut buffer.pair.subject, values);
    }

    fn read(&self, buffer: &Self::Buffer, len: usize) -> Result<Vec<f32>, BackendError> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().map_or(Ok(()), Err)?;
        self.oracle.read(&buffer.pair.oracle, len)
    }

    fn finish(&self) -> Result<(), BackendError> {
        self.oracle.finish()?;
        self.subject.finish()
    }

    fn admit(&self, bytes: u64, values: u64) -> Result<(), BackendError> {
        self.subject.admit(bytes, values)
    }

    fn kv_cache(&self, layout: KvLayout) -> Self::KvCache {
        Pair { oracle: self.oracle.kv_cache(layout), subject: self.subject.kv_cache(layout) }
    }

    fn reserve_kv(&self, cache: &mut Self::KvCache, positions: usize) {
        self.oracle.reserve_kv(&mut cache.oracle, positions);
        self.subject.reserve_kv(&mut cache.subject, positions);
    }

    fn embed(&self, out: &mut Self::Buffer, (table, shape): &Self::Weight, ids: &[u32]) {
        self.oracle.embed(&mut out.pair.oracle, &table.oracle, ids);
        self.subject.embed(&mut out.pair.subject, &table.subject, ids);
        self.check("embed", None, out, ids.len() * shape[1]);
    }

    fn rms_norm(&self, out: &mut Self::Buffer, x: &Self::Buffer, weight: &Self::Weight, eps: f32, rows: usize) {
        let (weight, shape) = weight;
        self.oracle.rms_norm(&mut out.pair.oracle, &x.pair.oracle, &weight.oracle, eps, rows);
        self.subject.rms_norm(&mut out.pair.subject, &x.pair.subject, &weight.subject, eps, rows);
        self.check("rms_norm", None, out, rows * shape[0]);
    }

    fn head_norm(&self, x: &mut Self::Buffer, (weight, shape): &Self::Weight, eps: f32, rows: usize) {
        self.oracle.head_norm(&mut x.pair.oracle, &weight.oracle, eps, rows);
        self.subject.head_norm(&mut x.pair.subject, &weight.subject, eps, rows);
        self.check("head_norm", None, x, rows * shape[0]);
    }

    fn linear(&self, out: &mut Self::Buffer, x: &Self::Buffer, (weight, shape): &Self::Weight, rows: usize) {
        self.oracle.linear(&mut out.pair.oracle, &x.pair.oracle, &weight.oracle, rows);
        self.subject.linear(&mut out.pair.subject, &x.pair.subject, &weight.subject, rows);
        self.check("linear", None, out, rows * shape[0]);
    }

    fn add_bias(&self, x: &mut Self::Buffer, (bias, shape): &Self::Weight, rows: usize) {
        self.oracle.add_bias(&mut x.pair.oracle, &bias.oracle, rows);
        self.subject.add_bias(&mut x.pair.subject, &bias.subject, rows);
        self.check("add_bias", None, x, rows * shape[0]);
    }

    fn rope(&self, x: &mut Self::Buffer, cos_sin: &Self::Buffer, tokens: usize, heads: usize, head_dim: usize) {
        self.oracle.rope(&mut x.pair.oracle, &cos_sin.pair.oracle, tokens, heads, head_dim);
        self.subject.rope(&mut x.pair.subject, &cos_sin.pair.subject, tokens, heads, head_dim);
        self.check("rope", None, x, tokens * heads * head_dim);
    }

    fn store_kv(&self, cache: &mut Self::KvCache, k: &Self::Buffer, v: &Self::Buffer, at: CachePosition) {
        self.oracle.store_kv(&mut cache.oracle, &k.pair.oracle, &v.pair.oracle, at);
        self.subject.store_kv(&mut cache.subject, &k.pair.subject, &v.pair.subject, at);
    }

    fn attention(
        &self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        self.oracle.attention(&mut out.pair.oracle, &q.pair.oracle, &cache.oracle, heads, at);
        self.subject.attention(&mut out.pair.subject, &q.pair.subject, &cache.subject, heads, at);
        self.check("attention", Some(at.layer), out, at.tokens * heads.heads * heads.head_dim);
    }

    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) {
        self.oracle.swiglu(&mut gate.pair.oracle, &up.pair.oracle, len);
        self.subject.swiglu(&mut gate.pair.subject, &up.pair.subject, len);
        self.check("swiglu", None, gate, len);
    }

    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) {
        self.oracle.add(&mut x.pair.oracle, &y.pair.oracle, len);
        self.subject.add(&mut x.pair.subject, &y.pair.subject, len);
        self.check("add", None, x, len);
    }

    fn copy_rows(&self, out: &mut Self::Buffer, x: &Self::Buffer, first: usize, rows: usize, columns: usize) {
        self.oracle.copy_rows(&mut out.pair.oracle, &x.pair.oracle, first, rows, columns);
        self.subject.copy_rows(&mut out.pair.subject, &x.pair.subject, first, rows, columns);
        self.check("copy_rows", None, out, rows * columns);
    }

    // The fused operations run fused on the subject and plain on the oracle: that is what has to agree.

    fn norm_rope_store(
        &self,
        [q, k, v]: [&mut Self::Buffer; 3],
        [(q_norm, _), (k_norm, _)]: [&Self::Weight; 2],
        eps: f32,
        cos_sin: &Self::Buffer,
        cache: &mut Self::KvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        self.oracle.norm_rope_store(
            [&mut q.pair.oracle, &mut k.pair.oracle, &mut v.pair.oracle],
            [&q_norm.oracle, &k_norm.oracle],
            eps,
            &cos_sin.pair.oracle,
            &mut cache.oracle,
            heads,
            at,
        );
        self.subject.norm_rope_store(
            [&mut q.pair.subject, &mut k.pair.subject, &mut v.pair.subject],
            [&q_norm.subject, &k_norm.subject],
            eps,
            &cos_sin.pair.subject,
            &mut cache.subject,
            heads,
            at,
        );
        self.check("norm_rope_store", Some(at.layer), q, at.tokens * heads.heads * heads.head_dim);
    }

    fn norm_linear_qkv(
        &self,
        [q, k, v]: [&mut Self::Buffer; 3],
        h: &mut Self::Buffer,
        x: &Self::Buffer,
        (norm, _): &Self::Weight,
        eps: f32,
        [(wq, q_shape), (wk, k_shape), (wv, v_shape)]: [&Self::Weight; 3],
        rows: usize,
    ) {
        let out = [&mut q.pair.oracle, &mut k.pair.oracle, &mut v.pair.oracle];
        let weights = [&wq.oracle, &wk.oracle, &wv.oracle];
        self.oracle.norm_linear_qkv(out, &mut h.pair.oracle, &x.pair.oracle, &norm.oracle, eps, weights, rows);
        let out = [&mut q.pair.subject, &mut k.pair.subject, &mut v.pair.subject];
        let weights = [&wq.subject, &wk.subject, &wv.subject];
        self.subject.norm_linear_qkv(out, &mut h.pair.subject, &x.pair.subject, &norm.subject, eps, weights, rows);
        for (out, shape) in [(q, q_shape), (k, k_shape), (v, v_shape)] {
            self.check("norm_linear_qkv", None, out, rows * shape[0]);
        }
    }

    fn norm_linear_swiglu(
        &self,
        [gate, up]: [&mut Self::Buffer; 2],
        h: &mut Self::Buffer,
        x: &Self::Buffer,
        (norm, _): &Self::Weight,
        eps: f32,
        [(w_gate, _), (w_up, _)]: [&Self::Weight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        let (out, weights) = ([&mut gate.pair.oracle, &mut up.pair.oracle], [&w_gate.oracle, &w_up.oracle]);
        self.oracle.norm_linear_swiglu(
            out,
            &mut h.pair.oracle,
            &x.pair.oracle,
            &norm.oracle,
            eps,
            weights,
            rows,
            intermediate,
        );
        let (out, weights) = ([&mut gate.pair.subject, &mut up.pair.subject], [&w_gate.subject, &w_up.subject]);
        let (h, x) = (&mut h.pair.subject, &x.pair.subject);
        self.subject.norm_linear_swiglu(out, h, x, &norm.subject, eps, weights, rows, intermediate);
        self.check("norm_linear_swiglu", None, gate, rows * intermediate);
    }

    fn linear_add(
        &self,
        x: &mut Self::Buffer,
        scratch: &mut Self::Buffer,
        y: &Self::Buffer,
        (weight, _): &Self::Weight,
        rows: usize,
        features: usize,
    ) {
        let (pair, scratch, y) = (&mut x.pair, &mut scratch.pair, &y.pair);
        self.oracle.linear_add(&mut pair.oracle, &mut scratch.oracle, &y.oracle, &weight.oracle, rows, features);
        self.subject.linear_add(&mut pair.subject, &mut scratch.subject, &y.subject, &weight.subject, rows, features);
        self.check("linear_add", None, x, rows * features);
    }
}
