//! Four f32 values in an array: what machines without known vector instructions run.

#![allow(clippy::undocumented_unsafe_blocks, reason = "the contract is the trait's; see `Vector`")]

use super::Vector;
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub struct F32x4([f32; 4]);

impl F32x4 {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY: no instruction beyond the baseline is used; loads and stores touch four elements.
unsafe impl Vector for F32x4 {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Self(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Self(bits.map(|bits| f16::from_bits(bits).to_f32()))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // `f32::mul_add` would call a library function where there is no instruction for it.
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding and taking away 1.5 · 2^23 leaves no room for a fraction; no library call, unlike `f32::round`.
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|v| (v + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Self(self.0.map(|v| f32::from_bits(((v as i32 + 127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + c) + (b + d)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    type Words = [i32; 4];
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> [i32; 4] {
        unsafe { from.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_words(words: [i32; 4], to: *mut u8) {
        unsafe { to.cast::<[i32; 4]>().write_unaligned(words) }
    }
    #[inline(always)]
    unsafe fn splat_word(word: i32) -> [i32; 4] {
        [word; 4]
    }
    #[inline(always)]
    unsafe fn and(a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn or(a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: [i32; 4]) -> [i32; 4] {
        a.map(|a| a << N)
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: [i32; 4]) -> [i32; 4] {
        a.map(|a| (a as u32 >> N) as i32)
    }
    #[inline(always)]
    unsafe fn from_words(words: [i32; 4]) -> Self {
        Self(words.map(|word| word as f32))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe { to.cast::<[i8; 4]>().write_unaligned(self.0.map(|v| v.round_ties_even() as i8)) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        Self(unsafe { from.cast::<[u8; 4]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from))
    }

    const BIAS: i32 = 0;
    #[inline(always)]
    unsafe fn dot4(sums: [i32; 4], codes: [i32; 4], x: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| {
            let (codes, x) = (codes[i].to_ne_bytes(), x[i].to_ne_bytes());
            (0..4).fold(sums[i], |sum, j| sum + i32::from(codes[j]) * i32::from(x[j] as i8))
        })
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: [i32; 4], codes: [i32; 4], x: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| {
            let (codes, x) = (codes[i].to_ne_bytes(), x[i].to_ne_bytes());
            (0..4).fold(sums[i], |sum, j| sum + (i32::from(codes[j]) - 128) * i32::from(x[j] as i8))
        })
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..4 {
            for j in 0..4 {
                // As bits: a pair of bf16 values may look like a signalling NaN, which a copy as f32 may change.
                unsafe { *to.add(j * to_stride + i).cast::<u32>() = *from.add(i * from_stride + j).cast::<u32>() };
            }
        }
    }
}
