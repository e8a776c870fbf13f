//! A linear layer: every output is a dot product of the input with one row of the weights.

use crate::backend::matrix::Matrix;

// ANCHOR: linear
/// `out[r][o] = Σ_i x[r][i] * weight[o][i]`, with `x: [rows, in]`, `weight: [out, in]`, `out: [rows, out]`.
///
/// A weight row is widened to f32 once and then used for every input row.
pub fn linear(out: &mut [f32], x: &[f32], weight: &Matrix, rows: usize) {
    let (features, columns) = (weight.rows(), weight.columns());
    let mut weight_row = vec![0.0; columns];
    for o in 0..features {
        weight.read_row(o, &mut weight_row);
        for r in 0..rows {
            out[r * features + o] = dot(&x[r * columns..(r + 1) * columns], &weight_row);
        }
    }
}
// ANCHOR_END: linear

// ANCHOR: dot
/// `Σ_i a[i] * b[i]`, summed in index order.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut sum = 0.0;
    for (a, b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}
// ANCHOR_END: dot
