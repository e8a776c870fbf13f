//! Plain f32 loops, one operation a file: the lesson and the oracle.
//!
//! Each file is the definition of its operation, written so that it can be compared with a paper by eye. Sums run in
//! index order in f32, as a reader would write them; nothing is fused and nothing is blocked. Weights stay in the file's
//! dtype and are widened a row at a time.

pub mod add;
pub mod attention;
pub mod embed;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod softmax;
pub mod swiglu;

use super::matrix::Matrix;
use super::{Backend, BackendError, BackendInfo, CachePosition, Heads, assert_in_cache};
use crate::model::kv_cache::{HostKvCache, KvLayout};
use crate::weights::Tensor;

/// The reference backend. It has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    type Weight = Matrix;
    type Buffer = Vec<f32>;
    type KvCache = HostKvCache;

    fn info(&self) -> BackendInfo {
        BackendInfo { name: "reference", device: "scalar".into(), threads: 1 }
    }

    fn load(&self, tensor: &Tensor) -> Result<Matrix, BackendError> {
        Matrix::new(tensor, "reference")
    }

    fn buffer(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn write(&self, buffer: &mut Vec<f32>, values: &[f32]) {
        buffer[..values.len()].copy_from_slice(values);
    }

    fn read(&self, buffer: &Vec<f32>, len: usize) -> Result<Vec<f32>, BackendError> {
        Ok(buffer[..len].to_vec())
    }

    fn kv_cache(&self, layout: KvLayout) -> HostKvCache {
        HostKvCache::new(layout)
    }

    fn reserve_kv(&self, cache: &mut HostKvCache, positions: usize) {
        cache.reserve(positions);
    }

    fn embed(&self, out: &mut Vec<f32>, table: &Matrix, ids: &[u32]) {
        embed::embed(out, table, ids);
    }

    fn rms_norm(&self, out: &mut Vec<f32>, x: &Vec<f32>, weight: &Matrix, eps: f32, rows: usize) {
        rms_norm::rms_norm(out, x, &weight.to_f32(), eps, rows);
    }

    // ANCHOR: head_norm
    fn head_norm(&self, x: &mut Vec<f32>, weight: &Matrix, eps: f32, rows: usize) {
        let input = x.clone();
        rms_norm::rms_norm(x, &input, &weight.to_f32(), eps, rows);
    }
    // ANCHOR_END: head_norm

    fn linear(&self, out: &mut Vec<f32>, x: &Vec<f32>, weight: &Matrix, rows: usize) {
        linear::linear(out, x, weight, rows);
    }

    fn add_bias(&self, x: &mut Vec<f32>, bias: &Matrix, rows: usize) {
        let bias = bias.to_f32();
        for row in x.chunks_exact_mut(bias.len()).take(rows) {
            add::add(row, &bias);
        }
    }

    fn rope(&self, x: &mut Vec<f32>, cos_sin: &Vec<f32>, tokens: usize, heads: usize, head_dim: usize) {
        rope::rope(x, cos_sin, tokens, heads, head_dim);
    }

    fn store_kv(&self, cache: &mut HostKvCache, k: &Vec<f32>, v: &Vec<f32>, at: CachePosition) {
        cache.store(at.layer, at.start, at.tokens, k, v);
    }

    fn attention(&self, out: &mut Vec<f32>, q: &Vec<f32>, cache: &HostKvCache, heads: Heads, at: CachePosition) {
        assert_in_cache(cache, at);
        attention::attention(out, q, cache, heads, at);
    }

    fn swiglu(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        swiglu::swiglu(&mut gate[..len], &up[..len]);
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        add::add(&mut x[..len], &y[..len]);
    }

    fn copy_rows(&self, out: &mut Vec<f32>, x: &Vec<f32>, first: usize, rows: usize, columns: usize) {
        out[..rows * columns].copy_from_slice(&x[first * columns..(first + rows) * columns]);
    }
}
