//! Rows of a block format as the fast kernels read them: `metal/packed.h` says the layout.
//!
//! The bytes of a row are sorted anew, into planes: codes where 16 bytes can be read at once, scales apart from them. A row has
//! as many bytes as before (and up to 14 more, so that the next begins at a multiple of 16), and the same numbers.

use crate::weights::DType;

/// The kernels' rows begin at multiples of this.
pub(super) const ALIGNMENT: usize = 16;

/// From one packed row to the next.
pub(super) fn row_bytes(dtype: DType, columns: usize) -> usize {
    dtype.bytes(columns).expect("rows are whole blocks").next_multiple_of(ALIGNMENT)
}

/// Packs a row of a block format into `to`.
pub(super) fn pack(dtype: DType, row: &[u8], columns: usize, to: &mut [u8]) {
    let blocks = row.chunks_exact(dtype.layout().block_bytes).enumerate();
    match dtype {
        DType::Q8_0 => {
            let (codes, scales) = to.split_at_mut(columns);
            for (b, block) in blocks {
                scales[2 * b..][..2].copy_from_slice(&block[..2]);
                for (to, code) in codes[32 * b..].iter_mut().zip(&block[2..]) {
                    *to = code ^ 0x80;
                }
            }
        }
        DType::Q4_0 => {
            let (codes, scales) = to.split_at_mut(columns / 2);
            for (b, block) in blocks {
                scales[2 * b..][..2].copy_from_slice(&block[..2]);
                let code = |i: usize| (block[2 + i % 16] >> (4 * (i / 16))) & 15;
                in_order(code, &mut codes[16 * b..][..16]);
            }
        }
        DType::Q4K => {
            let (codes, headers) = to.split_at_mut(columns / 2);
            for (b, block) in blocks {
                header(block, &mut headers[16 * b..][..16]);
                for s in 0..8 {
                    let code = |l: usize| (block[16 + s / 2 * 32 + l] >> (4 * (s % 2))) & 15;
                    in_order(code, &mut codes[128 * b + 16 * s..][..16]);
                }
            }
        }
        DType::Q5K => {
            let (low, rest) = to.split_at_mut(columns / 2);
            let (high, headers) = rest.split_at_mut(columns / 8);
            for (b, block) in blocks {
                header(block, &mut headers[16 * b..][..16]);
                for s in 0..8 {
                    let code = |l: usize| (block[48 + s / 2 * 32 + l] >> (4 * (s % 2))) & 15;
                    by_bytes(code, &mut low[128 * b + 16 * s..][..16]);
                    // Bit 8 i + t is column 4 t + i's.
                    let word =
                        (0..32).fold(0, |word, l| word | u32::from((block[16 + l] >> s) & 1) << (8 * (l % 4) + l / 4));
                    high[32 * b + 4 * s..][..4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        DType::Q6K => {
            let (low, rest) = to.split_at_mut(columns / 2);
            let (high, rest) = rest.split_at_mut(columns / 4);
            let (scales, d) = rest.split_at_mut(columns / 16);
            for (b, block) in blocks {
                scales[16 * b..][..16].copy_from_slice(&block[192..208]);
                d[2 * b..][..2].copy_from_slice(&block[208..]);
                for s in 0..8 {
                    let (part, quarter) = (s / 4, s % 4);
                    let code = |l: usize| (block[part * 64 + quarter % 2 * 32 + l] >> (4 * (quarter / 2))) & 15;
                    by_bytes(code, &mut low[128 * b + 16 * s..][..16]);
                    // Bits 8 i + 2 t and the next are column 4 t + i's.
                    let words = (0..32).fold(0, |words, l| {
                        let bits = (block[128 + part * 32 + l] >> (2 * quarter)) & 3;
                        words | u64::from(bits) << (32 * (l / 16) + 8 * (l % 4) + 2 * (l % 16 / 4))
                    });
                    high[64 * b + 8 * s..][..8].copy_from_slice(&words.to_le_bytes());
                }
            }
        }
        DType::F32 | DType::F16 | DType::BF16 => unreachable!("{dtype} has no blocks"),
        DType::Q4_1 => unreachable!("kept in f16: see `Tensor::for_kernels`"),
    }
}

/// 32 codes of 4 bits, one after the other.
fn in_order(code: impl Fn(usize) -> u8, to: &mut [u8]) {
    for (i, to) in to.iter_mut().enumerate() {
        *to = code(2 * i) | code(2 * i + 1) << 4;
    }
}

/// 32 codes of 4 bits, of 8 the first four in the low halves of 4 bytes and the others in the high halves.
fn by_bytes(code: impl Fn(usize) -> u8, to: &mut [u8]) {
    for (i, to) in to.iter_mut().enumerate() {
        let first = i / 4 * 8 + i % 4;
        *to = code(first) | code(first + 4) << 4;
    }
}

/// The scales of a Q4_K or Q5_K block: d and dmin, then for each sub-block a byte, scale (6 bits) and the low two bits of the
/// minimum, then for each the other 4 bits of the minimum.
fn header(block: &[u8], to: &mut [u8]) {
    to.fill(0);
    to[..4].copy_from_slice(&block[..4]);
    let bytes = &block[4..16];
    for s in 0..8 {
        let (scale, min) = match s {
            0..4 => (bytes[s] & 63, bytes[s + 4] & 63),
            _ => (bytes[s + 4] & 15 | bytes[s - 4] >> 6 << 4, bytes[s + 4] >> 4 | bytes[s] >> 6 << 4),
        };
        to[4 + s] = scale | min << 6;
        to[12 + s / 2] |= min >> 2 << (4 * (s % 2));
    }
}
