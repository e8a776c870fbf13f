//! Linear layers whose weights are f32, f16 or bf16.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "lengths are asserted at the top of each kernel; see the module above"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "indices mirror the formulas, and closures would not inherit instructions"
)]

use super::{Element, Kernel, Vector};
use crate::backend::cpu::threads::Block;
use std::cell::Cell;
use std::ops::Range;

/// `out[r][o] = x[r] · weights[o]` for one block of outputs.
pub struct Linear<'a, 'b, E> {
    /// The weight rows of this block's outputs: `[outputs, columns]`.
    pub weights: &'a [E],
    /// All input rows: `[rows, columns]`.
    pub x: &'a [f32],
    /// Length of a row.
    pub columns: usize,
    /// `[rows, outputs]`.
    pub out: &'a mut Block<'b>,
}

impl<E: Element> Kernel for Linear<'_, '_, E> {
    type Output = ();

    /// Tiles of 4 weight rows by 4 input rows keep 16 sums in registers, so that each loaded vector is used four times
    /// (AVX2 has half the registers and takes 2 input rows).
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let rows = self.out.rows();
        let outputs = self.out.columns().len();
        assert!(self.weights.len() == outputs * self.columns && self.x.len() >= rows.end * self.columns);
        if rows.len() == 1 {
            let x = unsafe { self.x.as_ptr().add(rows.start * self.columns) };
            for (weights, out) in self.weights.chunks_exact(self.columns).zip(self.out.row_mut(rows.start)) {
                *out = unsafe { dot_stream::<V, E>(weights, x) };
            }
            return;
        }
        let mut row = rows.start;
        while row < rows.end {
            let x = unsafe { self.x.as_ptr().add(row * self.columns) };
            row += match rows.end - row {
                4.. if V::LANES != 8 => unsafe { linear_rows::<V, E, 4>(x, row, self.weights, self.columns, self.out) },
                2.. if V::LANES == 8 => unsafe { linear_rows::<V, E, 2>(x, row, self.weights, self.columns, self.out) },
                _ => unsafe { linear_rows::<V, E, 1>(x, row, self.weights, self.columns, self.out) },
            };
        }
    }
}

/// How far ahead of its reads decoding asks for memory, in bytes: a page, because the processor's own prefetcher stops at
/// the end of one.
const AHEAD: usize = 4096;

// ANCHOR: dot_stream
/// One weight row with one input row: decoding. The weights are read as one stream in the order in
/// which they lie, which is all that matters; four sums keep the multiplications from waiting for
/// each other.
#[inline(always)]
unsafe fn dot_stream<V: Vector, E: Element>(weights: &[E], x: *const f32) -> f32 {
    unsafe {
        let (from, step) = (weights.as_ptr(), 4 * V::LANES);
        let whole = weights.len() - weights.len() % step;
        let mut sums = [V::splat(0.0); 4];
        let mut i = 0;
        while i < whole {
            let mut line = 0;
            while line < step * size_of::<E>() {
                V::prefetch(from.add(i).cast::<u8>().wrapping_add(AHEAD + line));
                line += 64;
            }
            for j in 0..4 {
                let at = i + j * V::LANES;
                sums[j] = sums[j].add_product(E::load::<V>(from.add(at)), V::load(x.add(at)));
            }
            i += step;
        }
        let mut total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
        for i in whole..weights.len() {
            total += weights[i].widen() * *x.add(i);
        }
        total
    }
}
// ANCHOR_END: dot_stream

/// `X` input rows against all weight rows of a block; returns `X`.
#[inline(always)]
unsafe fn linear_rows<V: Vector, E: Element, const X: usize>(
    x: *const f32,
    row: usize,
    weights: &[E],
    columns: usize,
    out: &mut Block<'_>,
) -> usize {
    let outputs = out.columns().len();
    let mut o = 0;
    while o < outputs {
        let w = unsafe { weights.as_ptr().add(o * columns) };
        if o + 4 <= outputs {
            let sums = unsafe { dot_tile::<V, E, 4, X>(w, x, columns) };
            for r in 0..X {
                let out = out.row_mut(row + r);
                for (i, sums) in sums.iter().enumerate() {
                    out[o + i] = sums[r];
                }
            }
            o += 4;
        } else {
            let sums = unsafe { dot_tile::<V, E, 1, X>(w, x, columns) };
            for (r, sum) in sums[0].iter().enumerate() {
                out.row_mut(row + r)[o] = *sum;
            }
            o += 1;
        }
    }
    X
}

/// The dot products of `W` rows at `weights` with `X` rows at `x`, all of length `columns` and contiguous.
#[inline(always)]
pub(super) unsafe fn dot_tile<V: Vector, E: Element, const W: usize, const X: usize>(
    weights: *const E,
    x: *const f32,
    columns: usize,
) -> [[f32; X]; W] {
    unsafe {
        let mut sums = [[V::splat(0.0); X]; W];
        let whole = columns - columns % V::LANES;
        let mut i = 0;
        while i < whole {
            let mut inputs = [V::splat(0.0); X];
            for r in 0..X {
                inputs[r] = V::load(x.add(r * columns + i));
            }
            for w in 0..W {
                let weight = E::load::<V>(weights.add(w * columns + i));
                for r in 0..X {
                    sums[w][r] = sums[w][r].add_product(weight, inputs[r]);
                }
            }
            i += V::LANES;
        }
        let mut totals = [[0.0; X]; W];
        for w in 0..W {
            for r in 0..X {
                let mut total = sums[w][r].sum();
                for i in whole..columns {
                    total += (*weights.add(w * columns + i)).widen() * *x.add(r * columns + i);
                }
                totals[w][r] = total;
            }
        }
        totals
    }
}

/// Input rows in tiles of `tile` that lie interleaved, so that a kernel reads the same columns of a tile's rows together.
pub struct Interleaved {
    /// Rows of a tile; the last tile is filled up with zeros.
    pub tile: usize,
    /// Words of a row: one for each column, or one for two columns rounded to bf16.
    pub words: usize,
    /// `[tiles, words, tile]`: f32 values, or the bits of bf16 pairs.
    pub values: Vec<f32>,
}

/// Interleaves the rows of one tile.
pub struct Interleave<'a> {
    /// `[rows, columns]`, of at most one tile.
    pub x: &'a [f32],
    /// Rows of a tile.
    pub tile: usize,
    /// Length of a row.
    pub columns: usize,
    /// Whether to round to bf16.
    pub bf16: bool,
    /// The tile's part of [`Interleaved::values`].
    pub to: &'a mut [f32],
}

impl Kernel for Interleave<'_> {
    type Output = ();
    const DOTS: bool = true;

    /// Squares of `LANES` rows and columns are transposed in registers: stored one by one, with the length of a tile between
    /// them, the values took a third of the time of a layer with as many outputs as Qwen3-0.6B's.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { x, tile, columns, bf16, to } = self;
        let per_word = 1 + usize::from(bf16);
        let count = x.len() / columns;
        assert!(count <= tile && tile <= MOST_ROWS && to.len() >= columns.div_ceil(per_word) * tile);
        let mut square = [0.0f32; MOST_ROWS * MOST_ROWS];
        let mut turned = [0.0f32; MOST_ROWS * MOST_ROWS];
        let whole = columns - columns % V::LANES;
        for column in (0..whole).step_by(V::LANES) {
            for (i, first) in (0..tile).step_by(V::LANES).enumerate() {
                for row in first..count.min(first + V::LANES) {
                    unsafe {
                        V::load(x.as_ptr().add(row * columns + column)).store(square.as_mut_ptr().add(row * V::LANES))
                    };
                }
                let at = i * V::LANES * V::LANES;
                unsafe { V::transpose(square.as_ptr().add(at), V::LANES, turned.as_mut_ptr().add(at), V::LANES) };
            }
            for word in 0..V::LANES / per_word {
                // Lanes beyond the tile's rows are the next word's, which is stored after this one.
                for (i, first) in (0..tile).step_by(V::LANES).enumerate() {
                    let to = &mut to[(column / per_word + word) * tile + first..];
                    let from = turned[(i * V::LANES + word * per_word) * V::LANES..].as_ptr();
                    let mut last = [0.0f32; MOST_ROWS];
                    let cut = to.len() < V::LANES;
                    let place = if cut { last.as_mut_ptr() } else { to.as_mut_ptr() };
                    unsafe {
                        if bf16 {
                            let pair = V::round_bf16(V::load(from), V::load(from.add(V::LANES)));
                            V::store_words(pair, place.cast());
                        } else {
                            V::load(from).store(place);
                        }
                    }
                    if cut {
                        to.copy_from_slice(&last[..to.len()]);
                    }
                }
            }
        }
        for (row, x) in x.chunks_exact(columns).enumerate() {
            for (word, pair) in x[whole..].chunks(per_word).enumerate() {
                let bits =
                    |value: Option<&f32>| u32::from(half::bf16::from_f32(value.copied().unwrap_or(0.0)).to_bits());
                let word = &mut to[(whole / per_word + word) * tile + row];
                *word = if bf16 { f32::from_bits(bits(pair.first()) | bits(pair.get(1)) << 16) } else { pair[0] };
            }
        }
    }
}

/// Rows of the largest tile, in whole vectors.
const MOST_ROWS: usize = 16;

/// Many input rows against some weight rows: prefill.
///
/// The dot products of [`Linear`] take two loads for every few multiplications. Here a panel of weight rows is widened and
/// transposed once, into scratch that stays in the L2 cache; then one vector holds the same column of `LANES` weight rows,
/// is multiplied with one input value that all lanes share, and every loaded vector is used for a whole tile of input rows.
pub struct LinearPanels<'a, 'b, E> {
    /// The weight rows of this block's outputs: `[outputs, columns]`.
    pub weights: &'a [E],
    /// Length of a row.
    pub columns: usize,
    /// All input rows, in tiles of [`panel_tile`]; as bf16 pairs if the weights are bf16 and the level has dot products of
    /// them.
    pub x: &'a Interleaved,
    /// `[rows, outputs]`.
    pub out: &'a mut Block<'b>,
}

/// Input rows of a tile at each vector width, and vectors of weight rows: all their sums fit into the registers.
pub const fn panel_tile(lanes: usize) -> (usize, usize) {
    match lanes {
        16 => (12, 2),
        8 => (6, 2),
        _ => (6, 4),
    }
}

impl<E: Element> Kernel for LinearPanels<'_, '_, E> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { weights, columns, x, out } = self;
        let outputs = out.columns().len();
        assert!(weights.len() == outputs * columns);
        let bf16 = V::BF16_DOT && E::IS_BF16;
        assert!(x.words == if bf16 { columns.div_ceil(2) } else { columns });
        assert!(x.values.len() >= out.rows().end.div_ceil(x.tile) * x.tile * x.words);
        let (per_word, width) = (if bf16 { 2 } else { 1 }, panel_tile(V::LANES).1 * V::LANES);
        let panel_words = WORDS_AT_A_TIME * width;
        let panels = outputs.div_ceil(width);
        let mut scratch = SCRATCH.take();
        if scratch.len() < panels * panel_words {
            scratch.resize(panels * panel_words, 0.0);
        }
        let mut word = 0;
        while word < x.words {
            let words = word..x.words.min(word + WORDS_AT_A_TIME);
            let some = word * per_word..columns.min(words.end * per_word);
            let scratch = &mut scratch[..panels * panel_words];
            for (rows, panel) in weights.chunks(width * columns).zip(scratch.chunks_exact_mut(panel_words)) {
                unsafe { transpose_rows::<V, E>(rows, columns, some.clone(), bf16, width, panel) };
            }
            unsafe {
                match (V::LANES, bf16) {
                    (16, true) => panel_tiles::<V, 2, { panel_tile(16).0 }, true>(scratch, x, out, words),
                    (16, false) => panel_tiles::<V, 2, { panel_tile(16).0 }, false>(scratch, x, out, words),
                    (8, _) => panel_tiles::<V, 2, { panel_tile(8).0 }, false>(scratch, x, out, words),
                    (_, true) => panel_tiles::<V, 4, { panel_tile(4).0 }, true>(scratch, x, out, words),
                    _ => panel_tiles::<V, 4, { panel_tile(4).0 }, false>(scratch, x, out, words),
                }
            }
            word += WORDS_AT_A_TIME;
        }
        SCRATCH.set(scratch);
    }
}

thread_local! {
    /// Panels of [`LinearPanels`]: making them anew for each block would clear them for nothing.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Words of a row that all input rows pass over before the next ones: a tile of 12 input rows is 24 KiB then and stays in the
/// L1 cache for all panels of a block, of which four take 256 KiB of the L2 cache. A multiple of every vector's lanes.
const WORDS_AT_A_TIME: usize = 512;

/// How many words ahead of their multiplications a panel and a tile of the input are fetched from the L2 into the L1 cache. The
/// processor alone does it too late: without this, waiting for the two vectors of weights was 45 % of the time.
const WORDS_AHEAD: usize = 16;

/// `panel[word][row] = rows[row][word]` for columns `range`, widened to f32, or as bf16 pairs; rows that are not there are left
/// as they are.
#[inline(always)]
unsafe fn transpose_rows<V: Vector, E: Element>(
    rows: &[E],
    columns: usize,
    range: Range<usize>,
    bf16: bool,
    width: usize,
    panel: &mut [f32],
) {
    /// Columns that are widened at a time: with 16 rows of them, a quarter of the L1 cache.
    const COLUMNS: usize = 128;
    let count = rows.len() / columns;
    let mut wide = [0.0f32; 16 * COLUMNS];
    let per_word = if bf16 { 2 } else { 1 };
    let mut column = range.start;
    while column < range.end {
        let some = COLUMNS.min(range.end - column);
        let words = some.div_ceil(per_word);
        let mut row = 0;
        while row < width {
            for r in 0..V::LANES.min(count.saturating_sub(row)) {
                let from = &rows[(row + r) * columns + column..][..some];
                let to = &mut wide[r * COLUMNS..];
                if bf16 {
                    // Two neighbours are one word already.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            from.as_ptr().cast::<u8>(),
                            to.as_mut_ptr().cast::<u8>(),
                            2 * some,
                        )
                    };
                    if some % 2 == 1 {
                        to[words - 1] = f32::from_bits(to[words - 1].to_bits() & 0xffff);
                    }
                } else {
                    let whole = some - some % V::LANES;
                    let mut i = 0;
                    while i < whole {
                        unsafe { E::load::<V>(from.as_ptr().add(i)).store(to.as_mut_ptr().add(i)) };
                        i += V::LANES;
                    }
                    for i in whole..some {
                        to[i] = from[i].widen();
                    }
                }
            }
            let mut word = 0;
            while word < words {
                let at = ((column - range.start) / per_word + word) * width + row;
                assert!(at + (V::LANES - 1) * width + V::LANES <= panel.len());
                unsafe { V::transpose(wide.as_ptr().add(word), COLUMNS, panel.as_mut_ptr().add(at), width) };
                word += V::LANES;
            }
            row += V::LANES;
        }
        column += some;
    }
}

/// All input rows against the panels of a block: what words `words` give, added to what `out` holds unless they are the first.
#[inline(always)]
unsafe fn panel_tiles<V: Vector, const R: usize, const T: usize, const BF16: bool>(
    panels: &[f32],
    x: &Interleaved,
    out: &mut Block<'_>,
    words: Range<usize>,
) {
    assert!(x.tile == T && panels.len().is_multiple_of(WORDS_AT_A_TIME * R * V::LANES));
    assert!(words.len() <= WORDS_AT_A_TIME && words.end <= x.words);
    let (rows, outputs) = (out.rows(), out.columns().len());
    let mut row = rows.start;
    while row < rows.end {
        let count = T.min(rows.end - row);
        for (i, panel) in panels.chunks_exact(WORDS_AT_A_TIME * R * V::LANES).enumerate() {
            let first = i * R * V::LANES;
            let mut sums = unsafe { [[V::splat(0.0); T]; R] };
            unsafe {
                if words.start > 0 {
                    for t in 0..count {
                        let out = &*out.row_mut(row + t);
                        for r in 0..R {
                            if first + r * V::LANES < outputs {
                                sums[r][t] = V::load_some(&out[first + r * V::LANES..]);
                            }
                        }
                    }
                }
                let mut weights = panel.as_ptr();
                let mut inputs = x.values.as_ptr().add(row / T * T * x.words + words.start * T);
                // ANCHOR: tile
                for _ in words.start..words.end {
                    for r in 0..R {
                        V::prefetch(weights.wrapping_add((WORDS_AHEAD * R + r) * V::LANES).cast());
                    }
                    V::prefetch(inputs.wrapping_add(WORDS_AHEAD * T).cast());
                    if BF16 {
                        let mut words = [V::splat_word(0); R];
                        for r in 0..R {
                            words[r] = V::load_words(weights.add(r * V::LANES).cast());
                        }
                        for t in 0..T {
                            let x = V::splat_word(inputs.add(t).cast::<i32>().read_unaligned());
                            for r in 0..R {
                                sums[r][t] = sums[r][t].dot2_bf16(words[r], x);
                            }
                        }
                    } else {
                        let mut columns = [V::splat(0.0); R];
                        for r in 0..R {
                            columns[r] = V::load(weights.add(r * V::LANES));
                        }
                        for t in 0..T {
                            let x = V::splat(*inputs.add(t));
                            for r in 0..R {
                                sums[r][t] = sums[r][t].add_product(columns[r], x);
                            }
                        }
                    }
                    weights = weights.add(R * V::LANES);
                    inputs = inputs.add(T);
                }
                // ANCHOR_END: tile
                for t in 0..count {
                    let out = out.row_mut(row + t);
                    for r in 0..R {
                        if first + r * V::LANES < outputs {
                            sums[r][t].store_some(&mut out[first + r * V::LANES..]);
                        }
                    }
                }
            }
        }
        row += T;
    }
}
