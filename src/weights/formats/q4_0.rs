//! Q4_0: 32 values in 4 bits each with one scale.

use super::BlockFormat;
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

impl BlockFormat for Q4_0 {
    const VALUES: usize = 32;

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (j, byte) in self.codes.iter().enumerate() {
            out[j] = d * (f32::from(byte & 15) - 8.0);
            out[j + 16] = d * (f32::from(byte >> 4) - 8.0);
        }
    }
}
