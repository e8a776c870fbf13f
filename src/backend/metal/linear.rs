//! Linear layers: which kernel runs for which format and number of rows.

use super::library::Kernel;
use super::objc::Value;
use super::stream::{Arg, Grid, Memory};
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
                crate::weights::DType::Q4_1 => unreachable!("kept in f16: see `Tensor::for_kernels`"),
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

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowShape {
    columns: u32,
    /// Of up to three weights.
    features: [u32; 3],
    row_bytes: u32,
    /// SIMD-groups that share rows.
    split: u32,
    /// Row groups of a threadgroup, one after the other.
    turns: u32,
    /// Whether the output is added to.
    add: u32,
    /// Of the norm in front.
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ManyShape {
    columns: u32,
    features: u32,
    row_bytes: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowsShape {
    columns: u32,
    features: u32,
    row_bytes: u32,
    rows: u32,
    /// Whether the output is added to.
    add: u32,
}

/// SIMD-groups in a threadgroup of the plain kernel; each computes one output feature.
const PLAIN_SIMD_GROUPS: usize = 4;

/// Columns whose activations a threadgroup of `linear_row` holds at a time.
const SEGMENT: usize = 4096;

/// The most rows that `linear_rows` takes; more are done in tiles.
const FEW_ROWS: usize = 8;

/// `out = x · Wᵀ`.
pub(super) fn linear(metal: &Metal, out: &MetalBuffer, x: &MetalBuffer, weight: &MetalWeight, rows: usize) {
    if weight.packed {
        return fast(metal, out, x, weight, rows, false);
    }
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

/// `out = x · Wᵀ`, or `out += x · Wᵀ`, with a packed weight.
fn fast(metal: &Metal, out: &MetalBuffer, x: &MetalBuffer, weight: &MetalWeight, rows: usize, add: bool) {
    memory!(out, x);
    let dtype = weight.dtype;
    if rows == 1 && !add && weight.is_sorted() && weight.rows >= MANY && weight.columns <= SEGMENT {
        return many(metal, out, x, weight);
    }
    if rows == 1 {
        let plan = Plan::new(weight, weight.rows, false);
        let shape = plan.shape(weight, [weight.rows, 0, 0], add);
        let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(x), weight.arg(), Arg::Out(out)];
        return metal.encode(&by_dtype!("linear_row.metal", "linear_row", dtype), &arguments, plan.grid());
    }
    let [columns, features, row_bytes, rows_] =
        [weight.columns, weight.rows, weight.row_bytes(), rows].map(|n| n as u32);
    let shape = RowsShape { columns, features, row_bytes, rows: rows_, add: add.into() };
    let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(x), weight.arg(), Arg::Out(out)];
    if rows > FEW_ROWS {
        let grid = Grid::groups(weight.rows.div_ceil(64), rows.div_ceil(32), 128);
        return metal.encode(&by_dtype!("linear_tiles.metal", "linear_tiles", dtype), &arguments, grid);
    }
    let kernel = match rows {
        2 => by_dtype!("linear_rows.metal", "linear_rows_2", dtype),
        3 | 4 => by_dtype!("linear_rows.metal", "linear_rows_4", dtype),
        _ => by_dtype!("linear_rows.metal", "linear_rows_8", dtype),
    };
    metal.encode(&kernel, &arguments, Grid::groups(weight.rows.div_ceil(8), 1, 256));
}

/// `out = x · Wᵀ` for one row and a quantized weight of very many rows.
fn many(metal: &Metal, out: &Memory, x: &Memory, weight: &MetalWeight) {
    let [columns, features, row_bytes] = [weight.columns, weight.rows, weight.row_bytes()].map(|n| n as u32);
    let shape = ManyShape { columns, features, row_bytes };
    let kernel = by_dtype!("linear_row_many.metal", "linear_row_many", weight.dtype);
    let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(x), weight.arg(), Arg::Out(out)];
    metal.encode(&kernel, &arguments, Grid::groups(weight.rows.div_ceil(64), 1, 256));
}

/// How `linear_row` is cut into SIMD-groups and threadgroups. What it computes does not depend on it but for rounding.
struct Plan {
    split: usize,
    turns: usize,
    /// SIMD-groups of a threadgroup.
    simds: usize,
    /// Threadgroups.
    groups: usize,
}

/// SIMD-groups that keep a large GPU's memory busy: 16 for each of 128 cores.
const ENOUGH: usize = 2048;

/// Rows of a quantized weight from which on `linear_row_many` has threadgroups enough.
const MANY: usize = 4 * ENOUGH;

impl Plan {
    /// For so many rows in all. Fused kernels take one turn.
    fn new(weight: &MetalWeight, features: usize, fused: bool) -> Self {
        let teams = features.div_ceil(2);
        // Threadgroups enough for several turns, each of which stages its activations once for all.
        if !fused && features >= 16 * ENOUGH && weight.columns <= SEGMENT {
            return Self { split: 1, turns: 4, simds: 8, groups: teams.div_ceil(8 * 4) };
        }
        // Steps of 32 lanes, 16 bytes each.
        let steps = weight.dtype.bytes(weight.columns).unwrap_or(0).div_ceil(512);
        let mut split = 1;
        while split < 8 && 2 * split <= steps && teams * split < ENOUGH {
            split *= 2;
        }
        let simds = if teams * split >= ENOUGH { 8 } else { split.max(4) };
        Self { split, turns: 1, simds, groups: teams.div_ceil(simds / split) }
    }

    fn shape(&self, weight: &MetalWeight, features: [usize; 3], add: bool) -> RowShape {
        let [columns, row_bytes, split, turns] =
            [weight.columns, weight.row_bytes(), self.split, self.turns].map(|n| n as u32);
        RowShape { columns, features: features.map(|n| n as u32), row_bytes, split, turns, add: add.into(), eps: 0.0 }
    }

    fn grid(&self) -> Grid {
        Grid::groups(self.groups, 1, 32 * self.simds)
    }
}

/// Whether one row can be multiplied with all of these weights by the fused kernels.
fn one_input(weights: &[&MetalWeight], rows: usize) -> bool {
    rows == 1 && weights.iter().all(|w| w.packed && w.columns == weights[0].columns)
}

/// Whether the kernels that multiply with these weights norm their input themselves.
pub(super) fn norms_input(metal: &Metal, weights: &[&MetalWeight], rows: usize) -> bool {
    !metal.plain && one_input(weights, rows) && (weights.len() == 3 || weights[0].dtype == weights[1].dtype)
}

/// The three projections of one input.
pub(super) fn linear_qkv(
    metal: &Metal,
    out: [&mut MetalBuffer; 3],
    x: &MetalBuffer,
    weights: [&MetalWeight; 3],
    rows: usize,
) {
    match one_input(&weights, rows) {
        true => fused_qkv(metal, out, x, None, weights),
        // Three dispatches that depend on nothing of each other: no barrier stands between them.
        false => plain::linear_qkv(metal, out, x, weights, rows),
    }
}

/// The three projections of one row, which is normed first if a norm is given: a dispatch for each format among the weights
/// (files in q4_k_m have values in another one than queries and keys). They depend on nothing of each other.
pub(super) fn fused_qkv(
    metal: &Metal,
    [q, k, v]: [&mut MetalBuffer; 3],
    x: &MetalBuffer,
    norm: Option<(&MetalWeight, f32)>,
    weights: [&MetalWeight; 3],
) {
    memory!(q, k, v, x);
    for (i, dtype) in weights.map(|weight| weight.dtype).into_iter().enumerate() {
        if weights[..i].iter().any(|weight| weight.dtype == dtype) {
            continue;
        }
        // A weight of another format has no rows here, and its place is taken by one that has.
        let here = |weight: &MetalWeight| weight.dtype == dtype;
        let features = weights.map(|weight| if here(weight) { weight.rows } else { 0 });
        let [q_out, k_out, v_out] = [0, 1, 2].map(|j| [q, k, v][if here(weights[j]) { j } else { i }]);
        let plan = Plan::new(weights[i], features.iter().sum(), true);
        let mut shape = plan.shape(weights[i], features, false);
        let mut kernel = by_dtype!("linear_row.metal", "linear_row_qkv", dtype);
        let norm = normed(&mut kernel, &mut shape, norm, x);
        let [q_weight, k_weight, v_weight] = weights.map(MetalWeight::arg);
        metal.encode(
            &kernel,
            &[
                Arg::Bytes(bytes_of(&shape)),
                Arg::In(x),
                q_weight,
                k_weight,
                v_weight,
                Arg::Out(q_out),
                Arg::Out(k_out),
                Arg::Out(v_out),
                norm,
            ],
            plan.grid(),
        );
    }
}

/// Tells a fused kernel whether there is a norm, and gives its weights, or in their place anything.
fn normed<'a>(
    kernel: &mut Kernel,
    shape: &mut RowShape,
    norm: Option<(&'a MetalWeight, f32)>,
    x: &'a Memory,
) -> Arg<'a> {
    kernel.constants = vec![(0, Value::Bool(norm.is_some()))];
    match norm {
        Some((weight, eps)) => {
            shape.eps = eps;
            weight.arg()
        }
        None => Arg::In(x),
    }
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
    match one_input(&weights, rows) && weights[0].dtype == weights[1].dtype {
        true => fused_swiglu(metal, gate, x, None, weights, intermediate),
        false => plain::linear_swiglu(metal, gate, up, x, weights, rows, intermediate),
    }
}

/// The same of one row, which is normed first if a norm is given.
pub(super) fn fused_swiglu(
    metal: &Metal,
    gate: &mut MetalBuffer,
    x: &MetalBuffer,
    norm: Option<(&MetalWeight, f32)>,
    weights: [&MetalWeight; 2],
    intermediate: usize,
) {
    memory!(gate, x);
    let plan = Plan::new(weights[0], 2 * intermediate, true);
    let mut shape = plan.shape(weights[0], [intermediate, 0, 0], false);
    let mut kernel = by_dtype!("linear_row.metal", "linear_row_swiglu", weights[0].dtype);
    let norm = normed(&mut kernel, &mut shape, norm, x);
    metal.encode(
        &kernel,
        &[Arg::Bytes(bytes_of(&shape)), Arg::In(x), weights[0].arg(), weights[1].arg(), Arg::Out(gate), norm],
        plan.grid(),
    );
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
    match weight.packed {
        true => fast(metal, x, y, weight, rows, true),
        false => plain::linear_add(metal, x, scratch, y, weight, rows, features),
    }
}
