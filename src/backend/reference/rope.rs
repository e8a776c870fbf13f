//! Rotary position embedding (arXiv 2104.09864): a position turns pairs of a head's values by angles of its own.
//!
//! Two pairings exist. Qwen3 pairs `i` with `i + head_dim/2` (the "rotate half" of transformers); the paper pairs
//! neighbours `2i, 2i + 1`. The two differ by a permutation of the weights, so a file made for one gives nonsense
//! under the other.

// ANCHOR: rope
/// Rotates `x: [tokens, heads, head_dim]` in place.
///
/// `cos_sin: [tokens, head_dim]`: for each token, `head_dim/2` cosines and then as many sines.
pub fn rope(x: &mut [f32], cos_sin: &[f32], tokens: usize, heads: usize, head_dim: usize) {
    let half = head_dim / 2;
    for t in 0..tokens {
        let (cos, sin) = cos_sin[t * head_dim..(t + 1) * head_dim].split_at(half);
        for h in 0..heads {
            let head = &mut x[(t * heads + h) * head_dim..][..head_dim];
            for i in 0..half {
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos[i] - b * sin[i];
                head[i + half] = b * cos[i] + a * sin[i];
            }
        }
    }
}
// ANCHOR_END: rope
