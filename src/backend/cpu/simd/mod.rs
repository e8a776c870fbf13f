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
//! checks. Sums run in vectors of partial sums and a scalar tail. Linear layers with quantized weights give a token the same
//! values whatever is computed with it; with other weights, and in attention, decode and prefill add in another order.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod peak;
mod rows;
mod scalar;
#[cfg(target_feature = "simd128")]
mod wasm;

pub(crate) use attention::{AttentionTile, Decode, PIECE, Prefill, Reduce};
pub(crate) use linear::{Interleave, Interleaved, Linear, LinearPanels, panel_tile};
pub(crate) use packed::{
    Format, LinearRow, LinearTiles, PackedQ4_0, PackedQ4K, PackedQ5K, PackedQ6K, PackedQ8_0, Quantize, Quantized,
    tile_rows,
};
pub(crate) use peak::{Bf16Peak, FmaPeak, Int8Peak};
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
    /// AVX2 with AVX-VNNI: products of bytes summed by fours in one instruction.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 lanes, and twice as many registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX-512 with VNNI and BF16: products of bf16 pairs summed in f32.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// aarch64: 4 lanes, and part of the architecture.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with dotprod: products of bytes summed by fours.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// NEON with dotprod, i8mm and bf16.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
    /// wasm with simd128: 4 lanes. A module that has them runs nowhere else, so the compiler is told.
    #[cfg(target_feature = "simd128")]
    Simd128,
}

impl Level {
    /// Every level of this architecture, slowest first, with its name and whether this machine can run it.
    fn table() -> Vec<(Level, &'static str, bool)> {
        #[allow(unused_mut, reason = "not every architecture has more")]
        let mut levels = vec![(Level::Scalar, "scalar", true)];
        #[cfg(target_feature = "simd128")]
        levels.push((Level::Simd128, "simd128", true));
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            let vnni = avx512 && has!("avx512vnni");
            levels.extend([
                (Level::Avx2, "avx2", avx2),
                (Level::AvxVnni, "avx-vnni", avx2 && has!("avxvnni")),
                (Level::Avx512, "avx512", avx512),
                (Level::Avx512Vnni, "avx512-vnni", vnni),
                (Level::Avx512Bf16, "avx512-bf16", vnni && has!("avx512bf16")),
            ]);
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            let dotprod = has!("dotprod");
            levels.extend([
                (Level::Neon, "neon", true),
                (Level::NeonDotprod, "neon-dotprod", dotprod),
                (Level::NeonI8mm, "neon-i8mm", dotprod && has!("i8mm") && has!("bf16")),
            ]);
        }
        levels
    }

    /// Every level this machine can run, the fastest last.
    pub fn available() -> Vec<Level> {
        Self::table().into_iter().filter(|row| row.2).map(|row| row.0).collect()
    }

    /// The names of this architecture's levels that this machine lacks.
    pub fn missing() -> Vec<&'static str> {
        Self::table().into_iter().filter(|row| !row.2).map(|row| row.1).collect()
    }

    /// The fastest level of this machine.
    ///
    /// Having dot products of bf16 does not mean that they pay: AMD's Zen 4 and 5 do them at nearly twice the rate of f32
    /// multiply-adds, Intel's Sapphire Rapids at half of it (153 against 279 Gop/s by `fs bench` on two cores, and 97
    /// against 144 tokens/s in a bf16 prefill). So Intel's processors are given the level below.
    pub fn detect() -> Level {
        let mut available = Self::available();
        #[cfg(target_arch = "x86_64")]
        if available.last() == Some(&Level::Avx512Bf16) && avx512::is_intel() {
            available.pop();
        }
        available.pop().unwrap_or(Level::Scalar)
    }

    /// The fastest level of this machine that does not round the input of bf16 layers: what checks against recorded
    /// outputs run on.
    pub fn detect_exact() -> Level {
        let exact = |level: &Level| !level.has_bf16_dot();
        Self::available().into_iter().rfind(exact).unwrap_or(Level::Scalar)
    }

    /// Its name on screen.
    pub fn name(self) -> &'static str {
        Self::table().into_iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// f32 values in a vector.
    pub(crate) fn lanes(self) -> usize {
        struct Lanes;
        impl Kernel for Lanes {
            type Output = usize;
            #[inline(always)]
            unsafe fn run<V: Vector>(self) -> usize {
                V::LANES
            }
        }
        self.run(Lanes)
    }

    /// Whether this level has dot products of bf16.
    pub(crate) fn has_bf16_dot(self) -> bool {
        struct Has;
        impl Kernel for Has {
            type Output = bool;
            const DOTS: bool = true;
            #[inline(always)]
            unsafe fn run<V: Vector>(self) -> bool {
                V::BF16_DOT
            }
        }
        self.run(Has)
    }

    /// Runs `kernel` compiled for this level.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        use {avx2::F32x8, avx512::F32x16};
        // A kernel without dot products of small numbers is the same at all levels of one vector width.
        #[cfg(target_arch = "x86_64")]
        let level = match self {
            Level::AvxVnni if !K::DOTS => Level::Avx2,
            Level::Avx512Vnni | Level::Avx512Bf16 if !K::DOTS => Level::Avx512,
            level => level,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let level = self;
        match level {
            // SAFETY: scalar vectors need no instructions beyond the baseline.
            Level::Scalar => unsafe { kernel.run::<scalar::F32x4>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Cpu::with_level`, whose level this is, has seen it among `available`, and so the features.
            Level::Avx2 => unsafe { avx2::run::<F32x8<avx2::Multiply>, K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::AvxVnni => unsafe { avx2::run_vnni::<F32x8<avx2::Vnni>, K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 => unsafe { avx512::run::<F32x16<avx512::Multiply>, K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512Vnni => unsafe { avx512::run_vnni::<F32x16<avx512::Vnni>, K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512Bf16 => unsafe { avx512::run_bf16::<F32x16<avx512::VnniBf16>, K>(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Level::Neon => unsafe { neon::run::<neon::F32x4<neon::Multiply>, K>(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Level::NeonDotprod => unsafe { neon::run_dotprod::<neon::F32x4<neon::Dotprod>, K>(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Level::NeonI8mm => unsafe { neon::run_i8mm::<neon::F32x4<neon::I8mm>, K>(kernel) },
            #[cfg(target_feature = "simd128")]
            // SAFETY: the whole module is compiled with them, and a machine without them refuses it.
            Level::Simd128 => unsafe { kernel.run::<wasm::F32x4>() },
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let table = Self::table();
        match table.iter().find(|row| row.1 == name) {
            Some(&(level, _, true)) => Ok(level),
            other => {
                let names = |row: &&(Level, &'static str, bool)| row.2;
                let here: Vec<&str> = table.iter().filter(names).map(|row| row.1).collect();
                let found = if other.is_some() { "this machine has no" } else { "there is no SIMD level" };
                Err(format!("{found} `{name}`; this machine runs: {}", here.join(", ")))
            }
        }
    }
}

/// A piece of arithmetic, written once for all vector widths.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// Whether it uses the dot products of [`Vector`]; only then is it compiled for each kind of them.
    const DOTS: bool = false;

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

    /// Loads the first lanes from `from`, or all if it is long enough; the others are 0.
    #[inline(always)]
    unsafe fn load_some(from: &[f32]) -> Self {
        if from.len() >= Self::LANES {
            // SAFETY: there are values for all lanes.
            unsafe { Self::load(from.as_ptr()) }
        } else {
            let mut lanes = [0.0; 16];
            lanes[..from.len()].copy_from_slice(from);
            // SAFETY: no vector has more lanes.
            unsafe { Self::load(lanes.as_ptr()) }
        }
    }

    /// Stores the first `to.len()` lanes, or all if there are fewer.
    #[inline(always)]
    unsafe fn store_some(self, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            // SAFETY: there is room for all lanes.
            unsafe { self.store(to.as_mut_ptr()) };
        } else {
            let mut lanes = [0.0; 16];
            // SAFETY: no vector has more lanes.
            unsafe { self.store(lanes.as_mut_ptr()) };
            to.copy_from_slice(&lanes[..to.len()]);
        }
    }

    /// `LANES` words of 32 bits: whole numbers, or four bytes each.
    type Words: Copy;
    /// Loads words.
    unsafe fn load_words(from: *const u8) -> Self::Words;
    /// Stores words.
    unsafe fn store_words(words: Self::Words, to: *mut u8);
    /// The same word in each lane.
    unsafe fn splat_word(word: i32) -> Self::Words;
    /// `a & b`.
    unsafe fn and(a: Self::Words, b: Self::Words) -> Self::Words;
    /// `a | b`.
    unsafe fn or(a: Self::Words, b: Self::Words) -> Self::Words;
    /// `a << N` in each word.
    unsafe fn shift_left<const N: u32>(a: Self::Words) -> Self::Words;
    /// `a >> N` in each word, filling with zeros.
    unsafe fn shift_right<const N: u32>(a: Self::Words) -> Self::Words;
    /// Whole numbers as f32.
    unsafe fn from_words(words: Self::Words) -> Self;
    /// The nearest whole numbers, as signed bytes; values are within -128 to 127.
    unsafe fn store_i8(self, to: *mut i8);
    /// Loads unsigned bytes.
    unsafe fn load_u8(from: *const u8) -> Self;

    /// `sums[i] + Σ_j codes[i][j] * x[i][j]` over the four bytes of each word: `codes` unsigned and at most 127, `x`
    /// signed and from -127 to 127.
    unsafe fn dot4(sums: Self::Words, codes: Self::Words, x: Self::Words) -> Self::Words;
    /// [`dot4`](Self::dot4) for codes over the whole range of a byte, each 128 more than what it stands for. Where the
    /// machine has only unsigned codes, [`BIAS`](Self::BIAS) times the sum of `x` is left for the caller to subtract.
    unsafe fn dot4_biased(sums: Self::Words, codes: Self::Words, x: Self::Words) -> Self::Words;
    /// 128 where [`dot4_biased`](Self::dot4_biased) takes codes as they are, 0 where it subtracts the 128 itself.
    const BIAS: i32;

    /// Whether [`dot2_bf16`](Self::dot2_bf16) is there.
    const BF16_DOT: bool = false;
    /// `self[i] + Σ_j a[i][j] * b[i][j]` over the two bf16 halves of each word.
    unsafe fn dot2_bf16(self, _a: Self::Words, _b: Self::Words) -> Self {
        unreachable!("BF16_DOT says that this level has no bf16 dot product")
    }
    /// Both rounded to the nearest bf16, and to the even one of two; `low` in the low half of each word, `high` in the other.
    /// NaN stays NaN. Numbers below 1e-38 may become 0, as they are for the dot product.
    unsafe fn round_bf16(_low: Self, _high: Self) -> Self::Words {
        unreachable!("BF16_DOT says that this level has no bf16")
    }

    /// Transposes a square of `LANES` rows of `LANES` words: `to[j][i] = from[i][j]`, rows being `from_stride` and
    /// `to_stride` words apart.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

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
    /// Whether it is bf16, of which some machines have dot products.
    const IS_BF16: bool = false;
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
    const IS_BF16: bool = true;
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

/// Asks for the cache line at `address`, into the L2 cache. A hint: any address is allowed.
#[inline(always)]
pub fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address as *const i8)
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: prefetching never faults, whatever the address.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
