//! Q6_K: super-blocks of 256 values in 6 bits each; 16 sub-blocks of 16 with a signed 8-bit scale and no minimum.

use super::BlockFormat;
use half::f16;

/// 210 bytes: `value = d * scale * (code - 32)`, the scale being the sub-block's.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q6K {
    /// Low 4 bits of the codes; see [`Q6K::code`].
    pub low: [u8; 128],
    /// Upper 2 bits of the codes.
    pub high: [u8; 64],
    /// Scales of the sub-blocks of 16.
    pub scales: [i8; 16],
    /// The scale of the scales.
    pub d: f16,
}

impl Q6K {
    /// Code `i` of the block's 256, from 0 to 63.
    ///
    /// Each half of the block (128 values) has 64 bytes of `low` and 32 of `high`. Of its four quarters of 32 values, the
    /// first two use the low halves of the 64 bytes and the last two the high halves; byte `l` of `high` holds the upper
    /// bits of value `l` of all four quarters, two bits each.
    pub fn code(&self, i: usize) -> u8 {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let low = self.low[half * 64 + quarter % 2 * 32 + l] >> (4 * (quarter / 2)) & 15;
        low | (self.high[half * 32 + l] >> (2 * quarter) & 3) << 4
    }
}

impl BlockFormat for Q6K {
    const VALUES: usize = 256;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(self.scales[i / 16]) * (f32::from(self.code(i)) - 32.0);
        }
    }
}
