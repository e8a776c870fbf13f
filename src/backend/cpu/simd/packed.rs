//! Linear layers whose weights are block-quantized and [packed](crate::backend::cpu::packed): dot products of small
//! whole numbers. Longer than other files by the tables of the five formats.
//!
//! The input is rounded to 8 bits first, in blocks of 32 with a scale each. Then a block's 32 products are summed exactly
//! in 32-bit integers, and the sum is scaled once:
//!
//! ```text
//! out = Σ_blocks  weight_scale · x_scale · Σ_i code[i] · x_code[i]   -   minimum · x_scale · Σ_i x_code[i]
//! ```
//!
//! Codes that stand for `code - offset` need the sum of the inputs too: `-offset · Σ x_code` is what the integer sum
//! starts from.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "lengths are asserted at the top of each kernel; see the module above"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "indices mirror the formulas, and closures would not inherit instructions"
)]

use super::{Kernel, Vector};
use crate::backend::cpu::packed::{Layout, PANEL};
use crate::backend::cpu::threads::Block;
use crate::weights::DType;
use std::marker::PhantomData;
use std::ops::Range;

/// Columns of a block of the input, and of a weight's smallest unit that the kernels step by.
pub const BLOCK: usize = 32;

/// Vectors of four columns in a block.
const FOURS: usize = BLOCK / 4;

/// How far ahead of its reads a stream asks for memory, in bytes. Hardware prefetchers stop at the end of a page.
const AHEAD: usize = 2048;

/// A format as the kernels see it.
pub trait Format {
    /// Which.
    const DTYPE: DType;
    /// What a code stands for is `code - OFFSET`.
    const OFFSET: i32 = 0;
    /// Its layout.
    const LAYOUT: Layout = Layout::of(Self::DTYPE);
    /// Integer sums in a block: one for each scale.
    const SUMS: usize = if Self::LAYOUT.scales == 2 { 2 } else { 1 };
    /// Whether codes take all 8 bits, and stand for 128 less.
    const BIASED: bool = Self::LAYOUT.codes == 512;
}

/// [`crate::weights::formats::q8_0`]
pub struct PackedQ8_0;
/// [`crate::weights::formats::q4_0`]
pub struct PackedQ4_0;
/// [`crate::weights::formats::q4_k`]
pub struct PackedQ4K;
/// [`crate::weights::formats::q5_k`]
pub struct PackedQ5K;
/// [`crate::weights::formats::q6_k`]
pub struct PackedQ6K;

impl Format for PackedQ8_0 {
    const DTYPE: DType = DType::Q8_0;
}

impl Format for PackedQ4_0 {
    const DTYPE: DType = DType::Q4_0;
    const OFFSET: i32 = 8;
}

impl Format for PackedQ4K {
    const DTYPE: DType = DType::Q4K;
}

impl Format for PackedQ5K {
    const DTYPE: DType = DType::Q5K;
}

impl Format for PackedQ6K {
    const DTYPE: DType = DType::Q6K;
    const OFFSET: i32 = 32;
}

/// Rows of the input in 8 bits, in tiles of `tile` rows that lie interleaved.
pub struct Quantized {
    /// Rows of a tile; the last tile is filled up with zeros.
    pub tile: usize,
    /// Length of a row.
    pub columns: usize,
    /// `[tiles, columns / 4, tile, 4]`: a kernel reads the same four columns of all rows of a tile together.
    pub codes: Vec<i8>,
    /// `[tiles, columns / 32, tile]`.
    pub scales: Vec<f32>,
    /// What the integer sums of codes that stand for `code - 8` start from: -8 times the sum of a block's codes,
    /// `[tiles, columns / 32, tile]`.
    pub starts: Vec<i32>,
    /// The same of each half of a block: `[tiles, columns / 32, 2, tile]`.
    pub half_starts: Vec<i32>,
    /// What minima are multiplied with: `-scale` times the sum of a block's codes, `[tiles, columns / 32, tile]`.
    pub scaled_sums: Vec<f32>,
}

impl Quantized {
    /// Room for `rows` rows.
    pub fn new(rows: usize, tile: usize, columns: usize) -> Self {
        let (padded, blocks) = (rows.next_multiple_of(tile), columns / BLOCK);
        Self {
            tile,
            columns,
            codes: vec![0; padded * columns],
            scales: vec![0.0; padded * blocks],
            starts: vec![0; padded * blocks],
            half_starts: vec![0; 2 * padded * blocks],
            scaled_sums: vec![0.0; padded * blocks],
        }
    }

    /// Panics unless there are `rows` rows of whole groups of `F`: the kernels go on without looking.
    fn check<F: Format>(&self, rows: usize) {
        let (padded, blocks) = (rows.next_multiple_of(self.tile), self.columns / BLOCK);
        assert!(self.columns.is_multiple_of(BLOCK * F::LAYOUT.blocks) && self.codes.len() >= padded * self.columns);
        assert!([&self.scales, &self.scaled_sums].iter().all(|values| values.len() >= padded * blocks));
        assert!(self.starts.len() >= padded * blocks && self.half_starts.len() >= 2 * padded * blocks);
    }

    /// Its tiles.
    pub fn tiles(&mut self) -> Vec<QuantizedTile<'_>> {
        let blocks = self.tile * self.columns / BLOCK;
        let parts = self.codes.chunks_exact_mut(self.tile * self.columns).zip(self.scales.chunks_exact_mut(blocks));
        let starts = self.starts.chunks_exact_mut(blocks).zip(self.half_starts.chunks_exact_mut(2 * blocks));
        let parts = parts.zip(starts).zip(self.scaled_sums.chunks_exact_mut(blocks));
        let (tile, columns) = (self.tile, self.columns);
        let tile = |(((codes, scales), (starts, half_starts)), scaled_sums)| QuantizedTile {
            tile,
            columns,
            codes,
            scales,
            starts,
            half_starts,
            scaled_sums,
        };
        parts.map(tile).collect()
    }
}

/// One tile of [`Quantized`].
pub struct QuantizedTile<'a> {
    tile: usize,
    columns: usize,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
    half_starts: &'a mut [i32],
    scaled_sums: &'a mut [f32],
}

/// Rounds the rows of a tile to 8 bits.
pub struct Quantize<'a, 'b> {
    /// `[rows, columns]`, at most a tile's.
    pub x: &'a [f32],
    /// The tile.
    pub to: &'a mut QuantizedTile<'b>,
}

impl Kernel for Quantize<'_, '_> {
    type Output = ();

    /// The scale is the block's largest magnitude divided by 127. A row that holds NaN or an infinity gets the scale NaN,
    /// so that it is seen in the output.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { x, to } = self;
        let (tile, columns) = (to.tile, to.columns);
        let blocks = columns / BLOCK;
        assert!(columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns) && x.len() <= tile * columns);
        let mut rounded = [0i8; BLOCK];
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for block in 0..blocks {
                let scale = unsafe {
                    let x = x.as_ptr().add(block * BLOCK);
                    let mut largest = V::splat(0.0);
                    let mut poison = V::splat(0.0);
                    let mut i = 0;
                    while i < BLOCK {
                        let v = V::load(x.add(i));
                        largest = largest.max(v.max(V::splat(0.0).sub(v)));
                        poison = poison.add_product(v, V::splat(0.0));
                        i += V::LANES;
                    }
                    let largest = largest.largest();
                    let inverse = V::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
                    let mut i = 0;
                    while i < BLOCK {
                        V::load(x.add(i)).mul(inverse).store_i8(rounded.as_mut_ptr().add(i));
                        i += V::LANES;
                    }
                    largest / 127.0 + poison.sum()
                };
                let sum = |codes: &[i8]| -> i32 { codes.iter().map(|&code| i32::from(code)).sum() };
                let (low, high) = (sum(&rounded[..16]), sum(&rounded[16..]));
                let at = block * tile + row;
                to.scales[at] = scale;
                to.starts[at] = -8 * (low + high);
                to.scaled_sums[at] = -scale * (low + high) as f32;
                to.half_starts[2 * block * tile + row] = -8 * low;
                to.half_starts[(2 * block + 1) * tile + row] = -8 * high;
                for (g, four) in rounded.chunks_exact(4).enumerate() {
                    let at = ((block * FOURS + g) * tile + row) * 4;
                    to.codes[at..at + 4].copy_from_slice(four);
                }
            }
        }
    }
}

/// The codes of a block, one vector for each four columns: `part` says which of the panel's rows.
#[inline(always)]
unsafe fn codes<V: Vector, F: Format>(block: *const u8, part: usize) -> [V::Words; FOURS] {
    unsafe {
        let at = |vector: usize| block.add(vector * 64 + part * V::LANES * 4);
        let mut codes = [V::splat_word(0); FOURS];
        if F::BIASED {
            for g in 0..FOURS {
                codes[g] = V::load_words(at(g));
            }
            return codes;
        }
        let low = V::splat_word(0x0f0f_0f0f);
        for g in 0..4 {
            let both = V::load_words(at(g));
            codes[g] = V::and(both, low);
            codes[g + 4] = V::and(V::shift_right::<4>(both), low);
        }
        // A bit is moved to where it belongs in its byte; what comes along from others is masked away.
        if F::LAYOUT.high == 64 {
            let (bit, high) = (V::splat_word(0x1010_1010), V::load_words(at(4)));
            codes[0] = V::or(codes[0], V::and(V::shift_left::<4>(high), bit));
            codes[1] = V::or(codes[1], V::and(V::shift_left::<3>(high), bit));
            codes[2] = V::or(codes[2], V::and(V::shift_left::<2>(high), bit));
            codes[3] = V::or(codes[3], V::and(V::shift_left::<1>(high), bit));
            codes[4] = V::or(codes[4], V::and(high, bit));
            codes[5] = V::or(codes[5], V::and(V::shift_right::<1>(high), bit));
            codes[6] = V::or(codes[6], V::and(V::shift_right::<2>(high), bit));
            codes[7] = V::or(codes[7], V::and(V::shift_right::<3>(high), bit));
        }
        if F::LAYOUT.high == 128 {
            let bits = V::splat_word(0x3030_3030);
            for half in 0..2 {
                let (high, g) = (V::load_words(at(4 + half)), 4 * half);
                codes[g] = V::or(codes[g], V::and(V::shift_left::<4>(high), bits));
                codes[g + 1] = V::or(codes[g + 1], V::and(V::shift_left::<2>(high), bits));
                codes[g + 2] = V::or(codes[g + 2], V::and(high, bits));
                codes[g + 3] = V::or(codes[g + 3], V::and(V::shift_right::<2>(high), bits));
            }
        }
        codes
    }
}

/// The scales of a block's sums, and its minima.
#[inline(always)]
unsafe fn scales<V: Vector, F: Format>(group: *const u8, block: *const u8, part: usize) -> ([V; 2], V) {
    unsafe {
        let (zero, first) = (V::splat(0.0), part * V::LANES);
        let d = V::load_f16(group.cast::<half::f16>().add(first));
        let small = block.add(F::LAYOUT.codes + F::LAYOUT.high + first);
        match F::LAYOUT.scales {
            0 => ([d, zero], zero),
            1 => {
                let dmin = V::load_f16(group.add(32).cast::<half::f16>().add(first));
                ([d.mul(V::load_u8(small)), zero], dmin.mul(V::load_u8(small.add(PANEL))))
            }
            _ => ([d.mul(V::load_i8(small.cast())), d.mul(V::load_i8(small.add(PANEL).cast()))], zero),
        }
    }
}

#[inline(always)]
unsafe fn dot4<V: Vector, F: Format>(sums: V::Words, codes: V::Words, x: V::Words) -> V::Words {
    unsafe { if F::BIASED { V::dot4_biased(sums, codes, x) } else { V::dot4(sums, codes, x) } }
}

/// What the integer sum of half `half` of a block (or of the whole block, if it has one sum) starts from, for row `t` of a
/// tile.
#[inline(always)]
unsafe fn start<V: Vector, F: Format>(x: &Quantized, block: usize, half: usize, t: usize) -> V::Words {
    unsafe {
        let at = match F::SUMS {
            2 => x.half_starts.as_ptr().add((2 * block + half) * x.tile + t),
            _ => x.starts.as_ptr().add(block * x.tile + t),
        };
        match if F::BIASED { V::BIAS } else { F::OFFSET } {
            0 => V::splat_word(0),
            8 => V::splat_word(*at),
            32 => V::shift_left::<2>(V::splat_word(*at)),
            _ => V::shift_left::<4>(V::splat_word(*at)),
        }
    }
}

#[inline(always)]
unsafe fn splat_four<V: Vector>(x: *const i8) -> V::Words {
    unsafe { V::splat_word(x.cast::<i32>().read_unaligned()) }
}

/// One input row against some panels: decoding.
pub struct LinearRow<'a, 'b, F> {
    /// The panels of this block's outputs.
    pub panels: &'a [u8],
    /// One row, in tiles of one.
    pub x: &'a Quantized,
    /// `[1, outputs]`.
    pub out: &'a mut Block<'b>,
    /// The format of `panels`.
    pub format: PhantomData<F>,
}

impl<F: Format> Kernel for LinearRow<'_, '_, F> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { panels, x, out, .. } = self;
        let outputs = out.columns().len();
        let panel_bytes = F::LAYOUT.panel_bytes(x.columns);
        assert!(x.tile == 1 && out.rows().len() == 1 && panels.len() == outputs.div_ceil(PANEL) * panel_bytes);
        x.check::<F>(1);
        let row = out.rows().start;
        for (panel, out) in panels.chunks_exact(panel_bytes).zip(out.row_mut(row).chunks_mut(PANEL)) {
            let mut all = [0.0; PANEL];
            unsafe { panel_row::<V, F>(panel.as_ptr(), x, &mut all) };
            out.copy_from_slice(&all[..out.len()]);
        }
    }
}

#[inline(always)]
unsafe fn panel_row<V: Vector, F: Format>(panel: *const u8, x: &Quantized, out: &mut [f32; PANEL]) {
    unsafe {
        let parts = PANEL / V::LANES;
        let mut totals = [V::splat(0.0); PANEL / 4];
        let (mut group, mut index) = (panel, 0);
        for _ in 0..x.columns / (BLOCK * F::LAYOUT.blocks) {
            let mut block = group.add(F::LAYOUT.header);
            for _ in 0..F::LAYOUT.blocks {
                let mut line = 0;
                while line < F::LAYOUT.block_bytes() {
                    V::prefetch(block.wrapping_add(AHEAD + line));
                    line += 64;
                }
                // ANCHOR: block
                let x_scale = *x.scales.as_ptr().add(index);
                let x_codes = x.codes.as_ptr().add(index * BLOCK);
                for part in 0..parts {
                    let codes = codes::<V, F>(block, part);
                    let (scales, minima) = scales::<V, F>(group, block, part);
                    for half in 0..F::SUMS {
                        let mut dots = start::<V, F>(x, index, half, 0);
                        for g in half * 4..half * 4 + FOURS / F::SUMS {
                            dots = dot4::<V, F>(dots, codes[g], splat_four::<V>(x_codes.add(4 * g)));
                        }
                        let scale = scales[half].mul(V::splat(x_scale));
                        totals[part] = totals[part].add_product(V::from_words(dots), scale);
                    }
                    if F::LAYOUT.minima > 0 {
                        let scaled_sum = V::splat(*x.scaled_sums.as_ptr().add(index));
                        totals[part] = totals[part].add_product(minima, scaled_sum);
                    }
                }
                // ANCHOR_END: block
                block = block.add(F::LAYOUT.block_bytes());
                index += 1;
            }
            group = block;
        }
        for part in 0..parts {
            totals[part].store(out.as_mut_ptr().add(part * V::LANES));
        }
    }
}

/// Many input rows against some panels: prefill.
///
/// Each panel is unpacked once, to one byte a code and f32 scales, into scratch that stays in the L1 or L2 cache; then
/// every tile of input rows passes over it, with all sums of a tile in registers.
pub struct LinearTiles<'a, 'b, F> {
    /// The panels of this block's outputs.
    pub panels: &'a [u8],
    /// All rows, in tiles of [`tile_rows`].
    pub x: &'a Quantized,
    /// `[rows, outputs]`.
    pub out: &'a mut Block<'b>,
    /// The format of `panels`.
    pub format: PhantomData<F>,
}

/// Input rows of a tile at each vector width: with [`tile_vectors`], as many integer and f32 sums as fit into the registers.
pub const fn tile_rows(lanes: usize) -> usize {
    match lanes {
        16 => 6,
        _ => 2,
    }
}

/// Vectors of weight rows of a tile.
const fn tile_vectors(lanes: usize) -> usize {
    match lanes {
        4 => 4,
        _ => 2,
    }
}

/// A panel with codes of one byte and f32 scales.
struct Unpacked {
    /// `[blocks, 8, 64]`.
    codes: Vec<u8>,
    /// `[blocks, sums, 16]`.
    scales: Vec<f32>,
    /// `[blocks, 16]`.
    minima: Vec<f32>,
}

impl<F: Format> Kernel for LinearTiles<'_, '_, F> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { panels, x, out, .. } = self;
        let outputs = out.columns().len();
        let panel_bytes = F::LAYOUT.panel_bytes(x.columns);
        assert!(panels.len() == outputs.div_ceil(PANEL) * panel_bytes && out.rows().start.is_multiple_of(x.tile));
        x.check::<F>(out.rows().end);
        let blocks = x.columns / BLOCK;
        // With 16 lanes a vector is a whole panel.
        let together = (tile_vectors(V::LANES) * V::LANES).div_ceil(PANEL);
        let mut unpacked: Vec<_> = (0..together)
            .map(|_| Unpacked {
                codes: vec![0; blocks * FOURS * 64],
                scales: vec![0.0; blocks * F::SUMS * PANEL],
                minima: vec![0.0; if F::LAYOUT.minima > 0 { blocks * PANEL } else { 0 }],
            })
            .collect();
        for (i, packed) in panels.chunks(together * panel_bytes).enumerate() {
            unsafe {
                for (packed, to) in packed.chunks_exact(panel_bytes).zip(&mut unpacked) {
                    unpack::<V, F>(packed.as_ptr(), blocks, to);
                }
                let first = i * together * PANEL;
                match V::LANES {
                    16 => tiles::<V, F, { tile_vectors(16) }, { tile_rows(16) }>(&unpacked, x, out, first),
                    8 => tiles::<V, F, { tile_vectors(8) }, { tile_rows(8) }>(&unpacked, x, out, first),
                    _ => tiles::<V, F, { tile_vectors(4) }, { tile_rows(4) }>(&unpacked, x, out, first),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn unpack<V: Vector, F: Format>(panel: *const u8, blocks: usize, to: &mut Unpacked) {
    unsafe {
        let mut group = panel;
        for index in 0..blocks {
            if index > 0 && index % F::LAYOUT.blocks == 0 {
                group = group.add(F::LAYOUT.group_bytes());
            }
            let block = group.add(F::LAYOUT.header + index % F::LAYOUT.blocks * F::LAYOUT.block_bytes());
            for part in 0..PANEL / V::LANES {
                let lane = part * V::LANES;
                for (g, words) in codes::<V, F>(block, part).into_iter().enumerate() {
                    V::store_words(words, to.codes.as_mut_ptr().add((index * FOURS + g) * 64 + 4 * lane));
                }
                let (scales, minima) = scales::<V, F>(group, block, part);
                for half in 0..F::SUMS {
                    scales[half].store(to.scales.as_mut_ptr().add((index * F::SUMS + half) * PANEL + lane));
                }
                if F::LAYOUT.minima > 0 {
                    minima.store(to.minima.as_mut_ptr().add(index * PANEL + lane));
                }
            }
        }
    }
}

/// All input rows against unpacked panels, whose outputs begin with `first` of the block.
#[inline(always)]
unsafe fn tiles<V: Vector, F: Format, const R: usize, const T: usize>(
    panels: &[Unpacked],
    x: &Quantized,
    out: &mut Block<'_>,
    first: usize,
) {
    assert!(x.tile == T);
    let all = x.columns / BLOCK;
    let mut start = 0;
    while start < all {
        unsafe { tiles_of_blocks::<V, F, R, T>(panels, x, out, first, start..all.min(start + BLOCKS_AT_A_TIME)) };
        start += BLOCKS_AT_A_TIME;
    }
}

/// Blocks of columns that all input rows pass over before the next ones: with 512 columns, two unpacked panels (16 KiB, and
/// 2 to 6 KiB of scales) and a tile stay in an L1 cache of 32 KiB.
const BLOCKS_AT_A_TIME: usize = 16;

/// The part of [`tiles`] that some blocks of columns give, added to what `out` holds unless they are the first.
#[inline(always)]
unsafe fn tiles_of_blocks<V: Vector, F: Format, const R: usize, const T: usize>(
    panels: &[Unpacked],
    x: &Quantized,
    out: &mut Block<'_>,
    first: usize,
    some: Range<usize>,
) {
    let (rows, blocks) = (out.rows(), x.columns / BLOCK);
    let width = (panels.len() * PANEL).min(out.columns().len() - first);
    let mut row = rows.start;
    while row < rows.end {
        let tile_blocks = row / T * blocks;
        let mut lane = 0;
        while lane < width {
            // Of each vector of weight rows: its panel, and its lanes there.
            let mut at = [(&panels[0], 0); R];
            for r in 0..R {
                let lane = lane + r * V::LANES;
                at[r] = (&panels[lane / PANEL], lane % PANEL);
            }
            unsafe {
                let mut totals = [[V::splat(0.0); T]; R];
                if some.start > 0 {
                    for t in 0..T.min(rows.end - row) {
                        let out = &out.row_mut(row + t)[first..first + width];
                        for r in 0..R {
                            if lane + r * V::LANES < width {
                                totals[r][t] = V::load_some(&out[lane + r * V::LANES..]);
                            }
                        }
                    }
                }
                for block in some.start..some.end {
                    let x_codes = x.codes.as_ptr().add((tile_blocks + block) * T * BLOCK);
                    let x_scales = x.scales.as_ptr().add((tile_blocks + block) * T);
                    for half in 0..F::SUMS {
                        let mut dots = [[V::splat_word(0); T]; R];
                        for t in 0..T {
                            let start = start::<V, F>(x, tile_blocks + block, half, t);
                            for r in 0..R {
                                dots[r][t] = start;
                            }
                        }
                        for g in half * 4..half * 4 + FOURS / F::SUMS {
                            let mut weights = [V::splat_word(0); R];
                            for r in 0..R {
                                let (panel, lane) = at[r];
                                weights[r] =
                                    V::load_words(panel.codes.as_ptr().add((block * FOURS + g) * 64 + 4 * lane));
                            }
                            for t in 0..T {
                                let x = splat_four::<V>(x_codes.add((g * T + t) * 4));
                                for r in 0..R {
                                    dots[r][t] = dot4::<V, F>(dots[r][t], weights[r], x);
                                }
                            }
                        }
                        for r in 0..R {
                            let (panel, lane) = at[r];
                            let scale = V::load(panel.scales.as_ptr().add((block * F::SUMS + half) * PANEL + lane));
                            for t in 0..T {
                                let scale = scale.mul(V::splat(*x_scales.add(t)));
                                totals[r][t] = totals[r][t].add_product(V::from_words(dots[r][t]), scale);
                            }
                        }
                    }
                    if F::LAYOUT.minima > 0 {
                        let scaled_sums = x.scaled_sums.as_ptr().add((tile_blocks + block) * T);
                        for r in 0..R {
                            let (panel, lane) = at[r];
                            let minima = V::load(panel.minima.as_ptr().add(block * PANEL + lane));
                            for t in 0..T {
                                totals[r][t] = totals[r][t].add_product(minima, V::splat(*scaled_sums.add(t)));
                            }
                        }
                    }
                }
                for t in 0..T.min(rows.end - row) {
                    let out = &mut out.row_mut(row + t)[first..first + width];
                    for r in 0..R {
                        if lane + r * V::LANES < width {
                            totals[r][t].store_some(&mut out[lane + r * V::LANES..]);
                        }
                    }
                }
            }
            lane += R * V::LANES;
        }
        row += T;
    }
}
