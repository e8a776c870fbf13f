//! Attention: which kernel runs for which cache and number of tokens.

use super::kv::MetalKvCache;
use super::library::Kernel;
use super::stream::{Arg, Grid};
use super::{Metal, MetalBuffer, by_kv_dtype, memory};
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::KvDType;
use bytemuck::{Pod, Zeroable, bytes_of};

/// The widest head that the kernels have registers for: 16 values a lane.
const MAX_HEAD_DIM: usize = 512;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AttentionShape {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    start: u32,
    capacity: u32,
    /// `1 / sqrt(head_dim)`.
    scale: f32,
}

/// Causal attention of `at.tokens` tokens.
pub(super) fn attention(
    metal: &Metal,
    out: &MetalBuffer,
    q: &MetalBuffer,
    cache: &MetalKvCache,
    Heads { heads, kv_heads, head_dim }: Heads,
    at: CachePosition,
) {
    memory!(out, q);
    if head_dim > MAX_HEAD_DIM {
        return metal.fail(format!("heads of {head_dim} values; the kernels have room for {MAX_HEAD_DIM}"));
    }
    let Some([keys, values]) = cache.layers.get(at.layer) else { return };
    let scale = 1.0 / (head_dim as f32).sqrt();
    let [heads_, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(|n| n as u32);
    let [start, capacity] = [at.start, cache.capacity].map(|n| n as u32);
    let shape = AttentionShape { heads: heads_, kv_heads, head_dim, start, capacity, scale };
    metal.encode(
        &by_kv_dtype!("attention.metal", "attention", cache.layout.dtype),
        &[Arg::Bytes(bytes_of(&shape)), Arg::In(q), Arg::In(keys), Arg::In(values), Arg::Out(out)],
        Grid::groups(heads, at.tokens, 32),
    );
}
