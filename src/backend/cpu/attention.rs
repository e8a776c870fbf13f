//! Attention: the plain idea is [`crate::backend::reference::attention`].
//!
//! **Decode** (one token) is bound by memory: every key and value in the cache is needed once. The cache is cut into
//! pieces of [`PIECE`] positions of one KV head; a piece is read once for all query heads that share it, and the partial
//! results (largest score, sum of weights, weighted values) of its pieces are brought together afterwards. Pieces have a
//! constant size and are added in order, so the result does not depend on which thread worked on which.
//!
//! **Prefill** (more tokens) is bound by arithmetic: two matrix products, queries by keys and weights by values. A block
//! is one KV head and so many tokens that their queries make [`ROWS`] rows; it goes through the cache piece by piece,
//! widens a piece once for all rows, and leaves out what lies behind the diagonal.
//!
//! The two add up in a different order, so a token's values depend in their last bits on whether it came alone.

use super::Cpu;
use super::simd::{AttentionTile, Decode, PIECE, Prefill, Reduce};
use crate::backend::huge_bytes::HugeBytes;
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::{HostKvCache, KvLayer, KvTiles, TILE};
use std::cell::RefCell;

/// Rows of queries in a block of prefill. A piece is widened once for all of them, and its keys and values come from the
/// L3 cache or from memory then: with 128 rows that is a tenth of the time, with 64 a seventh. The rows' queries, weights
/// and outputs (192 KiB at head_dim 128) and the widened piece (128 KiB) fit into an L2 cache of 512 KiB.
const ROWS: usize = 128;

thread_local! {
    /// Partial results of decode, on the thread that asks. Kept, because fresh pages would cost more than writing them.
    static PARTIALS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Memory of a prefill block, on every thread.
    static SCRATCH: RefCell<HugeBytes> = RefCell::default();
}

/// See [`crate::backend::Backend::attention`].
pub fn attention(cpu: &Cpu, out: &mut [f32], q: &[f32], cache: &HostKvCache, shape: Heads, at: CachePosition) {
    match cache.layer(at.layer) {
        KvTiles::F16(layer) => in_dtype(cpu, out, q, cache, layer, shape, at),
        KvTiles::F32(layer) => in_dtype(cpu, out, q, cache, layer, shape, at),
        KvTiles::Q8(layer) => in_dtype(cpu, out, q, cache, layer, shape, at),
    }
}

fn in_dtype<T: AttentionTile>(
    cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &HostKvCache,
    layer: &KvLayer<T>,
    shape: Heads,
    at: CachePosition,
) {
    let columns = shape.heads * shape.head_dim;
    let out = &mut out[..at.tokens * columns];
    match at.tokens {
        1 => decode(cpu, out, &q[..columns], cache, layer, shape, at.start + 1),
        _ => prefill(cpu, out, q, cache, layer, shape, at.start),
    }
}

/// One token that sees `positions` positions; `q` and `out: [heads, head_dim]`.
fn decode<T: AttentionTile>(
    cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &HostKvCache,
    layer: &KvLayer<T>,
    Heads { heads, kv_heads, head_dim }: Heads,
    positions: usize,
) {
    let (group, width) = (heads / kv_heads, head_dim.next_multiple_of(TILE));
    let pieces = positions.div_ceil(PIECE);
    let partial = group * (width + 2);
    let scale = 1.0 / (head_dim as f32).sqrt();
    PARTIALS.with_borrow_mut(|memory| {
        memory.resize(memory.len().max(heads * width + kv_heads * pieces * partial), 0.0);
        let (queries, partials) = memory.split_at_mut(heads * width);
        let partials = &mut partials[..kv_heads * pieces * partial];
        for (to, from) in queries.chunks_exact_mut(width).zip(q.chunks_exact(head_dim)) {
            to.fill(0.0);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * scale);
        }
        cpu.pool.run_blocks(partials, partial, (1, partial), |block| {
            let task = block.rows().start;
            let (kv_head, first) = (task / pieces, task % pieces * PIECE);
            let positions = PIECE.min(positions - first);
            let tiles = cache.head_start(kv_head) + cache.tiles(first);
            cpu.level.run(Decode {
                q: &queries[kv_head * group * width..(kv_head + 1) * group * width],
                keys: &layer.keys[tiles..tiles + cache.tiles(positions)],
                values: &layer.values[tiles..tiles + cache.tiles(positions)],
                positions,
                group,
                partial: block.row_mut(task),
            });
        });
        let reduce = |kv_head: usize, out: &mut [f32]| {
            let partials = &partials[kv_head * pieces * partial..(kv_head + 1) * pieces * partial];
            cpu.level.run(Reduce { partials, group, out });
        };
        // A few pieces are added up faster than threads are told to.
        match partials.len() {
            ..16_384 => out.chunks_exact_mut(group * head_dim).enumerate().for_each(|(head, out)| reduce(head, out)),
            _ => cpu.pool.run_blocks(out, heads * head_dim, (1, group * head_dim), |block| {
                reduce(block.columns().start / (group * head_dim), block.row_mut(0));
            }),
        }
    });
}

/// Several tokens, the first at position `start`; `q` and `out: [tokens, heads, head_dim]`.
fn prefill<T: AttentionTile>(
    cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &HostKvCache,
    layer: &KvLayer<T>,
    Heads { heads, kv_heads, head_dim }: Heads,
    start: usize,
) {
    let group = heads / kv_heads;
    let tokens = (ROWS / group).max(1);
    cpu.pool.run_blocks(out, heads * head_dim, (tokens, group * head_dim), |out| {
        let kv_head = out.columns().start / (group * head_dim);
        let tiles = cache.head_start(kv_head);
        let tiles = tiles..tiles + cache.tiles(start + out.rows().end);
        let (keys, values) = (&layer.keys[tiles.clone()], &layer.values[tiles]);
        SCRATCH.with_borrow_mut(|scratch| {
            cpu.level.run(Prefill { q, keys, values, heads, head_dim, start, scratch, out });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::simd::Level;
    use super::*;
    use crate::expect;

    /// Brings together pieces of (largest score, sum of weights, weighted values) for each head of the group.
    fn reduce(pieces: &[&[(f32, f32, [f32; 2])]]) -> Vec<f32> {
        let group = pieces[0].len();
        let mut partials = Vec::new();
        for heads in pieces {
            heads.iter().for_each(|head| partials.extend(head.2.into_iter().chain([9.0; TILE - 2])));
            partials.extend(heads.iter().map(|head| head.0));
            partials.extend(heads.iter().map(|head| head.1));
        }
        let mut out = vec![f32::NAN; group * 2];
        Level::Scalar.run(Reduce { partials: &partials, group, out: &mut out });
        out
    }

    #[test]
    fn pieces_by_hand() {
        let ln3 = 3f32.ln();
        // Against the largest score of all, ln 3, piece 0 counts a third: (4/3, 6) over 2/3 + 1.
        let out = reduce(&[&[(0.0, 2.0, [4.0, 0.0])], &[(ln3, 1.0, [0.0, 6.0])]]);
        expect::close("reduce", &out, &[0.8, 3.6], 1e-5);
        expect::close("reduce of one piece", &reduce(&[&[(5.0, 4.0, [2.0, 8.0])]]), &[0.5, 2.0], 0.0);
        // Only differences of scores count; the scores themselves would overflow exp.
        let out = reduce(&[&[(1000.0, 1.0, [1.0, 2.0])], &[(1000.0, 1.0, [3.0, 4.0])]]);
        expect::close("reduce of large scores", &out, &[2.0, 3.0], 0.0);
    }

    #[test]
    fn each_head_has_its_own_scores() {
        let heads = [(0.0, 1.0, [1.0, 1.0]), (3f32.ln(), 1.0, [5.0, 5.0])];
        let others = [(3f32.ln(), 1.0, [5.0, 5.0]), (0.0, 1.0, [1.0, 1.0])];
        expect::close("reduce of two heads", &reduce(&[&heads, &others]), &[4.0; 4], 1e-5);
    }
}
