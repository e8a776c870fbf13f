//! A Qwen3 configuration as GGUF keys. The fields are those of `config.json`, and its checks are the checks here.

use super::tokenizer::{BOS, EOS};
use super::{Gguf, Header, Value};
use crate::weights::{Config, GenerationConfig, RopeScaling, WeightsError};
use serde_json::{Map, Value as Json, json};

/// The architecture that `fs` runs, and what its keys begin with.
pub const ARCHITECTURE: &str = "qwen3";

/// Keys after `qwen3.`, and the fields of `config.json` that they are.
const FIELDS: [(&str, &str); 14] = [
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("vocab_size", "vocab_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("rope.scaling.factor", "rope_scaling.factor"),
    ("rope.scaling.original_context_length", "rope_scaling.original_max_position_embeddings"),
    ("rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast"),
    ("rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow"),
];

/// Keys that are looked at, or that do not change what the model computes.
const OTHERS: [&str; 6] = [
    "attention.value_length",
    "attention.causal",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
];

fn full(key: &str) -> String {
    format!("{ARCHITECTURE}.{key}")
}

impl Gguf {
    /// The architecture that the file names; `None` if it holds no model.
    pub fn architecture(&self) -> Result<Option<&str>, WeightsError> {
        self.text("general.architecture")
    }

    /// The configuration. Keys that would change what the model computes and that `fs` does not implement are refused.
    pub fn config(&self) -> Result<Config, WeightsError> {
        match self.architecture()? {
            Some(ARCHITECTURE) => {}
            Some(_) | None => {
                let found = self.value("general.architecture").map_or("nothing".into(), Value::to_string);
                let message = format!("found {found}, expected `qwen3`: fs runs the dense Qwen3 models");
                return Err(self.error("general.architecture", message));
            }
        }
        if self.u32("split.count")?.is_some_and(|count| count > 1) {
            let message =
                "the model is split into several files, and fs reads one; join them with llama-gguf-split --merge";
            return Err(self.error("split.count", message));
        }
        let prefix = full("");
        for entry in &self.entries {
            let Some(key) = entry.key.strip_prefix(&prefix) else { continue };
            let known = FIELDS.iter().any(|row| row.0 == key) || OTHERS.contains(&key);
            if !known && (key.starts_with("rope.") || key.starts_with("attention.") || key.starts_with("expert_")) {
                return Err(self.error(&entry.key, "fs does not implement what this key asks for"));
            }
        }
        let (mut fields, mut scaling) = (Map::new(), Map::new());
        for (key, field) in FIELDS {
            let Some(value) = self.value(&full(key)) else { continue };
            match field.strip_prefix("rope_scaling.") {
                Some(field) => scaling.insert(field.into(), to_json(value)),
                None => fields.insert(field.into(), to_json(value)),
            };
        }
        // What ggml assumes where a key is missing.
        if let Some(heads) = fields.get("num_attention_heads").cloned() {
            fields.entry("num_key_value_heads").or_insert(heads.clone());
            if let (Some(hidden), Some(heads @ 1..)) =
                (fields.get("hidden_size").and_then(Json::as_u64), heads.as_u64())
            {
                fields.entry("head_dim").or_insert(json!(hidden / heads));
            }
        }
        fields.entry("rope_theta").or_insert(json!(10_000.0));
        fields.insert("model_type".into(), ARCHITECTURE.into());
        // The rows of the embedding are what the model has logits for.
        if let Some(embedding) = self.tensors.iter().find(|tensor| tensor.name == "token_embd.weight") {
            fields.insert("vocab_size".into(), json!(embedding.shape[0]));
        }
        let has = |name: &str| self.tensors.iter().any(|tensor| tensor.name == name);
        fields.insert("tie_word_embeddings".into(), json!(!has("output.weight")));
        fields.insert("attention_bias".into(), json!(has("blk.0.attn_q.bias")));
        fields.insert("bos_token_id".into(), json!(self.u32(BOS)?));
        fields.insert("eos_token_id".into(), json!(self.end_tokens()?));

        let kind = self.text(&full("rope.scaling.type"))?.unwrap_or("none");
        if kind != "none" {
            scaling.insert("rope_type".into(), kind.into());
            if let Some(times) = self.number(&full("rope.scaling.attn_factor"))?.filter(|&times| times != 1.0) {
                let factor = scaling.get("factor").and_then(Json::as_f64).unwrap_or(1.0);
                scaling.insert("attention_factor".into(), json!(times * yarn_attention(factor)));
            }
            fields.insert("rope_scaling".into(), scaling.into());
        }
        let config = Config::from_json(Json::from(fields).to_string().as_bytes(), &self.file);
        let config = config.map_err(|error| self.by_key(error))?;
        for key in ["attention.value_length", "rope.dimension_count"] {
            if self.u32(&full(key))?.is_some_and(|n| n as usize != config.head_dim) {
                let message = format!(
                    "found {}, expected the head's width, {}",
                    self.value(&full(key)).expect("is there"),
                    config.head_dim
                );
                return Err(self.error(&full(key), message));
            }
        }
        for key in [EOS, BOS] {
            if let Some(id) = self.u32(key)?.filter(|&id| id as usize >= config.vocab_size) {
                return Err(self.error(key, format!("found {id}, expected one of the {} tokens", config.vocab_size)));
            }
        }
        Ok(config)
    }

    /// An error about a field of `config.json` as one about the key that it came from.
    fn by_key(&self, error: WeightsError) -> WeightsError {
        match error {
            WeightsError::Field { field, found, expected, .. } => {
                let key = match field.as_str() {
                    "rope_scaling.rope_type" => "rope.scaling.type",
                    "rope_scaling.attention_factor" => "rope.scaling.attn_factor",
                    _ => FIELDS.iter().find(|row| row.1 == field).map_or(field.as_str(), |row| row.0),
                };
                self.error(&full(key), format!("found {found}, expected {expected}"))
            }
            other => other,
        }
    }

    /// Sampling defaults, where the file has some, and the tokens that end a text.
    pub fn generation_config(&self) -> Result<GenerationConfig, WeightsError> {
        let mut fields = Map::new();
        for (key, field) in SAMPLING {
            if let Some(value) = self.value(key) {
                fields.insert(field.into(), to_json(value));
            }
        }
        // A temperature of 0 is how greedy sampling is written.
        if let Some(temperature) = self.number("general.sampling.temp")? {
            fields.insert("do_sample".into(), json!(temperature > 0.0));
        }
        fields.insert("eos_token_id".into(), json!(self.end_tokens()?));
        GenerationConfig::from_json(Json::from(fields).to_string().as_bytes(), &self.file).map_err(
            |error| match error {
                WeightsError::Field { field, found, expected, .. } => {
                    let key = SAMPLING.iter().find(|row| row.1 == field).map_or(field.as_str(), |row| row.0);
                    self.error(key, format!("found {found}, expected {expected}"))
                }
                other => other,
            },
        )
    }
}

/// Keys and the fields of `generation_config.json` that they are.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// YaRN's factor on cosines and sines, which `attn_factor` multiplies.
fn yarn_attention(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Unsigned(n) => json!(n),
        Value::Signed(n) => json!(n),
        // A number that JSON has no way to write is wrong in every field, and the text shows it.
        Value::Float(n) => serde_json::Number::from_f64(*n).map_or_else(|| n.to_string().into(), Json::Number),
        Value::Bool(flag) => json!(flag),
        Value::Text(text) => json!(text),
        Value::Array(array) => vec![Json::Null; array.len.min(1 << 16)].into(),
    }
}

/// Writes the configuration's keys; `file` is where it came from, for errors.
pub fn write(header: &mut Header, config: &Config, file: &str) -> Result<(), WeightsError> {
    // Config's limits keep every count below 32 bits.
    let counts = [
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("vocab_size", config.vocab_size),
    ];
    for (key, count) in counts {
        header.u32(&full(key), count as u32);
    }
    header.f32(&full("rope.freq_base"), config.rope_theta as f32);
    header.f32(&full("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    if let RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        attention_factor,
        beta_fast,
        beta_slow,
        truncate,
    } = config.rope_scaling
    {
        if !truncate {
            return Err(WeightsError::invalid(file, "rope_scaling.truncate is false, which GGUF has no key for"));
        }
        header.text(&full("rope.scaling.type"), "yarn");
        header.f32(&full("rope.scaling.factor"), factor as f32);
        header.u32(&full("rope.scaling.original_context_length"), original_max_position_embeddings as u32);
        if let Some(attention) = attention_factor {
            header.f32(&full("rope.scaling.attn_factor"), (attention / yarn_attention(factor)) as f32);
        }
        header.f32(&full("rope.scaling.yarn_beta_fast"), beta_fast as f32);
        header.f32(&full("rope.scaling.yarn_beta_slow"), beta_slow as f32);
    }
    Ok(())
}

/// Writes the sampling defaults.
pub fn write_generation(header: &mut Header, generation: &GenerationConfig) {
    let temperature = if generation.do_sample == Some(false) { Some(0.0) } else { generation.temperature };
    let top_k = generation.top_k.and_then(|k| i32::try_from(k).ok());
    if let Some(top_k) = top_k {
        header.i32("general.sampling.top_k", top_k);
    }
    let floats = [
        ("general.sampling.temp", temperature),
        ("general.sampling.top_p", generation.top_p),
        ("general.sampling.min_p", generation.min_p),
        ("general.sampling.penalty_repeat", generation.repetition_penalty),
    ];
    for (key, value) in floats {
        if let Some(value) = value {
            header.f32(key, value);
        }
    }
}
