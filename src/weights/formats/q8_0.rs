//! Q8_0: 32 values as signed bytes with one scale. Nearly lossless, and the simplest block there is.

use super::search::{code, inverse, largest, outward};
use super::{Activations, BlockFormat};
use half::f16;

/// 34 bytes: `value[i] = d * codes[i]`.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q8_0 {
    /// The scale: the largest magnitude of the block divided by 127.
    pub d: f16,
    /// Codes from -127 to 127.
    pub codes: [i8; 32],
}

// ANCHOR: q8_0
impl BlockFormat for Q8_0 {
    const VALUES: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (out, &code) in out.iter_mut().zip(&self.codes) {
            *out = d * f32::from(code);
        }
    }

    fn dot(&self, x: &[Activations]) -> f32 {
        self.d.to_f32() * x[0].scale * x[0].dot(0..32, |i| i32::from(self.codes[i]))
    }

    /// The largest value becomes 127 or -127.
    fn quantize(values: &[f32], _importance: Option<&[f32]>) -> Self {
        // EXERCISE: m5.q8_0
        let d = outward(largest(values).abs() / 127.0);
        let per_step = inverse(d.to_f32());
        Self { d, codes: std::array::from_fn(|i| code(values[i], per_step, -127.0, 127.0) as i8) }
        // EXERCISE_END
    }
}
// ANCHOR_END: q8_0

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn a_block_by_hand() {
        // The largest magnitude is 15.875 = 127 · 0.125, so a step is 0.125.
        let mut values = [0.0; 32];
        values[..6].copy_from_slice(&[1.0, -15.875, 0.19, -0.19, 15.875, 0.05]);
        let block = Q8_0::quantize(&values, None);
        expect::close("the scale of the block", &[block.d.to_f32()], &[0.125], 0.0);
        expect::same("codes", &block.codes[..7], &[8, -127, 2, -2, 127, 0, 0]);
        let mut back = [f32::NAN; 32];
        block.dequantize(&mut back);
        expect::close("values that come back", &back[..6], &[1.0, -15.875, 0.25, -0.25, 15.875, 0.0], 0.0);
    }

    #[test]
    fn a_block_of_zeros_has_a_scale_of_zero() {
        let block = Q8_0::quantize(&[0.0; 32], None);
        expect::close("the scale of zeros", &[block.d.to_f32()], &[0.0], 0.0);
        expect::same("codes of zeros", &block.codes, &[0; 32]);
    }
}
