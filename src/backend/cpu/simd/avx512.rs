//! AVX-512 (F, BW, DQ, VL): sixteen f32 values in a register, and twice as many registers as AVX2. Dot products of bytes
//! by VNNI and of bf16 by AVX512-BF16 where the machine has them.

#![allow(clippy::undocumented_unsafe_blocks, reason = "the contract is the trait's; see `Vector`")]

use super::{Kernel, Vector};
use half::{bf16, f16};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Whether Intel made this processor.
pub fn is_intel() -> bool {
    let name = __cpuid(0);
    [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

/// Compiles and runs a kernel with AVX-512.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL, and so AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn run<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// [`run`] with VNNI.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub unsafe fn run_vnni<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// [`run`] with VNNI and BF16.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL, VNNI and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub unsafe fn run_bf16<V: Vector, K: Kernel>(kernel: K) -> K::Output {
    unsafe { kernel.run::<V>() }
}

/// How dot products of small numbers are done.
///
/// # Safety
/// As for [`Vector`].
pub unsafe trait Dots: Copy {
    const BIAS: i32;
    const BF16: bool;
    unsafe fn dot4(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i;
    unsafe fn dot4_biased(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i;
    unsafe fn dot2_bf16(sums: __m512, a: __m512i, b: __m512i) -> __m512;
    unsafe fn round_bf16(values: __m512) -> __m256i;
}

/// Products of bytes as 16-bit pairs (`vpmaddubsw`), then pairs of pairs (`vpmaddwd`).
#[derive(Clone, Copy)]
pub struct Multiply;

// SAFETY: AVX-512 F and BW only.
unsafe impl Dots for Multiply {
    const BIAS: i32 = 0;
    const BF16: bool = false;
    #[inline(always)]
    unsafe fn dot4(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // Two products of at most 127 * 127 fit into 16 bits.
        unsafe {
            let pairs = _mm512_maddubs_epi16(codes, x);
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // |code| is unsigned and at most 128, and its sign moves over to x.
        unsafe {
            let codes = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
            let negative = _mm512_movepi8_mask(codes);
            let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            Self::dot4(sums, _mm512_abs_epi8(codes), x)
        }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(sums: __m512, _: __m512i, _: __m512i) -> __m512 {
        sums
    }
    #[inline(always)]
    unsafe fn round_bf16(_: __m512) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
}

/// `vpdpbusd`: four products of bytes added to a 32-bit sum.
#[derive(Clone, Copy)]
pub struct Vnni;

// SAFETY: AVX-512 F and VNNI only.
unsafe impl Dots for Vnni {
    const BIAS: i32 = 128;
    const BF16: bool = false;
    #[inline(always)]
    unsafe fn dot4(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(sums: __m512, _: __m512i, _: __m512i) -> __m512 {
        sums
    }
    #[inline(always)]
    unsafe fn round_bf16(_: __m512) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
}

/// [`Vnni`], and `vdpbf16ps`: two products of bf16 added to an f32 sum.
#[derive(Clone, Copy)]
pub struct VnniBf16;

// SAFETY: AVX-512 F, VNNI and BF16 only.
unsafe impl Dots for VnniBf16 {
    const BIAS: i32 = 128;
    const BF16: bool = true;
    #[inline(always)]
    unsafe fn dot4(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { Vnni::dot4(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { Vnni::dot4_biased(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(sums: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            _mm512_dpbf16_ps(
                sums,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
    #[inline(always)]
    unsafe fn round_bf16(values: __m512) -> __m256i {
        unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) }
    }
}

#[derive(Clone, Copy)]
pub struct F32x16<D>(__m512, PhantomData<D>);

impl<D> F32x16<D> {
    #[inline(always)]
    fn new(values: __m512) -> Self {
        Self(values, PhantomData)
    }
}

// SAFETY: AVX-512 F, BW, DQ and VL instructions only, and those of `D`; loads and stores touch sixteen elements.
unsafe impl<D: Dots> Vector for F32x16<D> {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self::new(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self::new(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self::new(unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
        })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self::new(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self::new(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self::new(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self::new(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self::new(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self::new(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self::new(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self::new(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self::new(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self::new(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    type Words = __m512i;
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(words: __m512i, to: *mut u8) {
        unsafe { _mm512_storeu_si512(to.cast(), words) }
    }
    #[inline(always)]
    unsafe fn splat_word(word: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(word) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_left<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn shift_right<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn from_words(words: __m512i) -> Self {
        Self::new(unsafe { _mm512_cvtepi32_ps(words) })
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self {
        Self::new(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) })
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self::new(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    const BIAS: i32 = D::BIAS;
    const BF16_DOT: bool = D::BF16;
    #[inline(always)]
    unsafe fn dot4(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { D::dot4(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot4_biased(sums: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { D::dot4_biased(sums, codes, x) }
    }
    #[inline(always)]
    unsafe fn dot2_bf16(self, a: __m512i, b: __m512i) -> Self {
        Self::new(unsafe { D::dot2_bf16(self.0, a, b) })
    }
    #[inline(always)]
    unsafe fn round_bf16(low: Self, high: Self) -> __m512i {
        unsafe {
            let [low, high] = [low, high].map(|half| _mm512_cvtepu16_epi32(D::round_bf16(half.0)));
            _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            // Columns within each group of four rows and each 128-bit lane: by ones, then by twos.
            let mut quads = [_mm512_setzero_ps(); 16];
            for group in 0..4 {
                let mut rows = [_mm512_setzero_pd(); 4];
                for pair in 0..2 {
                    let a = _mm512_loadu_ps(from.add((4 * group + 2 * pair) * from_stride));
                    let b = _mm512_loadu_ps(from.add((4 * group + 2 * pair + 1) * from_stride));
                    rows[2 * pair] = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                    rows[2 * pair + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                }
                for half in 0..2 {
                    let (low, high) = (rows[half], rows[half + 2]);
                    quads[4 * group + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    quads[4 * group + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            // Lane `l` of `quads[4 g + c]` is now column `4 l + c` of rows `4 g ..`: gather the four lanes of a column.
            for c in 0..4 {
                let [a, b, d, e] = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
                let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(d, e)];
                let odd = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(d, e)];
                _mm512_storeu_ps(to.add(c * to_stride), _mm512_shuffle_f32x4::<0x88>(even[0], even[1]));
                _mm512_storeu_ps(to.add((4 + c) * to_stride), _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]));
                _mm512_storeu_ps(to.add((8 + c) * to_stride), _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]));
                _mm512_storeu_ps(to.add((12 + c) * to_stride), _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]));
            }
        }
    }
}
