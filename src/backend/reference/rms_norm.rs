//! RMSNorm (arXiv 1910.07467): each row is divided by its root mean square, then scaled by a learned weight.

// ANCHOR: rms_norm
/// `out[r] = x[r] / sqrt(mean(x[r]²) + eps) * weight`, with `x` and `out: [rows, n]` and `weight: [n]`.
///
/// `eps` is inside the root, as in the official implementation: it only matters for rows that are almost zero.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, rows: usize) {
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
}
// ANCHOR_END: rms_norm
