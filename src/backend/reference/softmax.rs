//! Softmax: scores become weights that are positive and sum to one.

// ANCHOR: softmax
/// `x[i] = exp(x[i]) / Σ_j exp(x[j])`, in place.
///
/// The largest score is subtracted first: it cancels in the quotient, and keeps `exp` from overflowing.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    for v in x.iter_mut() {
        *v /= sum;
    }
}
// ANCHOR_END: softmax
