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
}
// ANCHOR_END: attention

/// How much a query looks at each of the positions `0..weights.len()`: `softmax(query · Kᵀ / sqrt(head_dim))`.
///
/// `query: [head_dim]`; the keys are those of `kv_head` in `layer`.
pub fn attention_weights(weights: &mut [f32], query: &[f32], cache: &HostKvCache, layer: usize, kv_head: usize) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut key = vec![0.0; query.len()];
    for (p, weight) in weights.iter_mut().enumerate() {
        cache.read_key(layer, kv_head, p, &mut key);
        *weight = dot(query, &key) * scale;
    }
    softmax(weights);
}
