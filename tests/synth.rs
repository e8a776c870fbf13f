//! `fs synth`: complete, deterministic models, and no harm done when something goes wrong.

use failed_star::model::expected::{compare, expected_tensors};
use failed_star::weights::synth::{SynthOptions, Synthesized, synthesize};
use failed_star::weights::{Checkpoint, DType, ModelSource, WeightsError};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/forward").join(name).join("model")
}

fn stories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stories")
}

fn make(source: &Path, out: &Path, seed: u64, force: bool) -> Result<Synthesized, WeightsError> {
    let source = ModelSource::resolve(source.to_str()).expect("a model's directory");
    synthesize(&source, out, SynthOptions { seed, force }, &mut |_, _| ControlFlow::Continue(()))
}

fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).expect("weights")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn fs_synth(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fs")).arg("synth").args(args).output().expect("fs runs")
}

#[test]
fn the_tensors_are_those_that_the_configuration_expects() {
    // Tied and untied, with and without biases, configurations that name BF16, F16 and F32.
    for name in ["tied-bf16", "untied-sharded-f32-gqa3", "bias-mha-f16", "yarn-untied-bf16"] {
        let dir = tempfile::tempdir().unwrap();
        let made = make(&golden(name), dir.path(), 1, false).unwrap();
        let source = ModelSource::resolve(dir.path().to_str()).unwrap();
        let (config, checkpoint) = (source.config().unwrap(), source.require_checkpoint().unwrap());
        let report = compare(&config, &checkpoint);
        assert!(report.is_ok() && report.other_dtypes.is_empty(), "{name}: {report}");
        assert_eq!(checkpoint.tensors().count(), expected_tensors(&config).len(), "{name}: a tied head is not stored");
        assert_eq!(made.bytes, weights(dir.path()).len() as u64);
        assert_eq!(made.parameters, checkpoint.tensors().map(|tensor| tensor.elements() as u64).sum::<u64>());
        assert!(checkpoint.tensors().all(|tensor| tensor.dtype == DType::BF16));
    }
}

#[test]
fn values_are_normal_and_no_two_tensors_are_alike() {
    let dir = tempfile::tempdir().unwrap();
    make(&stories(), dir.path(), 1, false).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let values = |name: &str| checkpoint.get(name).expect("a tensor").to_f32();
    assert!(values("model.norm.weight").iter().all(|&value| value == 1.0));
    // More than one piece's worth, so that the seam between pieces is among them.
    let name = "model.embed_tokens.weight";
    let embedding = values(name);
    let inputs = *checkpoint.get(name).unwrap().shape.last().unwrap() as f64;
    let n = embedding.len() as f64;
    let mean = embedding.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = embedding.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
    let kurtosis = embedding.iter().map(|&v| f64::from(v).powi(4)).sum::<f64>() / n / variance.powi(2);
    // Standard errors at this size: 0.0008, 0.0012 and 0.004 of the deviation; the cut tails take 0.02 off the kurtosis.
    assert!((mean * inputs.sqrt()).abs() < 0.005, "mean {mean}");
    assert!((variance * inputs - 1.0).abs() < 0.01, "variance {variance}");
    assert!((kurtosis - 3.0).abs() < 0.06, "kurtosis {kurtosis}");
    let (a, b) = (values("model.layers.0.mlp.gate_proj.weight"), values("model.layers.0.mlp.up_proj.weight"));
    let product: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum::<f64>() * inputs / a.len() as f64;
    assert!(product.abs() < 0.02, "two tensors are correlated: {product}");
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for (dir, seed) in dirs.iter().zip([7, 7, 8]) {
        make(&stories(), dir.path(), seed, false).unwrap();
    }
    assert_eq!(weights(dirs[0].path()), weights(dirs[1].path()));
    assert_ne!(weights(dirs[0].path()), weights(dirs[2].path()));
}

#[cfg(feature = "embedded-model")]
#[test]
fn a_known_name_becomes_a_model_that_generates() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/model");
    let output = fs_synth(&["stories", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no bar where there is no terminal");
    let generate = Command::new(env!("CARGO_BIN_EXE_fs"))
        .args(["generate", "--model", out.to_str().unwrap(), "Once", "-n", "8", "--ignore-eos", "--json"])
        .output()
        .unwrap();
    let value: serde_json::Value = serde_json::from_slice(&generate.stdout).expect("JSON");
    assert_eq!(value["ids"].as_array().map(Vec::len), Some(8), "{}", String::from_utf8_lossy(&generate.stderr));
}

#[test]
fn a_model_that_is_there_is_replaced_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    make(&stories(), dir.path(), 1, false).unwrap();
    let before = weights(dir.path());
    let error = make(&stories(), dir.path(), 2, false).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("--force"), "{error}");
    assert_eq!(weights(dir.path()), before);
    // Another model's tokenizer must not stay behind.
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    make(&golden("tied-bf16"), dir.path(), 2, true).unwrap();
    assert_ne!(weights(dir.path()), before);
    assert!(!dir.path().join("tokenizer.json").exists());
    // A directory with a configuration alone is filled, one with another configuration is not.
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden("tied-bf16").join("config.json"), dir.path().join("config.json")).unwrap();
    let error = make(&stories(), dir.path(), 1, false).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("--force"), "{error}");
    make(&dir.path().join("config.json"), dir.path(), 1, false).unwrap();
    assert!(dir.path().join("model.safetensors").exists());
}

/// A configuration under a name of its own is of no model beside it: what lies there is not its tokenizer.
#[test]
fn a_configuration_may_have_any_name() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "config.json"] {
        fs::copy(stories().join(file), dir.path().join(file)).unwrap();
    }
    for name in ["tiny", "tiny.json", "another-config.json"] {
        let (config, out) = (dir.path().join(name), dir.path().join(format!("{name}-made")));
        fs::copy(golden("tied-bf16").join("config.json"), &config).unwrap();
        let output = fs_synth(&[config.to_str().unwrap(), out.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made = ModelSource::resolve(out.to_str()).unwrap();
        assert_eq!(made.config().unwrap().vocab_size, 256);
        assert!(made.require_checkpoint().is_ok() && !made.has_tokenizer());
    }
    let broken = dir.path().join("broken.txt");
    fs::write(&broken, "{").unwrap();
    let output = fs_synth(&[broken.to_str().unwrap(), dir.path().join("x").to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("broken.txt"), "{error}");
}

#[test]
fn breaking_off_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let source = ModelSource::resolve(stories().to_str()).unwrap();
    let result = synthesize(&source, &out, SynthOptions::default(), &mut |_, _| ControlFlow::Break(()));
    assert!(result.is_err() && !out.exists());
}

/// A limit on the size of files stands in for the full disk: the write that crosses it fails in the same place.
#[cfg(unix)]
#[test]
fn a_failing_write_is_an_error_that_leaves_nothing_partial() {
    let dir = tempfile::tempdir().unwrap();
    make(&golden("tied-bf16"), dir.path(), 1, false).unwrap();
    let (before, listed) = (weights(dir.path()), names(dir.path()).len());
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_fs"), "synth", "--force"])
        .args([stories(), dir.path().to_path_buf()])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("model.safetensors") && !error.contains("panicked"), "{error}");
    assert_eq!(weights(dir.path()), before, "the old file is kept");
    assert_eq!(names(dir.path()).len(), listed, "{:?}", names(dir.path()));
}

#[test]
fn bad_arguments_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (args, code, word) in [
        (vec!["no-such-model", "x"], 1, "no-such-model"),
        (vec![golden("tied-bf16").to_str().unwrap(), file.to_str().unwrap()], 1, "is no directory"),
        (vec!["x"], 2, "OUT"),
    ] {
        let output = fs_synth(&args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(word) && !error.contains("panicked"), "{error}");
    }
}
