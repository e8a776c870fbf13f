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

/// `out[i] = x[i] / sqrt(mean(x²) + eps) * weight[i]`.
pub struct RmsNorm<'a> {
    /// `[n]`.
    pub x: &'a [f32],
    /// `[n]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// `[n]`.
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.x.len() == self.weight.len() && self.x.len() == self.out.len());
        unsafe { rms_norm::<V>(self.x.as_ptr(), self.weight, self.eps, self.out.as_mut_ptr()) }
    }
}

/// [`RmsNorm`] on pointers: `x` may be `out`.
#[inline(always)]
unsafe fn rms_norm<V: Vector>(x: *const f32, weight: &[f32], eps: f32, out: *mut f32) {
    let n = weight.len();
    let whole = n - n % V::LANES;
    unsafe {
        let mut squares = V::splat(0.0);
        let mut i = 0;
        while i < whole {
            let v = V::load(x.add(i));
            squares = squares.add_product(v, v);
            i += V::LANES;
        }
        let mut sum = squares.sum();
        for i in whole..n {
            sum += *x.add(i) * *x.add(i);
        }
        let scale = 1.0 / (sum / n as f32 + eps).sqrt();
        let mut i = 0;
        while i < whole {
            V::load(x.add(i)).mul(V::splat(scale)).mul(V::load(weight.as_ptr().add(i))).store(out.add(i));
            i += V::LANES;
        }
        for i in whole..n {
            *out.add(i) = *x.add(i) * scale * weight[i];
        }
    }
}

/// QK-norm and RoPE of all heads of a token in one pass, or either alone.
pub struct NormRope<'a> {
    /// `[heads, head_dim]`, in and out.
    pub heads: &'a mut [f32],
    /// Width of a head.
    pub head_dim: usize,
    /// The norm's weight `[head_dim]` and eps.
    pub norm: Option<(&'a [f32], f32)>,
    /// `head_dim / 2` cosines, and as many sines.
    pub cos_sin: Option<&'a [f32]>,
}

impl Kernel for NormRope<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (n, half) = (self.head_dim, self.head_dim / 2);
        assert!(self.heads.len().is_multiple_of(n));
        assert!(self.norm.is_none_or(|(weight, _)| weight.len() == n));
        assert!(self.cos_sin.is_none_or(|cos_sin| cos_sin.len() == n));
        let whole = half - half % V::LANES;
        for head in self.heads.chunks_exact_mut(n) {
            let head = head.as_mut_ptr();
            unsafe {
                if let Some((weight, eps)) = self.norm {
                    rms_norm::<V>(head, weight, eps, head);
                }
                let Some(cos_sin) = self.cos_sin else { continue };
                let (cos, sin) = (cos_sin.as_ptr(), cos_sin.as_ptr().add(half));
                let mut i = 0;
                while i < whole {
                    let (a, b) = (V::load(head.add(i)), V::load(head.add(i + half)));
                    let (cos, sin) = (V::load(cos.add(i)), V::load(sin.add(i)));
                    a.mul(cos).sub(b.mul(sin)).store(head.add(i));
                    b.mul(cos).add_product(a, sin).store(head.add(i + half));
                    i += V::LANES;
                }
                for i in whole..half {
                    let (a, b) = (*head.add(i), *head.add(i + half));
                    let (cos, sin) = (*cos.add(i), *sin.add(i));
                    *head.add(i) = a * cos - b * sin;
                    *head.add(i + half) = b * cos + a * sin;
                }
            }
        }
    }
}

/// `x[i] += y[i]`.
pub struct Add<'a> {
    /// In and out.
    pub x: &'a mut [f32],
    /// As long as `x`.
    pub y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.x.len();
        assert!(n == self.y.len());
        let whole = n - n % V::LANES;
        unsafe {
            let mut i = 0;
            while i < whole {
                let at = self.x.as_mut_ptr().add(i);
                V::load(at).add(V::load(self.y.as_ptr().add(i))).store(at);
                i += V::LANES;
            }
        }
        for i in whole..n {
            self.x[i] += self.y[i];
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
                // As the kernels that stream weights do: the processor's own prefetcher stops at the end of a page.
                let mut line = 0;
                while line < step * size_of::<f32>() {
                    V::prefetch(from.cast::<u8>().wrapping_add(4096 + line));
                    line += 64;
                }
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
