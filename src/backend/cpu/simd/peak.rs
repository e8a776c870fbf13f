//! Loops that touch registers alone: as fast as this machine's arithmetic goes.
//!
//! Each runs `steps` rounds of one instruction in as many chains as hide its latency, and returns the operations done (a
//! multiplication and an addition count two) and a value that depends on all of them.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "no memory is touched; the instructions are the caller's to promise"
)]

use super::{Kernel, Vector};
use std::hint::black_box;

/// f32 multiply-and-add.
pub struct FmaPeak {
    /// Rounds.
    pub steps: u32,
}

/// Dot products of bytes.
pub struct Int8Peak {
    /// Rounds.
    pub steps: u32,
}

/// Dot products of bf16 pairs; does nothing at a level that has none.
pub struct Bf16Peak {
    /// Rounds.
    pub steps: u32,
}

/// One step of a chain, on a sum of type `Sum`. No closure: it would not be compiled with the vector's instructions.
trait Round<V: Vector> {
    type Sum: Copy;
    unsafe fn start() -> Self::Sum;
    unsafe fn step(sum: Self::Sum) -> Self::Sum;
    unsafe fn total(sum: Self::Sum) -> f32;
}

impl<V: Vector> Round<V> for FmaPeak {
    type Sum = V;
    #[inline(always)]
    unsafe fn start() -> V {
        unsafe { V::splat(0.25) }
    }
    #[inline(always)]
    unsafe fn step(sum: V) -> V {
        // It tends to 1: no overflow, and no denormal numbers, which are slow.
        unsafe { V::splat(0.5).add_product(sum, V::splat(0.5)) }
    }
    #[inline(always)]
    unsafe fn total(sum: V) -> f32 {
        unsafe { sum.sum() }
    }
}

impl<V: Vector> Round<V> for Int8Peak {
    type Sum = V::Words;
    #[inline(always)]
    unsafe fn start() -> V::Words {
        unsafe { V::splat_word(1) }
    }
    #[inline(always)]
    unsafe fn step(sum: V::Words) -> V::Words {
        // The sum is a factor too: where this is several instructions, none of them can move out of the loop.
        unsafe { V::dot4(sum, V::splat_word(0x0101_0101), sum) }
    }
    #[inline(always)]
    unsafe fn total(sum: V::Words) -> f32 {
        unsafe { V::from_words(sum).sum() }
    }
}

impl<V: Vector> Round<V> for Bf16Peak {
    type Sum = V;
    #[inline(always)]
    unsafe fn start() -> V {
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn step(sum: V) -> V {
        // Two bf16 ones.
        unsafe { sum.dot2_bf16(V::splat_word(0x3f80_3f80), V::splat_word(0x3f80_3f80)) }
    }
    #[inline(always)]
    unsafe fn total(sum: V) -> f32 {
        unsafe { sum.sum() }
    }
}

impl Kernel for FmaPeak {
    type Output = (u64, f32);

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (u64, f32) {
        unsafe { chains::<V, Self>(self.steps, 2) }
    }
}

impl Kernel for Int8Peak {
    type Output = (u64, f32);
    const DOTS: bool = true;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (u64, f32) {
        unsafe { chains::<V, Self>(self.steps, 8) }
    }
}

impl Kernel for Bf16Peak {
    type Output = (u64, f32);
    const DOTS: bool = true;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> (u64, f32) {
        match V::BF16_DOT {
            true => unsafe { chains::<V, Self>(self.steps, 4) },
            false => (0, 0.0),
        }
    }
}

/// As many chains as the registers hold; `ops` is what a step does in each lane.
#[inline(always)]
unsafe fn chains<V: Vector, R: Round<V>>(steps: u32, ops: u64) -> (u64, f32) {
    // Two to four instructions start in each cycle, and each takes about four: 8 to 16 chains keep the units busy. Two more
    // registers hold the factors; x86-64 below AVX-512 has 16 in all.
    let (chains, total) = match V::LANES == 16 || cfg!(target_arch = "aarch64") {
        true => (20, unsafe { run::<V, R, 20>(steps) }),
        false => (12, unsafe { run::<V, R, 12>(steps) }),
    };
    (ops * u64::from(steps) * chains * V::LANES as u64, total)
}

#[inline(always)]
unsafe fn run<V: Vector, R: Round<V>, const N: usize>(steps: u32) -> f32 {
    unsafe {
        // Equal chains would be computed once.
        let mut sums = black_box([R::start(); N]);
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = R::step(*sum);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += R::total(sum);
        }
        total
    }
}
