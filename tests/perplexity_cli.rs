//! `fs perplexity` as a user meets it: what it prints, what it refuses, how it ends.

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// `fs perplexity` where no model has been pulled, so that the embedded story model is the default; `input` is its stdin.
fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = spawn(args);
    // An error may end the program before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("fs ends")
}

fn spawn(args: &[&str]) -> std::process::Child {
    let nowhere = concat!(env!("CARGO_MANIFEST_DIR"), "/target/no-models");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
    command.arg("perplexity").args(args).env("FS_MODELS", nowhere).env_remove("FS_MODEL");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("fs runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn fails(args: &[&str], input: &[u8], code: i32, words: &[&str]) {
    let output = run(args, input);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(!error.contains("panicked") && output.stdout.is_empty(), "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

/// 600 sentences, about 5,000 tokens.
fn story(sentences: usize) -> String {
    (0..sentences).map(|i| format!("Tom saw {} red birds near the old tree. ", i % 7)).collect()
}

#[test]
fn a_table_and_json_say_the_same() {
    let args = ["-", "--context", "64", "--against", "stories"];
    let table = run(&args, story(20).as_bytes());
    assert!(table.status.success(), "{}", text(&table.stderr));
    let json = run(&[&args[..], &["--json", "--quiet"]].concat(), story(20).as_bytes());
    assert!(json.stderr.is_empty(), "{}", text(&json.stderr));
    let value: Value = serde_json::from_slice(&json.stdout).expect("one JSON value");
    let windows = value["windows"].as_u64().unwrap();
    assert_eq!(windows, value["text_tokens"].as_u64().unwrap() / 64);
    assert_eq!(value["tokens"].as_u64(), Some(windows * 31), "of 64 tokens, 33 to 63 are scored");
    assert_eq!((&value["interrupted"], &value["against"]["model"]), (&false.into(), &"stories".into()));
    assert_eq!(value["against"]["kl"], serde_json::json!({"mean": 0.0, "standard_error": 0.0}));
    let nll = value["nll"]["mean"].as_f64().unwrap();
    let bits = nll * value["tokens"].as_f64().unwrap() / 2f64.ln() / value["bytes"].as_f64().unwrap();
    assert!((value["bits_per_byte"].as_f64().unwrap() - bits).abs() < 1e-12);
    let table = text(&table.stdout);
    let expected = [
        format!("{windows} windows of 64, the second half of each scored"),
        format!("scored            {} tokens of {} bytes", value["tokens"], value["bytes"]),
        format!("bits per byte     {bits:.4}"),
        "against stories, whose perplexity is".into(),
        "same top token    100 ± 0 %".into(),
    ];
    for line in expected {
        assert!(table.contains(&line), "{table}\ndoes not say {line}");
    }
}

#[test]
fn a_short_text_is_one_window() {
    let output = run(&["-", "--json"], b"Once upon a time there was a cat.");
    let value: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    let tokens = value["text_tokens"].as_u64().unwrap();
    assert_eq!((value["tokens"].as_u64(), value["windows"].as_u64()), (Some(tokens - 1), Some(1)));
    let one = run(&["-"], b"Once upon");
    assert!(text(&one.stdout).contains("shorter than one window"), "{}", text(&one.stdout));
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16/model");
    let long = story(10);
    let long = long.as_bytes();
    fails(&["-"], b"", 1, &["the text has 0 tokens", "at least 2"]);
    fails(&["-"], b"a", 1, &["the text has 1 token"]);
    fails(&["-"], b"plain \xff\xfe", 1, &["stdin: not UTF-8: byte 6 is 0xff"]);
    fails(&["no-such-file"], b"", 1, &["no-such-file"]);
    fails(&["-", "--context", "1025"], long, 1, &["a context of 1025 tokens", "made for 1024"]);
    fails(&["-", "--model", tiny], long, 1, &["no tokenizer.json"]);
    fails(&["-", "--against", tiny], long, 1, &["different vocabularies", "4096 and 256 tokens"]);
    fails(&["-", "--against", "nobody"], long, 1, &["nobody"]);
    fails(&["-", "--context", "2"], long, 2, &["--context"]);
    fails(&["-", "--stride", "0"], long, 2, &["--stride"]);
    fails(&["-", "--stride", "512"], long, 2, &["--stride 512 must be below the context of 512"]);
    fails(&["-", "--kv", "int3"], long, 2, &["int3"]);
    fails(&[], b"", 2, &["FILE"]);
}

/// The same model with another cache is another distribution, a little; with the same cache it is the same.
#[test]
fn a_cache_type_is_compared_with_another() {
    let [same, other] = ["f32", "q8"].map(|kv| {
        // Without --against the reference is the model itself.
        let against: &[&str] = if kv == "f32" { &["--against", "stories"] } else { &[] };
        let args = [&["-", "--context", "64", "--kv", kv, "--against-kv", "f32", "--json"][..], against].concat();
        let value: Value = serde_json::from_slice(&run(&args, story(20).as_bytes()).stdout).expect("one JSON value");
        assert_eq!((&value["against"]["kv"], &value["against"]["model"]), (&"f32".into(), &"stories".into()));
        value["against"]["kl"]["mean"].as_f64().unwrap()
    });
    assert!(same.abs() < 1e-9 && other > 1e-7 && other < 1e-3, "{same} and {other}");
    fails(&["-", "--against-kv", "int3"], story(20).as_bytes(), 2, &["int3"]);
}

/// Each cache type rounds in its own way, and none far from the others.
#[test]
fn the_cache_type_is_the_one_asked_for() {
    let [exact, q8] = ["f32", "q8"].map(|kv| {
        let output = run(&["-", "--context", "64", "--kv", kv, "--json"], story(20).as_bytes());
        let value: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        assert_eq!(value["kv"], kv);
        value["nll"]["mean"].as_f64().unwrap()
    });
    assert!(exact != q8 && (exact / q8 - 1.0).abs() < 0.01, "{exact} and {q8}");
}

#[test]
fn a_reference_with_other_tokens_is_refused_though_it_has_as_many() {
    let dir = tempfile::tempdir().unwrap();
    let stories = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stories");
    for file in std::fs::read_dir(&stories).unwrap().flatten() {
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocab["A"].clone(), vocab["B"].clone());
    (vocab["A"], vocab["B"]) = (b, a.clone());
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let words = ["different vocabularies", &format!("token {a} is")];
    fails(&["-", "--against", dir.path().to_str().unwrap()], story(10).as_bytes(), 1, &words);
}

#[cfg(unix)]
#[test]
fn interrupted_it_reports_what_is_scored() {
    use std::io::Read;
    // Long enough not to end by itself.
    let mut child = spawn(&["-", "--json", "--context", "16"]);
    child.stdin.take().expect("a pipe").write_all(story(100_000).as_bytes()).unwrap();
    // The handler is set before the line about the model.
    child.stderr.as_mut().expect("a pipe").read_exact(&mut [0]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let notes = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{notes}");
    assert!(notes.contains("interrupted"), "{notes}");
    if !output.stdout.is_empty() {
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(value["interrupted"], true);
        assert!(value["tokens"].as_u64() < value["text_tokens"].as_u64().map(|n| n / 16 * 7));
        assert!(value["perplexity"]["mean"].as_f64().unwrap() > 1.0);
    }
}
