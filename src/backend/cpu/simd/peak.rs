//! Loops that touch registers alone: as fast as this machine's arithmetic goes.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "no memory is touched; the instructions are the caller's to promise"
)]

use super::{Kernel, Vector};

/// `steps` rounds of f32 multiply-and-add in as many registers as hide its latency. Returns the operations done (a
/// multiplication and an addition count two) and a value that depends on all of them.
pub struct FmaPeak {
    /// Rounds.
    pub steps: u32,
}

impl Kernel for FmaPeak {
    type Output = (u64, f32);

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (u64, f32) {
        // An instruction every half cycle or quarter cycle, each ready after about four: 8 to 16 chains keep the units
        // busy. Two more registers hold the factors; x86-64 below AVX-512 has 16 in all.
        match V::LANES == 16 || cfg!(target_arch = "aarch64") {
            true => unsafe { chains::<V, 20>(self.steps) },
            false => unsafe { chains::<V, 12>(self.steps) },
        }
    }
}

#[inline(always)]
unsafe fn chains<V: Vector, const N: usize>(steps: u32) -> (u64, f32) {
    unsafe {
        // x = 0.5 + 0.5 x tends to 1: no overflow, and no denormal numbers, which are slow.
        let half = V::splat(std::hint::black_box(0.5));
        let mut sums: [V; N] = std::array::from_fn(|i| V::splat(i as f32));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = half.add_product(*sum, half);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += sum.sum();
        }
        (2 * u64::from(steps) * (N * V::LANES) as u64, total)
    }
}
