//! Q4_1: 32 values in 4 bits each with a scale and a minimum.
//!
//! llama.cpp stores some matrices of its `q4_0` files so where it knows their importance. `fs` reads them; kernels of their own are
//! not worth their place, so the fast backends keep them [in f16](crate::weights::Tensor::for_kernels).

use super::{Activations, BlockFormat, half_byte};
use half::f16;

/// 20 bytes: `value[i] = d * code[i] + m`.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Q4_1 {
    /// The scale.
    pub d: f16,
    /// What code 0 stands for.
    pub m: f16,
    /// Byte `j` holds code `j` in its low half and code `j + 16` in its high half.
    pub codes: [u8; 16],
}

impl Q4_1 {
    /// Code `i` of the block's 32.
    pub fn code(&self, i: usize) -> u8 {
        half_byte(&self.codes, i)
    }
}

impl BlockFormat for Q4_1 {
    const VALUES: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(self.code(i)) + m;
        }
    }

    fn dot(&self, x: &[Activations]) -> f32 {
        let (products, sum) = (x[0].dot(0..32, |i| i32::from(self.code(i))), x[0].dot(0..32, |_| 1));
        x[0].scale * (self.d.to_f32() * products + self.m.to_f32() * sum)
    }

    /// From the smallest value to the largest in equal steps, whatever the importance: llama.cpp's plain rule.
    fn quantize(values: &[f32], _importance: Option<&[f32]>) -> Self {
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (d, m) = (f16::from_f32((high - low) / 15.0), f16::from_f32(low));
        let per_step = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
        let code = |i: usize| ((values[i] - m.to_f32()) * per_step).round_ties_even().clamp(0.0, 15.0) as u8;
        Self { d, m, codes: std::array::from_fn(|j| code(j) | code(j + 16) << 4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_by_hand() {
        let mut block = Q4_1 { d: f16::from_f32(0.5), m: f16::from_f32(-1.0), codes: [0; 16] };
        block.codes[0] = 0xf1;
        block.codes[15] = 0x28;
        let mut out = [0.0; 32];
        block.dequantize(&mut out);
        // Codes 1 and 15 of byte 0 are values 0 and 16, codes 8 and 2 of byte 15 are values 15 and 31.
        assert_eq!([out[0], out[16], out[15], out[31], out[1]], [-0.5, 6.5, 3.0, 0.0, -1.0]);
        let x: Vec<f32> = (0..32).map(|i| i as f32 - 10.0).collect();
        let activations = Activations::quantize(&x);
        let expected: f32 = (0..32).map(|i| out[i] * activations.scale * f32::from(activations.codes[i])).sum();
        assert!((block.dot(&[activations]) - expected).abs() < 1e-3, "{expected}");
    }

    #[test]
    fn values_on_the_grid_come_back_exactly() {
        for (d, m) in [(0.25, -1.5), (2.0, 3.0), (0.0, -0.75)] {
            let values: Vec<f32> = (0..32).map(|i| d * ((i * 7) % 16) as f32 + m).collect();
            let mut out = [f32::NAN; 32];
            Q4_1::quantize(&values, None).dequantize(&mut out);
            assert_eq!(out[..], values, "{d} {m}");
        }
    }
}
