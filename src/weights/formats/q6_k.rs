//! Q6_K: super-blocks of 256 values in 6 bits each; 16 sub-blocks of 16 with a signed 8-bit scale and no minimum.

use super::search::{code, error, fit_scale, inverse, largest, nearest, outward, weigh};
use super::{Activations, BlockFormat};
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

    /// Sets all codes; see [`code`](Self::code). They have been zero.
    fn set_codes(&mut self, codes: &[u8; 256]) {
        for (i, code) in codes.iter().enumerate() {
            let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
            self.low[half * 64 + quarter % 2 * 32 + l] |= (code & 15) << (4 * (quarter / 2));
            self.high[half * 32 + l] |= code >> 4 << (2 * quarter);
        }
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

    fn dot(&self, x: &[Activations]) -> f32 {
        let sub = |s: usize| {
            let (x, first) = (&x[s / 2], s % 2 * 16);
            let products = x.dot(first..first + 16, |i| i32::from(self.code(s / 2 * 32 + i)) - 32);
            x.scale * f32::from(self.scales[s]) * products
        };
        self.d.to_f32() * (0..16).map(sub).sum::<f32>()
    }

    fn quantize(values: &[f32], importance: Option<&[f32]>) -> Self {
        let mut block = Self { low: [0; 128], high: [0; 64], scales: [0; 16], d: f16::ZERO };
        let unit = largest(values).abs();
        if unit < 1e-30 {
            block.set_codes(&[32; 256]);
            return block;
        }
        let (mut x, mut w) = ([0.0; 256], [0.0; 256]);
        x.iter_mut().zip(values).for_each(|(x, value)| *x = value / unit);
        weigh(importance, &mut w);
        let sub = |s: usize| (&x[s * 16..][..16], &w[s * 16..][..16]);

        let wanted: [f32; 16] = std::array::from_fn(|s| fit_scale(sub(s).0, sub(s).1, -32.0, 31.0));
        // The largest scale takes the side that reaches further.
        block.d = outward(largest(&wanted) / -128.0 * unit);
        let d = block.d.to_f32() / unit;
        let mut codes = [0; 256];
        for s in 0..16 {
            // The nearest scale is not always the best one.
            let (x, w) = sub(s);
            let scale = nearest((wanted[s] * inverse(d)).clamp(-128.0, 127.0));
            let mut least = f32::INFINITY;
            for scale in [scale, scale - 1.0, scale + 1.0] {
                let (step, per_step) = (d * scale, inverse(d * scale));
                let error = error(x, w, |x| step * code(x, per_step, -32.0, 31.0));
                if error < least && scale.clamp(-128.0, 127.0) == scale {
                    (least, block.scales[s]) = (error, scale as i8);
                }
            }
            let per_step = inverse(d * f32::from(block.scales[s]));
            for l in 0..16 {
                codes[s * 16 + l] = (code(x[l], per_step, -32.0, 31.0) + 32.0) as u8;
            }
        }
        block.set_codes(&codes);
        block
    }
}
