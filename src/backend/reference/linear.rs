//! A linear layer: every output is a dot product of the input with one row of the weights.

use crate::backend::matrix::Matrix;

// ANCHOR: linear
/// `out[r][o] = Σ_i x[r][i] * weight[o][i]`, with `x: [rows, in]`, `weight: [out, in]`,
/// `out: [rows, out]`.
///
/// A weight row is widened to f32 once and then used for every input row.
pub fn linear(out: &mut [f32], x: &[f32], weight: &Matrix, rows: usize) {
    // EXERCISE: m2.linear
    let (features, columns) = (weight.rows(), weight.columns());
    let mut weight_row = vec![0.0; columns];
    for o in 0..features {
        weight.read_row(o, &mut weight_row);
        for r in 0..rows {
            out[r * features + o] = dot(&x[r * columns..(r + 1) * columns], &weight_row);
        }
    }
    // EXERCISE_END
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;
    use crate::weights::{DType, SharedBytes, Tensor};

    #[test]
    fn two_rows_by_hand() {
        let weight: [[f32; 3]; 2] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]; // [out 2, in 3]
        let data =
            SharedBytes::from_vec(weight.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect()).aligned();
        let tensor =
            Tensor { name: "w".into(), dtype: DType::F32, shape: vec![2, 3], data, file: "f".into(), offset: 0 };
        let weight = Matrix::new(&tensor, "test").unwrap();
        let mut out = [f32::NAN; 4];
        // Row 0 gives 1·1 + 0·2 + 2·3 = 7 and 1·4 + 0·5 + 2·6 = 16.
        linear(&mut out, &[1.0, 0.0, 2.0, 0.0, 1.0, 1.0], &weight, 2);
        expect::close("linear", &out, &[7.0, 16.0, 5.0, 11.0], 0.0);
    }
}
