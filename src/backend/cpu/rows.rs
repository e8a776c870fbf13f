//! Operations that work on rows or elements alone: RMSNorm, QK-norm, RoPE, SwiGLU, addition, storing keys and values.
//! They are a small share of the time, but not for a long prompt if one thread did them all, and not for one token if
//! each were handed to threads: what is smaller than [`VALUES`] is done where it is asked for.

use super::Cpu;
use super::simd::{Add, NormRope, RmsNorm, SwiGlu};
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::HostKvCache;

/// Values that are worth a task of their own: about 10 microseconds.
const VALUES: usize = 16 << 10;

/// See [`crate::backend::Backend::rms_norm`].
pub fn rms_norm(cpu: &Cpu, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, rows: usize) {
    let n = weight.len();
    cpu.pool.run_blocks(&mut out[..rows * n], n, ((VALUES / n).max(1), n), |block| {
        for r in block.rows() {
            cpu.level.run(RmsNorm { x: &x[r * n..(r + 1) * n], weight, eps, out: block.row_mut(r) });
        }
    });
}

/// QK-norm and RoPE in one pass over `x: [tokens, heads, head_dim]`, or either alone; `norm` is a weight and eps,
/// `cos_sin: [tokens, head_dim]`.
///
/// See [`crate::backend::Backend::head_norm`], [`crate::backend::Backend::rope`].
pub fn norm_rope(
    cpu: &Cpu,
    x: &mut [f32],
    norm: Option<(&[f32], f32)>,
    cos_sin: Option<&[f32]>,
    tokens: usize,
    heads: usize,
    head_dim: usize,
) {
    let n = heads * head_dim;
    cpu.pool.run_blocks(&mut x[..tokens * n], n, ((VALUES / n).max(1), n), |block| {
        for t in block.rows() {
            let cos_sin = cos_sin.map(|rows| &rows[t * head_dim..(t + 1) * head_dim]);
            cpu.level.run(NormRope { heads: block.row_mut(t), head_dim, norm, cos_sin });
        }
    });
}

/// See [`crate::backend::Backend::store_kv`].
pub fn store_kv(cpu: &Cpu, cache: &mut HostKvCache, k: &[f32], v: &[f32], at: CachePosition) {
    let values = at.tokens * cache.layout().kv_heads * cache.layout().head_dim;
    cache.store_by_head(at.layer, at.start, at.tokens, k, v, |heads, store| match values {
        0..VALUES => (0..heads).for_each(store),
        _ => cpu.pool.run(heads, store),
    });
}

/// See [`crate::backend::Backend::norm_rope_store`].
pub fn norm_rope_store(
    cpu: &Cpu,
    [q, k, v]: [&mut [f32]; 3],
    [q_norm, k_norm]: [&[f32]; 2],
    eps: f32,
    cos_sin: &[f32],
    cache: &mut HostKvCache,
    Heads { heads, kv_heads, head_dim }: Heads,
    at: CachePosition,
) {
    norm_rope(cpu, q, Some((q_norm, eps)), Some(cos_sin), at.tokens, heads, head_dim);
    norm_rope(cpu, k, Some((k_norm, eps)), Some(cos_sin), at.tokens, kv_heads, head_dim);
    store_kv(cpu, cache, k, v, at);
}

/// See [`crate::backend::Backend::swiglu`].
pub fn swiglu(cpu: &Cpu, gate: &mut [f32], up: &[f32]) {
    let len = gate.len();
    cpu.pool.run_blocks(gate, len, (1, VALUES), |block| {
        let up = &up[block.columns()];
        cpu.level.run(SwiGlu { gate: block.row_mut(0), up });
    });
}

/// See [`crate::backend::Backend::add`].
pub fn add(cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    let len = x.len();
    cpu.pool.run_blocks(x, len, (1, VALUES), |block| {
        let y = &y[block.columns()];
        cpu.level.run(Add { x: block.row_mut(0), y });
    });
}
