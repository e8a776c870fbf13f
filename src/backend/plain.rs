//! The fused operations in terms of the plain ones: what a backend runs that does not fuse them, and what those that do are
//! checked against.

use super::{Backend, CachePosition, Heads};

/// [`Backend::linear_qkv`] as three layers.
pub fn linear_qkv<B: Backend + ?Sized>(
    b: &B,
    out: [&mut B::Buffer; 3],
    x: &B::Buffer,
    weights: [&B::Weight; 3],
    rows: usize,
) {
    for (out, weight) in out.into_iter().zip(weights) {
        b.linear(out, x, weight, rows);
    }
}

/// [`Backend::norm_linear_qkv`] as a norm and [`Backend::linear_qkv`].
pub fn norm_linear_qkv<B: Backend + ?Sized>(
    b: &B,
    out: [&mut B::Buffer; 3],
    h: &mut B::Buffer,
    x: &B::Buffer,
    norm: &B::Weight,
    eps: f32,
    weights: [&B::Weight; 3],
    rows: usize,
) {
    b.rms_norm(h, x, norm, eps, rows);
    b.linear_qkv(out, h, weights, rows);
}

/// [`Backend::norm_linear_swiglu`] as a norm and [`Backend::linear_swiglu`].
pub fn norm_linear_swiglu<B: Backend + ?Sized>(
    b: &B,
    [gate, up]: [&mut B::Buffer; 2],
    h: &mut B::Buffer,
    x: &B::Buffer,
    norm: &B::Weight,
    eps: f32,
    weights: [&B::Weight; 2],
    rows: usize,
    intermediate: usize,
) {
    b.rms_norm(h, x, norm, eps, rows);
    b.linear_swiglu(gate, up, h, weights, rows, intermediate);
}

/// [`Backend::norm_rope_store`] as five steps.
pub fn norm_rope_store<B: Backend + ?Sized>(
    b: &B,
    [q, k, v]: [&mut B::Buffer; 3],
    [q_norm, k_norm]: [&B::Weight; 2],
    eps: f32,
    cos_sin: &B::Buffer,
    cache: &mut B::KvCache,
    heads: Heads,
    at: CachePosition,
) {
    b.head_norm(q, q_norm, eps, at.tokens * heads.heads);
    b.head_norm(k, k_norm, eps, at.tokens * heads.kv_heads);
    b.rope(q, cos_sin, at.tokens, heads.heads, heads.head_dim);
    b.rope(k, cos_sin, at.tokens, heads.kv_heads, heads.head_dim);
    b.store_kv(cache, k, v, at);
}

/// [`Backend::linear_swiglu`] as two layers and their product.
pub fn linear_swiglu<B: Backend + ?Sized>(
    b: &B,
    gate: &mut B::Buffer,
    up: &mut B::Buffer,
    x: &B::Buffer,
    [gate_weight, up_weight]: [&B::Weight; 2],
    rows: usize,
    intermediate: usize,
) {
    b.linear(gate, x, gate_weight, rows);
    b.linear(up, x, up_weight, rows);
    b.swiglu(gate, up, rows * intermediate);
}

/// [`Backend::linear_add`] as a layer and a sum.
pub fn linear_add<B: Backend + ?Sized>(
    b: &B,
    x: &mut B::Buffer,
    scratch: &mut B::Buffer,
    y: &B::Buffer,
    weight: &B::Weight,
    rows: usize,
    features: usize,
) {
    b.linear(scratch, y, weight, rows);
    b.add(x, scratch, rows * features);
}

/// [`Backend::argmax`] of values in host memory, of which there are some.
pub fn argmax(values: &[f32]) -> (u32, f32) {
    // Block by block, so that only the best block has to be searched for the place of its largest.
    const BLOCK: usize = 1024;
    let (mut start, mut max) = (0, f32::NEG_INFINITY);
    for (i, block) in values.chunks(BLOCK).enumerate() {
        let (block_max, has_nan) = max_and_nan(block);
        if has_nan {
            let at = block.iter().position(|v| v.is_nan()).unwrap_or(0);
            return ((i * BLOCK + at) as u32, f32::NAN);
        }
        if block_max > max {
            (start, max) = (i * BLOCK, block_max);
        }
    }
    ((start + values[start..].iter().position(|v| *v == max).unwrap_or(0)) as u32, max)
}

/// [`Backend::top_k`] of values in host memory.
pub fn top_k(values: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut pairs: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
    if k < pairs.len() && k > 0 {
        pairs.select_nth_unstable_by(k - 1, rank);
    }
    pairs.truncate(k);
    pairs.sort_unstable_by(rank);
    pairs
}

/// The order of [`Backend::top_k`]: NaN in front, then the largest, and of equal ones the first.
pub(crate) fn rank(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    let value = b.1.partial_cmp(&a.1).unwrap_or_else(|| b.1.is_nan().cmp(&a.1.is_nan()));
    value.then(a.0.cmp(&b.0))
}

/// The largest value, and whether there is a NaN. NaN compares false with everything, so it is known by its bits: all
/// exponent bits set, and some below them.
pub(crate) fn max_and_nan(values: &[f32]) -> (f32, bool) {
    // Lanes without branches let the compiler use vector instructions.
    const LANES: usize = 16;
    let nan_bits = |v: f32| u32::from(v.to_bits() & 0x7fff_ffff > 0x7f80_0000);
    let (mut best, mut nan) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            best[lane] = if chunk[lane] > best[lane] { chunk[lane] } else { best[lane] };
            nan[lane] |= nan_bits(chunk[lane]);
        }
    }
    let max = best.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    (max, nan != [0; LANES] || rest.iter().any(|v| v.is_nan()))
}
