//! Linear layers: where nearly all the time goes.
//!
//! The plain idea is [`crate::backend::reference::linear`]: every output is a dot product. For one input row (decode)
//! each weight is read once and used once, so the time is the time to read the weights; for many (prefill) each
//! weight read is used for every row, so the time is the arithmetic's.
//!
//! Outputs are cut into blocks of weight rows; a thread streams a block's rows, which lie one after the other. How a block
//! is computed depends on the weights and on the number of input rows:
//!
//! | weights | few rows | many rows |
//! | --- | --- | --- |
//! | f32, f16, bf16, in place | [`Linear`]: dot products | [`LinearPanels`]: transposed panels |
//! | quantized, [packed](super::packed) | [`LinearRow`] | [`LinearTiles`]: unpacked panels |
//!
//! Layers with the same input are one job for the threads, and share what the input is turned into: 8-bit codes for
//! quantized weights, interleaved tiles for panels.

use super::packed::{PANEL, Panels};
use super::simd::{
    Format, Interleave, Interleaved, Linear, LinearPanels, LinearRow, LinearTiles, PackedQ4_0, PackedQ4K, PackedQ5K,
    PackedQ6K, PackedQ8_0, Quantize, Quantized, panel_tile, tile_rows,
};
use super::threads::{Block, Cut};
use super::{Cpu, CpuWeight, Form};
use crate::backend::matrix::Elements;
use crate::weights::DType;
use std::marker::PhantomData;

/// Bytes of weights in a block of decoding: a microsecond's, so that taking a block costs little beside it and a thread that
/// is held up leaves little for the others to wait for.
const BLOCK_BYTES: usize = 16 << 10;

/// Input rows from which on panels are worth their transposition.
const MANY_ROWS: usize = 9;

/// `out[r][o] = x[r] · weight[o]`; see [`crate::backend::Backend::linear`].
pub fn linear(cpu: &Cpu, out: &mut [f32], x: &[f32], weight: &CpuWeight, rows: usize) {
    linear_many(cpu, [out], x, [weight], rows);
}

/// Several linear layers of one input.
pub fn linear_many<const N: usize>(cpu: &Cpu, out: [&mut [f32]; N], x: &[f32], weights: [&CpuWeight; N], rows: usize) {
    let columns = weights[0].columns();
    assert!(weights.iter().all(|weight| weight.columns() == columns), "layers of one input have one width");
    let x = &x[..rows * columns];
    let dtypes = weights.map(CpuWeight::dtype);
    let quantized = dtypes.iter().any(|dtype| dtype.is_quantized()).then(|| quantize(cpu, x, columns));
    let many = rows >= MANY_ROWS;
    let bf16_dot = cpu.level.has_bf16_dot();
    let as_pairs = |dtype: &DType| bf16_dot && *dtype == DType::BF16;
    let tiles = |wanted: bool, bf16: bool| (many && wanted).then(|| interleave(cpu, x, columns, bf16));
    let pairs = tiles(dtypes.iter().any(as_pairs), true);
    let values = tiles(dtypes.iter().any(|dtype| !dtype.is_quantized() && !as_pairs(dtype)), false);

    let mut out = out.into_iter();
    let cuts = weights.map(|weight| {
        let outputs = weight.rows();
        let values = &mut out.next().expect("as many as there are weights")[..rows * outputs];
        Cut { values, columns: outputs, block: (rows, block_outputs(cpu, weight, many)) }
    });
    let locked = weights.map(|weight| match &weight.form {
        Form::Packed(packed) => Some(packed.panels()),
        Form::InPlace(_) => None,
    });
    if !many {
        let stored = |which: usize| match (&weights[which].form, &locked[which]) {
            (Form::Packed(packed), Some(panels)) => panels.rows(0..packed.rows()),
            (Form::InPlace(matrix), _) => matrix.bytes(0..matrix.rows()),
            (Form::Packed(_), None) => unreachable!("locked above"),
        };
        let memory = (0..N).map(|which| stored(which).as_ptr_range()).map(|at| at.start as usize..at.end as usize);
        cpu.pool.expect(&cpu.order.next_after(memory.collect()));
    }
    cpu.pool.run_blocks_of(cuts, |which, out| {
        let panels = if as_pairs(&dtypes[which]) { &pairs } else { &values };
        match (&weights[which].form, &quantized, panels) {
            (Form::Packed(_), Some(x), _) => packed(cpu, locked[which].as_ref().expect("locked above"), x, out),
            (Form::InPlace(weight), _, Some(x)) => match weight.elements(out.columns()) {
                Elements::F32(weights) => cpu.level.run(LinearPanels { weights, columns, x, out }),
                Elements::F16(weights) => cpu.level.run(LinearPanels { weights, columns, x, out }),
                Elements::BF16(weights) => cpu.level.run(LinearPanels { weights, columns, x, out }),
            },
            (Form::InPlace(weight), _, None) => match weight.elements(out.columns()) {
                Elements::F32(weights) => cpu.level.run(Linear { weights, x, columns, out }),
                Elements::F16(weights) => cpu.level.run(Linear { weights, x, columns, out }),
                Elements::BF16(weights) => cpu.level.run(Linear { weights, x, columns, out }),
            },
            (Form::Packed(_), None, _) => unreachable!("made above for packed weights"),
        }
    });
}

/// Outputs of a block: whole panels of packed weights, and whole tiles of others; at least four blocks a thread where there
/// is enough work.
fn block_outputs(cpu: &Cpu, weight: &CpuWeight, many: bool) -> usize {
    let unit = match (&weight.form, many) {
        // Four panels of in-place weights share a tile of the input while it is in the L1 cache.
        (Form::InPlace(_), true) => 8 * PANEL,
        (Form::Packed(_), true) => 2 * PANEL,
        (Form::Packed(_), false) => PANEL,
        (Form::InPlace(_), false) => 4,
    };
    let wanted = if many { unit } else { BLOCK_BYTES / weight.row_bytes().max(1) };
    let by_threads = weight.rows().div_ceil(4 * cpu.pool.threads());
    wanted.min(by_threads).max(1).next_multiple_of(unit)
}

/// Some outputs of quantized weights.
fn packed(cpu: &Cpu, weight: &Panels<'_>, x: &Quantized, out: &mut Block<'_>) {
    match weight.dtype() {
        DType::Q8_0 => packed_as::<PackedQ8_0>(cpu, weight, x, out),
        DType::Q4_0 => packed_as::<PackedQ4_0>(cpu, weight, x, out),
        DType::Q4K => packed_as::<PackedQ4K>(cpu, weight, x, out),
        DType::Q5K => packed_as::<PackedQ5K>(cpu, weight, x, out),
        DType::Q6K => packed_as::<PackedQ6K>(cpu, weight, x, out),
        DType::F32 | DType::F16 | DType::BF16 | DType::Q4_1 => unreachable!("not packed: see `Tensor::for_kernels`"),
    }
}

fn packed_as<F: Format>(cpu: &Cpu, weight: &Panels<'_>, x: &Quantized, out: &mut Block<'_>) {
    let panels = weight.rows(out.columns());
    if out.rows().len() == 1 {
        cpu.level.run(LinearRow::<F> { panels, x, out, format: PhantomData });
    } else {
        cpu.level.run(LinearTiles::<F> { panels, x, out, format: PhantomData });
    }
}

/// Rounds the input to 8 bits, once for all layers that read it.
fn quantize(cpu: &Cpu, x: &[f32], columns: usize) -> Quantized {
    let rows = x.len() / columns;
    let tile = if rows == 1 { 1 } else { tile_rows(cpu.level.lanes()) };
    let mut quantized = Quantized::new(rows, tile, columns);
    let mut tiles: Vec<_> = quantized.tiles().into_iter().zip(x.chunks(tile * columns)).collect();
    cpu.pool.run_chunks(&mut tiles, 1, |_, tile| {
        for (to, x) in tile {
            cpu.level.run(Quantize { x, to });
        }
    });
    quantized
}

/// Interleaves the input's rows, once for all layers that read it.
fn interleave(cpu: &Cpu, x: &[f32], columns: usize, bf16: bool) -> Interleaved {
    let tile = panel_tile(cpu.level.lanes()).0;
    let words = if bf16 { columns.div_ceil(2) } else { columns };
    let tiles = (x.len() / columns).div_ceil(tile);
    let mut values = vec![0.0; tiles * tile * words];
    cpu.pool.run_chunks(&mut values, tile * words, |i, to| {
        let x = &x[i * tile * columns..x.len().min((i + 1) * tile * columns)];
        cpu.level.run(Interleave { x, tile, columns, bf16, to });
    });
    Interleaved { tile, words, values }
}

impl CpuWeight {
    /// Number of rows: output features.
    fn rows(&self) -> usize {
        match &self.form {
            Form::InPlace(matrix) => matrix.rows(),
            Form::Packed(packed) => packed.rows(),
        }
    }

    /// Number of columns: input features.
    fn columns(&self) -> usize {
        match &self.form {
            Form::InPlace(matrix) => matrix.columns(),
            Form::Packed(packed) => packed.columns(),
        }
    }

    fn dtype(&self) -> DType {
        match &self.form {
            Form::InPlace(matrix) => matrix.dtype(),
            Form::Packed(packed) => packed.dtype(),
        }
    }

    fn row_bytes(&self) -> usize {
        self.dtype().bytes(self.columns()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Level;
    use half::bf16;

    /// At every level, each value of a tile is the one that a loop over rows and columns puts there, and the rows that a tile
    /// lacks are zeros: the last vector of a tile must not reach into the next one, nor lanes into the next word.
    #[test]
    fn interleaved_rows_are_those_of_a_plain_loop() {
        for level in Level::available() {
            let cpu = Cpu::with_level(Some(2), level);
            let tile = panel_tile(level.lanes()).0;
            for (rows, columns) in [1, tile - 1, tile, tile + 1, 3 * tile - 2].into_iter().flat_map(|rows| {
                [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 100].into_iter().map(move |columns| (rows, columns))
            }) {
                let mut x: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 1013) as f32 / 97.0 - 5.0).collect();
                // Halfway between two of bf16 (the even one is below, then above), too large for it, and no numbers.
                let special =
                    [0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0000, 0xffff_ffff, 0x7f80_0001];
                for (i, bits) in special.into_iter().enumerate() {
                    if let Some(value) = x.get_mut(i * 5) {
                        *value = f32::from_bits(bits);
                    }
                }
                let value = |row: usize, column: usize| {
                    if row < rows && column < columns { x[row * columns + column] } else { 0.0 }
                };
                let plain = interleave(&cpu, &x, columns, false);
                let pairs = level.has_bf16_dot().then(|| interleave(&cpu, &x, columns, true));
                for row in 0..rows.next_multiple_of(tile) {
                    let at = |words: usize, word: usize| (row / tile * words + word) * tile + row % tile;
                    for column in 0..columns {
                        let found = plain.values[at(columns, column)].to_bits();
                        assert_eq!(
                            found,
                            value(row, column).to_bits(),
                            "{level:?}: {rows} x {columns}: {row}, {column}"
                        );
                    }
                    for (word, column) in pairs.iter().flat_map(|_| (0..columns).step_by(2).enumerate()) {
                        let found = pairs.as_ref().map_or(0, |pairs| pairs.values[at(pairs.words, word)].to_bits());
                        for (half, column) in [(found as u16, column), ((found >> 16) as u16, column + 1)] {
                            let (found, wanted) = (bf16::from_bits(half), bf16::from_f32(value(row, column)));
                            let same = found == wanted || found.is_nan() && wanted.is_nan();
                            assert!(same, "{level:?}: {rows} x {columns}: {row}, {column}: {found} for {wanted}");
                        }
                    }
                }
            }
        }
    }
}
