//! The fast CPU path: SIMD chosen at run time, one pool of threads, weights used in place.
//!
//! Each operation's file cuts its output into blocks for the [threads] and hands each block to a kernel of [simd].

mod ahead;
mod attention;
mod bandwidth;
mod huge;
mod linear;
mod packed;
mod peak;
mod rows;
pub mod simd;
pub mod threads;

use super::matrix::Matrix;
use super::{Backend, BackendError, BackendInfo, CachePosition, Heads, Peak, assert_in_cache, reference};
use crate::model::kv_cache::{HostKvCache, KvLayout};
use crate::weights::Tensor;
use huge::Arena;
use packed::Packed;
use simd::Level;
use threads::ThreadPool;

/// The CPU backend.
pub struct Cpu {
    level: Level,
    pool: ThreadPool,
    /// Where packed weights lie.
    arena: Arena,
    /// Which weights are read after which.
    order: ahead::Order,
}

impl Cpu {
    /// A backend with `threads` threads (`None`: one a core) at the fastest level this machine has.
    pub fn new(threads: Option<usize>) -> Self {
        Self::with_level(threads, Level::detect())
    }

    /// A backend at a given level, which must be one of [`Level::available`].
    pub fn with_level(threads: Option<usize>, level: Level) -> Self {
        assert!(Level::available().contains(&level), "this machine has no {}", level.name());
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        Self { level, pool: ThreadPool::new(threads), arena: Arena::default(), order: Default::default() }
    }
}

impl Cpu {
    /// Whether bf16 weights are multiplied by instructions that want a bf16 input.
    pub fn rounds_to_bf16(&self) -> bool {
        self.level.has_bf16_dot()
    }
}

/// A weight as the CPU backend holds it.
pub struct CpuWeight {
    form: Form,
    /// A vector (norm weight, bias) widened to f32 at load: it is small, and read element by element.
    vector: Vec<f32>,
}

enum Form {
    /// In its file's dtype and place.
    InPlace(Matrix),
    /// Quantized, and laid out anew.
    Packed(Packed),
}

impl Backend for Cpu {
    type Weight = CpuWeight;
    type Buffer = Vec<f32>;
    type KvCache = HostKvCache;

    fn info(&self) -> BackendInfo {
        BackendInfo { name: "cpu", device: self.level.name().into(), threads: self.pool.threads() }
    }

    fn read_bandwidth(&self, weights: &[&CpuWeight]) -> Option<f64> {
        bandwidth::read_bandwidth(self, weights)
    }

    fn peak_ops(&self) -> Vec<Peak> {
        peak::peak_ops(self)
    }

    fn load(&self, tensor: &Tensor) -> Result<CpuWeight, BackendError> {
        let tensor = &*tensor.for_kernels();
        let matrix = Matrix::new(tensor, "cpu")?;
        let vector = if tensor.shape.len() == 1 { matrix.to_f32() } else { Vec::new() };
        let form = match tensor.dtype.is_quantized() {
            true => Form::Packed(Packed::new(&matrix, &self.pool, &self.arena)),
            false => Form::InPlace(matrix),
        };
        Ok(CpuWeight { form, vector })
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

    fn embed(&self, out: &mut Vec<f32>, table: &CpuWeight, ids: &[u32]) {
        match &table.form {
            Form::InPlace(matrix) => reference::embed::embed(out, matrix, ids),
            Form::Packed(packed) => {
                let panels = packed.panels();
                for (&id, row) in ids.iter().zip(out.chunks_exact_mut(packed.columns())) {
                    panels.read_row(id as usize, row);
                }
            }
        }
    }

    fn rms_norm(&self, out: &mut Vec<f32>, x: &Vec<f32>, weight: &CpuWeight, eps: f32, rows: usize) {
        rows::rms_norm(self, out, x, &weight.vector, eps, rows);
    }

    fn head_norm(&self, x: &mut Vec<f32>, weight: &CpuWeight, eps: f32, rows: usize) {
        rows::norm_rope(self, x, Some((&weight.vector, eps)), None, rows, 1, weight.vector.len());
    }

    fn linear(&self, out: &mut Vec<f32>, x: &Vec<f32>, weight: &CpuWeight, rows: usize) {
        linear::linear(self, out, x, weight, rows);
    }

    fn linear_qkv(&self, [q, k, v]: [&mut Vec<f32>; 3], x: &Vec<f32>, weights: [&CpuWeight; 3], rows: usize) {
        linear::linear_many(self, [q, k, v], x, weights, rows);
    }

    fn linear_swiglu(
        &self,
        gate: &mut Vec<f32>,
        up: &mut Vec<f32>,
        x: &Vec<f32>,
        weights: [&CpuWeight; 2],
        rows: usize,
        intermediate: usize,
    ) {
        linear::linear_many(self, [&mut *gate, &mut *up], x, weights, rows);
        self.swiglu(gate, up, rows * intermediate);
    }

    fn add_bias(&self, x: &mut Vec<f32>, bias: &CpuWeight, rows: usize) {
        for row in x.chunks_exact_mut(bias.vector.len()).take(rows) {
            reference::add::add(row, &bias.vector);
        }
    }

    fn rope(&self, x: &mut Vec<f32>, cos_sin: &Vec<f32>, tokens: usize, heads: usize, head_dim: usize) {
        rows::norm_rope(self, x, None, Some(cos_sin), tokens, heads, head_dim);
    }

    fn store_kv(&self, cache: &mut HostKvCache, k: &Vec<f32>, v: &Vec<f32>, at: CachePosition) {
        rows::store_kv(self, cache, k, v, at);
    }

    fn attention(&self, out: &mut Vec<f32>, q: &Vec<f32>, cache: &HostKvCache, heads: Heads, at: CachePosition) {
        assert_in_cache(cache, at);
        attention::attention(self, out, q, cache, heads, at);
    }

    fn swiglu(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        rows::swiglu(self, &mut gate[..len], &up[..len]);
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        rows::add(self, &mut x[..len], &y[..len]);
    }

    fn copy_rows(&self, out: &mut Vec<f32>, x: &Vec<f32>, first: usize, rows: usize, columns: usize) {
        out[..rows * columns].copy_from_slice(&x[first * columns..(first + rows) * columns]);
    }

    fn norm_rope_store(
        &self,
        [q, k, v]: [&mut Vec<f32>; 3],
        [q_norm, k_norm]: [&CpuWeight; 2],
        eps: f32,
        cos_sin: &Vec<f32>,
        cache: &mut HostKvCache,
        heads: Heads,
        at: CachePosition,
    ) {
        rows::norm_rope_store(self, [q, k, v], [&q_norm.vector, &k_norm.vector], eps, cos_sin, cache, heads, at);
    }
}
