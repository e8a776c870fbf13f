//! Linear layers: which kernel runs for which format and number of rows.

use super::library::Kernel;
use super::stream::{Arg, Grid};
use super::{Metal, MetalBuffer, MetalWeight, memory};
use crate::backend::plain;
use bytemuck::{Pod, Zeroable, bytes_of};

/// A kernel's name with the weight's format: `linear_q4_k`.
macro_rules! by_dtype {
    ($file:literal, $name:literal, $dtype:expr) => {
        Kernel::new(
            $file,
            match $dtype {
                crate::weights::DType::F32 => concat!($name, "_f32"),
                crate::weights::DType::F16 => concat!($name, "_f16"),
                crate::weights::DType::BF16 => concat!($name, "_bf16"),
                crate::weights::DType::Q8_0 => concat!($name, "_q8_0"),
                crate::weights::DType::Q4_0 => concat!($name, "_q4_0"),
                crate::weights::DType::Q4K => concat!($name, "_q4_k"),
                crate::weights::DType::Q5K => concat!($name, "_q5_k"),
                crate::weights::DType::Q6K => concat!($name, "_q6_k"),
            },
        )
    };
}
pub(super) use by_dtype;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinearShape {
    /// Input features.
    columns: u32,
    /// Output features.
    features: u32,
    row_bytes: u32,
    /// Rows of the input.
    rows: u32,
}

/// SIMD-groups in a threadgroup of the plain kernel; each computes one output feature.
const PLAIN_SIMD_GROUPS: usize = 4;

/// `out = x · Wᵀ`.
pub(super) fn linear(metal: &Metal, out: &MetalBuffer, x: &MetalBuffer, weight: &MetalWeight, rows: usize) {
    memory!(out, x);
    let [columns, features, row_bytes, rows_] =
        [weight.columns, weight.rows, weight.row_bytes(), rows].map(|n| n as u32);
    let shape = LinearShape { columns, features, row_bytes, rows: rows_ };
    metal.encode(
        &by_dtype!("linear.metal", "linear", weight.dtype),
        &[Arg::Bytes(bytes_of(&shape)), Arg::In(x), weight.arg(), Arg::Out(out)],
        Grid::groups(weight.rows.div_ceil(PLAIN_SIMD_GROUPS), rows, 32 * PLAIN_SIMD_GROUPS),
    );
}

/// The three projections of one input.
pub(super) fn linear_qkv(
    metal: &Metal,
    out: [&mut MetalBuffer; 3],
    x: &MetalBuffer,
    weights: [&MetalWeight; 3],
    rows: usize,
) {
    // Three dispatches that depend on nothing of each other: no barrier stands between them.
    plain::linear_qkv(metal, out, x, weights, rows);
}

/// `gate = silu(x · W_gateᵀ) * (x · W_upᵀ)`.
pub(super) fn linear_swiglu(
    metal: &Metal,
    gate: &mut MetalBuffer,
    up: &mut MetalBuffer,
    x: &MetalBuffer,
    weights: [&MetalWeight; 2],
    rows: usize,
    intermediate: usize,
) {
    plain::linear_swiglu(metal, gate, up, x, weights, rows, intermediate);
}

/// `x += y · Wᵀ`.
pub(super) fn linear_add(
    metal: &Metal,
    x: &mut MetalBuffer,
    scratch: &mut MetalBuffer,
    y: &MetalBuffer,
    weight: &MetalWeight,
    rows: usize,
    features: usize,
) {
    plain::linear_add(metal, x, scratch, y, weight, rows, features);
}
