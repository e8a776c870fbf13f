//! RoPE's angles: which frequency each pair of a head turns at, and YaRN's change to them for long contexts.

use crate::weights::{Config, RopeScaling};
use std::f64::consts::PI;

/// The frequencies of a model, in radians a position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[head_dim / 2]`: pair `i` turns by `inv_freq[i]` at every position.
    pub inv_freq: Vec<f32>,
    /// Multiplies every cosine and sine: 1 without YaRN.
    pub attention_factor: f32,
}

impl Rope {
    /// `inv_freq[i] = rope_theta^(-2i / head_dim)`, changed as `rope_scaling` says.
    ///
    /// YaRN (arXiv 2309.00071, section 3.2): a pair that turns many times within the original context encodes local
    /// order and keeps its frequency; one that never completes a turn encodes absolute position and is slowed by
    /// `factor`; in between, a linear ramp over the pair's index. `attention_factor` makes up for the flatter softmax.
    pub fn new(config: &Config) -> Self {
        let head_dim = config.head_dim as f64;
        // ANCHOR: frequencies
        let inv_freq = (0..config.head_dim / 2).map(|i| libm::pow(config.rope_theta, -2.0 * i as f64 / head_dim));
        // ANCHOR_END: frequencies
        match config.rope_scaling {
            RopeScaling::None => Self { inv_freq: inv_freq.map(|f| f as f32).collect(), attention_factor: 1.0 },
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor,
                beta_fast,
                beta_slow,
                truncate,
            } => {
                // The (fractional) index of the pair that turns `rotations` times within the original context.
                let pair_turning = |rotations: f64| {
                    let context = original_max_position_embeddings as f64;
                    head_dim * (context / (rotations * 2.0 * PI)).ln() / (2.0 * config.rope_theta.ln())
                };
                let (mut low, mut high) = (pair_turning(beta_fast), pair_turning(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(head_dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let inv_freq = inv_freq.enumerate().map(|(i, f)| {
                    let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (f / factor * slowed + f * (1.0 - slowed)) as f32
                });
                let attention_factor =
                    attention_factor.unwrap_or_else(|| if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 });
                Self { inv_freq: inv_freq.collect(), attention_factor: attention_factor as f32 }
            }
        }
    }

    // ANCHOR: cos_sin
    /// Cosines and sines of `tokens` positions from `start` on: `[tokens, head_dim]`, each row
    /// `head_dim / 2` cosines and then as many sines.
    ///
    /// Angles are products in f32, as in the official implementation: at position 40,000 an f64
    /// product would differ from it by 0.002 radians, and the model has learned with f32 ones.
    /// `libm`'s functions give the same bits on every system, the operating system's do not:
    /// rounded to f16 in the cache, a last bit becomes a fourth digit.
    pub fn cos_sin(&self, start: usize, tokens: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(tokens * self.inv_freq.len() * 2);
        for position in start..start + tokens {
            let angles = self.inv_freq.iter().map(|f| position as f32 * f);
            out.extend(angles.clone().map(|angle| libm::cosf(angle) * self.attention_factor));
            out.extend(angles.map(|angle| libm::sinf(angle) * self.attention_factor));
        }
        out
    }
    // ANCHOR_END: cos_sin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn angles_by_hand() {
        let rope = Rope { inv_freq: vec![1.0, 0.1], attention_factor: 1.0 };
        // Position 0 does not turn; at position 3 the pairs have turned by 3 and by 0.3.
        expect::close("angles of position 0", &rope.cos_sin(0, 1), &[1.0, 1.0, 0.0, 0.0], 0.0);
        let three = [-0.989992, 0.955336, 0.141120, 0.295520];
        expect::close("angles of position 3", &rope.cos_sin(3, 1), &three, 1e-5);
        let stretched = Rope { attention_factor: 2.0, ..rope };
        expect::close("angles with an attention factor of 2", &stretched.cos_sin(3, 1), &three.map(|v| 2.0 * v), 1e-5);
    }

    /// A prompt in chunks has the positions of the whole.
    #[test]
    fn a_chunk_goes_on_where_the_last_one_ended() {
        let rope = Rope { inv_freq: vec![1.0, 0.1], attention_factor: 1.0 };
        let chunks = [rope.cos_sin(0, 3), rope.cos_sin(3, 2)].concat();
        expect::close("angles of 3 and 2 tokens, against 5 at once", &chunks, &rope.cos_sin(0, 5), 0.0);
    }
}
