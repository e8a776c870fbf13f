//! Q4_K: super-blocks of 256 values in 4 bits each; 8 sub-blocks of 32 with a 6-bit scale and a 6-bit minimum.
//!
//! The minimum moves the 16 codes to where the values are: weights of a sub-block need not lie around zero.

use super::super_block::{self, SuperBlock};
use super::{Activations, BlockFormat};
use half::f16;

/// 144 bytes: `value = d * scale * code - dmin * min`, scale and min being the sub-block's.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q4K {
    /// The scale of the 8 scales.
    pub d: f16,
    /// The scale of the 8 minima.
    pub dmin: f16,
    /// 8 scales and 8 minima of 6 bits; see [`scales_and_minima`].
    pub scales: [u8; 12],
    /// Byte `32 c + l` holds code `l` of sub-block `2 c` in its low half and of sub-block `2 c + 1` in its high half.
    pub codes: [u8; 128],
}

/// The 6-bit scales and minima of 8 sub-blocks, from 12 bytes.
///
/// Bytes 0 to 3 hold scales 0 to 3 in their low 6 bits, bytes 4 to 7 minima 0 to 3. Bytes 8 to 11 hold the low 4 bits of
/// scales (low half) and minima (high half) 4 to 7, whose upper 2 bits fill the upper 2 bits of bytes 0 to 7.
pub fn scales_and_minima(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = bytes[j] & 63;
        minima[j] = bytes[j + 4] & 63;
        scales[j + 4] = bytes[j + 8] & 15 | bytes[j] >> 6 << 4;
        minima[j + 4] = bytes[j + 8] >> 4 | bytes[j + 4] >> 6 << 4;
    }
    (scales, minima)
}

/// The way back from [`scales_and_minima`].
pub fn pack_scales_and_minima(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = scales[j] | scales[j + 4] >> 4 << 6;
        bytes[j + 4] = minima[j] | minima[j + 4] >> 4 << 6;
        bytes[j + 8] = scales[j + 4] & 15 | minima[j + 4] << 4;
    }
    bytes
}

/// The low 4 bits of 256 codes, two to a byte, as [`Q4K::codes`] lays them out.
pub fn pack_codes(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|at| {
        let first = at / 32 * 64 + at % 32;
        codes[first] & 15 | codes[first + 32] << 4
    })
}

impl Q4K {
    /// Code `i` of the block's 256.
    pub fn code(&self, i: usize) -> u8 {
        let (sub, l) = (i / 32, i % 32);
        self.codes[sub / 2 * 32 + l] >> (4 * (sub % 2)) & 15
    }
}

impl BlockFormat for Q4K {
    const VALUES: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        super_block::dequantize(self.d, self.dmin, &self.scales, |i| self.code(i), out);
    }

    fn dot(&self, x: &[Activations]) -> f32 {
        super_block::dot(self.d, self.dmin, &self.scales, |i| self.code(i), x)
    }

    fn quantize(values: &[f32], importance: Option<&[f32]>) -> Self {
        let SuperBlock { d, dmin, scales, minima, codes } = super_block::quantize(values, importance, 15.0);
        Self { d, dmin, scales: pack_scales_and_minima(&scales, &minima), codes: pack_codes(&codes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    /// Sub-block `s` has scale `s + 1` and minimum `s`, and its code `l` is `(l + s) % 16`.
    fn block() -> Q4K {
        let codes = std::array::from_fn(|i| ((i % 32 + i / 32) % 16) as u8);
        let scales = pack_scales_and_minima(&[1, 2, 3, 4, 5, 6, 7, 8], &[0, 1, 2, 3, 4, 5, 6, 7]);
        Q4K { d: f16::from_f32(0.5), dmin: f16::from_f32(0.25), scales, codes: pack_codes(&codes) }
    }

    #[test]
    fn two_sub_blocks_share_their_bytes() {
        let mut block = block();
        // Byte 0 holds code 0 of sub-block 0 (low half) and of sub-block 1 (high half), byte 33 code 1 of 2 and of 3.
        (block.codes[0], block.codes[33]) = (0xA3, 0x5C);
        let found = [0, 32, 65, 97].map(|i| block.code(i));
        expect::same("codes 0, 32, 65 and 97", &found, &[0x3, 0xA, 0xC, 0x5]);
    }

    #[test]
    fn values_by_hand() {
        let mut out = [f32::NAN; 256];
        block().dequantize(&mut out);
        // 0.5 · scale · code - 0.25 · minimum; code 2 of sub-block 0 is 2, of sub-block 3 it is 5: 0.5 · 4 · 5 - 0.25 · 3 = 9.25.
        let found = [0, 2, 32, 34, 96, 98, 255].map(|i| out[i]);
        expect::close("values 0, 2, 32, 34, 96, 98 and 255", &found, &[0.0, 1.0, 0.75, 2.75, 5.25, 9.25, 22.25], 0.0);
    }
}
