//! What Qwen3 computes: the tensors a configuration expects, the forward pass, RoPE's angles and the KV cache.

pub mod expected;
pub mod kv_cache;
pub mod qwen3;
pub mod rope;
