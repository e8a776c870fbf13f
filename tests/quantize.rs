//! `fs quantize` and `fs imatrix`: every type tells a story, importance lowers the divergence, and what goes wrong leaves the
//! old file as it was.
#![cfg(feature = "embedded-model")]

use failed_star::backend::cpu::simd::Level;
use failed_star::session::perplexity::{PerplexityOptions, score};
use failed_star::session::{Engine, EngineOptions};
use failed_star::weights::gguf::Gguf;
use failed_star::weights::quantize::{ColumnSums, Importance, Recipe, importance};
use failed_star::weights::{DType, ModelSource};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn fs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fs")).args(args).output().expect("fs runs")
}

#[track_caller]
fn succeed(args: &[&str]) -> String {
    let output = fs(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Exits with 1, says all of `words`, and leaves no partial file in `dir`.
#[track_caller]
fn fail(output: Output, dir: &TempDir, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    let left = std::fs::read_dir(dir.path()).expect("a directory").flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

struct World(TempDir);

impl World {
    fn new() -> World {
        World(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_string()
    }

    /// The story model in a format, perhaps by importance.
    fn stories(&self, kind: &str, imatrix: Option<&str>) -> String {
        let out = self.path(&format!("{kind}{}.gguf", if imatrix.is_some() { "-i" } else { "" }));
        let imatrix: Vec<&str> = imatrix.into_iter().flat_map(|file| ["--imatrix", file]).collect();
        succeed(&[&["quantize", "stories", &out, "--type", kind][..], &imatrix].concat());
        out
    }
}

#[test]
fn every_type_tells_a_story() {
    let world = World::new();
    let tell = |model: &str| {
        succeed(&["generate", "-q", "--model", model, "--temperature", "0", "-n", "40", "Once upon a time"])
    };
    let original = tell("stories");
    for recipe in &Recipe::TABLE {
        let out = world.stories(recipe.name, None);
        let story = tell(&out);
        assert!(story.contains("there was a little girl"), "{}: {story}", recipe.name);
        // A story's first words are plain enough for these to lose nothing.
        if ["f32", "bf16", "f16", "q8_0"].contains(&recipe.name) {
            assert_eq!(story, original, "{}", recipe.name);
        }
        let gguf = Gguf::open(Path::new(&out)).expect("valid");
        assert_eq!(gguf.u32("general.file_type").unwrap(), Some(recipe.file_type));
        let of = |name: &str| gguf.tensors.iter().find(|tensor| tensor.name == name).expect("there").dtype;
        assert_eq!((of("output_norm.weight"), of("blk.3.attn_q.weight")), (DType::F32, recipe.base));
    }
}

#[test]
fn the_summary_is_true() {
    let world = World::new();
    let out = world.path("q4.gguf");
    let json = succeed(&["quantize", "stories", &out, "--type", "Q4_K_M", "--json", "--threads", "3"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["file_bytes"].as_u64(), Some(std::fs::metadata(&out).unwrap().len()));
    let (before, after) = (ModelSource::resolve(Some("stories")).unwrap(), ModelSource::resolve(Some(&out)).unwrap());
    let (before, after) = (before.require_checkpoint().unwrap(), after.require_checkpoint().unwrap());
    let name = "model.layers.4.mlp.down_proj.weight";
    let (x, y) = (before.get(name).unwrap().to_f32(), after.get(name).unwrap().to_f32());
    let square = |a: f32| f64::from(a).powi(2);
    let (error, energy) = x.iter().zip(&y).fold((0.0, 0.0), |sum, (x, y)| (sum.0 + square(x - y), sum.1 + square(*x)));
    let tensors = json["tensors"].as_array().expect("a list");
    let told = tensors.iter().find(|tensor| tensor["name"] == "blk.4.ffn_down.weight").expect("there");
    assert!((told["relative"].as_f64().unwrap() / (error / energy).sqrt() - 1.0).abs() < 1e-6, "{told}");
    assert_eq!(told["bytes"].as_u64(), Some(after.get(name).unwrap().data.len() as u64));
    // A number of threads changes nothing.
    let one = world.path("one.gguf");
    succeed(&["quantize", "stories", &one, "--type", "q4_k_m", "--threads", "1"]);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&out).unwrap());
}

#[test]
fn gguf_files_are_quantized_too() {
    let world = World::new();
    let (bf16, direct) = (world.stories("bf16", None), world.stories("q5_k_m", None));
    let through = world.path("through.gguf");
    succeed(&["quantize", &bf16, &through, "--type", "q5_k_m"]);
    let (a, b) = (Gguf::open(Path::new(&direct)).unwrap(), Gguf::open(Path::new(&through)).unwrap());
    for (a, b) in a.tensors.iter().zip(&b.tensors) {
        assert!(a.name == b.name && a.dtype == b.dtype && *a.data == *b.data, "{}", a.name);
    }
    // Not even --force replaces a model by itself, nor writes what nothing can read.
    fail(
        fs(&["quantize", &through, &through, "--type", "q5_k_m", "--force"]),
        &world.0,
        &["through.gguf is the model"],
    );
    fail(
        fs(&["quantize", &through, &world.path("model.bin"), "--type", "q5_k_m"]),
        &world.0,
        &["does not end in .gguf"],
    );
    // The same type again copies the tensors; another one would lose twice.
    let again = world.path("again.gguf");
    succeed(&["quantize", &through, &again, "--type", "q5_k_m"]);
    assert_eq!(std::fs::read(&again).unwrap().len(), std::fs::read(&through).unwrap().len());
    let q4 = world.path("q4.gguf");
    let words = ["through.gguf", "`token_embd.weight`", "quantized already", "Q6_K", "Q8_0", "start from the BF16"];
    fail(fs(&["quantize", &through, &q4, "--type", "q8_0"]), &world.0, &words);
    assert!(!Path::new(&q4).exists());
}

#[test]
fn a_file_that_is_there_is_kept() {
    let world = World::new();
    let out = world.path("old.gguf");
    std::fs::write(&out, "old").unwrap();
    let quantize = ["quantize", "stories", &out, "--type", "q8_0"];
    fail(fs(&quantize), &world.0, &["old.gguf is there already", "--force"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"old");

    // The disk is full in the middle: a limit on the size of files stands for it.
    #[cfg(unix)]
    {
        let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-c", script, env!("CARGO_BIN_EXE_fs")]).args(quantize).arg("--force");
        fail(command.output().expect("bash runs"), &world.0, &["old.gguf"]);
        assert_eq!(std::fs::read(&out).unwrap(), b"old");
    }

    succeed(&[&quantize[..], &["--force"]].concat());
    assert!(Gguf::open(Path::new(&out)).is_ok());
    fail(fs(&["quantize", "stories", &world.path("no/such/dir.gguf"), "--type", "q8_0"]), &world.0, &["no/such"]);
    fail(fs(&["quantize", "stories", &world.path(""), "--type", "q8_0", "--force"]), &world.0, &["directory"]);
    assert_eq!(fs(&["quantize", "stories", &out, "--type", "q3"]).status.code(), Some(2), "usage");
}

/// A tiny model in safetensors, whose rows are not whole blocks of 256, with one weight changed.
fn tiny(dir: &Path, change: Option<f32>) -> PathBuf {
    let config = serde_json::json!({
        "model_type": "qwen3", "vocab_size": 300, "hidden_size": 96, "intermediate_size": 40, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let config = failed_star::weights::Config::from_json(config.to_string().as_bytes(), "config.json").unwrap();
    let tensors: Vec<_> = failed_star::model::expected::expected_tensors(&config)
        .into_iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            let mut values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
            if let (Some(value), true) = (change, name.contains("up_proj")) {
                values[96 * 3 + 7] = value;
            }
            (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    dir.to_path_buf()
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (value, kind, shown) in [(f32::NAN, "bf16", "NaN"), (f32::INFINITY, "q4_0", "inf"), (70_000.0, "f16", "70000")]
    {
        let world = World::new();
        let model = tiny(world.0.path(), Some(value));
        let out = world.path("out.gguf");
        let words = ["model.safetensors", "`blk.0.ffn_up.weight`", "at byte", "[3, 7]", shown];
        fail(fs(&["quantize", model.to_str().unwrap(), &out, "--type", kind]), &world.0, &words);
        assert!(!Path::new(&out).exists());
    }
}

#[test]
fn rows_that_are_not_whole_blocks_fall_back_and_say_so() {
    let world = World::new();
    let model = tiny(world.0.path(), None);
    let out = world.path("out.gguf");
    let table = succeed(&["quantize", model.to_str().unwrap(), &out, "--type", "q4_k_m"]);
    assert!(table.contains("Q8_0, since rows of 96 are not whole Q4_K blocks of 256"), "{table}");
    assert!(table.contains("F16, since rows of 40 are not whole Q6_K blocks of 256"), "{table}");
    // Without a tokenizer, token ids still work.
    let source = ModelSource::resolve(Some(&out)).expect("valid");
    assert!(!source.has_tokenizer());
    succeed(&["generate", "-q", "--model", &out, "--ids", "1,2,3", "--temperature", "0", "-n", "3"]);
    let words = ["no tokenizer in its GGUF metadata", "`tokenizer.ggml.", "token ids"];
    fail(fs(&["verify", &out, "--against", "reference"]), &world.0, &words);
}

/// The first `bytes` bytes of a packed text of `scripts/stories/data`.
fn stories(file: &str, bytes: u64) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stories/data").join(file);
    let packed = std::fs::File::open(path).expect("there");
    let mut text = String::new();
    lzma_rust2::XzReader::new(packed, false).take(bytes).read_to_string(&mut text).expect("cut between characters");
    text
}

/// Measured on training text, tested on validation text. `docs/notes/quantization-log.md` has the differences on a longer text
/// and their errors.
#[test]
fn importance_lowers_the_divergence_at_4_bits() {
    let world = World::new();
    let (text, imatrix) = (world.path("text.txt"), world.path("stories.imatrix.gguf"));
    std::fs::write(&text, stories("stories.txt.xz", 60_000).replace("<|endoftext|>\n", "")).unwrap();
    let told = succeed(&["imatrix", &text, &imatrix, "--model", "stories", "-q"]);
    assert!(told.contains("57 matrices"), "7 a layer and the head: {told}");
    let importance = Importance::open(Path::new(&imatrix)).expect("valid");
    assert_eq!(importance.columns("blk.7.ffn_down.weight").map(<[f32]>::len), Some(768));
    assert!(importance.columns("token_embd.weight").is_some_and(|head| head.iter().all(|mean| *mean > 0.0)));

    let load = |model: &str| {
        let source = ModelSource::resolve(Some(model)).expect("there");
        // Inputs rounded to bf16 differ by more than weights with importance from weights without.
        let options = EngineOptions { simd: Some(Level::detect_exact()), ..EngineOptions::default() };
        Engine::load(&source, &options).expect("it loads")
    };
    let original = load("stories");
    let ids = original.tokenizer().unwrap().encode(&stories("valid-v1-head.txt.xz", 60_000));
    // Mean KL divergence from the original model, in nats a token.
    let divergence = |model: &str| {
        let options = PerplexityOptions::default();
        let scores = score(&load(model), Some(&original), &ids, &options, &mut |_| ControlFlow::Continue(())).unwrap();
        scores.tokens.iter().map(|token| token.against.unwrap().kl).sum::<f64>() / scores.tokens.len() as f64
    };
    for kind in ["q4_0", "q4_k_m"] {
        let plain = divergence(&world.stories(kind, None));
        let weighted = divergence(&world.stories(kind, Some(&imatrix)));
        println!("{kind}: KL divergence {plain:.5} without importance, {weighted:.5} with");
        assert!(weighted < plain && plain < 0.02, "{kind}: {plain} without, {weighted} with");
    }
    let told = succeed(&["imatrix", &text, &world.path("one.gguf"), "--model", "stories", "-q", "--chunks", "1"]);
    assert!(told.ends_with("from 512 tokens in 1 chunk\n"), "{told}");

    let long = ["imatrix", &text, &world.path("long.gguf"), "--model", "stories", "-q", "--chunk", "100000"];
    fail(fs(&long), &world.0, &["--chunk 100000", "context of"]);

    // Another model's file is refused by the first tensor that differs.
    let other = tempfile::tempdir().unwrap();
    let model = tiny(other.path(), None);
    let out = world.path("tiny.gguf");
    let args = ["quantize", model.to_str().unwrap(), &out, "--type", "q4_0", "--imatrix", &imatrix];
    fail(fs(&args), &world.0, &["stories.imatrix.gguf", "`token_embd.weight` has 256 columns, and the model 96"]);
    let gguf = world.path("q4_0.gguf");
    let args = ["quantize", "stories", &out, "--type", "q4_0", "--imatrix", &gguf];
    fail(fs(&args), &world.0, &["`general.type`", "imatrix"]);
}

#[test]
fn importance_that_would_change_nothing_is_refused() {
    let world = World::new();
    let (imatrix, out) = (world.path("other.imatrix.gguf"), world.path("out.gguf"));
    let sums = ColumnSums { squares: vec![1.0; 256], rows: 1 };
    importance::write(Path::new(&imatrix), &[("model.h.0".to_string(), sums)].into(), "text", 512, 1).unwrap();
    let quantize = |kind: &str| fs(&["quantize", "stories", &out, "--type", kind, "--imatrix", &imatrix]);
    fail(quantize("q4_0"), &world.0, &["other.imatrix.gguf", "another model's", "`model.h.0`", "`token_embd.weight`"]);
    for kind in ["f32", "bf16", "f16", "q8_0"] {
        let output = quantize(kind);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(&format!("--type {kind}")), "{error}");
    }
    assert!(!Path::new(&out).exists());
}

/// What ends a service ends `fs quantize` as Ctrl-C does.
#[cfg(unix)]
#[test]
fn a_terminated_run_leaves_nothing_partial() {
    let world = World::new();
    let out = world.path("out.gguf");
    let files = || std::fs::read_dir(world.0.path()).expect("a directory").count();
    // The file may be finished before the signal comes.
    for _ in 0..5 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
        command.args(["quantize", "stories", &out, "--type", "q4_k_m", "--threads", "1", "--force"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("fs runs");
        while files() == 0 && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().expect("fs ends");
        if output.status.success() {
            std::fs::remove_file(&out).expect("it is finished");
            continue;
        }
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was written"));
        assert_eq!(files(), 0);
        return;
    }
    panic!("no run was slow enough to be terminated");
}

/// A limit on the size of files ends a write as a full disk does, not the program with half a file left.
#[cfg(unix)]
#[test]
fn a_file_over_the_limit_leaves_nothing_partial() {
    let world = World::new();
    let out = world.path("out.gguf");
    std::fs::write(&out, "old").expect("written");
    let limited = r#"ulimit -f 512; exec "$0" quantize stories "$1" --type q8_0 --force"#;
    let output = Command::new("sh").args(["-c", limited, env!("CARGO_BIN_EXE_fs"), &out]).output().expect("fs runs");
    fail(output, &world.0, &["out.gguf", "File too large"]);
    assert_eq!(std::fs::read(&out).expect("still there"), b"old");
}
