//! `fs inspect`, and where `--model` looks: the command itself, with its own environment and directories.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const QWEN3_8B: &str = include_str!("golden/configs/qwen3-8b.json");

/// `fs` with an empty model directory, whatever this machine has.
fn fs(models: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
    command.args(args).env("FS_MODELS", models).env_remove("FS_MODEL").stdin(Stdio::null());
    command
}

fn run(models: &Path, args: &[&str]) -> Output {
    fs(models, args).output().expect("fs runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn inspect_json(models: &Path, args: &[&str]) -> Value {
    let output = run(models, &[&["inspect", "--json"], args].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Asserts exit status 1, and an error on stderr that has all of these words.
fn fails(output: &Output, words: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a writable directory");
    std::fs::write(path, bytes).expect("a writable directory");
}

/// A small model's configuration, and all of its tensors as zeros in F32, but for those that `keep` refuses.
fn small_model(dir: &Path, keep: impl Fn(&str) -> bool) {
    let config = json!({
        "model_type": "qwen3", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "torch_dtype": "float32", "tie_word_embeddings": true,
    })
    .to_string();
    write(&dir.join("config.json"), &config);
    let config = failed_star::weights::Config::from_json(config.as_bytes(), "config.json").expect("valid");
    let tensors: Vec<_> = failed_star::model::expected::expected_tensors(&config)
        .into_iter()
        .filter(|(name, _)| keep(name))
        .map(|(name, shape)| (name, vec![0u8; 4 * shape.iter().product::<usize>()], shape))
        .collect();
    let views = tensors.iter().map(|(name, data, shape)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.as_str(), view.expect("a valid tensor"))
    });
    write(&dir.join("model.safetensors"), safetensors::serialize(views, None).expect("valid tensors"));
}

#[test]
fn a_config_alone_gives_the_table_and_the_costs() {
    let dir = temporary();
    write(&dir.path().join("config.json"), QWEN3_8B);
    let path = dir.path().to_str().expect("UTF-8");
    let output = run(dir.path(), &["inspect", path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for line in
        ["parameters logical     8,190,735,360\n", "147,456 bytes a token", "no weights here", "a matrix of its own"]
    {
        assert!(shown.contains(line), "{shown}\ndoes not say {line:?}");
    }
    assert!(!shown.contains("parameters stored"));
    let by_file = inspect_json(dir.path(), &[dir.path().join("config.json").to_str().expect("UTF-8")]);
    assert_eq!(by_file["has_weights"], false);
    assert_eq!(by_file["tensors"].as_array().map(Vec::len), Some(3 + 36 * 11));
    assert_eq!(by_file["ok"], Value::Null);
}

#[test]
fn a_whole_model_is_shown_and_fits() {
    let dir = temporary();
    small_model(dir.path(), |_| true);
    let path = dir.path().to_str().expect("UTF-8");
    let json = inspect_json(dir.path(), &["--model", path]);
    // 20*8 + (24*8 + 12*8 + 12*8 + 8*24 + 3*12*8 + 2*8 + 2*6) + 8
    assert_eq!(json["cost"]["parameters"], 1060);
    assert_eq!(json["stored"], json!({ "tensors": 13, "parameters": 1060, "bytes": 4240 }));
    assert_eq!(json["cost"]["decode_bytes"], 4 * (1060 + 8));
    assert_eq!(json["kv_cache_f16"], json!({ "bytes_per_token": 48, "context": 64, "bytes": 3072 }));
    assert_eq!((&json["ok"], &json["has_weights"]), (&json!(true), &json!(true)));
    let tensors = json["tensors"].as_array().expect("a list");
    let q = tensors.iter().find(|t| t["name"] == "model.layers.0.self_attn.q_proj.weight").expect("q_proj");
    assert_eq!((&q["shape"], &q["dtype"], &q["bytes"]), (&json!([24, 8]), &json!("F32"), &json!(768)));
    let shown = text(&run(dir.path(), &["inspect", path]).stdout);
    assert!(shown.contains("every tensor that config.json expects is there"), "{shown}");
}

#[test]
fn weights_that_do_not_fit_are_reported_whole_and_exit_1() {
    let dir = temporary();
    small_model(dir.path(), |name| !name.contains("_norm"));
    let path = dir.path().to_str().expect("UTF-8");
    let output = run(dir.path(), &["inspect", path]);
    fails(&output, &["do not fit config.json", "2 problems"]);
    let shown = text(&output.stdout);
    for name in ["q_norm", "k_norm"] {
        assert!(
            shown.contains(&format!("missing     model.layers.0.self_attn.{name}.weight: expected [6]")),
            "{shown}"
        );
    }
    let output = run(dir.path(), &["inspect", "--json", path]);
    fails(&output, &["2 problems"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    assert_eq!(json["report"]["problems"][0]["problem"], "missing");
}

#[test]
fn weights_alone_give_a_table() {
    let dir = temporary();
    small_model(dir.path(), |_| true);
    std::fs::remove_file(dir.path().join("config.json")).expect("just written");
    let file = dir.path().join("model.safetensors");
    let output = run(dir.path(), &["inspect", file.to_str().expect("UTF-8")]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("no config.json beside it"));
}

#[test]
fn damaged_files_exit_1_and_are_named() {
    let dir = temporary();
    let path = dir.path().to_str().expect("UTF-8");
    fails(&run(dir.path(), &["inspect", path]), &[path, "no config.json", "fs pull"]);
    small_model(dir.path(), |_| true);
    let whole = std::fs::read(dir.path().join("model.safetensors")).expect("just written");
    write(&dir.path().join("model.safetensors"), &whole[..whole.len() - 1]);
    fails(&run(dir.path(), &["inspect", path]), &["model.safetensors", "truncated"]);
    write(&dir.path().join("model.safetensors"), whole);
    write(&dir.path().join("config.json"), "{}");
    fails(&run(dir.path(), &["inspect", path]), &["config.json", "model_type", "found nothing"]);
    write(&dir.path().join("model.bin"), "x");
    let other = dir.path().join("model.bin");
    fails(&run(dir.path(), &["inspect", other.to_str().expect("UTF-8")]), &["model.bin", "not a model"]);
}

#[test]
fn pulled_models_are_found_by_name_in_any_case() {
    let models = temporary();
    write(&models.path().join("qwen3-8b/config.json"), QWEN3_8B);
    write(&models.path().join("someone--a-model/config.json"), QWEN3_8B);
    for name in ["qwen3-8b", "Qwen3-8B", "Qwen/Qwen3-8B", "qwen/qwen3-8b"] {
        assert_eq!(inspect_json(models.path(), &[name])["model"], "qwen3-8b", "{name}");
    }
    for name in ["Someone/A-Model", "someone--a-model"] {
        assert_eq!(inspect_json(models.path(), &[name])["model"], "someone--a-model", "{name}");
    }
    let output = fs(models.path(), &["inspect", "--json"]).env("FS_MODEL", "qwen3-8b").output().expect("fs runs");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["model"], "qwen3-8b", "$FS_MODEL is the default");
}

#[test]
fn a_pulled_qwen3_0_6b_with_weights_is_the_default() {
    let models = temporary();
    small_model(&models.path().join("qwen3-0.6b"), |_| true);
    let output = run(models.path(), &["inspect", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["model"], &json["cost"]["parameters"]), (&json!("qwen3-0.6b"), &json!(1060)));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn unknown_names_list_what_there_is_and_how_to_get_more() {
    let models = temporary();
    write(&models.path().join("qwen3-8b/config.json"), QWEN3_8B);
    fails(&run(models.path(), &["inspect", "lama"]), &["`lama`", "qwen3-8b (no weights)", "fs pull"]);
    fails(&run(models.path(), &["inspect", "qwen3-14b"]), &["qwen3-8b", "`fs pull qwen3-14b`"]);
    fails(&run(models.path(), &["inspect", "some/model"]), &["`fs pull some/model`"]);
    // A name cannot lead out of the model directory.
    let inner = models.path().join("models");
    write(&models.path().join("secret/config.json"), QWEN3_8B);
    for name in ["../secret", "x/../../secret", "..--secret", "qwen3-8b/../../secret"] {
        fails(&run(&inner, &["inspect", name]), &["no model"]);
    }
}

#[test]
fn wrong_usage_exits_2() {
    let models = temporary();
    for args in [&["inspect", "a", "b"][..], &["inspect", "a", "--model", "b"], &["inspect", "--nothing"]] {
        assert_eq!(run(models.path(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let dir = temporary();
    write(&dir.path().join("config.json"), QWEN3_8B);
    let mut command = fs(dir.path(), &["inspect", "--json", dir.path().to_str().expect("UTF-8")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("fs runs");
    // Closed before fs writes its first byte.
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("fs ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn a_named_pipe_is_refused_and_does_not_hang() {
    let dir = temporary();
    let pipe = dir.path().join("config.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    fails(&run(dir.path(), &["inspect", dir.path().to_str().expect("UTF-8")]), &["not a regular file"]);
}

#[cfg(feature = "embedded-model")]
#[test]
fn qwen3_0_6b_is_known_without_its_weights() {
    let models = temporary();
    let json = inspect_json(models.path(), &["qwen3-0.6b"]);
    assert_eq!(json["cost"]["parameters"], 596_049_920);
    assert_eq!(json["cost"]["weight_bytes"], 1_192_099_840);
    assert_eq!(json["kv_cache_f16"]["bytes_per_token"], 114_688);
    assert_eq!((&json["has_weights"], &json["stored"]), (&json!(false), &Value::Null));
    let shown = text(&run(models.path(), &["inspect", "--model", "Qwen/Qwen3-0.6B"]).stdout);
    for line in ["596,049,920", "(1.192 GB)", "114,688 bytes a token", "no weights here"] {
        assert!(shown.contains(line), "{shown}\ndoes not say {line:?}");
    }
}

#[cfg(feature = "embedded-model")]
#[test]
fn the_story_model_is_the_last_resort_and_stderr_says_so() {
    let models = temporary();
    // A qwen3-0.6b without weights is no model to run.
    write(&models.path().join("qwen3-0.6b/config.json"), QWEN3_8B);
    let output = run(models.path(), &["inspect", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["model"], &json["ok"]), (&json!("stories"), &json!(true)));
    let notice = text(&output.stderr);
    assert!(notice.lines().count() == 1 && notice.contains("fs pull qwen3-0.6b"), "{notice}");
    assert_eq!(text(&run(models.path(), &["inspect", "Stories"]).stderr), "", "named, so there is nothing to say");
}
