//! The arithmetic of the CPU backend, written once over [`Vector`].
//!
//! Every kernel checks its slices' lengths first and works on pointers after that: the inner loops carry no bounds
//! checks. A sum over `n` elements runs in `LANES` partial sums and a scalar tail, whatever the number of rows at hand,
//! so a token's values do not depend on how many tokens are computed with it.

#![allow(clippy::undocumented_unsafe_blocks, reason = "lengths are asserted at the top of each kernel; see above")]
#![allow(
    clippy::needless_range_loop,
    reason = "indices mirror the formulas, and closures would not inherit instructions"
)]

use super::{Element, Kernel, Vector};
use crate::backend::cpu::threads::Block;

/// `out[r][o] = x[r] · weights[o]` for one block of outputs.
pub struct Linear<'a, 'b, E> {
    /// The weight rows of this block's outputs: `[outputs, columns]`.
    pub weights: &'a [E],
    /// All input rows: `[rows, columns]`.
    pub x: &'a [f32],
    /// Length of a row.
    pub columns: usize,
    /// `[rows, outputs]`.
    pub out: &'a mut Block<'b>,
}

impl<E: Element> Kernel for Linear<'_, '_, E> {
    type Output = ();

    /// Tiles of 4 weight rows by 4 input rows keep 16 sums in registers, so that each loaded vector is used four times
    /// (AVX2 has half the registers and takes 2 input rows).
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let rows = self.out.rows();
        let outputs = self.out.columns().len();
        assert!(self.weights.len() == outputs * self.columns && self.x.len() >= rows.end * self.columns);
        let mut row = rows.start;
        while row < rows.end {
            let x = unsafe { self.x.as_ptr().add(row * self.columns) };
            row += match rows.end - row {
                4.. if V::LANES != 8 => unsafe { linear_rows::<V, E, 4>(x, row, self.weights, self.columns, self.out) },
                2.. if V::LANES == 8 => unsafe { linear_rows::<V, E, 2>(x, row, self.weights, self.columns, self.out) },
                _ => unsafe { linear_rows::<V, E, 1>(x, row, self.weights, self.columns, self.out) },
            };
        }
    }
}

/// `X` input rows against all weight rows of a block; returns `X`.
#[inline(always)]
unsafe fn linear_rows<V: Vector, E: Element, const X: usize>(
    x: *const f32,
    row: usize,
    weights: &[E],
    columns: usize,
    out: &mut Block<'_>,
) -> usize {
    let outputs = out.columns().len();
    let mut o = 0;
    while o < outputs {
        let w = unsafe { weights.as_ptr().add(o * columns) };
        if o + 4 <= outputs {
            let sums = unsafe { dot_tile::<V, E, 4, X>(w, x, columns) };
            for r in 0..X {
                let out = out.row_mut(row + r);
                for (i, sums) in sums.iter().enumerate() {
                    out[o + i] = sums[r];
                }
            }
            o += 4;
        } else {
            let sums = unsafe { dot_tile::<V, E, 1, X>(w, x, columns) };
            for (r, sum) in sums[0].iter().enumerate() {
                out.row_mut(row + r)[o] = *sum;
            }
            o += 1;
        }
    }
    X
}

/// The dot products of `W` rows at `weights` with `X` rows at `x`, all of length `columns` and contiguous.
#[inline(always)]
unsafe fn dot_tile<V: Vector, E: Element, const W: usize, const X: usize>(
    weights: *const E,
    x: *const f32,
    columns: usize,
) -> [[f32; X]; W] {
    unsafe {
        let mut sums = [[V::splat(0.0); X]; W];
        let whole = columns - columns % V::LANES;
        let mut i = 0;
        while i < whole {
            let mut inputs = [V::splat(0.0); X];
            for r in 0..X {
                inputs[r] = V::load(x.add(r * columns + i));
            }
            for w in 0..W {
                let weight = E::load::<V>(weights.add(w * columns + i));
                for r in 0..X {
                    sums[w][r] = sums[w][r].add_product(weight, inputs[r]);
                }
            }
            i += V::LANES;
        }
        let mut totals = [[0.0; X]; W];
        for w in 0..W {
            for r in 0..X {
                let mut total = sums[w][r].sum();
                for i in whole..columns {
                    total += (*weights.add(w * columns + i)).widen() * *x.add(r * columns + i);
                }
                totals[w][r] = total;
            }
        }
        totals
    }
}

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

/// `row[i] = row[i] / sqrt(mean(row²) + eps) * weight[i]`.
pub struct RmsNorm<'a> {
    /// `[n]`, in and out.
    pub row: &'a mut [f32],
    /// `[n]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.row.len();
        assert!(n == self.weight.len());
        let row = self.row.as_mut_ptr();
        let whole = n - n % V::LANES;
        unsafe {
            let mut squares = V::splat(0.0);
            let mut i = 0;
            while i < whole {
                let v = V::load(row.add(i));
                squares = squares.add_product(v, v);
                i += V::LANES;
            }
            let mut sum = squares.sum();
            for i in whole..n {
                sum += *row.add(i) * *row.add(i);
            }
            let scale = 1.0 / (sum / n as f32 + self.eps).sqrt();
            let mut i = 0;
            while i < whole {
                let v = V::load(row.add(i)).mul(V::splat(scale)).mul(V::load(self.weight.as_ptr().add(i)));
                v.store(row.add(i));
                i += V::LANES;
            }
            for i in whole..n {
                *row.add(i) *= scale * self.weight[i];
            }
        }
    }
}

/// `gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i]`.
pub struct SwiGlu<'a> {
    /// In and out.
    pub gate: &'a mut [f32],
    /// As long as `gate`.
    pub up: &'a [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.gate.len();
        assert!(n == self.up.len());
        let whole = n - n % V::LANES;
        unsafe {
            let mut i = 0;
            while i < whole {
                let at = self.gate.as_mut_ptr().add(i);
                let gate = V::load(at);
                let denominator = V::splat(1.0).add(V::splat(0.0).sub(gate).exp());
                gate.div(denominator).mul(V::load(self.up.as_ptr().add(i))).store(at);
                i += V::LANES;
            }
        }
        for i in whole..n {
            self.gate[i] = self.gate[i] / (1.0 + (-self.gate[i]).exp()) * self.up[i];
        }
    }
}

/// The sum of all values: as little arithmetic as a pass over memory can do.
pub struct Sum<'a>(pub &'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        // Eight sums, so that the loads never wait for an addition.
        unsafe {
            let mut sums = [V::splat(0.0); 8];
            let step = 8 * V::LANES;
            for i in 0..self.0.len() / step {
                let from = self.0.as_ptr().add(i * step);
                for (lane, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(V::load(from.add(lane * V::LANES)));
                }
            }
            let mut total = 0.0;
            for sum in sums {
                total += sum.sum();
            }
            total
        }
    }
}
