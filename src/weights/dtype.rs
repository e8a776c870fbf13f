//! The element types that a tensor can be stored in.

/// How a tensor's elements are stored. One row a format; block-quantized formats will join it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision: 5 exponent bits, 10 mantissa bits.
    F16,
    /// The upper half of an f32: 8 exponent bits, 7 mantissa bits.
    BF16,
}

impl DType {
    /// Every format, in the order of the table: format, name in safetensors headers and on screen, bytes an element.
    pub const TABLE: [(DType, &'static str, usize); 3] =
        [(DType::F32, "F32", 4), (DType::F16, "F16", 2), (DType::BF16, "BF16", 2)];

    /// The name used in safetensors headers and on screen.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The format with this safetensors name, if it is one that `fs` reads.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Bytes that `elements` elements take, or `None` if that overflows.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        elements.checked_mul(self.row().2)
    }

    /// Copies stored elements into `out` as f32, exactly (f32 holds every value of the other formats).
    ///
    /// `bytes` must be `out.len()` elements, aligned to the element size; loading a tensor guarantees both.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        use half::slice::HalfFloatSliceExt;
        match self {
            DType::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
            DType::F16 => bytemuck::cast_slice::<u8, half::f16>(bytes).convert_to_f32_slice(out),
            DType::BF16 => bytemuck::cast_slice::<u8, half::bf16>(bytes).convert_to_f32_slice(out),
        }
    }

    fn row(self) -> &'static (DType, &'static str, usize) {
        Self::TABLE.iter().find(|row| row.0 == self).expect("every dtype has a row")
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
