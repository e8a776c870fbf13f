//! Operations on rows and elements.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "lengths are asserted at the top of each kernel; see the module above"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "indices mirror the formulas, and closures would not inherit instructions"
)]

use super::{Kernel, Vector};

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
