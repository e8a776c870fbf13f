//! Q5_K: Q4_K with a fifth bit for each code, kept apart.

use super::q4_k::{pack_codes, pack_scales_and_minima};
use super::super_block::{self, SuperBlock};
use super::{Activations, BlockFormat};
use half::f16;

/// 176 bytes: `value = d * scale * code - dmin * min`, scale and min being the sub-block's.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q5K {
    /// The scale of the 8 scales.
    pub d: f16,
    /// The scale of the 8 minima.
    pub dmin: f16,
    /// 8 scales and 8 minima of 6 bits; see [`super::q4_k::scales_and_minima`].
    pub scales: [u8; 12],
    /// Bit `s` of byte `l` is the fifth bit of code `l` of sub-block `s`.
    pub high: [u8; 32],
    /// The low 4 bits, as in Q4_K.
    pub low: [u8; 128],
}

impl Q5K {
    /// Code `i` of the block's 256.
    pub fn code(&self, i: usize) -> u8 {
        let (sub, l) = (i / 32, i % 32);
        let low = self.low[sub / 2 * 32 + l] >> (4 * (sub % 2)) & 15;
        low | (self.high[l] >> sub & 1) << 4
    }
}

impl BlockFormat for Q5K {
    const VALUES: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        super_block::dequantize(self.d, self.dmin, &self.scales, |i| self.code(i), out);
    }

    fn dot(&self, x: &[Activations]) -> f32 {
        super_block::dot(self.d, self.dmin, &self.scales, |i| self.code(i), x)
    }

    fn quantize(values: &[f32], importance: Option<&[f32]>) -> Self {
        let SuperBlock { d, dmin, scales, minima, codes } = super_block::quantize(values, importance, 31.0);
        let high = std::array::from_fn(|l| (0..8).fold(0, |byte, s| byte | codes[s * 32 + l] >> 4 << s));
        Self { d, dmin, scales: pack_scales_and_minima(&scales, &minima), high, low: pack_codes(&codes) }
    }
}
