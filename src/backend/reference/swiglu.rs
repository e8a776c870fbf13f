//! SwiGLU (arXiv 2002.05202): one projection decides how much of the other passes.

// ANCHOR: swiglu
/// `gate[i] = silu(gate[i]) * up[i]`, with `silu(x) = x / (1 + exp(-x))`.
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    // EXERCISE: m2.swiglu
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + libm::expf(-*gate)) * up;
    }
    // EXERCISE_END
}
// ANCHOR_END: swiglu

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn gates_by_hand() {
        // silu(1) = 1 / (1 + e^-1) = 0.731059, twice that is 1.462117.
        let mut gate = [1.0, 0.0, -1.0, 4.0];
        swiglu(&mut gate, &[2.0, 5.0, 3.0, -1.0]);
        expect::close("swiglu", &gate, &[1.462117, 0.0, -0.806824, -3.928055], 1e-5);
    }

    #[test]
    fn gates_far_from_zero() {
        let mut gate = [1000.0, -1000.0];
        swiglu(&mut gate, &[1.0, 1.0]);
        expect::close("swiglu of large gates", &gate, &[1000.0, 0.0], 0.0);
    }
}
