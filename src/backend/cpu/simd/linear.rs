//! Linear layers whose weights are f32, f16 or bf16.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "lengths are asserted at the top of each kernel; see the module above"
)]
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
pub(super) unsafe fn dot_tile<V: Vector, E: Element, const W: usize, const X: usize>(
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
