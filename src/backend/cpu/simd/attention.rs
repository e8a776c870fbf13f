//! Attention over the tiles of the KV cache. Longer than other files, because decode and prefill are two versions of one
//! operation and share its tiles.
//!
//! The cache's tiles are laid out so that scores and weighted values are one piece of arithmetic, [`sums`]: for each query
//! head, numbers times the rows of a tile, added up over the rows.
//!
//! ```text
//! scores of 32 positions = Σ over dims       query[dim]       * keys[dim][32 positions]
//! output of 32 dims      = Σ over positions  weight[position] * values[position][32 dims]
//! ```
//!
//! [`Decode`] reads tiles as they are stored, widened in registers, because each is needed once; [`Prefill`] widens them
//! once for all rows of a block.

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
use crate::backend::huge_bytes::HugeBytes;
use crate::model::kv_cache::{KvElement, KvTile, Q8Tile, TILE, Tile};
use half::f16;

/// Positions whose scores are computed, turned into weights and used at a time.
///
/// In decoding it is the unit of work that threads share, a constant so that results do not depend on their number: 64
/// KiB of f16 keys and values at head_dim 128, which take ten times as long to read as a task takes to be handed out. In
/// prefill it is what is widened at a time: 64 KiB of keys and the same of values stay in the L2 cache, and 32 of its
/// positions or dims (16 KiB) in the L1 cache while all rows pass over them.
pub const PIECE: usize = 128;

/// How far ahead of its use decoding asks for a cache line: a page, so that the processor's own prefetcher, which stops
/// at the end of each page, finds the next one begun. 1,024 and 8,192 gain less.
const AHEAD: usize = 4096;

/// A tile, as attention reads it.
pub trait AttentionTile: KvTile {
    /// `Σ_dim q[r][dim] * keys[dim][..]` for a block of 32 positions: `chunks` tiles, one after the other.
    ///
    /// # Safety
    /// `q` has `R` rows of `32 * chunks` values, `stride` apart; `C` vectors are [`TILE`] lanes; and as for [`Vector`].
    unsafe fn scores<V: Vector, const R: usize, const C: usize, const U: usize>(
        keys: *const Self,
        chunks: usize,
        q: *const f32,
        stride: usize,
    ) -> [[V; C]; R];

    /// `Σ_position weights[r][position] * values[position][..]` for the first `positions` of a tile.
    ///
    /// # Safety
    /// `weights` has `R` rows of 32 values, `stride` apart; the rest is as for [`scores`](Self::scores).
    unsafe fn weighted<V: Vector, const R: usize, const C: usize, const U: usize>(
        values: *const Self,
        weights: *const f32,
        stride: usize,
        positions: usize,
    ) -> [[V; C]; R];

    /// The tile of keys as f32.
    ///
    /// # Safety
    /// `to` has room for 32 rows of 32 values; and as for [`Vector`].
    unsafe fn widen_keys<V: Vector>(&self, to: *mut f32);

    /// The tile of values as f32.
    ///
    /// # Safety
    /// As for [`widen_keys`](Self::widen_keys).
    unsafe fn widen_values<V: Vector>(&self, to: *mut f32);
}

impl<T: KvElement + Element> AttentionTile for Tile<T> {
    #[inline(always)]
    unsafe fn scores<V: Vector, const R: usize, const C: usize, const U: usize>(
        keys: *const Self,
        chunks: usize,
        q: *const f32,
        stride: usize,
    ) -> [[V; C]; R] {
        unsafe { sums::<V, T, R, C, U, AHEAD>(q, [stride, 1], keys.cast(), chunks * TILE) }
    }
    #[inline(always)]
    unsafe fn weighted<V: Vector, const R: usize, const C: usize, const U: usize>(
        values: *const Self,
        weights: *const f32,
        stride: usize,
        positions: usize,
    ) -> [[V; C]; R] {
        unsafe { sums::<V, T, R, C, U, AHEAD>(weights, [stride, 1], values.cast(), positions) }
    }
    #[inline(always)]
    unsafe fn widen_keys<V: Vector>(&self, to: *mut f32) {
        unsafe {
            let from = self.as_ptr().cast::<T>();
            let mut i = 0;
            while i < TILE * TILE {
                T::load::<V>(from.add(i)).store(to.add(i));
                i += V::LANES;
            }
        }
    }
    #[inline(always)]
    unsafe fn widen_values<V: Vector>(&self, to: *mut f32) {
        unsafe { self.widen_keys::<V>(to) }
    }
}

/// The scale of a tile of keys belongs to a column: it multiplies the sum of a tile's products. The scale of a tile of
/// values belongs to a row: it joins the position's weight. So codes are only converted, never scaled one by one.
impl AttentionTile for Q8Tile {
    #[inline(always)]
    unsafe fn scores<V: Vector, const R: usize, const C: usize, const U: usize>(
        keys: *const Self,
        chunks: usize,
        q: *const f32,
        stride: usize,
    ) -> [[V; C]; R] {
        unsafe {
            let mut total = [[V::splat(0.0); C]; R];
            for chunk in 0..chunks {
                let tile = &*keys.add(chunk);
                let q = q.add(chunk * TILE);
                let codes = sums::<V, i8, R, C, U, AHEAD>(q, [stride, 1], tile.codes.as_ptr().cast(), TILE);
                for c in 0..C {
                    let scale = f16::load::<V>(tile.scales.as_ptr().add(c * V::LANES));
                    for r in 0..R {
                        total[r][c] = total[r][c].add_product(scale, codes[r][c]);
                    }
                }
            }
            total
        }
    }
    #[inline(always)]
    unsafe fn weighted<V: Vector, const R: usize, const C: usize, const U: usize>(
        values: *const Self,
        weights: *const f32,
        stride: usize,
        positions: usize,
    ) -> [[V; C]; R] {
        unsafe {
            let tile = &*values;
            let mut scaled = [[0.0f32; TILE]; R];
            for c in 0..C {
                let at = c * V::LANES;
                let scale = f16::load::<V>(tile.scales.as_ptr().add(at));
                for r in 0..R {
                    V::load(weights.add(r * stride + at)).mul(scale).store(scaled[r].as_mut_ptr().add(at));
                }
            }
            sums::<V, i8, R, C, U, AHEAD>(scaled.as_ptr().cast(), [TILE, 1], tile.codes.as_ptr().cast(), positions)
        }
    }
    #[inline(always)]
    unsafe fn widen_keys<V: Vector>(&self, to: *mut f32) {
        unsafe {
            let mut column = 0;
            while column < TILE {
                let scale = f16::load::<V>(self.scales.as_ptr().add(column));
                for row in 0..TILE {
                    let codes = V::load_i8(self.codes[row].as_ptr().add(column));
                    codes.mul(scale).store(to.add(row * TILE + column));
                }
                column += V::LANES;
            }
        }
    }
    #[inline(always)]
    unsafe fn widen_values<V: Vector>(&self, to: *mut f32) {
        unsafe {
            let mut scales = [0.0f32; TILE];
            let mut column = 0;
            while column < TILE {
                f16::load::<V>(self.scales.as_ptr().add(column)).store(scales.as_mut_ptr().add(column));
                column += V::LANES;
            }
            for row in 0..TILE {
                let scale = V::splat(scales[row]);
                let mut column = 0;
                while column < TILE {
                    let codes = V::load_i8(self.codes[row].as_ptr().add(column));
                    codes.mul(scale).store(to.add(row * TILE + column));
                    column += V::LANES;
                }
            }
        }
    }
}

/// `Σ_i a[r][i] * b[i]` for `R` rows of `a` and `C` vectors of each row of `b: [rows, TILE]`; `a[r][i]` is at
/// `r * strides[0] + i * strides[1]`.
///
/// Every `U`-th row (of `U` = 1, 2 or 4) has sums of its own, added up at the end: a product waits four cycles for the
/// one before it in the same sum, so eight sums have to be under way, and decoding has fewer rows than that. Cache lines
/// `AHEAD` bytes after those in use are asked for; 0: none.
#[inline(always)]
unsafe fn sums<V: Vector, E: Element, const R: usize, const C: usize, const U: usize, const AHEAD: usize>(
    a: *const f32,
    strides: [usize; 2],
    b: *const E,
    rows: usize,
) -> [[V; C]; R] {
    unsafe {
        let mut sums = [[[V::splat(0.0); C]; R]; U];
        let mut i = 0;
        // Four rows a turn, so that counting is a small part of the instructions.
        while i + 4 <= rows {
            if AHEAD > 0 {
                let next = b.add(i * TILE).cast::<u8>().wrapping_add(AHEAD);
                for line in (0..4 * TILE * size_of::<E>()).step_by(64) {
                    V::prefetch(next.wrapping_add(line));
                }
            }
            for u in 0..4 {
                let (a, b) = (a.add((i + u) * strides[1]), b.add((i + u) * TILE));
                add_row::<V, E, R, C>(&mut sums[u % U], a, strides[0], b);
            }
            i += 4;
        }
        while i < rows {
            add_row::<V, E, R, C>(&mut sums[0], a.add(i * strides[1]), strides[0], b.add(i * TILE));
            i += 1;
        }
        for u in 1..U {
            for r in 0..R {
                for c in 0..C {
                    sums[0][r][c] = sums[0][r][c].add(sums[u][r][c]);
                }
            }
        }
        sums[0]
    }
}

/// `sums[r] += a[r * stride] * b`, with `C` vectors in a row.
#[inline(always)]
unsafe fn add_row<V: Vector, E: Element, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    a: *const f32,
    stride: usize,
    b: *const E,
) {
    unsafe {
        let mut row = [V::splat(0.0); C];
        for c in 0..C {
            row[c] = E::load::<V>(b.add(c * V::LANES));
        }
        for r in 0..R {
            let factor = V::splat(*a.add(r * stride));
            for c in 0..C {
                sums[r][c] = sums[r][c].add_product(factor, row[c]);
            }
        }
    }
}

/// Turns the first `len` scores into `exp(score - largest)`, with `largest` the largest of them and of `before`; returns
/// it and their sum. What follows up to a multiple of [`TILE`], which there must be room for, is overwritten.
#[inline(always)]
unsafe fn exp_scores<V: Vector>(scores: *mut f32, len: usize, before: f32) -> (f32, f32) {
    unsafe {
        let padded = len.next_multiple_of(TILE);
        for i in len..padded {
            *scores.add(i) = f32::NEG_INFINITY;
        }
        let mut largest = V::splat(before);
        let mut i = 0;
        while i < padded {
            largest = largest.max(V::load(scores.add(i)));
            i += V::LANES;
        }
        // A NaN may be lost here; its own weight is NaN all the same, and with it the sum.
        let largest = largest.largest();
        let (shift, mut sum) = (V::splat(largest), V::splat(0.0));
        let mut i = 0;
        while i < padded {
            let weight = V::load(scores.add(i)).sub(shift).exp();
            weight.store(scores.add(i));
            sum = sum.add(weight);
            i += V::LANES;
        }
        (largest, sum.sum())
    }
}

/// One token's attention over one piece of one KV head, for all query heads that share it.
///
/// The softmax of a piece is relative to the piece's largest score; [`Reduce`] brings the pieces together.
pub struct Decode<'a, T> {
    /// Queries times `1 / sqrt(head_dim)`: `[group, width]`, with `width` = `head_dim` filled up to a multiple of 32.
    pub q: &'a [f32],
    /// The piece's keys: `[blocks, width / 32]` tiles.
    pub keys: &'a [T],
    /// The piece's values.
    pub values: &'a [T],
    /// Positions in the piece; what the tiles hold after them is not used.
    pub positions: usize,
    /// Query heads.
    pub group: usize,
    /// `[group, width]` weighted values, `[group]` largest scores, `[group]` sums of weights.
    pub partial: &'a mut [f32],
}

impl<T: AttentionTile> Kernel for Decode<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (group, chunks) = (self.group, self.q.len() / self.group / TILE);
        let tiles = self.positions.div_ceil(TILE) * chunks;
        assert!(self.q.len() == group * chunks * TILE && self.partial.len() == self.q.len() + 2 * group);
        assert!(self.keys.len() >= tiles && self.values.len() >= tiles && self.positions <= PIECE);
        let (mut head, mut piece) = (0, self);
        while head < group {
            // As many heads as there are registers for; the piece stays in the L2 cache for the next ones.
            head += match (V::LANES, group - head) {
                (16, 4..) => unsafe { decode_heads::<V, T, 4, 2, 1>(&mut piece, head, chunks) },
                (16, 2..) => unsafe { decode_heads::<V, T, 2, 2, 2>(&mut piece, head, chunks) },
                (16, _) => unsafe { decode_heads::<V, T, 1, 2, 4>(&mut piece, head, chunks) },
                (8, 2..) => unsafe { decode_heads::<V, T, 2, 4, 1>(&mut piece, head, chunks) },
                (8, _) => unsafe { decode_heads::<V, T, 1, 4, 2>(&mut piece, head, chunks) },
                (_, 2..) => unsafe { decode_heads::<V, T, 2, 8, 1>(&mut piece, head, chunks) },
                (_, _) => unsafe { decode_heads::<V, T, 1, 8, 1>(&mut piece, head, chunks) },
            };
        }
    }
}

/// [`Decode`] for `R` heads from `head` on; returns `R`.
#[inline(always)]
unsafe fn decode_heads<V: Vector, T: AttentionTile, const R: usize, const C: usize, const U: usize>(
    piece: &mut Decode<'_, T>,
    head: usize,
    chunks: usize,
) -> usize {
    unsafe {
        let (width, blocks) = (chunks * TILE, piece.positions.div_ceil(TILE));
        let q = piece.q.as_ptr().add(head * width);
        let mut weights = [[0.0f32; PIECE]; R];
        for block in 0..blocks {
            let scores = T::scores::<V, R, C, U>(piece.keys.as_ptr().add(block * chunks), chunks, q, width);
            for r in 0..R {
                for c in 0..C {
                    scores[r][c].store(weights[r].as_mut_ptr().add(block * TILE + c * V::LANES));
                }
            }
        }
        let (outputs, state) = piece.partial.split_at_mut(piece.group * width);
        for r in 0..R {
            let weights = weights[r].as_mut_ptr();
            let (largest, sum) = exp_scores::<V>(weights, piece.positions, f32::NEG_INFINITY);
            (state[head + r], state[piece.group + head + r]) = (largest, sum);
        }
        let outputs = outputs.as_mut_ptr().add(head * width);
        for block in 0..blocks {
            let positions = TILE.min(piece.positions - block * TILE);
            for chunk in 0..chunks {
                let values = piece.values.as_ptr().add(block * chunks + chunk);
                let weights = weights.as_ptr().cast::<f32>().add(block * TILE);
                let weighted = T::weighted::<V, R, C, U>(values, weights, PIECE, positions);
                for r in 0..R {
                    for c in 0..C {
                        let at = outputs.add(r * width + chunk * TILE + c * V::LANES);
                        let before = if block == 0 { V::splat(0.0) } else { V::load(at) };
                        before.add(weighted[r][c]).store(at);
                    }
                }
            }
        }
    }
    R
}

/// Brings the pieces of one KV head together, in order.
pub struct Reduce<'a> {
    /// `[pieces]` of what [`Decode`] writes.
    pub partials: &'a [f32],
    /// Query heads.
    pub group: usize,
    /// `[group, head_dim]`.
    pub out: &'a mut [f32],
}

impl Kernel for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // EXERCISE: m5.reduce
        let Self { partials, group, out } = self;
        let head_dim = out.len() / group;
        let width = head_dim.next_multiple_of(TILE);
        let size = group * (width + 2);
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0);
            for piece in partials.chunks_exact(size) {
                let score = piece[group * width + head];
                largest = if score > largest { score } else { largest };
            }
            out.fill(0.0);
            for piece in partials.chunks_exact(size) {
                let factor = (piece[group * width + head] - largest).exp();
                sum += factor * piece[group * (width + 1) + head];
                for (out, value) in out.iter_mut().zip(&piece[head * width..]) {
                    *out += factor * value;
                }
            }
            for out in out {
                *out /= sum;
            }
        }
        // EXERCISE_END
    }
}

/// Causal attention of a block of tokens over one KV head, with an online softmax.
///
/// The softmax never sees all scores at once: it keeps the largest score so far and the sum of `exp(score - largest)`,
/// and scales what it has when a larger one comes (arXiv 1805.02867). So a piece of the cache is widened once, for all
/// rows: a row is one token's query of one head of the group.
pub struct Prefill<'a, 'b, T> {
    /// All queries: `[tokens, heads, head_dim]`.
    pub q: &'a [f32],
    /// Keys of this KV head: `[blocks, head_dim / 32]` tiles.
    pub keys: &'a [T],
    /// Values of this KV head.
    pub values: &'a [T],
    /// Query heads in all.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Position of token 0.
    pub start: usize,
    /// Memory that is kept from block to block.
    pub scratch: &'a mut HugeBytes,
    /// This block's tokens, and the columns of the query heads that share the KV head: `[tokens, group * head_dim]`.
    pub out: &'a mut Block<'b>,
}

impl<T: AttentionTile> Kernel for Prefill<'_, '_, T> {
    type Output = ();

    /// Register tiles of rows by columns: as many sums as registers allow, since each loaded value is used once a row.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        match V::LANES {
            16 => unsafe { prefill::<V, T, 8, 2>(self) },
            8 => unsafe { prefill::<V, T, 6, 2>(self) },
            _ => unsafe { prefill::<V, T, 4, 4>(self) },
        }
    }
}

/// What the online softmax knows of a row.
#[derive(Clone, Copy)]
struct Row {
    /// Positions that it may see.
    end: usize,
    /// The largest score so far.
    largest: f32,
    /// Σ exp(score - largest).
    sum: f32,
    /// What this piece's larger score makes of the outputs so far.
    shrink: f32,
}

/// [`Prefill`] in register tiles of `R` rows by `C` vectors.
#[inline(always)]
unsafe fn prefill<V: Vector, T: AttentionTile, const R: usize, const C: usize>(block: Prefill<'_, '_, T>) {
    let Prefill { q, keys, values, heads, head_dim, start, scratch, out } = block;
    let (tokens, columns) = (out.rows(), out.columns());
    let group = columns.len() / head_dim;
    let (chunks, width) = (head_dim.div_ceil(TILE), head_dim.next_multiple_of(TILE));
    let positions = start + tokens.end;
    let tiles = positions.div_ceil(TILE) * chunks;
    assert!(keys.len() >= tiles && values.len() >= tiles);
    assert!(q.len() >= tokens.end * heads * head_dim && columns.end <= heads * head_dim);

    // Rows in order of position; the last is repeated to fill a register tile.
    let row_of = |row: usize| (tokens.start + row / group, row % group * head_dim);
    let last = tokens.len() * group - 1;
    let rows = (last + 1).next_multiple_of(R);
    let row_state = |row: usize| Row {
        end: start + row_of(row.min(last)).0 + 1,
        largest: f32::NEG_INFINITY,
        sum: 0.0,
        shrink: 1.0,
    };
    let mut states: Vec<Row> = (0..rows).map(row_state).collect();

    let bytes = (2 * PIECE * width + rows * (2 * width + PIECE)) * size_of::<f32>();
    if scratch.len() < bytes {
        *scratch = HugeBytes::zeroed(bytes);
    }
    unsafe {
        let wide_keys = scratch.as_mut_ptr().cast::<f32>(); // [blocks, width, 32 positions]
        let wide_values = wide_keys.add(PIECE * width); //     [chunks, PIECE, 32 dims]
        let queries = wide_values.add(PIECE * width); //       [rows / R, width, R]
        let weights = queries.add(rows * width); //            [rows, PIECE]
        let outputs = weights.add(rows * PIECE); //            [rows, width]
        let scale = 1.0 / (head_dim as f32).sqrt();
        for row in 0..rows {
            let (token, column) = row_of(row.min(last));
            let from = q.as_ptr().add(token * heads * head_dim + columns.start + column);
            let to = queries.add(row / R * R * width + row % R);
            for i in 0..head_dim {
                *to.add(i * R) = *from.add(i) * scale;
            }
            for i in head_dim..width {
                *to.add(i * R) = 0.0;
            }
        }
        outputs.write_bytes(0, rows * width);

        let mut piece = 0;
        while piece < positions {
            let blocks = PIECE.min(positions - piece).div_ceil(TILE);
            for block in 0..blocks {
                for chunk in 0..chunks {
                    let tile = (piece / TILE + block) * chunks + chunk;
                    keys[tile].widen_keys::<V>(wide_keys.add((block * chunks + chunk) * TILE * TILE));
                    values[tile].widen_values::<V>(wide_values.add((chunk * PIECE + block * TILE) * TILE));
                }
            }
            // Positions of this piece that a row sees.
            let seen = |row: &Row| row.end.saturating_sub(piece).min(PIECE);

            // weights[row] = queries[row] · keys
            for block in 0..blocks {
                for row in (0..rows).step_by(R) {
                    if seen(&states[row + R - 1]) <= block * TILE {
                        continue;
                    }
                    for column in (0..TILE).step_by(C * V::LANES) {
                        let b = wide_keys.add(block * TILE * width + column);
                        let scores = sums::<V, f32, R, C, 1, 0>(queries.add(row * width), [1, R], b, width);
                        for r in 0..R {
                            for c in 0..C {
                                let at = (row + r) * PIECE + block * TILE + column + c * V::LANES;
                                scores[r][c].store(weights.add(at));
                            }
                        }
                    }
                }
            }

            // weights[row] = exp(weights[row] - largest)
            for row in 0..rows {
                let state = &mut states[row];
                let before = state.largest;
                state.shrink = 1.0;
                if seen(state) > 0 {
                    let (largest, sum) = exp_scores::<V>(weights.add(row * PIECE), seen(state), before);
                    if largest != before {
                        state.shrink = (before - largest).exp();
                    }
                    state.largest = largest;
                    state.sum = state.sum * state.shrink + sum;
                }
            }

            // outputs[row] = outputs[row] * shrink + weights[row] · values
            for chunk in 0..chunks {
                for row in (0..rows).step_by(R) {
                    // What all rows of the tile see, and then the few positions on the diagonal row by row: a weight
                    // of 0 would not do, since 0 times an infinite value is not 0.
                    let common = seen(&states[row]);
                    if seen(&states[row + R - 1]) == 0 {
                        continue;
                    }
                    for column in (0..TILE).step_by(C * V::LANES) {
                        let b = wide_values.add(chunk * PIECE * TILE + column);
                        let to = outputs.add(row * width + chunk * TILE + column);
                        let a = weights.add(row * PIECE);
                        let weighted = sums::<V, f32, R, C, 1, 0>(a, [PIECE, 1], b, common);
                        for r in 0..R {
                            let more = seen(&states[row + r]) - common;
                            let mut weighted = weighted[r];
                            if more > 0 {
                                let (a, b) = (a.add(r * PIECE + common), b.add(common * TILE));
                                let [diagonal] = sums::<V, f32, 1, C, 1, 0>(a, [PIECE, 1], b, more);
                                for c in 0..C {
                                    weighted[c] = weighted[c].add(diagonal[c]);
                                }
                            }
                            let shrink = V::splat(states[row + r].shrink);
                            for c in 0..C {
                                let at = to.add(r * width + c * V::LANES);
                                weighted[c].add_product(V::load(at), shrink).store(at);
                            }
                        }
                    }
                }
            }
            piece += PIECE;
        }

        for row in 0..=last {
            let (token, column) = row_of(row);
            let from = outputs.add(row * width);
            for i in (0..width).step_by(V::LANES) {
                V::load(from.add(i)).div(V::splat(states[row].sum)).store(from.add(i));
            }
            let out = &mut out.row_mut(token)[column..column + head_dim];
            out.copy_from_slice(std::slice::from_raw_parts(from, head_dim));
        }
    }
}
