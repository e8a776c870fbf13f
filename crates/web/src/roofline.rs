//! The roofline's data: what a token costs in every model and format, and what was measured on a machine.

use crate::LiveError;
use failed_star::model::expected::{cost, expected_tensors, flop};
use failed_star::weights::gguf::names::to_gguf;
use failed_star::weights::quantize::Recipe;
use failed_star::weights::{Config, DType, ModelSource};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The dense Qwen3 models as published: hidden and intermediate size, layers, query heads, and whether the head is the embedding.
/// All have 8 heads of keys and values, heads of 128, and a vocabulary of 151,936.
const SIZES: [(&str, [usize; 4], bool); 6] = [
    ("Qwen3-0.6B", [1024, 3072, 28, 16], true),
    ("Qwen3-1.7B", [2048, 6144, 28, 16], true),
    ("Qwen3-4B", [2560, 9728, 36, 32], true),
    ("Qwen3-8B", [4096, 12288, 36, 32], false),
    ("Qwen3-14B", [5120, 17408, 40, 40], false),
    ("Qwen3-32B", [5120, 25600, 64, 64], false),
];

/// Formats that the widget offers, and which of a machine's peaks bounds their arithmetic: quantized weights are multiplied
/// with activations in 8 bits.
const FORMATS: [(&str, &str); 6] = [
    ("bf16", "f32 FMA"),
    ("q8_0", "int8 dot"),
    ("q6_k", "int8 dot"),
    ("q5_k_m", "int8 dot"),
    ("q4_k_m", "int8 dot"),
    ("q4_0", "int8 dot"),
];

/// Results that the machine's limits and the measured points come from.
const RESULTS: &str = "benches/results/2026-11-23-cascade-lake-2-cores.json";

/// The data, of the repository at `root`.
pub fn roofline(root: &Path) -> Result<Value, LiveError> {
    let mut models = vec![model("the story model", stories(root)?)];
    for (name, sizes, tied) in SIZES {
        models.push(model(name, published(sizes, tied)?));
    }
    Ok(json!({"models": models, "machine": machine(root)?}))
}

fn stories(root: &Path) -> Result<Config, LiveError> {
    let directory = root.join("models/stories");
    Ok(ModelSource::resolve(Some(&directory.display().to_string()))?.config()?)
}

fn published([hidden, intermediate, layers, heads]: [usize; 4], tied: bool) -> Result<Config, LiveError> {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
    });
    Ok(Config::from_json(config.to_string().as_bytes(), "config.json")?)
}

/// A model's costs, so that `n` tokens in one pass, the last of which sees `p` positions, are
///
/// ```text
/// bytes = decode_bytes + p * kv_bytes
/// flop  = n * per_token + head + per_pair * (n * (p - n) + n * (n + 1) / 2)
/// ```
fn model(name: &str, config: Config) -> Value {
    let shapes: HashMap<String, Vec<usize>> = expected_tensors(&config).into_iter().collect();
    let formats = FORMATS.iter().filter_map(|&(format, peak)| {
        let recipe = Recipe::find(format)?;
        let dtype = |name: &str| {
            let gguf = to_gguf(name).unwrap_or_default();
            recipe.format(&gguf, &shapes[name], config.num_hidden_layers, config.tie_word_embeddings).0
        };
        Some(json!({"format": format, "peak": peak, "decode_bytes": cost(&config, dtype).decode_bytes}))
    });
    let formats: Vec<Value> = formats.collect();
    let head = 2.0 * (config.vocab_size * config.hidden_size) as f64;
    // One position more is one pair more.
    let per_pair = flop(&config, 1, 1) - flop(&config, 0, 1);
    let per_token = flop(&config, 0, 1) - head - per_pair;
    json!({
        "name": name, "parameters": cost(&config, |_| DType::BF16).parameters, "formats": formats,
        "kv_bytes": config.kv_bytes_per_token(2), "context": config.max_context(),
        "per_token": per_token, "head": head, "per_pair": per_pair,
    })
}

/// The limits of the machine that results were measured on, medians of all runs, and the points: `fs` with Qwen3-0.6B's shape.
fn machine(root: &Path) -> Result<Value, LiveError> {
    let path = root.join(RESULTS);
    let text =
        std::fs::read_to_string(&path).map_err(|error| LiveError::Name(format!("{}: {error}", path.display())))?;
    let all: Value = serde_json::from_str(&text)?;
    let (mut reads, mut peaks, mut points) = (Vec::new(), HashMap::<String, Vec<f64>>::new(), Vec::new());
    for (format, peers) in all["results"].as_object().into_iter().flatten() {
        for (phase, result) in peers["fs"].as_object().into_iter().flatten() {
            for machine in result["samples"].as_array().into_iter().flatten().map(|sample| &sample["machine"]) {
                reads.extend(machine["read_bytes_per_second"].as_f64());
                for peak in machine["peaks"].as_array().into_iter().flatten() {
                    let name = peak["instruction"].as_str().unwrap_or_default().to_owned();
                    peaks.entry(name).or_default().extend(peak["ops_per_second"].as_f64());
                }
            }
            points.push(json!({"model": "Qwen3-0.6B", "format": format, "phase": phase,
                "tokens": all["tests"][phase], "tokens_per_second": result["median"]}));
        }
    }
    let mut limits: Vec<(String, Option<f64>)> = peaks.into_iter().map(|(name, all)| (name, median(all))).collect();
    limits.sort_by(|a, b| a.0.cmp(&b.0));
    let peaks: Value =
        limits.into_iter().map(|(name, peak)| (name, json!(peak))).collect::<serde_json::Map<_, _>>().into();
    Ok(json!({
        "name": "2 cores of a Xeon (Cascade Lake)", "source": RESULTS, "read": median(reads), "peaks": peaks, "points": points,
    }))
}

fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Value {
        roofline(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
    }

    #[test]
    fn three_numbers_say_what_a_pass_costs() {
        let all = data();
        let number = |name: &str| all["models"][1][name].as_f64().unwrap();
        let config = published(SIZES[0].1, SIZES[0].2).unwrap();
        for (start, n) in [(0, 1), (0, 512), (4096, 1), (100, 33)] {
            let (p, m) = ((start + n) as f64, n as f64);
            let pairs = m * (p - m) + m * (m + 1.0) / 2.0;
            let computed = m * number("per_token") + number("head") + number("per_pair") * pairs;
            assert_eq!(computed, flop(&config, start, n), "{n} tokens from {start}");
        }
        assert_eq!(all["models"][1]["parameters"], 596_049_920);
        assert_eq!(all["models"][1]["kv_bytes"], 114_688);
    }

    #[test]
    fn published_sizes_are_those_of_the_configuration_at_hand() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/qwen3-0.6b/config.json");
        let config = Config::from_json(&std::fs::read(&root).unwrap(), "config.json").unwrap();
        let (name, sizes, tied) = SIZES[0];
        assert_eq!(model(name, config), model(name, published(sizes, tied).unwrap()));
    }

    #[test]
    fn what_was_measured_is_below_the_roof() {
        let all = data();
        let machine = &all["machine"];
        let points = machine["points"].as_array().unwrap();
        assert_eq!(points.len(), 8);
        for point in points {
            let formats = all["models"][1]["formats"].as_array().unwrap();
            let format = formats.iter().find(|format| format["format"] == point["format"]).unwrap();
            if point["phase"] == "decode" {
                let roof = machine["read"].as_f64().unwrap() / format["decode_bytes"].as_f64().unwrap();
                assert!(point["tokens_per_second"].as_f64().unwrap() < roof, "{point}");
            }
        }
    }

    #[test]
    fn without_results_there_is_an_error() {
        assert!(roofline(tempfile::tempdir().unwrap().path()).is_err());
    }
}
