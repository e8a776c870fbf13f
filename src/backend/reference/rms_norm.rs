//! RMSNorm (arXiv 1910.07467): each row is divided by its root mean square, then scaled by a learned weight.

// ANCHOR: rms_norm
/// `out[r] = x[r] / sqrt(mean(x[r]²) + eps) * weight`, with `x` and `out: [rows, n]` and `weight: [n]`.
///
/// `eps` is inside the root, as in the official implementation: it only matters for rows that are
/// almost zero.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, rows: usize) {
    // EXERCISE: m2.rms_norm
    let n = weight.len();
    for r in 0..rows {
        let x = &x[r * n..(r + 1) * n];
        let mut sum_of_squares = 0.0;
        for v in x {
            sum_of_squares += v * v;
        }
        let scale = 1.0 / (sum_of_squares / n as f32 + eps).sqrt();
        for i in 0..n {
            out[r * n + i] = x[i] * scale * weight[i];
        }
    }
    // EXERCISE_END
}
// ANCHOR_END: rms_norm

#[cfg(test)]
mod tests {
    use std::f32::consts::FRAC_1_SQRT_2;

    use super::*;
    use crate::expect;

    #[test]
    fn two_rows_by_hand() {
        let mut out = [f32::NAN; 4];
        // The mean square of 3 and 4 is 12.5, its root 3.535534; the second row is twice the first and gives the same.
        rms_norm(&mut out, &[3.0, 4.0, 6.0, 8.0], &[1.0, 10.0], 0.0, 2);
        expect::close("rms_norm", &out, &[0.848528, 11.31371, 0.848528, 11.31371], 1e-5);
    }

    #[test]
    fn eps_is_inside_the_root() {
        let mut out = [f32::NAN; 2];
        // The mean square is 1e-6, as large as eps: 0.001 / sqrt(2e-6).
        rms_norm(&mut out, &[0.001, 0.001], &[1.0, 1.0], 1e-6, 1);
        expect::close("rms_norm of a row of almost zeros", &out, &[FRAC_1_SQRT_2; 2], 1e-5);
    }
}
