//! Quantized weights laid out for the kernels: 16 rows interleaved.
//!
//! The plain idea of a quantized dot product is in [`crate::weights::formats`]: multiply codes with the input, scale each
//! block's sum. In a file a row's blocks lie one after the other, so a vector register that holds 64 codes of one row ends
//! in a sum over its lanes, once a block. Interleaved, a register holds four codes of each of 16 rows: every lane has its
//! own row, nothing is summed across, a block's 16 scales are one vector, and a thread still reads one stream of memory.
//!
//! A panel is 16 rows. It is cut into groups: a block of Q8_0 or Q4_0, a super-block of the K formats. A group is
//!
//! | part | bytes | |
//! | --- | --- | --- |
//! | header | 32 or 64 | `d` of the 16 rows as f16; with minima, `dmin` too |
//! | then for each 32 columns: | | |
//! | codes | 512 (Q8_0) or 256 | vector `g` of 64 bytes: codes of columns `4 g..4 g + 4` of row 0, of row 1, …; half bytes: vector `g` in the low halves, vector `g + 4` in the high halves |
//! | high bits | 64 (Q5_K), 128 (Q6_K) | bit `g` of each byte of one vector; two bits at `2 (g % 4)` of vector `g / 4` |
//! | scales | 16 or 32 (K formats) | of the 16 rows; Q6_K has two for each row, of the first and the last 16 columns |
//! | minima | 16 (Q4_K, Q5_K) | of the 16 rows |
//!
//! That is the file's size, but for the 6-bit scales of Q4_K and Q5_K, which take 8 bits here (2.8 % and 2.3 % more).
//! Rows beyond the last are zeros. Codes of Q8_0 are stored 128 higher, as unsigned bytes.

use super::huge::{Arena, Part};
use super::threads::ThreadPool;
use crate::backend::huge_bytes::HugeBytes;
use crate::backend::matrix::Matrix;
use crate::weights::DType;
use crate::weights::formats::{Q4_0, Q4K, Q5K, Q6K, Q8_0, q4_k::scales_and_minima};
use half::f16;
use std::sync::RwLockReadGuard;

/// Rows of a panel: the lanes of the widest registers.
pub const PANEL: usize = 16;

/// How a format is packed; one row each in [`Layout::of`].
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Blocks of 32 columns in a group.
    pub blocks: usize,
    /// Bytes before the group's blocks.
    pub header: usize,
    /// Bytes of codes in a block.
    pub codes: usize,
    /// Bytes of high bits in a block.
    pub high: usize,
    /// 8-bit scales of a row in a block.
    pub scales: usize,
    /// 8-bit minima of a row in a block.
    pub minima: usize,
}

impl Layout {
    /// How `dtype`, a quantized format, is packed.
    pub const fn of(dtype: DType) -> Self {
        let (blocks, header, codes, high, scales, minima) = match dtype {
            DType::Q8_0 => (1, 32, 512, 0, 0, 0),
            DType::Q4_0 => (1, 32, 256, 0, 0, 0),
            DType::Q4K => (8, 64, 256, 0, 1, 1),
            DType::Q5K => (8, 64, 256, 64, 1, 1),
            DType::Q6K => (8, 32, 256, 128, 2, 0),
            _ => panic!("only block-quantized formats are packed"),
        };
        Self { blocks, header, codes, high, scales, minima }
    }

    /// Bytes of a block.
    pub const fn block_bytes(&self) -> usize {
        self.codes + self.high + PANEL * (self.scales + self.minima)
    }

    /// Bytes of a group.
    pub const fn group_bytes(&self) -> usize {
        self.header + self.blocks * self.block_bytes()
    }

    /// Bytes of a panel of `columns` columns.
    pub const fn panel_bytes(&self, columns: usize) -> usize {
        columns / (32 * self.blocks) * self.group_bytes()
    }
}

/// A quantized matrix in panels.
pub struct Packed {
    dtype: DType,
    rows: usize,
    columns: usize,
    memory: Part,
}

/// A quantized matrix while it is read.
pub struct Panels<'a> {
    packed: &'a Packed,
    chunk: RwLockReadGuard<'a, HugeBytes>,
}

/// What one block of a file says, spread out: of a super-block all 256 codes, of a small block the first 32.
struct Spread {
    d: f16,
    dmin: f16,
    codes: [u8; 256],
    scales: [u8; 16],
    minima: [u8; 8],
}

impl Packed {
    /// Packs a quantized matrix into memory of `arena`, on all threads.
    pub fn new(matrix: &Matrix, pool: &ThreadPool, arena: &Arena) -> Self {
        let (dtype, rows, columns) = (matrix.dtype(), matrix.rows(), matrix.columns());
        let layout = Layout::of(dtype);
        let panel_bytes = layout.panel_bytes(columns);
        let memory = arena.take(rows.div_ceil(PANEL) * panel_bytes);
        pool.run_chunks(&mut memory.write()[memory.range()], panel_bytes, |panel, out| {
            for r in 0..PANEL.min(rows - panel * PANEL) {
                let row = panel * PANEL + r;
                let source = matrix.bytes(row..row + 1);
                for (group, out) in out.chunks_exact_mut(layout.group_bytes()).enumerate() {
                    pack_group(&layout, &spread(dtype, source, group), r, out);
                }
            }
        });
        matrix.release();
        Self { dtype, rows, columns, memory }
    }

    /// The format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The matrix, to read.
    pub fn panels(&self) -> Panels<'_> {
        Panels { packed: self, chunk: self.memory.read() }
    }
}

impl Panels<'_> {
    /// The format.
    pub fn dtype(&self) -> DType {
        self.packed.dtype
    }

    /// The bytes of the panels that hold rows `rows`, whose start is a multiple of [`PANEL`].
    pub fn rows(&self, rows: std::ops::Range<usize>) -> &[u8] {
        let panel_bytes = Layout::of(self.packed.dtype).panel_bytes(self.packed.columns);
        assert!(rows.start.is_multiple_of(PANEL));
        let bytes = &self.chunk[self.packed.memory.range()];
        &bytes[rows.start / PANEL * panel_bytes..rows.end.div_ceil(PANEL) * panel_bytes]
    }

    /// Copies row `row` into `out: [columns]` as f32: what the packed codes stand for, as in the file.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let layout = Layout::of(self.dtype());
        let (panel, r) = (self.rows(row - row % PANEL..row + 1), row % PANEL);
        let groups = panel.chunks_exact(layout.group_bytes());
        for (group, out) in groups.zip(out.chunks_exact_mut(32 * layout.blocks)) {
            let half = |at: usize| f16::from_le_bytes([group[at], group[at + 1]]).to_f32();
            let (d, dmin) = (half(2 * r), if layout.minima > 0 { half(32 + 2 * r) } else { 0.0 });
            let blocks = group[layout.header..].chunks_exact(layout.block_bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(32)) {
                let (high, rest) = block[layout.codes..].split_at(layout.high);
                for (c, out) in out.iter_mut().enumerate() {
                    let (g, at) = (c / 4, 4 * r + c % 4);
                    let low = block[g % 4 * 64 + at] >> (4 * (g / 4)) & 15;
                    let scale = |i: usize| rest[PANEL * i + r];
                    *out = match self.dtype() {
                        DType::Q8_0 => d * (f32::from(block[g * 64 + at]) - 128.0),
                        DType::Q4_0 => d * (f32::from(low) - 8.0),
                        DType::Q4K => d * f32::from(scale(0)) * f32::from(low) - dmin * f32::from(scale(1)),
                        DType::Q5K => {
                            let code = low | (high[at] >> g & 1) << 4;
                            d * f32::from(scale(0)) * f32::from(code) - dmin * f32::from(scale(1))
                        }
                        _ => {
                            let code = low | (high[g / 4 * 64 + at] >> (2 * (g % 4)) & 3) << 4;
                            d * f32::from(scale(c / 16) as i8) * (f32::from(code) - 32.0)
                        }
                    };
                }
            }
        }
    }
}

/// Spreads block `index` of a row.
fn spread(dtype: DType, row: &[u8], index: usize) -> Spread {
    let mut s = Spread { d: f16::ZERO, dmin: f16::ZERO, codes: [0; 256], scales: [0; 16], minima: [0; 8] };
    // Sub-blocks of 32 codes share 32 bytes in pairs, the first in the low halves.
    let halves = |codes: &mut [u8], bytes: &[u8]| {
        for (codes, bytes) in codes.chunks_exact_mut(64).zip(bytes.chunks_exact(32)) {
            for l in 0..32 {
                codes[l] = bytes[l] & 15;
                codes[l + 32] = bytes[l] >> 4;
            }
        }
    };
    match dtype {
        DType::Q8_0 => {
            let block = &bytemuck::cast_slice::<u8, Q8_0>(row)[index];
            s.d = block.d;
            for (code, &stored) in s.codes.iter_mut().zip(&block.codes) {
                *code = stored as u8 ^ 0x80;
            }
        }
        DType::Q4_0 => {
            let block = &bytemuck::cast_slice::<u8, Q4_0>(row)[index];
            s.d = block.d;
            for l in 0..16 {
                s.codes[l] = block.codes[l] & 15;
                s.codes[l + 16] = block.codes[l] >> 4;
            }
        }
        DType::Q4K => {
            let block = &bytemuck::cast_slice::<u8, Q4K>(row)[index];
            (s.d, s.dmin) = (block.d, block.dmin);
            halves(&mut s.codes, &block.codes);
            let (scales, minima) = scales_and_minima(&block.scales);
            s.scales[..8].copy_from_slice(&scales);
            s.minima = minima;
        }
        DType::Q5K => {
            let block = &bytemuck::cast_slice::<u8, Q5K>(row)[index];
            (s.d, s.dmin) = (block.d, block.dmin);
            halves(&mut s.codes, &block.low);
            for (sub, codes) in s.codes.chunks_exact_mut(32).enumerate() {
                for (code, high) in codes.iter_mut().zip(&block.high) {
                    *code |= (high >> sub & 1) << 4;
                }
            }
            let (scales, minima) = scales_and_minima(&block.scales);
            s.scales[..8].copy_from_slice(&scales);
            s.minima = minima;
        }
        DType::Q6K => {
            let block = &bytemuck::cast_slice::<u8, Q6K>(row)[index];
            s.d = block.d;
            for half in 0..2 {
                let (codes, low) = (&mut s.codes[half * 128..][..128], &block.low[half * 64..][..64]);
                let high = &block.high[half * 32..][..32];
                for l in 0..32 {
                    codes[l] = low[l] & 15 | (high[l] & 3) << 4;
                    codes[l + 32] = low[l + 32] & 15 | (high[l] >> 2 & 3) << 4;
                    codes[l + 64] = low[l] >> 4 | (high[l] >> 4 & 3) << 4;
                    codes[l + 96] = low[l + 32] >> 4 | (high[l] >> 6) << 4;
                }
            }
            s.scales = block.scales.map(|scale| scale as u8);
        }
        _ => unreachable!("Layout::of has refused {dtype}"),
    }
    s
}

/// Writes row `r` of a group, whose bytes were zero.
fn pack_group(layout: &Layout, s: &Spread, r: usize, out: &mut [u8]) {
    let (header, blocks) = out.split_at_mut(layout.header);
    header[2 * r..2 * r + 2].copy_from_slice(&s.d.to_le_bytes());
    if layout.minima > 0 {
        header[32 + 2 * r..34 + 2 * r].copy_from_slice(&s.dmin.to_le_bytes());
    }
    for (b, block) in blocks.chunks_exact_mut(layout.block_bytes()).enumerate() {
        let (codes, rest) = block.split_at_mut(layout.codes);
        let (high, rest) = rest.split_at_mut(layout.high);
        for (g, four) in s.codes[32 * b..32 * b + 32].chunks_exact(4).enumerate() {
            let at = 4 * r;
            for (j, &code) in four.iter().enumerate() {
                if layout.codes == 512 {
                    codes[g * 64 + at + j] = code;
                } else {
                    codes[g % 4 * 64 + at + j] |= (code & 15) << (4 * (g / 4));
                }
                match layout.high {
                    64 => high[at + j] |= (code >> 4) << g,
                    128 => high[g / 4 * 64 + at + j] |= (code >> 4) << (2 * (g % 4)),
                    _ => {}
                }
            }
        }
        for i in 0..layout.scales {
            rest[PANEL * i + r] = s.scales[layout.scales * b + i];
        }
        if layout.minima > 0 {
            rest[PANEL * layout.scales + r] = s.minima[b];
        }
    }
}
