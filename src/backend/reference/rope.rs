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
    // EXERCISE: m2.rope
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
    // EXERCISE_END
}
// ANCHOR_END: rope

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn a_quarter_turn_by_hand() {
        // Pair 0 is (1, 3) and turns by 90 degrees, to (-3, 1); pair 1 is (2, 4) and does not turn.
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rope(&mut x, &[0.0, 1.0, 1.0, 0.0], 1, 1, 4);
        expect::close("rope", &x, &[-3.0, 2.0, 1.0, 4.0], 0.0);
    }

    #[test]
    fn each_token_turns_all_its_heads_by_its_own_angles() {
        let (c, s) = (0.6, 0.8);
        // Two tokens of two heads of one pair; token 0 does not turn.
        let mut x = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        rope(&mut x, &[1.0, 0.0, c, s], 2, 2, 2);
        expect::close("rope of two tokens", &x, &[1.0, 0.0, 0.0, 1.0, c, s, -s, c], 0.0);
    }
}
