//! What a pass through a model costs, in every format: a few numbers that the roofline multiplies out.

use crate::LiveError;
use failed_star::backend::Operands;
use failed_star::model::expected::{Cost, cost, expected_tensors, flop};
use failed_star::weights::gguf::names::to_gguf;
use failed_star::weights::quantize::Recipe;
use failed_star::weights::{Config, DType};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Formats that the widget offers.
const FORMATS: [&str; 6] = ["bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"];

/// The fields of a `config.json` that decide what a pass costs.
const FIELDS: [&str; 9] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
];

/// The configuration of a dense Qwen3 with these [`FIELDS`], all of them, checked as a model's own file is.
pub fn config(fields: Map<String, Value>) -> Result<Config, LiveError> {
    if let Some(other) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(LiveError::Name(format!("{other} does not decide what a pass costs; {} do", FIELDS.join(", "))));
    }
    if let Some(missing) = FIELDS.iter().find(|&&name| fields.get(name).is_none_or(Value::is_null)) {
        return Err(LiveError::Name(format!("{missing} is missing")));
    }
    // The rest changes no count.
    let mut all = json!({"model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "torch_dtype": "bfloat16"});
    all.as_object_mut().into_iter().for_each(|all| all.extend(fields.clone()));
    Ok(Config::of_any_size(all.to_string().as_bytes(), "config.json")?)
}

/// A model's costs, so that `n` tokens in one pass, the last of which sees `p` positions, are
///
/// ```text
/// bytes = decode_bytes + (n - 1) * row_bytes + p * kv_bytes
/// flop  = n * per_token + head + per_pair * (n * (p - n) + n * (n + 1) / 2)
/// ```
pub fn model(name: &str, config: &Config) -> Value {
    let shapes: HashMap<String, Vec<usize>> = expected_tensors(config).into_iter().collect();
    let formats = FORMATS.iter().filter_map(|&format| {
        let recipe = Recipe::find(format)?;
        let dtype = |name: &str| {
            let gguf = to_gguf(name).unwrap_or_default();
            recipe.format(&gguf, &shapes[name], config.num_hidden_layers, config.tie_word_embeddings).0
        };
        let Cost { decode_bytes, embedding_row_bytes, .. } = cost(config, dtype);
        let operands: Vec<_> = Operands::ALL.into_iter().filter(|all| all.serve(&format.to_uppercase())).collect();
        Some(json!({"format": format, "operands": operands, "decode_bytes": decode_bytes, "row_bytes": embedding_row_bytes}))
    });
    let formats: Vec<Value> = formats.collect();
    let head = 2.0 * config.vocab_size as f64 * config.hidden_size as f64;
    // One position more is one pair more.
    let per_pair = flop(config, 1, 1) - flop(config, 0, 1);
    let per_token = flop(config, 0, 1) - head - per_pair;
    let fields = serde_json::to_value(config).unwrap_or_default();
    let fields: Map<String, Value> = FIELDS.iter().map(|&name| (name.into(), fields[name].clone())).collect();
    json!({
        "name": name, "config": fields, "parameters": cost(config, |_| DType::BF16).parameters, "formats": formats,
        "kv_bytes": config.kv_bytes_per_token(2), "context": config.max_context(),
        "per_token": per_token, "head": head, "per_pair": per_pair,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(changes: Value) -> Map<String, Value> {
        let mut all = json!({"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960, "tie_word_embeddings": true});
        let all = all.as_object_mut().unwrap();
        all.extend(changes.as_object().unwrap().clone());
        all.clone()
    }

    #[test]
    fn a_few_numbers_say_what_a_pass_costs() {
        let config = config(fields(json!({}))).unwrap();
        let model = model("Qwen3-0.6B", &config);
        let number = |name: &str| model[name].as_f64().unwrap();
        for (start, n) in [(0, 1), (0, 512), (4096, 1), (100, 33)] {
            let (p, m) = ((start + n) as f64, n as f64);
            let pairs = m * (p - m) + m * (m + 1.0) / 2.0;
            let computed = m * number("per_token") + number("head") + number("per_pair") * pairs;
            assert_eq!(computed, flop(&config, start, n), "{n} tokens from {start}");
        }
        assert_eq!(model["parameters"], 596_049_920);
        assert_eq!(model["kv_bytes"], 114_688);
        assert_eq!(model["formats"][0]["row_bytes"], 2 * 1024);
        // What can be asked for again is what was asked.
        assert_eq!(model["config"].as_object().unwrap(), &fields(json!({})));
    }

    /// The largest counts that a configuration may have: no product of them may overflow, on a 32-bit machine neither.
    #[test]
    fn the_largest_model_is_counted() {
        let most = json!({"vocab_size": 1 << 24, "hidden_size": 1 << 20, "intermediate_size": 1 << 22, "num_hidden_layers": 1 << 10,
            "num_attention_heads": 1 << 12, "num_key_value_heads": 1 << 12, "head_dim": 1 << 10, "max_position_embeddings": 1 << 24});
        let model = model("large", &config(fields(most)).unwrap());
        assert_eq!(model["head"], 2.0 * f64::from(1 << 24) * f64::from(1 << 20));
        assert!(model["per_token"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn what_is_no_model_is_refused_by_name() {
        for (changes, words) in [
            (json!({"num_key_value_heads": 3}), &["num_key_value_heads", "divisor", "16"][..]),
            (json!({"head_dim": 127}), &["head_dim", "even"]),
            (json!({"hidden_size": 0}), &["hidden_size", "from 1"]),
            (json!({"hidden_size": "wide"}), &["hidden_size", "wide"]),
            (json!({"vocab_size": 1.5}), &["vocab_size", "1.5"]),
            (json!({"vocab_size": null}), &["vocab_size", "missing"]),
            (json!({"num_experts": 8}), &["num_experts", "hidden_size"]),
            (json!({"tie_word_embeddings": 1}), &["tie_word_embeddings"]),
        ] {
            let error = config(fields(changes.clone())).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{changes}: {error:?} does not say {word}");
            }
        }
    }
}
