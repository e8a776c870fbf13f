//! Attention: the plain idea is [`crate::backend::reference::attention`].
//!
//! A block is one KV head and some tokens: all query heads that share the KV head, so its keys and values are read once
//! for the group, and up to 16 tokens, so that a prompt reads them once for 16 tokens.

use super::Cpu;
use super::simd::{Attention, Element};
use super::threads::Block;
use crate::backend::{CachePosition, Heads};
use crate::model::kv_cache::{HostKvCache, KvRows};

/// Tokens in a block.
const TOKENS: usize = 16;

/// See [`crate::backend::Backend::attention`].
pub fn attention(cpu: &Cpu, out: &mut [f32], q: &[f32], cache: &HostKvCache, shape: Heads, at: CachePosition) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let group_columns = heads / kv_heads * head_dim;
    let out = &mut out[..at.tokens * heads * head_dim];
    cpu.pool.run_blocks(out, heads * head_dim, (TOKENS, group_columns), |out| {
        let kv_head = out.columns().start / group_columns;
        let first = cache.row_start(kv_head, 0);
        let rows = first..first + (at.start + at.tokens) * head_dim;
        match cache.layer(at.layer) {
            [KvRows::F16(keys), KvRows::F16(values)] => {
                run(cpu, q, &keys[rows.clone()], &values[rows], shape, at.start, out);
            }
            [KvRows::F32(keys), KvRows::F32(values)] => {
                run(cpu, q, &keys[rows.clone()], &values[rows], shape, at.start, out);
            }
            _ => unreachable!("keys and values have one dtype"),
        }
    });
}

fn run<E: Element>(
    cpu: &Cpu,
    q: &[f32],
    keys: &[E],
    values: &[E],
    Heads { heads, head_dim, .. }: Heads,
    start: usize,
    out: &mut Block<'_>,
) {
    cpu.level.run(Attention { q, keys, values, heads, head_dim, start, out });
}
