//! `config.json` and `generation_config.json`: both spellings, the real files, and files that lie.

use failed_star::model::expected::{cost, expected_tensors};
use failed_star::weights::{Config, DType, GenerationConfig, RopeScaling};
use proptest::prelude::*;
use serde_json::{Value, json};

const QWEN3_0_6B: &str = include_str!("golden/configs/qwen3-0.6b.json");

fn read(value: &Value) -> Result<Config, String> {
    Config::from_json(value.to_string().as_bytes(), "config.json").map_err(|error| error.to_string())
}

/// The published 0.6B configuration with some fields replaced; `null` removes one.
fn with(changes: Value) -> Result<Config, String> {
    let mut config: Value = serde_json::from_str(QWEN3_0_6B).expect("a valid file");
    for (field, value) in changes.as_object().expect("an object") {
        config.as_object_mut().expect("an object").remove(field);
        if !value.is_null() {
            config[field] = value.clone();
        }
    }
    read(&config)
}

/// Asserts that this is refused with an error that has all of these words.
fn refused(changes: Value, words: &[&str]) {
    let error = with(changes.clone()).expect_err(&format!("{changes} was accepted"));
    for word in ["config.json"].iter().chain(words) {
        assert!(error.contains(word), "{changes}: {error:?} does not say {word:?}");
    }
}

#[test]
fn real_configs_give_the_published_sizes() {
    // Parameters by hand: embedding (twice if untied) + layers * (q, k, v, o, gate, up, down, 4 norms) + last norm.
    for (json, parameters, kv_bytes) in [
        (QWEN3_0_6B, 596_049_920, 114_688),
        (include_str!("golden/configs/qwen3-1.7b.json"), 1_720_574_976, 114_688),
        (include_str!("golden/configs/qwen3-4b.json"), 4_022_468_096, 147_456),
        (include_str!("golden/configs/qwen3-8b.json"), 8_190_735_360, 147_456),
        (include_str!("golden/configs/qwen3-14b.json"), 14_768_307_200, 163_840),
        (include_str!("golden/configs/qwen3-32b.json"), 32_762_123_264, 262_144),
    ] {
        let config = Config::from_json(json.as_bytes(), "config.json").expect("a real configuration");
        let cost = cost(&config, |_| DType::BF16);
        assert_eq!(cost.parameters, parameters);
        assert_eq!(cost.weight_bytes, 2 * parameters);
        assert_eq!(config.kv_bytes_per_token(2), kv_bytes);
        // One embedding row is read; where it is not also the head, the rest of the embedding is not.
        let (row, rows) = (config.hidden_size as u64, config.vocab_size as u64);
        let unread = if config.tie_word_embeddings { 0 } else { row * rows };
        assert_eq!(cost.decode_bytes, 2 * (parameters - unread + row));
        assert_eq!(cost.embedding_row_bytes, 2 * row);
        assert_eq!(config.dtype, Some(DType::BF16));
        assert_eq!(config.max_context(), 40_960);
    }
}

#[test]
fn qwen3_0_6b_expects_310_tensors_and_a_wide_query() {
    let config = Config::from_json(QWEN3_0_6B.as_bytes(), "config.json").expect("a real configuration");
    let expected = expected_tensors(&config);
    assert_eq!(expected.len(), 310, "the file's 311 less the stored copy of the tied head");
    let shape = |name: &str| expected.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
    assert_eq!(shape("model.layers.27.self_attn.q_proj.weight"), Some(vec![2048, 1024]));
    assert_eq!(shape("model.layers.27.self_attn.o_proj.weight"), Some(vec![1024, 2048]));
    assert_eq!(shape("model.layers.0.self_attn.k_norm.weight"), Some(vec![128]));
    assert_eq!(shape("lm_head.weight"), None);
    assert_eq!((config.bos_token_id, config.eos_token_id), (Some(151_643), vec![151_645]));
}

#[test]
fn both_spellings_mean_the_same() {
    let published = with(json!({})).expect("published spelling");
    let written = with(json!({
        "rope_theta": null, "torch_dtype": null, "dtype": "bfloat16",
        "rope_parameters": { "rope_type": "default", "rope_theta": 1_000_000 },
        "layer_types": vec!["full_attention"; 28],
    }));
    assert_eq!(written.expect("transformers 5's spelling"), published);

    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
    let published = with(json!({ "rope_scaling": yarn })).expect("YaRN as Qwen3 documents it");
    assert_eq!(
        published.rope_scaling,
        RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32768,
            attention_factor: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        }
    );
    assert_eq!(published.max_context(), 131_072);
    let old = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
    assert_eq!(with(json!({ "rope_scaling": old })).expect("key `type`"), published);
    let inner =
        json!({ "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32768, "rope_theta": 1e6 });
    let written = with(json!({ "rope_theta": null, "rope_parameters": inner }));
    assert_eq!(written.expect("YaRN inside rope_parameters"), published);
}

#[test]
fn absent_optional_fields_take_the_official_defaults() {
    let config = with(json!({
        "head_dim": null, "tie_word_embeddings": null, "attention_bias": null, "torch_dtype": null,
        "hidden_act": null, "architectures": null, "bos_token_id": null, "eos_token_id": null, "hidden_size": 96,
    }))
    .expect("only optional fields are absent");
    // Not hidden_size / num_attention_heads, which is 6.
    assert_eq!(config.head_dim, 128);
    assert_eq!((config.tie_word_embeddings, config.attention_bias, config.dtype), (false, false, None));
}

#[test]
fn missing_zero_negative_huge_and_mistyped_counts_are_refused_by_name() {
    for field in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ] {
        if field != "head_dim" {
            refused(json!({ field: null }), &[field, "found nothing", "whole number"]);
        }
        for bad in [json!(0), json!(-1), json!(u64::MAX), json!(1u64 << 40), json!(16.5), json!("16"), json!([16])] {
            refused(json!({ field: bad }), &[field, "whole number from 1 to"]);
        }
    }
    refused(json!({ "vocab_size": "x".repeat(1000) }), &["…"]);
}

#[test]
fn counts_that_do_not_fit_together_are_refused() {
    refused(json!({ "num_key_value_heads": 3 }), &["num_key_value_heads", "found 3", "divisor", "16"]);
    refused(json!({ "num_key_value_heads": 32 }), &["num_key_value_heads", "divisor"]);
    refused(json!({ "head_dim": 127 }), &["head_dim", "found 127", "even"]);
}

#[test]
fn the_largest_config_that_is_accepted_overflows_nothing() {
    let config = with(json!({
        "vocab_size": 1 << 24, "hidden_size": 1 << 20, "intermediate_size": 1 << 22, "num_hidden_layers": 1 << 10,
        "num_attention_heads": 1 << 12, "num_key_value_heads": 1 << 12, "head_dim": 1 << 10,
        "max_position_embeddings": 1 << 24, "attention_bias": true, "tie_word_embeddings": false,
    }))
    .expect("at the limits");
    // Overflow would panic: tests are built with overflow checks.
    assert!(cost(&config, |_| DType::F32).weight_bytes > 1 << 50);
    assert_eq!(config.kv_bytes_per_token(4) * config.max_context() as u64, 2 << (10 + 12 + 10 + 2 + 24));
}

#[test]
fn bad_numbers_are_refused() {
    for bad in [json!(0), json!(-1e-6), json!(1), json!(1e-60), json!("1e-6"), json!(true)] {
        refused(json!({ "rms_norm_eps": bad }), &["rms_norm_eps", "over 0"]);
    }
    refused(json!({ "rms_norm_eps": null }), &["rms_norm_eps", "nothing"]);
    for bad in [json!(0), json!(1), json!(-5), json!(1e300), json!("10000")] {
        refused(json!({ "rope_theta": bad }), &["rope_theta", "number over 1"]);
    }
    refused(json!({ "rope_theta": null }), &["rope_theta", "nothing"]);
    refused(json!({ "rope_parameters": { "rope_theta": 10_000 } }), &["rope_theta", "twice"]);
    refused(json!({ "tie_word_embeddings": "yes" }), &["tie_word_embeddings", "true or false"]);
    refused(json!({ "torch_dtype": "float64" }), &["torch_dtype", "float64", "bfloat16"]);
    for bad in [json!(-1), json!([1, "two"]), json!(1u64 << 32)] {
        refused(json!({ "eos_token_id": bad }), &["eos_token_id", "token id"]);
    }
}

#[test]
fn what_fs_does_not_implement_is_refused_by_name() {
    refused(json!({ "model_type": "qwen3_moe" }), &["model_type", "qwen3_moe", "dense"]);
    refused(json!({ "model_type": null }), &["model_type", "nothing"]);
    refused(json!({ "architectures": ["LlamaForCausalLM"] }), &["architectures", "LlamaForCausalLM"]);
    refused(json!({ "hidden_act": "gelu" }), &["hidden_act", "gelu", "silu"]);
    refused(json!({ "use_sliding_window": true }), &["use_sliding_window", "sliding-window"]);
    refused(json!({ "layer_types": ["full_attention", "sliding_attention"] }), &["layer_types", "sliding_attention"]);
    refused(json!({ "quantization_config": { "quant_method": "fp8" } }), &["quantization_config", "fp8"]);
    for kind in ["linear", "dynamic", "llama3", "longrope"] {
        let scaling = json!({ "rope_type": kind, "factor": 2.0 });
        refused(json!({ "rope_scaling": scaling }), &["rope_scaling.rope_type", kind, "yarn"]);
        refused(json!({ "rope_scaling": { "type": kind } }), &["rope_scaling.type", kind, "yarn"]);
    }
    // A window that is named but not switched on changes nothing.
    assert!(with(json!({ "sliding_window": 4096, "use_sliding_window": false })).is_ok());
    assert!(with(json!({ "rope_scaling": { "rope_type": "default" } })).is_ok());
}

#[test]
fn bad_yarn_is_refused() {
    let yarn = |changes: Value| {
        let mut yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
        for (field, value) in changes.as_object().expect("an object") {
            yarn[field] = value.clone();
        }
        json!({ "rope_scaling": yarn })
    };
    for (field, bad) in [
        ("factor", json!(0.5)),
        ("factor", json!(null)),
        ("factor", json!("4")),
        ("original_max_position_embeddings", json!(0)),
        ("beta_fast", json!(0.5)),
        ("beta_slow", json!(-1)),
        ("attention_factor", json!(0)),
        ("truncate", json!(1)),
        ("mscale", json!(1.0)),
        ("partial_rotary_factor", json!(0.5)),
    ] {
        refused(yarn(json!({ field: bad })), &[&format!("rope_scaling.{field}")]);
    }
    refused(json!({ "rope_scaling": "yarn" }), &["rope_scaling", "an object"]);
    let mut both = yarn(json!({}));
    both["rope_parameters"] = json!({ "rope_type": "default" });
    refused(both, &["rope_scaling and rope_parameters disagree"]);
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    for bad in ["", "{", "[]", "null", "\u{0}", "{\"model_type\":", &"[".repeat(100_000)] {
        let error = Config::from_json(bad.as_bytes(), "config.json").expect_err(bad);
        assert!(error.to_string().starts_with("config.json: "), "{error}");
        assert!(GenerationConfig::from_json(bad.as_bytes(), "generation_config.json").is_err());
    }
    assert!(Config::from_json(b"\xff\xfe{}", "config.json").is_err());
}

#[test]
fn generation_config_is_read_and_checked() {
    let json = include_bytes!("../models/qwen3-0.6b/generation_config.json");
    let config = GenerationConfig::from_json(json, "generation_config.json").expect("a valid file");
    assert_eq!(
        config,
        GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.95),
            eos_token_id: vec![151_645, 151_643],
            ..GenerationConfig::default()
        }
    );
    let empty = GenerationConfig::from_json(b"{\"eos_token_id\": 7, \"top_k\": null}", "g").expect("one id");
    assert_eq!(empty, GenerationConfig { eos_token_id: vec![7], ..GenerationConfig::default() });
    for (field, bad) in [
        ("do_sample", json!(1)),
        ("temperature", json!(-0.1)),
        ("temperature", json!(1e300)),
        ("top_k", json!(-1)),
        ("top_k", json!(2.5)),
        ("top_p", json!(0)),
        ("top_p", json!(1.01)),
        ("min_p", json!(-0.5)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!("1.1")),
        ("eos_token_id", json!([-1])),
    ] {
        let json = json!({ field: bad }).to_string();
        let error = GenerationConfig::from_json(json.as_bytes(), "g.json").expect_err(&json).to_string();
        assert!(error.contains("g.json") && error.contains(field), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever one byte turns into, reading ends in a configuration or an error.
    #[test]
    fn a_damaged_config_never_panics(at in 0..QWEN3_0_6B.len(), byte: u8, cut in 0..QWEN3_0_6B.len()) {
        let mut json = QWEN3_0_6B.as_bytes().to_vec();
        json[at] = byte;
        if let Ok(config) = Config::from_json(&json, "config.json") {
            prop_assert!(cost(&config, |_| DType::F32).parameters > 0);
        }
        prop_assert!(Config::from_json(&json[..cut], "config.json").is_err());
    }
}
