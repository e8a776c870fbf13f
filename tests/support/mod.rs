//! What the tests of `fs pull` share: a hub on loopback, a tiny model, and the real binary.

pub mod hub;

use failed_star::model::expected::expected_tensors;
use failed_star::weights::Config;
use hub::{File, Hub};
use serde_json::json;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Where a user's files would lie, and a hub.
pub struct World {
    pub hub: Hub,
    pub home: TempDir,
}

impl World {
    pub fn with(files: Vec<File>) -> World {
        World { hub: Hub::serving(files), home: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn new() -> World {
        World::with(tiny_model(1))
    }

    /// The model directory, or something in it.
    pub fn models(&self, path: &str) -> PathBuf {
        self.home.path().join("models").join(path)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
        // No proxy and no token of the machine that runs the tests.
        command.env_clear().args(args).env("HOME", self.home.path());
        command
            .env("FS_MODELS", self.models(""))
            .env("HF_ENDPOINT", &self.hub.url)
            .env("HF_HUB_DOWNLOAD_TIMEOUT", "10");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("fs runs")
    }

    /// Must succeed; returns stdout.
    #[track_caller]
    pub fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Must exit with 1, say all of `words`, and not panic; returns stderr.
    #[track_caller]
    pub fn fail(&self, args: &[&str], words: &[&str]) -> String {
        failed(self.run(args), words)
    }

    /// The stored files are those of `files`, byte for byte.
    #[track_caller]
    pub fn assert_stored(&self, files: &[File]) {
        for file in files {
            let stored = std::fs::read(self.models("qwen3-0.6b").join(&file.name));
            assert!(stored.is_ok_and(|stored| stored == file.content), "{}", file.name);
        }
        assert!(!self.models("qwen3-0.6b.partial").exists());
    }
}

#[track_caller]
pub fn failed(output: Output, words: &[&str]) -> String {
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    text
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A Qwen3 model of 2.1 MB; `seed` varies the weights.
pub fn tiny_model(seed: u8) -> Vec<File> {
    let (config, tensors) = tiny_tensors(seed);
    let weights = File::new("model.safetensors", safetensors(&tensors));
    [small_files(&config), vec![weights]].concat()
}

/// The same in two shards and an index.
pub fn sharded_model() -> Vec<File> {
    let (config, tensors) = tiny_tensors(1);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let halves = [&tensors[..3], &tensors[3..]];
    let map: serde_json::Map<_, _> =
        (0..2).flat_map(|i| halves[i].iter().map(move |(name, _, _)| (name.clone(), json!(names[i])))).collect();
    let size: usize = tensors.iter().map(|(_, _, bytes)| bytes.len()).sum();
    let index = json!({ "metadata": { "total_size": size }, "weight_map": map }).to_string();
    let shards = (0..2).map(|i| File::new(names[i], safetensors(halves[i])));
    let index = File::new("model.safetensors.index.json", index);
    small_files(&config).into_iter().chain([index]).chain(shards).collect()
}

fn small_files(config: &serde_json::Value) -> Vec<File> {
    vec![
        File::new("config.json", config.to_string()),
        File::new("generation_config.json", "{}"),
        File::new("tokenizer.json", "{\"model\": {}}"),
        File::new("tokenizer_config.json", "{\"chat_template\": \"\"}"),
        File::new("README.md", "not for us"),
    ]
}

type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn tiny_tensors(seed: u8) -> (serde_json::Value, Tensors) {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "torch_dtype": "bfloat16",
        "vocab_size": 8192, "hidden_size": 128, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true, "attention_bias": false,
    });
    let parsed = Config::from_json(config.to_string().as_bytes(), "config.json").expect("a valid configuration");
    let mut state = seed;
    let mut bytes = |n: usize| {
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(37).wrapping_add(11);
                state >> 1
            })
            .collect::<Vec<u8>>()
    };
    let tensors = expected_tensors(&parsed)
        .into_iter()
        .map(|(name, shape)| {
            let n = 2 * shape.iter().product::<usize>();
            (name, shape, bytes(n))
        })
        .collect();
    (config, tensors)
}

fn safetensors(tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": offsets }));
        data.extend_from_slice(bytes);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
