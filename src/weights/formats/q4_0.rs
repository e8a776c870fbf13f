//! Q4_0: 32 values in 4 bits each with one scale.

use super::search::{code, fit_scale, inverse, largest, outward, weigh};
use super::{Activations, BlockFormat, half_byte};
use half::f16;

/// 18 bytes: `value[i] = d * (code[i] - 8)`.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q4_0 {
    /// The scale; negative where the value of the largest magnitude is positive, since codes reach from -8 to 7.
    pub d: f16,
    /// Byte `j` holds code `j` in its low half and code `j + 16` in its high half.
    pub codes: [u8; 16],
}

impl Q4_0 {
    /// Code `i` of the block's 32.
    pub fn code(&self, i: usize) -> u8 {
        half_byte(&self.codes, i)
    }
}

impl BlockFormat for Q4_0 {
    const VALUES: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * (f32::from(self.code(i)) - 8.0);
        }
    }

    fn dot(&self, x: &[Activations]) -> f32 {
        self.d.to_f32() * x[0].scale * x[0].dot(0..32, |i| i32::from(self.code(i)) - 8)
    }

    fn quantize(values: &[f32], importance: Option<&[f32]>) -> Self {
        let unit = largest(values).abs();
        if unit < 1e-30 {
            return Self { d: f16::ZERO, codes: [0x88; 16] };
        }
        let (mut x, mut w) = ([0.0; 32], [0.0; 32]);
        x.iter_mut().zip(values).for_each(|(x, value)| *x = value / unit);
        weigh(importance, &mut w);
        let d = outward(unit * fit_scale(&x, &w, -8.0, 7.0));
        let per_step = inverse(d.to_f32());
        let code = |i: usize| (code(values[i], per_step, -8.0, 7.0) + 8.0) as u8;
        Self { d, codes: std::array::from_fn(|j| code(j) | code(j + 16) << 4) }
    }
}
