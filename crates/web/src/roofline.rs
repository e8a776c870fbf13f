//! The roofline's data: what a token costs in every model and format, and what was measured on a machine.

use crate::LiveError;
use crate::cost::{config, model};
use failed_star::session::bench::Spread;
use failed_star::weights::{Config, ModelSource};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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

/// Results that the machine's limits and the measured points come from.
const RESULTS: &str = "benches/results/2026-11-24-zen-5-2-cores.json";

/// The data, of the repository at `root`.
pub fn roofline(root: &Path) -> Result<Value, LiveError> {
    let mut models = vec![model("the story model", &stories(root)?)];
    for (name, sizes, tied) in SIZES {
        models.push(model(name, &published(sizes, tied)?));
    }
    Ok(json!({"models": models, "machine": machine(root)?}))
}

fn stories(root: &Path) -> Result<Config, LiveError> {
    let directory = root.join("models/stories");
    Ok(ModelSource::resolve(Some(&directory.display().to_string()))?.config()?)
}

fn published([hidden, intermediate, layers, heads]: [usize; 4], tied: bool) -> Result<Config, LiveError> {
    let fields = json!({
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960,
        "tie_word_embeddings": tied,
    });
    config(fields.as_object().cloned().unwrap_or_default())
}

/// The limits of the machine that results were measured on, medians of all runs (for memory, of those that it bounds), and the
/// points: `fs` with Qwen3-0.6B's shape.
fn machine(root: &Path) -> Result<Value, LiveError> {
    let path = root.join(RESULTS);
    let text =
        std::fs::read_to_string(&path).map_err(|error| LiveError::Name(format!("{}: {error}", path.display())))?;
    let all: Value = serde_json::from_str(&text)?;
    let (mut reads, mut peaks, mut points) = (Vec::new(), BTreeMap::<[String; 2], Vec<f64>>::new(), Vec::new());
    for (format, peers) in all["results"].as_object().into_iter().flatten() {
        for (phase, result) in peers["fs"].as_object().into_iter().flatten() {
            for machine in result["samples"].as_array().into_iter().flatten().map(|sample| &sample["machine"]) {
                if phase == "decode" {
                    reads.extend(machine["read_bytes_per_second"].as_f64());
                }
                for peak in machine["peaks"].as_array().into_iter().flatten() {
                    let name =
                        ["instruction", "operands"].map(|field| peak[field].as_str().unwrap_or_default().to_owned());
                    peaks.entry(name).or_default().extend(peak["ops_per_second"].as_f64());
                }
            }
            let share = if phase == "decode" { "share_of_read_bandwidth" } else { "share_of_peak" };
            let samples = result["samples"].as_array().into_iter().flatten();
            let shares = samples.filter_map(|sample| sample[share].as_f64()).collect();
            points.push(json!({"model": "Qwen3-0.6B", "format": format, "phase": phase,
                "tokens": all["tests"][phase], "tokens_per_second": result["median"], "share": median(shares)}));
        }
    }
    let peak = |(name, all): ([String; 2], Vec<f64>)| {
        let [instruction, operands] = name;
        json!({"instruction": instruction, "operands": operands, "ops_per_second": median(all)})
    };
    let peaks: Vec<Value> = peaks.into_iter().map(peak).collect();
    Ok(json!({
        "name": "2 cores of an EPYC (Zen 5)", "source": RESULTS, "read": median(reads), "peaks": peaks, "points": points,
    }))
}

fn median(all: Vec<f64>) -> Option<f64> {
    (!all.is_empty()).then(|| Spread::new(all).median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Value {
        roofline(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
    }

    #[test]
    fn published_sizes_are_those_of_the_configuration_at_hand() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/qwen3-0.6b/config.json");
        let config = Config::from_json(&std::fs::read(&root).unwrap(), "config.json").unwrap();
        let (name, sizes, tied) = SIZES[0];
        assert_eq!(model(name, &config), model(name, &published(sizes, tied).unwrap()));
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
