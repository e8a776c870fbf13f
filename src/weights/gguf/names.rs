//! Tensor names: what a Qwen3 model's tensors are called in GGUF, and what the rest of `fs` calls them.
//!
//! RoPE turns the same pairs in both (`i` with `i + head_dim / 2`), so no row of Q or K changes places.

/// Tensors outside the transformer blocks: GGUF name, our name.
const OUTER: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Tensors of a block: `blk.N.` and the first, `model.layers.N.` and the second; each may have a weight and a bias.
const INNER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// `blk.0.attn_q.weight` becomes `model.layers.0.self_attn.q_proj.weight`; `None` if Qwen3 has no such tensor.
pub fn to_hugging_face(name: &str) -> Option<String> {
    rename(name, "blk.", "model.layers.", |row| row)
}

/// The way back.
pub fn to_gguf(name: &str) -> Option<String> {
    rename(name, "model.layers.", "blk.", |(gguf, ours)| (ours, gguf))
}

type Row = (&'static str, &'static str);

fn rename(name: &str, from: &str, to: &str, direction: impl Fn(Row) -> Row) -> Option<String> {
    if let Some((_, new)) = OUTER.into_iter().map(&direction).find(|(old, _)| *old == name) {
        return Some(new.to_string());
    }
    let (layer, rest) = name.strip_prefix(from)?.split_once('.')?;
    // One spelling a number: `01` would make two tensors one.
    if layer.parse::<usize>().ok()?.to_string() != layer {
        return None;
    }
    let (part, kind) = rest.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let (_, new) = INNER.into_iter().map(direction).find(|(old, _)| *old == part)?;
    Some(format!("{to}{layer}.{new}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tensor that a configuration expects has a name in GGUF, and comes back from it.
    #[test]
    fn every_expected_tensor_has_a_name() {
        let config = serde_json::json!({
            "model_type": "qwen3", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 11,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 8,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "attention_bias": true,
        });
        let config = crate::weights::Config::from_json(config.to_string().as_bytes(), "config.json").expect("valid");
        for (name, _) in crate::model::expected::expected_tensors(&config) {
            let gguf = to_gguf(&name).unwrap_or_else(|| panic!("{name} has no name"));
            assert_eq!(to_hugging_face(&gguf), Some(name));
        }
        assert_eq!(to_gguf("model.layers.3.mlp.up_proj.weight").as_deref(), Some("blk.3.ffn_up.weight"));
        for other in ["blk.01.attn_q.weight", "blk.0.attn_qkv.weight", "blk.x.attn_q.weight", "rope_freqs.weight", ""] {
            assert_eq!(to_hugging_face(other), None, "{other}");
        }
    }
}
