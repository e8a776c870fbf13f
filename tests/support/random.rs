//! Numbers and tensors for tests of operations.

#![allow(dead_code, reason = "each test uses a part of it")]

use failed_star::weights::{DType, SharedBytes, Tensor};
use half::{bf16, f16};

/// Numbers between -1 and 1 that are the same everywhere (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    /// `len` values in a format. Quantizing would search for good blocks, which takes long: any bytes are valid codes, and the
    /// f16 scales among them are made numbers of the size that they have in a model.
    pub fn bytes(&mut self, dtype: DType, len: usize) -> Vec<u8> {
        let scales: &[usize] = match dtype {
            DType::F32 => return (0..len).flat_map(|_| self.next().to_le_bytes()).collect(),
            DType::F16 => return (0..len).flat_map(|_| f16::from_f32(self.next()).to_le_bytes()).collect(),
            DType::BF16 => return (0..len).flat_map(|_| bf16::from_f32(self.next()).to_le_bytes()).collect(),
            DType::Q8_0 | DType::Q4_0 => &[0],
            DType::Q4_1 | DType::Q4K | DType::Q5K => &[0, 2],
            DType::Q6K => &[208],
        };
        let len = dtype.bytes(len).expect("whole blocks");
        let mut bytes: Vec<u8> = (0..len).map(|_| (self.next() * 128.0) as i8 as u8).collect();
        for block in bytes.chunks_exact_mut(dtype.layout().block_bytes) {
            for &at in scales {
                block[at..at + 2].copy_from_slice(&f16::from_f32(0.01 * self.next()).to_le_bytes());
            }
        }
        bytes
    }

    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let bytes = self.bytes(dtype, shape.iter().product());
        tensor(dtype, shape, SharedBytes::from_vec(bytes).aligned())
    }
}

pub fn tensor(dtype: DType, shape: &[usize], data: SharedBytes) -> Tensor {
    Tensor { name: "test".into(), dtype, shape: shape.to_vec(), data, file: "test".into(), offset: 0 }
}
