//! The formats that a tensor can be stored in.

use super::formats::{self, Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0};

/// How a tensor's elements are stored. The quantized formats have a file each in [`formats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision: 5 exponent bits, 10 mantissa bits.
    F16,
    /// The upper half of an f32: 8 exponent bits, 7 mantissa bits.
    BF16,
    /// [`formats::q8_0`]
    Q8_0,
    /// [`formats::q4_0`]
    Q4_0,
    /// [`formats::q4_1`]: read only; no recipe of `fs quantize` writes it.
    Q4_1,
    /// [`formats::q4_k`]
    Q4K,
    /// [`formats::q5_k`]
    Q5K,
    /// [`formats::q6_k`]
    Q6K,
}

/// A number that a format cannot hold: it is not finite, or larger than an f16 can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unstorable {
    /// Where it stands.
    pub index: usize,
    /// The number.
    pub value: f32,
}

/// A row of [`DType::TABLE`].
pub struct Layout {
    /// The format.
    pub dtype: DType,
    /// Its name on screen; that of F32, F16 and BF16 is also the one in safetensors headers.
    pub name: &'static str,
    /// Its number in GGUF files (`ggml_type`).
    pub ggml_type: u32,
    /// Elements in a block; 1 where elements stand alone.
    pub block: usize,
    /// Bytes that a block takes.
    pub block_bytes: usize,
}

const fn row(dtype: DType, name: &'static str, ggml_type: u32, block: usize, block_bytes: usize) -> Layout {
    Layout { dtype, name, ggml_type, block, block_bytes }
}

impl DType {
    /// Every format, in the order of the enum.
    pub const TABLE: [Layout; 9] = [
        row(DType::F32, "F32", 0, 1, 4),
        row(DType::F16, "F16", 1, 1, 2),
        row(DType::BF16, "BF16", 30, 1, 2),
        row(DType::Q8_0, "Q8_0", 8, 32, size_of::<Q8_0>()),
        row(DType::Q4_0, "Q4_0", 2, 32, size_of::<Q4_0>()),
        row(DType::Q4_1, "Q4_1", 3, 32, size_of::<Q4_1>()),
        row(DType::Q4K, "Q4_K", 12, 256, size_of::<Q4K>()),
        row(DType::Q5K, "Q5_K", 13, 256, size_of::<Q5K>()),
        row(DType::Q6K, "Q6_K", 14, 256, size_of::<Q6K>()),
    ];

    /// The name on screen.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// The format with this safetensors name, if it is one that `fs` reads. The quantized formats have none.
    pub fn from_safetensors_name(name: &str) -> Option<DType> {
        Self::TABLE.iter().find(|row| row.name == name && row.block == 1).map(|row| row.dtype)
    }

    /// The format with this number in GGUF, if it is one that `fs` reads.
    pub fn from_ggml_type(number: u32) -> Option<DType> {
        Self::TABLE.iter().find(|row| row.ggml_type == number).map(|row| row.dtype)
    }

    /// Whether elements are stored in blocks of codes.
    pub fn is_quantized(self) -> bool {
        self.layout().block > 1
    }

    /// Bytes that `elements` elements take, or `None` if that overflows or if they do not fill whole blocks.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        let Layout { block, block_bytes, .. } = self.layout();
        elements.is_multiple_of(*block).then(|| (elements / block).checked_mul(*block_bytes)).flatten()
    }

    /// What a tensor of this format is aligned to, in bytes.
    pub fn alignment(self) -> usize {
        if self.is_quantized() { align_of::<half::f16>() } else { self.layout().block_bytes }
    }

    /// Turns stored elements into f32: exactly for F32, F16 and BF16, and into the numbers that the codes stand for
    /// otherwise.
    ///
    /// `bytes` must be `out.len()` elements, whole blocks, aligned; loading a tensor guarantees all three.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        use half::slice::HalfFloatSliceExt;
        match self {
            DType::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
            DType::F16 => bytemuck::cast_slice::<u8, half::f16>(bytes).convert_to_f32_slice(out),
            DType::BF16 => widen_bf16(bytemuck::cast_slice(bytes), out),
            DType::Q8_0 => formats::dequantize_all::<Q8_0>(bytes, out),
            DType::Q4_0 => formats::dequantize_all::<Q4_0>(bytes, out),
            DType::Q4_1 => formats::dequantize_all::<Q4_1>(bytes, out),
            DType::Q4K => formats::dequantize_all::<Q4K>(bytes, out),
            DType::Q5K => formats::dequantize_all::<Q5K>(bytes, out),
            DType::Q6K => formats::dequantize_all::<Q6K>(bytes, out),
        }
    }

    /// The dot product of a row with 8-bit activations, as [`formats::BlockFormat::dot`] defines it: `None` for formats without
    /// blocks, which are multiplied with f32 activations.
    ///
    /// `bytes` must be `32 * x.len()` elements, whole blocks, aligned.
    pub fn dot(self, bytes: &[u8], x: &[formats::Activations]) -> Option<f32> {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => None,
            DType::Q8_0 => Some(formats::dot_all::<Q8_0>(bytes, x)),
            DType::Q4_0 => Some(formats::dot_all::<Q4_0>(bytes, x)),
            DType::Q4_1 => Some(formats::dot_all::<Q4_1>(bytes, x)),
            DType::Q4K => Some(formats::dot_all::<Q4K>(bytes, x)),
            DType::Q5K => Some(formats::dot_all::<Q5K>(bytes, x)),
            DType::Q6K => Some(formats::dot_all::<Q6K>(bytes, x)),
        }
    }

    /// Stores numbers: the nearest ones for F32, F16 and BF16, and blocks with a small squared error otherwise; see
    /// [`formats::BlockFormat::quantize`] for `importance`, which is as long as `values` and counts for blocks only.
    ///
    /// `values` fill whole blocks, and `bytes` is as long as they take.
    pub fn narrow(self, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) -> Result<(), Unstorable> {
        let bad = |x: &f32| match self {
            DType::F32 => !x.is_finite(),
            DType::BF16 => !half::bf16::from_f32(*x).is_finite(),
            // F16 itself, and the scales of all blocks.
            _ => x.is_nan() || x.abs() > half::f16::MAX.to_f32(),
        };
        if let Some(index) = values.iter().position(bad) {
            return Err(Unstorable { index, value: values[index] });
        }
        fn each<const N: usize>(values: &[f32], bytes: &mut [u8], to_bytes: impl Fn(f32) -> [u8; N]) {
            assert_eq!(values.len() * N, bytes.len());
            bytes.chunks_exact_mut(N).zip(values).for_each(|(bytes, &x)| bytes.copy_from_slice(&to_bytes(x)));
        }
        match self {
            DType::F32 => each(values, bytes, f32::to_le_bytes),
            DType::F16 => each(values, bytes, |x| half::f16::from_f32(x).to_le_bytes()),
            DType::BF16 => each(values, bytes, |x| half::bf16::from_f32(x).to_le_bytes()),
            DType::Q8_0 => formats::quantize_all::<Q8_0>(values, importance, bytes),
            DType::Q4_0 => formats::quantize_all::<Q4_0>(values, importance, bytes),
            DType::Q4_1 => formats::quantize_all::<Q4_1>(values, importance, bytes),
            DType::Q4K => formats::quantize_all::<Q4K>(values, importance, bytes),
            DType::Q5K => formats::quantize_all::<Q5K>(values, importance, bytes),
            DType::Q6K => formats::quantize_all::<Q6K>(values, importance, bytes),
        }
        Ok(())
    }

    /// This format's row of the table.
    pub fn layout(self) -> &'static Layout {
        const { &Self::TABLE }.iter().find(|row| row.dtype == self).expect("every dtype has a row")
    }
}

/// `out[i]` is the number whose bf16 bits are `bits[i]`: exact, since bf16 is an f32 whose lower half was cut off.
fn widen_bf16(bits: &[u16], out: &mut [f32]) {
    assert_eq!(bits.len(), out.len());
    for (out, &bits) in out.iter_mut().zip(bits) {
        // EXERCISE: m1.bf16
        *out = f32::from_bits(u32::from(bits) << 16);
        // EXERCISE_END
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn bf16_is_the_upper_half_of_an_f32() {
        let bits = [0x4049, 0x3F80, 0xC000, 0x0000, 0x7F80, 0x0001];
        let mut found = [f32::NAN; 6];
        DType::BF16.widen(bytemuck::cast_slice(&bits.map(u16::to_le)), &mut found);
        // The last is the smallest there is, 2^-133.
        expect::close("bf16 to f32", &found, &[3.140625, 1.0, -2.0, 0.0, f32::INFINITY, 9.183_55e-41], 0.0);
    }
}
