//! Causal attention with grouped KV heads.

use super::linear::dot;
use super::softmax::softmax;
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::HostKvCache;

/// For each token and query head: score every position up to the token's own, turn the scores into weights, and
/// average the values by them.
///
/// `q` and `out: [tokens, heads, head_dim]`. The mask is the loop's bound: a token at position `p` reads `0..=p` and
/// nothing else exists for it. `heads / kv_heads` query heads in a row share one KV head.
// ANCHOR: attention
pub fn attention(out: &mut [f32], q: &[f32], cache: &HostKvCache, shape: Heads, at: CachePosition) {
    // EXERCISE: m2.attention
    let Heads { heads, kv_heads, head_dim } = shape;
    let group = heads / kv_heads;
    let mut row = vec![0.0; head_dim];
    for t in 0..at.tokens {
        let positions = at.start + t + 1;
        for h in 0..heads {
            let kv_head = h / group;
            let query = &q[(t * heads + h) * head_dim..][..head_dim];
            let mut weights = vec![0.0; positions];
            attention_weights(&mut weights, query, cache, at.layer, kv_head);

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
// ANCHOR_END: attention

/// How much a query looks at each of the positions `0..weights.len()`: `softmax(query · Kᵀ / sqrt(head_dim))`.
///
/// `query: [head_dim]`; the keys are those of `kv_head` in `layer`.
pub fn attention_weights(weights: &mut [f32], query: &[f32], cache: &HostKvCache, layer: usize, kv_head: usize) {
    // EXERCISE: m2.attention_weights
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut key = vec![0.0; query.len()];
    for (p, weight) in weights.iter_mut().enumerate() {
        cache.read_key(layer, kv_head, p, &mut key);
        *weight = dot(query, &key) * scale;
    }
    softmax(weights);
    // EXERCISE_END
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;
    use crate::model::kv_cache::{KvDType, KvLayout};

    /// A cache of `k` and `v: [positions, kv_heads, head_dim]`.
    fn cache(k: &[f32], v: &[f32], kv_heads: usize, head_dim: usize) -> HostKvCache {
        let mut cache = HostKvCache::new(KvLayout { layers: 1, kv_heads, head_dim, dtype: KvDType::F32 });
        let positions = k.len() / (kv_heads * head_dim);
        // More room than there are positions, as always: what lies behind them must not be read.
        cache.reserve(positions + 1);
        cache.store(0, 0, positions, k, v);
        cache
    }

    #[test]
    fn weights_by_hand() {
        // Products are divided by the root of 4: scores ln 3 and 0, which weigh 3 to 1.
        let k = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let mut weights = [f32::NAN; 2];
        let query = [2.197225, 0.0, 0.0, 0.0]; // 2 · 1.098612
        attention_weights(&mut weights, &query, &cache(&k, &[0.0; 8], 1, 4), 0, 0);
        expect::close("attention weights of scores ln 3 and 0", &weights, &[0.75, 0.25], 1e-5);
    }

    #[test]
    fn keys_are_those_of_the_kv_head() {
        // KV head 0 has the keys ln 3, 0; KV head 1 has 0, ln 3.
        let ln3 = 3f32.ln();
        let cache = cache(&[ln3, 0.0, 0.0, ln3], &[0.0; 4], 2, 1);
        let mut weights = [f32::NAN; 2];
        attention_weights(&mut weights, &[1.0], &cache, 0, 1);
        expect::close("attention weights, KV head 1", &weights, &[0.25, 0.75], 1e-5);
    }

    /// Attention of the last tokens over `k` and `v: [positions, kv_heads, head_dim]`.
    fn attend(q: &[f32], k: &[f32], v: &[f32], shape: Heads, tokens: usize) -> Vec<f32> {
        let cache = cache(k, v, shape.kv_heads, shape.head_dim);
        let positions = k.len() / (shape.kv_heads * shape.head_dim);
        let mut out = vec![f32::NAN; tokens * shape.heads * shape.head_dim];
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
    fn neighbouring_query_heads_share_a_kv_head() {
        let shape = Heads { heads: 6, kv_heads: 2, head_dim: 1 };
        let out = attend(&[0.0; 6], &[0.0; 2], &[1.0, 2.0], shape, 1);
        expect::close("attention of 6 query heads over 2 KV heads", &out, &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0], 0.0);
    }
}
