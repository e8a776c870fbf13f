//! What Qwen3 computes: the tensors a configuration expects, the forward pass, and the KV cache.

pub mod expected;
