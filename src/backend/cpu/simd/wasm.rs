//! simd128: four f32 values. A module that has it runs only where it is, so it is chosen when compiling
//! (`-C target-feature=+simd128`) and not at run time. There is no fused multiply-add: sums are those of `scalar`, bit for bit.

#![allow(clippy::undocumented_unsafe_blocks, reason = "the contract is the trait's; see `Vector`")]

use super::Vector;
use half::{bf16, f16};
use std::arch::wasm32::*;

#[derive(Clone, Copy)]
pub struct F32x4(v128);

// SAFETY: instructions of simd128 only, which every machine that accepts this module has; loads and stores touch four
// elements, at any address.
unsafe impl Vector for F32x4 {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(f32x4_splat(value))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { v128_load(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(i32x4_shl(unsafe { u32x4_load_extend_u16x4(from.cast()) }, 16))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        let bits = unsafe { u32x4_load_extend_u16x4(from.cast()) };
        let magnitude = v128_and(bits, i32x4_splat(0x7fff));
        // Exponent and fraction at their places in an f32, whose exponents count from 127 and not 15; the multiplication
        // also brings numbers below 2^-14 into their normal form.
        let value = f32x4_mul(i32x4_shl(magnitude, 13), f32x4_splat(f32::from_bits((254 - 15) << 23)));
        // The highest exponent means infinity or NaN in both.
        let special = v128_and(i32x4_ge(magnitude, i32x4_splat(0x7c00)), i32x4_splat(0x7f80_0000));
        let sign = i32x4_shl(v128_xor(bits, magnitude), 16);
        Self(v128_or(v128_or(value, special), sign))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { v128_store(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(f32x4_add(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(f32x4_sub(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(f32x4_mul(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(f32x4_div(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(f32x4_add(self.0, f32x4_mul(a.0, b.0)))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // `pmax(a, b)` is `a < b ? b : a`.
        Self(f32x4_pmax(other.0, self.0))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // `pmin(a, b)` is `b < a ? b : a`.
        Self(f32x4_pmin(other.0, self.0))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(f32x4_nearest(self.0))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Self(i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(self.0), i32x4_splat(127)), 23))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let halves = f32x4_add(self.0, i32x4_shuffle::<2, 3, 2, 3>(self.0, self.0));
        f32x4_extract_lane::<0>(halves) + f32x4_extract_lane::<1>(halves)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let halves = f32x4_pmax(self.0, i32x4_shuffle::<2, 3, 2, 3>(self.0, self.0));
        let (a, b) = (f32x4_extract_lane::<0>(halves), f32x4_extract_lane::<1>(halves));
        if a > b { a } else { b }
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let halves = i16x8_extend_low_i8x16(unsafe { v128_load32_zero(from.cast()) });
        Self(f32x4_convert_i32x4(i32x4_extend_low_i16x8(halves)))
    }

    type Words = v128;
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> v128 {
        unsafe { v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(words: v128, to: *mut u8) {
        unsafe { v128_store(to.cast(), words) }
    }
    #[inline(always)]
    unsafe fn splat_word(word: i32) -> v128 {
        i32x4_splat(word)
    }
    #[inline(always)]
    unsafe fn and(a: v128, b: v128) -> v128 {
        v128_and(a, b)
    }
    #[inline(always)]
    unsafe fn or(a: v128, b: v128) -> v128 {
        v128_or(a, b)
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: v128) -> v128 {
        i32x4_shl(a, N)
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: v128) -> v128 {
        u32x4_shr(a, N)
    }
    #[inline(always)]
    unsafe fn from_words(words: v128) -> Self {
        Self(f32x4_convert_i32x4(words))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let words = i32x4_trunc_sat_f32x4(f32x4_nearest(self.0));
        let halves = i16x8_narrow_i32x4(words, words);
        let bytes = i8x16_narrow_i16x8(halves, halves);
        unsafe { v128_store32_lane::<0>(bytes, to.cast()) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        let halves = u16x8_extend_low_u8x16(unsafe { v128_load32_zero(from.cast()) });
        Self(f32x4_convert_i32x4(u32x4_extend_low_u16x8(halves)))
    }

    const BIAS: i32 = 0;
    #[inline(always)]
    unsafe fn dot4(sums: v128, codes: v128, x: v128) -> v128 {
        // Bytes 0 and 2 of each word, and bytes 1 and 3, as 16 bits: two products at most 2 · 128 · 127 fit into them.
        let even = i16x8_mul(i16x8_shr(i16x8_shl(codes, 8), 8), i16x8_shr(i16x8_shl(x, 8), 8));
        let odd = i16x8_mul(i16x8_shr(codes, 8), i16x8_shr(x, 8));
        i32x4_add(sums, i32x4_extadd_pairwise_i16x8(i16x8_add(even, odd)))
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: v128, codes: v128, x: v128) -> v128 {
        // Taking 128 away from a byte is turning its highest bit over, and reading it as signed.
        unsafe { Self::dot4(sums, v128_xor(codes, i8x16_splat(-128)), x) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            let row = |i: usize| v128_load(from.add(i * from_stride).cast());
            let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
            let (a, b) = (i32x4_shuffle::<0, 4, 1, 5>(r0, r1), i32x4_shuffle::<2, 6, 3, 7>(r0, r1));
            let (c, d) = (i32x4_shuffle::<0, 4, 1, 5>(r2, r3), i32x4_shuffle::<2, 6, 3, 7>(r2, r3));
            for (i, (low, high)) in [(a, c), (b, d)].into_iter().enumerate() {
                let to = to.add(2 * i * to_stride);
                v128_store(to.cast(), i64x2_shuffle::<0, 2>(low, high));
                v128_store(to.add(to_stride).cast(), i64x2_shuffle::<1, 3>(low, high));
            }
        }
    }
}
