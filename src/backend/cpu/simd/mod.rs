//! SIMD, chosen at run time.
//!
//! A [`Kernel`] is written once over [`Vector`], an f32 vector of the machine's width. `Level::run` compiles it for
//! each instruction set and calls the version that this machine has, so one binary serves every x86-64 and aarch64
//! machine at its own speed.
//!
//! How it works: `run` matches on the level and calls a function that carries `#[target_feature]`; the kernel and every
//! vector method are `#[inline(always)]`, so their bodies end up inside that function and are compiled with its
//! instructions. Each arm of the `match` is only reached at a level that [`Level::detect`] found.
//!
//! Every kernel checks its slices' lengths first and works on pointers after that: the inner loops carry no bounds
//! checks. A sum over `n` elements runs in `LANES` partial sums and a scalar tail, whatever the number of rows at hand,
//! so a token's values do not depend on how many tokens are computed with it.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod rows;
mod scalar;

pub(crate) use attention::{AttentionTile, Decode, PIECE, Prefill, Reduce};
pub(crate) use linear::Linear;
pub(crate) use rows::{Add, NormRope, RmsNorm, Sum, SwiGlu};

use half::{bf16, f16};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No intrinsics: any machine.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C: 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F: 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// aarch64: 4 lanes, and part of the architecture.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// Every level this machine can run, the fastest last.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                levels.push(Level::Avx2);
                if has!("avx512f") {
                    levels.push(Level::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Level::Neon);
        levels
    }

    /// The fastest level of this machine.
    pub fn detect() -> Level {
        Self::available().pop().unwrap_or(Level::Scalar)
    }

    /// Its name on screen.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        }
    }

    /// Runs `kernel` compiled for this level.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: scalar vectors need no instructions beyond the baseline.
            Level::Scalar => unsafe { kernel.run::<scalar::F32x4>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Cpu::with_level`, whose level this is, has seen it among `available`, and so the features.
            Level::Avx2 => unsafe { avx2::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Level::Neon => unsafe { neon::run(kernel) },
        }
    }
}

/// A piece of arithmetic, written once for all vector widths.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// Runs it with vectors of type `V`. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The caller is compiled with the instructions that `V` needs, and the machine has them.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// A vector of [`LANES`](Vector::LANES) f32 values. All methods are `#[inline(always)]`.
///
/// # Safety
/// Every method may only be called where the machine has the vector's instructions; loads and stores need `LANES`
/// readable or writable elements at the pointer, of any alignment.
#[allow(clippy::missing_safety_doc, reason = "stated once, for the trait")]
pub unsafe trait Vector: Copy {
    /// Values in a vector.
    const LANES: usize;
    /// The same value in each lane.
    unsafe fn splat(value: f32) -> Self;
    /// Loads f32 values.
    unsafe fn load(from: *const f32) -> Self;
    /// Loads bf16 values: the upper half of an f32 each, so widening is a shift.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Loads f16 values.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// Stores f32 values.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`.
    unsafe fn div(self, other: Self) -> Self;
    /// `self + a * b`, rounded once where the machine can.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The larger of each lane; NaN where `other` is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each lane; NaN where `other` is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// The nearest whole number.
    unsafe fn round(self) -> Self;
    /// `2^self` for whole numbers from -126 to 127.
    unsafe fn exp2_whole(self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// The largest of all lanes.
    unsafe fn largest(self) -> f32;
    /// Asks for a cache line that will be read soon; `at` may be any address.
    unsafe fn prefetch(at: *const u8);
    /// Loads 8-bit integers.
    unsafe fn load_i8(from: *const i8) -> Self;

    /// `exp(self)`, to about 2 units in the last place; inputs below -87 give about 1e-38, above 88 about 2e38, NaN stays NaN.
    ///
    /// `exp(x) = 2^n · exp(r)` with `n = round(x / ln 2)` and `|r| <= ln(2)/2`, where a polynomial of degree 6 is
    /// enough. `ln 2` is subtracted in two parts, because `n · ln 2` in one would lose the low bits of `r`.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the same as this method's own.
        unsafe {
            let x = Self::splat(88.0).min(Self::splat(-87.0).max(self));
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            let r = x.add_product(n, Self::splat(-0.693_359_4)).add_product(n, Self::splat(2.121_944_4e-4));
            // 1/k! for k = 6 down to 0, by Horner's rule.
            let mut p = Self::splat(1.0 / 720.0);
            for factor in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                p = Self::splat(factor).add_product(p, r);
            }
            p.mul(n.exp2_whole())
        }
    }
}

/// An element type that vectors can be loaded from.
pub trait Element: Copy + Send + Sync + 'static {
    /// Loads [`Vector::LANES`] elements, widened to f32.
    ///
    /// # Safety
    /// As for [`Vector`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
    /// This element as f32.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_bf16(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_i8(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_f16(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}
