//! `x += y`.

// ANCHOR: add
/// Adds `y` to `x`, element by element: the residual connections and the biases.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
// ANCHOR_END: add
