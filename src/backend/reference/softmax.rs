//! Softmax: scores become weights that are positive and sum to one.

// ANCHOR: softmax
/// `x[i] = exp(x[i]) / Σ_j exp(x[j])`, in place.
///
/// The largest score is subtracted first: it cancels in the quotient, and keeps `exp` from overflowing.
pub fn softmax(x: &mut [f32]) {
    // EXERCISE: m2.softmax
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = libm::expf(*v - max);
        sum += *v;
    }
    for v in x.iter_mut() {
        *v /= sum;
    }
    // EXERCISE_END
}
// ANCHOR_END: softmax

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    fn of(scores: &[f32]) -> Vec<f32> {
        let mut x = scores.to_vec();
        softmax(&mut x);
        x
    }

    #[test]
    fn scores_by_hand() {
        // e and e^2 against 1: 1 / (1 + 2.718282 + 7.389056) = 0.090031.
        expect::close("softmax", &of(&[1.0, 2.0, 3.0]), &[0.090031, 0.244728, 0.665241], 1e-6);
        expect::close("softmax of one score", &of(&[-7.0]), &[1.0], 0.0);
    }

    #[test]
    fn only_differences_count() {
        expect::close("softmax of large scores", &of(&[1000.0, 1000.0]), &[0.5, 0.5], 0.0);
        expect::close("softmax of very negative scores", &of(&[-1000.0, -1000.0]), &[0.5, 0.5], 0.0);
    }
}
