//! Attention: which kernel runs for which cache and number of tokens.

use super::kv::MetalKvCache;
use super::library::Kernel;
use super::objc::Value;
use super::stream::{Arg, Grid};
use super::{Metal, MetalBuffer, by_kv_dtype, memory};
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::{KvDType, TILE};
use bytemuck::{Pod, Zeroable, bytes_of};

/// The widest head that the plain kernel has registers for: 16 values a lane.
const MAX_HEAD_DIM: usize = 512;

/// The widest head that the fast kernels have threadgroup memory for.
const MAX_FAST_HEAD_DIM: usize = 256;

/// Positions of a threadgroup in `attention_decode.metal`.
const PIECE: usize = 256;

/// As many tokens are decoded one by one, each with its positions cut into pieces; more fill the tiles of prefill.
const MAX_DECODE_TOKENS: usize = 8;

/// Query rows of a threadgroup in `attention_prefill.metal`.
const QUERY_TILE: usize = 32;

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

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AttentionDecodeShape {
    heads: u32,
    kv_heads: u32,
    start: u32,
    capacity: u32,
    pieces: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AttentionPrefillShape {
    heads: u32,
    kv_heads: u32,
    rows: u32,
    start: u32,
    capacity: u32,
    scale: f32,
}

/// Causal attention of `at.tokens` tokens.
pub(super) fn attention(
    metal: &Metal,
    out: &MetalBuffer,
    q: &MetalBuffer,
    cache: &MetalKvCache,
    shape: Heads,
    at: CachePosition,
) {
    let head_dim = shape.head_dim;
    if head_dim > MAX_HEAD_DIM {
        return metal.fail(format!("heads of {head_dim} values; the kernels have room for {MAX_HEAD_DIM}"));
    }
    // Lanes read eight elements at a time.
    let fast = !metal.plain && head_dim.is_multiple_of(8) && head_dim <= MAX_FAST_HEAD_DIM;
    match fast {
        false => plain(metal, out, q, cache, shape, at),
        true if at.tokens <= MAX_DECODE_TOKENS => decode(metal, out, q, cache, shape, at),
        true => prefill(metal, out, q, cache, shape, at),
    }
}

fn plain(metal: &Metal, out: &MetalBuffer, q: &MetalBuffer, cache: &MetalKvCache, shape: Heads, at: CachePosition) {
    memory!(out, q);
    let Some([keys, values]) = cache.layers.get(at.layer) else { return };
    let Heads { heads, kv_heads, head_dim } = shape;
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

/// Query heads that one threadgroup of `attention_decode` computes: as many of those that share a KV head as it has
/// registers for, 96 a lane.
fn heads_at_once(Heads { heads, kv_heads, head_dim }: Heads) -> usize {
    let chunks = head_dim.next_multiple_of(TILE) / 8;
    // Those of a lane, where a power of two of lanes shares a row.
    let each = chunks >> chunks.trailing_zeros().min(5);
    let group = heads / kv_heads;
    (1..=8).rev().find(|&n| group.is_multiple_of(n) && n * each <= 12).unwrap_or(1)
}

/// One dispatch while the positions are one piece, and one more to bring pieces together.
fn decode(metal: &Metal, out: &MetalBuffer, q: &MetalBuffer, cache: &MetalKvCache, shape: Heads, at: CachePosition) {
    memory!(out, q);
    let Some([keys, values]) = cache.layers.get(at.layer) else { return };
    let Heads { heads, kv_heads, head_dim } = shape;
    let (pieces, at_once) = ((at.start + at.tokens).div_ceil(PIECE), heads_at_once(shape));
    let shape = AttentionDecodeShape {
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        start: at.start as u32,
        capacity: cache.capacity as u32,
        pieces: pieces as u32,
        scale: 1.0 / (head_dim as f32).sqrt(),
    };
    let constants: Vec<_> = (0..).zip([head_dim, at_once].map(|n| Value::Uint(n as u32))).collect();
    let mut kernel = by_kv_dtype!("attention_decode.metal", "attention_decode", cache.layout.dtype);
    kernel.constants.clone_from(&constants);
    // Something must be bound also where there is nothing to bring together.
    let sums = if pieces == 1 { 1 } else { at.tokens * heads * pieces * (cache.stride() + 2) };
    let sums = cache.pieces(sums * size_of::<f32>(), |bytes| metal.device.private(bytes));
    let Some(sums) = metal.noted(sums) else { return };
    metal.encode(
        &kernel,
        &[Arg::Bytes(bytes_of(&shape)), Arg::In(q), Arg::In(keys), Arg::In(values), Arg::Out(out), Arg::Out(&sums)],
        Grid { groups: [heads / at_once, pieces, at.tokens], threads: 256 },
    );
    if pieces > 1 {
        let mut kernel = Kernel::new("attention_decode.metal", "attention_reduce");
        kernel.constants = constants;
        let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(&sums), Arg::Out(out)];
        metal.encode(&kernel, &arguments, Grid::groups(heads, at.tokens, 256));
    }
}

fn prefill(metal: &Metal, out: &MetalBuffer, q: &MetalBuffer, cache: &MetalKvCache, shape: Heads, at: CachePosition) {
    memory!(out, q);
    let Some([keys, values]) = cache.layers.get(at.layer) else { return };
    let Heads { heads, kv_heads, head_dim } = shape;
    let rows = at.tokens * (heads / kv_heads);
    let shape = AttentionPrefillShape {
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        rows: rows as u32,
        start: at.start as u32,
        capacity: cache.capacity as u32,
        scale: 1.0 / (head_dim as f32).sqrt(),
    };
    let mut kernel = by_kv_dtype!("attention_prefill.metal", "attention_prefill", cache.layout.dtype);
    kernel.constants = vec![(0, Value::Uint(head_dim as u32))];
    metal.encode(
        &kernel,
        &[Arg::Bytes(bytes_of(&shape)), Arg::In(q), Arg::In(keys), Arg::In(values), Arg::Out(out)],
        Grid::groups(kv_heads, rows.div_ceil(QUERY_TILE), 128),
    );
}
