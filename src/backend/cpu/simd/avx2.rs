//! AVX2 with FMA and F16C: eight f32 values in a register.

#![allow(clippy::undocumented_unsafe_blocks, reason = "the contract is the trait's; see `Vector`")]

use super::{Kernel, Vector};
use half::{bf16, f16};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Compiles and runs a kernel with AVX2.
///
/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// [`run`] with AVX-VNNI.
///
/// # Safety
/// The machine has AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni,fma,f16c")]
pub unsafe fn run_vnni<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// How dot products of small numbers are done.
///
/// # Safety
/// As for [`Vector`].
pub unsafe trait Dots: Copy {
    const BIAS: i32;
    unsafe fn dot4(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i;
    unsafe fn dot4_biased(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i;
}

/// Products of bytes as 16-bit pairs (`vpmaddubsw`), then pairs of pairs (`vpmaddwd`).
#[derive(Clone, Copy)]
pub struct Multiply;

// SAFETY: AVX2 only.
unsafe impl Dots for Multiply {
    const BIAS: i32 = 0;
    #[inline(always)]
    unsafe fn dot4(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // Two products of at most 127 * 127 fit into 16 bits.
        unsafe {
            let pairs = _mm256_maddubs_epi16(codes, x);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // |code| is unsigned and at most 128, and its sign moves over to x.
        unsafe {
            let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            Self::dot4(sums, _mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
        }
    }
}

/// `vpdpbusd`: four products of bytes added to a 32-bit sum.
#[derive(Clone, Copy)]
pub struct Vnni;

// SAFETY: AVX2 and AVX-VNNI only.
unsafe impl Dots for Vnni {
    const BIAS: i32 = 128;
    #[inline(always)]
    unsafe fn dot4(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sums, codes, x) }
    }
}

#[derive(Clone, Copy)]
pub struct F32x8<D>(__m256, PhantomData<D>);

impl<D> F32x8<D> {
    #[inline(always)]
    fn new(values: __m256) -> Self {
        Self(values, PhantomData)
    }
}

// SAFETY: AVX2, FMA and F16C instructions only, and those of `D`; loads and stores touch eight elements.
unsafe impl<D: Dots> Vector for F32x8<D> {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self::new(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self::new(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self::new(unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))))
        })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self::new(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self::new(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self::new(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self::new(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self::new(unsafe { _mm256_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self::new(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self::new(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self::new(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self::new(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self::new(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    type Words = __m256i;
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(words: __m256i, to: *mut u8) {
        unsafe { _mm256_storeu_si256(to.cast(), words) }
    }
    #[inline(always)]
    unsafe fn splat_word(word: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(word) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: __m256i) -> __m256i {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: __m256i) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn from_words(words: __m256i) -> Self {
        Self::new(unsafe { _mm256_cvtepi32_ps(words) })
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe {
            let words = _mm256_cvtps_epi32(self.0);
            let halves = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(halves, halves));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        Self::new(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) })
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self::new(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
    }

    const BIAS: i32 = D::BIAS;
    #[inline(always)]
    unsafe fn dot4(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { D::dot4(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { D::dot4_biased(sums, codes, x) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            // Columns within each group of four rows and each 128-bit lane: by ones, then by twos.
            let mut quads = [_mm256_setzero_ps(); 8];
            for group in 0..2 {
                let mut rows = [_mm256_setzero_pd(); 4];
                for pair in 0..2 {
                    let a = _mm256_loadu_ps(from.add((4 * group + 2 * pair) * from_stride));
                    let b = _mm256_loadu_ps(from.add((4 * group + 2 * pair + 1) * from_stride));
                    rows[2 * pair] = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                    rows[2 * pair + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                }
                for half in 0..2 {
                    let (low, high) = (rows[half], rows[half + 2]);
                    quads[4 * group + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
                    quads[4 * group + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
                }
            }
            // Lane `l` of `quads[4 g + c]` is now column `4 l + c` of rows `4 g ..`: gather the two lanes of a column.
            for c in 0..4 {
                let (a, b) = (quads[c], quads[4 + c]);
                _mm256_storeu_ps(to.add(c * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(to.add((4 + c) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}
