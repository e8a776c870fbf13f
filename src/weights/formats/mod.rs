//! Block-quantized formats, byte for byte as GGUF stores them; one file a format.
//!
//! A quantized row is cut into blocks. A block stores its values as small whole numbers (codes) and what turns them back
//! into real ones: a scale, and in some formats a minimum. Q8_0 and Q4_0 have blocks of 32 with one scale each. The K
//! formats have super-blocks of 256 whose 8 or 16 sub-blocks carry small scales of their own, which are quantized too.
//!
//! | format | values a block | bytes a block | bits a value | a value is |
//! | --- | --- | --- | --- | --- |
//! | [`q8_0`] | 32 | 34 | 8.5 | `d * code`, code from -127 to 127 |
//! | [`q4_0`] | 32 | 18 | 4.5 | `d * (code - 8)` |
//! | [`q4_1`] | 32 | 20 | 5 | `d * code + m`; read only |
//! | [`q4_k`] | 256 | 144 | 4.5 | `d * scale * code - dmin * min` |
//! | [`q5_k`] | 256 | 176 | 5.5 | `d * scale * code - dmin * min` |
//! | [`q6_k`] | 256 | 210 | 6.5625 | `d * scale * (code - 32)` |
//!
//! The layouts are those of ggml (`ggml-common.h`), which is their specification.

pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
mod search;
mod super_block;

pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4K;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;

/// 32 activations in 8 bits: `value[i] = scale * codes[i]`. The cheapest exact products are of small whole numbers, so what a
/// linear layer multiplies its quantized weights with is rounded, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activations {
    /// The largest magnitude divided by 127.
    pub scale: f32,
    /// Codes from -127 to 127.
    pub codes: [i8; 32],
}

impl Activations {
    /// Rounds `values: [32]`, which are finite.
    pub fn quantize(values: &[f32]) -> Self {
        let largest = search::largest(values).abs();
        let per_step = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        Self { scale: largest / 127.0, codes: std::array::from_fn(|i| (values[i] * per_step).round_ties_even() as i8) }
    }

    /// `Σ_i code(i) * codes[i]` over some of the 32, exact.
    fn dot(&self, range: std::ops::Range<usize>, code: impl Fn(usize) -> i32) -> f32 {
        range.map(|i| code(i) * i32::from(self.codes[i])).sum::<i32>() as f32
    }
}

/// One block as it lies in a file.
pub trait BlockFormat: bytemuck::Pod + Send + Sync {
    /// Values in a block.
    const VALUES: usize;

    /// Turns the block's codes back into numbers: `out: [VALUES]`.
    fn dequantize(&self, out: &mut [f32]);

    /// The dot product with `x: [VALUES / 32]`: whole numbers are multiplied and added, then each sum is scaled once. A minimum
    /// is the same for all codes of a sub-block, so the sum of the activations is all it is multiplied with.
    fn dot(&self, x: &[Activations]) -> f32;

    /// The block that stands for `values: [VALUES]` with a small squared error. Values are finite and at most 65,504 in
    /// magnitude, the most that an f16 holds.
    ///
    /// `importance: [VALUES]` says how much an error in each value costs: the mean squared activation of its column.
    fn quantize(values: &[f32], importance: Option<&[f32]>) -> Self;
}

/// Code `i` of 32 in half bytes: byte `j` holds code `j` in its low half and code `j + 16` in its high half.
fn half_byte(codes: &[u8; 16], i: usize) -> u8 {
    codes[i % 16] >> (4 * (i / 16)) & 15
}

/// Quantizes `values: [blocks * VALUES]` into blocks that lie one after the other in `bytes`. `importance` is as long as
/// `values`.
pub(super) fn quantize_all<B: BlockFormat>(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    assert_eq!(values.len() / B::VALUES * size_of::<B>(), bytes.len());
    for (i, (values, bytes)) in values.chunks_exact(B::VALUES).zip(bytes.chunks_exact_mut(size_of::<B>())).enumerate() {
        let importance = importance.map(|all| &all[i * B::VALUES..][..B::VALUES]);
        bytes.copy_from_slice(bytemuck::bytes_of(&B::quantize(values, importance)));
    }
}

/// The dot product of a row of blocks with `x: [blocks * VALUES / 32]`.
pub(super) fn dot_all<B: BlockFormat>(bytes: &[u8], x: &[Activations]) -> f32 {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    assert_eq!(blocks.len() * B::VALUES, x.len() * 32);
    blocks.iter().zip(x.chunks_exact(B::VALUES / 32)).map(|(block, x)| block.dot(x)).sum()
}

/// Dequantizes blocks that lie one after the other into `out: [blocks * VALUES]`.
pub(super) fn dequantize_all<B: BlockFormat>(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    assert_eq!(blocks.len() * B::VALUES, out.len());
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(B::VALUES)) {
        block.dequantize(out);
    }
}
