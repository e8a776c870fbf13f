//! Attention over the KV cache.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "lengths are asserted at the top of each kernel; see the module above"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "indices mirror the formulas, and closures would not inherit instructions"
)]

use super::linear::dot_tile;
use super::{Element, Kernel, Vector};
use crate::backend::cpu::threads::Block;

/// Positions whose scores are computed before their values are added up: their keys and values stay in the L1 and L2
/// cache (64 · 128 · 2 bytes of each) while every query of the block reads them.
const POSITIONS: usize = 64;

/// Causal attention of a block of tokens over one KV head, with an online softmax.
///
/// The softmax never sees all scores at once: it keeps the largest score so far and the sum of `exp(score - largest)`,
/// and scales what it has when a larger one comes (arXiv 1805.02867). So a block of positions is read once, for all
/// queries of all heads in the group.
pub struct Attention<'a, 'b, E> {
    /// All queries: `[tokens, heads, head_dim]`.
    pub q: &'a [f32],
    /// Keys of this KV head: `[positions, head_dim]`.
    pub keys: &'a [E],
    /// Values of this KV head.
    pub values: &'a [E],
    /// Query heads in all.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Position of token 0.
    pub start: usize,
    /// This block's tokens, and the columns of the query heads that share the KV head: `[tokens, group * head_dim]`.
    pub out: &'a mut Block<'b>,
}

impl<E: Element> Kernel for Attention<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { q, keys, values, heads, head_dim, start, out } = self;
        let (tokens, columns) = (out.rows(), out.columns());
        let group = columns.len() / head_dim;
        let positions = start + tokens.end;
        assert!(keys.len() >= positions * head_dim && values.len() >= positions * head_dim);
        assert!(q.len() >= tokens.end * heads * head_dim && columns.end <= heads * head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        // Of each query: the largest score so far, and the sum of exponentials relative to it.
        let mut state = vec![(f32::NEG_INFINITY, 0.0f32); tokens.len() * group];
        for token in tokens.clone() {
            out.row_mut(token).fill(0.0);
        }
        let mut block = 0;
        while block < positions {
            for token in tokens.clone() {
                let end = (start + token + 1).min(block + POSITIONS);
                if end <= block {
                    continue;
                }
                for g in 0..group {
                    let query = unsafe { q.as_ptr().add(token * heads * head_dim + columns.start + g * head_dim) };
                    let (largest, sum) = &mut state[(token - tokens.start) * group + g];
                    let out = &mut out.row_mut(token)[g * head_dim..(g + 1) * head_dim];
                    unsafe {
                        let keys = keys.as_ptr().add(block * head_dim);
                        let values = values.as_ptr().add(block * head_dim);
                        let mut weights = [f32::NEG_INFINITY; POSITIONS];
                        let before = *largest;
                        scores::<V, E>(&mut weights[..end - block], query, keys, head_dim, scale);
                        *largest = exp_all::<V>(&mut weights, before, sum);
                        if before < *largest && before > f32::NEG_INFINITY {
                            let shrink = (before - *largest).exp();
                            out.iter_mut().for_each(|v| *v *= shrink);
                        }
                        add_weighted::<V, E>(out, &weights[..end - block], values);
                    }
                }
            }
            block += POSITIONS;
        }
        for token in tokens.clone() {
            for g in 0..group {
                let (_, sum) = state[(token - tokens.start) * group + g];
                out.row_mut(token)[g * head_dim..(g + 1) * head_dim].iter_mut().for_each(|v| *v /= sum);
            }
        }
    }
}

/// `scores[p] = query · keys[p] * scale`.
#[inline(always)]
unsafe fn scores<V: Vector, E: Element>(
    scores: &mut [f32],
    query: *const f32,
    keys: *const E,
    head_dim: usize,
    scale: f32,
) {
    let mut p = 0;
    while p < scores.len() {
        if p + 4 <= scores.len() {
            let dots = unsafe { dot_tile::<V, E, 4, 1>(keys.add(p * head_dim), query, head_dim) };
            for i in 0..4 {
                scores[p + i] = dots[i][0] * scale;
            }
            p += 4;
        } else {
            let dots = unsafe { dot_tile::<V, E, 1, 1>(keys.add(p * head_dim), query, head_dim) };
            scores[p] = dots[0][0] * scale;
            p += 1;
        }
    }
}

/// Turns scores into `exp(score - largest)` with `largest` the largest of them and of `before`, adds them to `sum`
/// (brought from `before` to the new scale), and returns `largest`. Unused entries are -inf and count as nothing.
#[inline(always)]
unsafe fn exp_all<V: Vector>(scores: &mut [f32; POSITIONS], before: f32, sum: &mut f32) -> f32 {
    let mut largest = before;
    for score in scores.iter() {
        // NaN is let through, so that a broken input is seen in the output.
        if *score > largest || score.is_nan() {
            largest = *score;
        }
    }
    unsafe {
        let shift = V::splat(largest);
        let mut total = V::splat(0.0);
        let mut i = 0;
        while i < POSITIONS {
            let at = scores.as_mut_ptr().add(i);
            let weight = V::load(at).sub(shift).exp();
            weight.store(at);
            total = total.add(weight);
            i += V::LANES;
        }
        let kept = if before == f32::NEG_INFINITY { 0.0 } else { *sum * (before - largest).exp() };
        *sum = kept + total.sum();
    }
    largest
}

/// `out += Σ_p weights[p] * values[p]`.
#[inline(always)]
unsafe fn add_weighted<V: Vector, E: Element>(out: &mut [f32], weights: &[f32], values: *const E) {
    let head_dim = out.len();
    let whole = head_dim - head_dim % V::LANES;
    unsafe {
        let mut i = 0;
        while i < whole {
            let at = out.as_mut_ptr().add(i);
            let mut sum = V::load(at);
            for (p, weight) in weights.iter().enumerate() {
                sum = sum.add_product(V::splat(*weight), E::load::<V>(values.add(p * head_dim + i)));
            }
            sum.store(at);
            i += V::LANES;
        }
        for i in whole..head_dim {
            for (p, weight) in weights.iter().enumerate() {
                out[i] += weight * (*values.add(p * head_dim + i)).widen();
            }
        }
    }
}
