//! SwiGLU (arXiv 2002.05202): one projection decides how much of the other passes.

// ANCHOR: swiglu
/// `gate[i] = silu(gate[i]) * up[i]`, with `silu(x) = x / (1 + exp(-x))`.
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}
// ANCHOR_END: swiglu
