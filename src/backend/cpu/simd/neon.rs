//! NEON: four f32 values in a register; every aarch64 machine has it.

#![allow(clippy::undocumented_unsafe_blocks, reason = "the contract is the trait's; see `Vector`")]

use super::{Kernel, Vector};
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::marker::PhantomData;

/// Compiles and runs a kernel with NEON.
///
/// # Safety
/// None beyond aarch64 itself.
#[target_feature(enable = "neon")]
pub unsafe fn run<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// [`run`] with dotprod.
///
/// # Safety
/// The machine has dotprod.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn run_dotprod<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// [`run`] with dotprod, i8mm and bf16.
///
/// # Safety
/// The machine has dotprod, i8mm and bf16.
#[target_feature(enable = "neon,dotprod,i8mm,bf16")]
pub unsafe fn run_i8mm<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// How dot products of small numbers are done. The intrinsics of all but the first are not stable yet, so the
/// instructions are written out.
///
/// # Safety
/// As for [`Vector`].
pub unsafe trait Dots: Copy {
    const BIAS: i32 = 0;
    const BF16: bool = false;
    /// Codes signed.
    unsafe fn dot4(sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t;
    /// Codes from 0 to 255; each stands for 128 less.
    #[inline(always)]
    unsafe fn dot4_biased(sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { Self::dot4(sums, veorq_s32(codes, vdupq_n_s32(0x8080_8080_u32 as i32)), x) }
    }
    unsafe fn dot2_bf16(sums: float32x4_t, _a: int32x4_t, _b: int32x4_t) -> float32x4_t {
        sums
    }
    unsafe fn round_bf16(_low: float32x4_t, _high: float32x4_t) -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }
}

/// Products of bytes in 16 bits, added in pairs twice.
#[derive(Clone, Copy)]
pub struct Multiply;

// SAFETY: NEON only.
unsafe impl Dots for Multiply {
    #[inline(always)]
    unsafe fn dot4(sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe {
            let (codes, x) = (vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(x));
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)));
            let high = vpaddlq_s16(vmull_high_s8(codes, x));
            vaddq_s32(sums, vpaddq_s32(low, high))
        }
    }
}

/// `sdot`: four products of signed bytes added to a 32-bit sum.
#[derive(Clone, Copy)]
pub struct Dotprod;

// SAFETY: NEON and dotprod only.
unsafe impl Dots for Dotprod {
    #[inline(always)]
    unsafe fn dot4(mut sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe {
            std::arch::asm!("sdot {sums:v}.4s, {codes:v}.16b, {x:v}.16b", sums = inout(vreg) sums,
                codes = in(vreg) codes, x = in(vreg) x, options(pure, nomem, nostack, preserves_flags));
        }
        sums
    }
}

/// `usdot`, whose codes are unsigned, and `bfdot`: two products of bf16 added to an f32 sum.
#[derive(Clone, Copy)]
pub struct I8mm;

// SAFETY: NEON, i8mm and bf16 only.
unsafe impl Dots for I8mm {
    const BIAS: i32 = 128;
    const BF16: bool = true;
    #[inline(always)]
    unsafe fn dot4(mut sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe {
            std::arch::asm!("usdot {sums:v}.4s, {codes:v}.16b, {x:v}.16b", sums = inout(vreg) sums,
                codes = in(vreg) codes, x = in(vreg) x, options(pure, nomem, nostack, preserves_flags));
        }
        sums
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { Self::dot4(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(mut sums: float32x4_t, a: int32x4_t, b: int32x4_t) -> float32x4_t {
        unsafe {
            std::arch::asm!("bfdot {sums:v}.4s, {a:v}.8h, {b:v}.8h", sums = inout(vreg) sums,
                a = in(vreg) a, b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
        }
        sums
    }
    #[inline(always)]
    unsafe fn round_bf16(low: float32x4_t, high: float32x4_t) -> int32x4_t {
        let mut words: int32x4_t;
        unsafe {
            std::arch::asm!("bfcvtn {words:v}.4h, {low:v}.4s", "bfcvtn {high_words:v}.4h, {high:v}.4s",
                "zip1 {words:v}.8h, {words:v}.8h, {high_words:v}.8h", words = out(vreg) words,
                high_words = out(vreg) _, low = in(vreg) low, high = in(vreg) high,
                options(pure, nomem, nostack, preserves_flags));
        }
        words
    }
}

#[derive(Clone, Copy)]
pub struct F32x4<D>(float32x4_t, PhantomData<D>);

impl<D> F32x4<D> {
    #[inline(always)]
    fn new(values: float32x4_t) -> Self {
        Self(values, PhantomData)
    }
}

// SAFETY: NEON instructions only, and those of `D`; loads and stores touch four elements.
unsafe impl<D: Dots> Vector for F32x4<D> {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self::new(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self::new(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self::new(unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // The conversion instruction is part of the baseline, its intrinsic's type is not stable yet.
        let mut wide: float32x4_t;
        unsafe {
            let narrow = vld1_u16(from.cast());
            std::arch::asm!("fcvtl {wide:v}.4s, {narrow:v}.4h", wide = out(vreg) wide, narrow = in(vreg) narrow,
                options(pure, nomem, nostack, preserves_flags));
        }
        Self::new(wide)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self::new(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self::new(unsafe { vsubq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self::new(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self::new(unsafe { vdivq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self::new(unsafe { vfmaq_f32(self.0, a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self::new(unsafe { vmaxq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self::new(unsafe { vminq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self::new(unsafe { vrndnq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
            Self::new(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { vmaxvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe {
            let four = vreinterpret_s8_s32(vdup_n_s32(from.cast::<i32>().read_unaligned()));
            Self::new(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four)))))
        }
    }

    type Words = int32x4_t;
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> int32x4_t {
        unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
    }
    #[inline(always)]
    unsafe fn store_words(words: int32x4_t, to: *mut u8) {
        unsafe { vst1q_u8(to, vreinterpretq_u8_s32(words)) }
    }
    #[inline(always)]
    unsafe fn splat_word(word: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(word) }
    }
    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(N as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: int32x4_t) -> int32x4_t {
        // A shift by a negative count goes right; of unsigned words, so that zeros come in.
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(N as i32)))) }
    }
    #[inline(always)]
    unsafe fn from_words(words: int32x4_t) -> Self {
        Self::new(unsafe { vcvtq_f32_s32(words) })
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe {
            let halves = vqmovn_s32(vcvtnq_s32_f32(self.0));
            let bytes = vqmovn_s16(vcombine_s16(halves, halves));
            to.cast::<i32>().write_unaligned(vget_lane_s32::<0>(vreinterpret_s32_s8(bytes)));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        unsafe {
            let four = vreinterpret_u8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
            Self::new(vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four)))))
        }
    }

    const BIAS: i32 = D::BIAS;
    const BF16_DOT: bool = D::BF16;
    #[inline(always)]
    unsafe fn dot4(sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { D::dot4(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { D::dot4_biased(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(self, a: int32x4_t, b: int32x4_t) -> Self {
        Self::new(unsafe { D::dot2_bf16(self.0, a, b) })
    }
    #[inline(always)]
    unsafe fn round_bf16(low: Self, high: Self) -> int32x4_t {
        unsafe { D::round_bf16(low.0, high.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            let row = |i: usize| vld1q_f32(from.add(i * from_stride));
            let (a, b) = (vtrn1q_f32(row(0), row(1)), vtrn2q_f32(row(0), row(1)));
            let (c, d) = (vtrn1q_f32(row(2), row(3)), vtrn2q_f32(row(2), row(3)));
            for (i, (low, high)) in [(a, c), (b, d)].into_iter().enumerate() {
                let (low, high) = (vreinterpretq_f64_f32(low), vreinterpretq_f64_f32(high));
                vst1q_f32(to.add(i * to_stride), vreinterpretq_f32_f64(vtrn1q_f64(low, high)));
                vst1q_f32(to.add((i + 2) * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(low, high)));
            }
        }
    }
}
