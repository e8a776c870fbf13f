//! Causal attention with grouped KV heads.

use super::linear::dot;
use super::softmax::softmax;
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::HostKvCache;

/// The KV head that a query head reads: as many query heads in a row as there are for each KV head share it.
fn kv_head_of(head: usize, Heads { heads, kv_heads, .. }: Heads) -> usize {
    // EXERCISE: m2.kv_head
    head / (heads / kv_heads)
    // EXERCISE_END
}

/// For each token and query head: score every position up to the token's own, turn the scores into weights, and
/// average the values by them.
///
/// `q` and `out: [tokens, heads, head_dim]`. The mask is the loop's bound: a token at position `p` reads `0..=p` and
/// nothing else exists for it.
pub fn attention(out: &mut [f32], q: &[f32], cache: &HostKvCache, shape: Heads, at: CachePosition) {
    // EXERCISE: m2.attention
    let Heads { heads, head_dim, .. } = shape;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut row = vec![0.0; head_dim];
    for t in 0..at.tokens {
        let positions = at.start + t + 1;
        for h in 0..heads {
            let kv_head = kv_head_of(h, shape);
            let query = &q[(t * heads + h) * head_dim..][..head_dim];
            let mut weights = vec![0.0; positions];
            for (p, weight) in weights.iter_mut().enumerate() {
                cache.read_key(at.layer, kv_head, p, &mut row);
                *weight = dot(query, &row) * scale;
            }
            softmax(&mut weights);

            let out = &mut out[(t * heads + h) * head_dim..][..head_dim];
            out.fill(0.0);
            for (p, weight) in weights.iter().enumerate() {
                cache.read_value(at.layer, kv_head, p, &mut row);
                for i in 0..head_dim {
                    out[i] += weight * row[i];
                }
            }
        }
    }
    // EXERCISE_END
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;
    use crate::model::kv_cache::{KvDType, KvLayout};

    #[test]
    fn neighbouring_query_heads_share_a_kv_head() {
        let map = |heads, kv_heads| -> Vec<usize> {
            (0..heads).map(|head| kv_head_of(head, Heads { heads, kv_heads, head_dim: 1 })).collect()
        };
        expect::same("KV heads of 6 query heads over 2", &map(6, 2), &[0, 0, 0, 1, 1, 1]);
        // Qwen3-0.6B
        expect::same(
            "KV heads of 16 query heads over 8",
            &map(16, 8),
            &[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
        );
        expect::same("one KV head for each query head", &map(3, 3), &[0, 1, 2]);
        expect::same("one KV head for all", &map(3, 1), &[0, 0, 0]);
    }

    /// Attention of the last tokens over `k` and `v: [positions, kv_heads, head_dim]`.
    fn attend(q: &[f32], k: &[f32], v: &[f32], shape: Heads, tokens: usize) -> Vec<f32> {
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        let positions = k.len() / (kv_heads * head_dim);
        let mut cache = HostKvCache::new(KvLayout { layers: 1, kv_heads, head_dim, dtype: KvDType::F32 });
        // More room than there are positions, as always: what lies behind them must not be read.
        cache.reserve(positions + 1);
        cache.store(0, 0, positions, k, v);
        let mut out = vec![f32::NAN; tokens * shape.heads * head_dim];
        attention(&mut out, q, &cache, shape, CachePosition { layer: 0, start: positions - tokens, tokens });
        out
    }

    #[test]
    fn two_tokens_by_hand() {
        // Scores are products divided by the root of 4: token 1 scores ln 3 at position 0 and 0 at its own, so it takes
        // three quarters of the first value and one of the second. Token 0 sees itself alone.
        let shape = Heads { heads: 1, kv_heads: 1, head_dim: 4 };
        let q = [5.0, 5.0, 0.0, 0.0, 2.0 * 3f32.ln(), 0.0, 0.0, 0.0];
        let k = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let v = [10.0, 0.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0];
        let out = attend(&q, &k, &v, shape, 2);
        expect::close("attention of two tokens", &out, &[10.0, 0.0, 0.0, 0.0, 7.5, 5.0, 0.0, 0.0], 1e-5);
    }

    #[test]
    fn a_token_sees_what_the_cache_holds_already() {
        // Equal scores: the mean of all values up to its own.
        let shape = Heads { heads: 1, kv_heads: 1, head_dim: 1 };
        let out = attend(&[0.0, 0.0], &[0.0; 4], &[1.0, 3.0, 5.0, 7.0], shape, 2);
        expect::close("attention of positions 2 and 3 of 4", &out, &[3.0, 4.0], 1e-6);
    }

    #[test]
    fn each_query_head_reads_its_own_kv_head() {
        let shape = Heads { heads: 4, kv_heads: 2, head_dim: 1 };
        let out = attend(&[0.0; 4], &[0.0; 2], &[1.0, 2.0], shape, 1);
        expect::close("attention of 4 heads over 2", &out, &[1.0, 1.0, 2.0, 2.0], 0.0);
    }
}
