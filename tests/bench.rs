//! `fs bench`: what it prints, not how fast anything is.

use serde_json::Value;
use std::process::{Command, Output, Stdio};

/// On the story model, which was made for 1024 positions.
fn run(args: &[&str]) -> Output {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
    command.args(["bench", "--model", model]).args(args).stdin(Stdio::null()).output().expect("fs runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty() && !error.contains("panicked"), "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

const SMALL: &[&str] = &["--prompt", "6", "--generate", "3", "--repeats", "3"];

fn with(more: &[&str]) -> Vec<String> {
    SMALL.iter().chain(more).map(ToString::to_string).collect()
}

fn small(more: &[&str]) -> String {
    stdout(&with(more).iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn json_has_every_number_and_they_agree() {
    let report: Value = serde_json::from_str(&small(&["--depth", "5,0", "--kv", "f16,f32", "--json"])).expect("JSON");
    for field in ["version", "model", "dtype", "backend", "device", "threads", "weight_bytes_per_token", "load_seconds"]
    {
        assert!(!report[field].is_null(), "{field}");
    }
    let bandwidth = report["machine"]["read_bytes_per_second"].as_f64().expect("measured");
    let peaks = report["machine"]["peaks"].as_array().expect("a list");
    assert_eq!(peaks[0]["instruction"], "f32 FMA");
    // Weights of BF16 are of no use to instructions on 8-bit integers.
    let usable = peaks.iter().filter(|peak| peak["operands"] != "int8");
    let peak = usable.map(|peak| peak["ops_per_second"].as_f64().expect("measured")).fold(0.0, f64::max);
    assert!(bandwidth > 0.0 && peak > 0.0);
    #[cfg(target_os = "linux")]
    assert!(report["peak_resident_bytes"].as_u64() > report["weight_bytes_per_token"].as_u64());

    let results = report["results"].as_array().expect("a list");
    let keys: Vec<_> = results.iter().map(|r| (r["kv"].as_str().unwrap(), r["depth"].as_u64().unwrap())).collect();
    assert_eq!(keys, [("f16", 0), ("f16", 5), ("f32", 0), ("f32", 5)]);
    for result in results {
        for (phase, tokens) in [("prefill", 6), ("decode", 3)] {
            let measured = &result[phase];
            assert_eq!(measured["tokens"], tokens);
            let number = |field: &str| measured[field].as_f64().unwrap_or_else(|| panic!("{phase}: {field}"));
            let rate = &measured["tokens_per_second"];
            let [median, min, max] = ["median", "min", "max"].map(|field| rate[field].as_f64().expect("a number"));
            assert!(0.0 < min && min <= median && median <= max);
            assert_eq!(rate["samples"].as_array().map(Vec::len), Some(3));
            let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} and {b}");
            close(number("bytes_per_second"), number("bytes") * median / f64::from(tokens));
            close(number("share_of_read_bandwidth"), number("bytes_per_second") / bandwidth);
            close(number("share_of_peak"), number("flop_per_second") / peak);
        }
        assert!(result["seconds_to_first_token"].as_f64() > Some(0.0));
    }
    // The story model: 8 layers, 2 KV heads of 64; decoding at depth d reads d + 1, d + 2 and d + 3 positions.
    let config: Value = serde_json::from_str(include_str!("../models/stories/config.json")).unwrap();
    let n = |field: &str| config[field].as_f64().unwrap();
    let position = 2.0 * n("num_hidden_layers") * n("num_key_value_heads") * n("head_dim");
    let weights = report["weight_bytes_per_token"].as_f64().unwrap();
    for (result, bytes_each) in [(&results[1], 2.0), (&results[3], 4.0)] {
        let expected = 3.0 * weights + position * bytes_each * (6.0 + 7.0 + 8.0);
        assert_eq!(result["decode"]["bytes"].as_f64(), Some(expected));
        // The prompt is one pass, and each of its six tokens reads a row of the embedding.
        let expected = weights + 5.0 * 2.0 * n("hidden_size") + position * bytes_each * 11.0;
        assert_eq!(result["prefill"]["bytes"].as_f64(), Some(expected));
    }
    // Six tokens through every matrix, one through the head.
    let layer = n("hidden_size") * n("head_dim") * (2.0 * n("num_attention_heads") + 2.0 * n("num_key_value_heads"))
        + 3.0 * n("hidden_size") * n("intermediate_size");
    let scores = 4.0 * n("num_hidden_layers") * n("num_attention_heads") * n("head_dim") * (1..=6).sum::<u32>() as f64;
    let linear = 2.0 * (6.0 * n("num_hidden_layers") * layer + n("vocab_size") * n("hidden_size"));
    assert_eq!(results[0]["prefill"]["flop"].as_f64(), Some(linear + scores));
}

#[test]
fn csv_has_a_column_for_every_name() {
    let csv = small(&["--depth", "0,5", "--csv"]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 1 + 2 * 2, "{csv}");
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
    let column = |name: &str| lines[0].iter().position(|column| *column == name).unwrap_or_else(|| panic!("{name}"));
    let phases: Vec<&str> = lines[1..].iter().map(|line| line[column("phase")]).collect();
    assert_eq!(phases, ["prefill", "decode", "prefill", "decode"]);
    for line in &lines[1..] {
        assert!(line[column("tokens_per_second_median")].parse::<f64>().is_ok_and(|rate| rate > 0.0), "{csv}");
    }
    let csv = small(&["--csv", "--ops"]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert!(lines.len() > 10 && lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
}

#[test]
fn operations_account_for_all_bytes_and_all_arithmetic() {
    let report: Value = serde_json::from_str(&small(&["--depth", "5", "--json", "--ops"])).expect("JSON");
    let phases = report["operations"].as_array().expect("a list");
    assert_eq!(phases.iter().map(|p| p["phase"].as_str().unwrap()).collect::<Vec<_>>(), ["prefill", "decode"]);
    for phase in phases {
        let operations = phase["operations"].as_array().expect("a list");
        let sum = |field: &str| operations.iter().map(|operation| operation[field].as_f64().unwrap()).sum::<f64>();
        let measured = &report["results"][0][phase["phase"].as_str().unwrap()];
        assert_eq!(Some(sum("flop")), measured["flop"].as_f64(), "{phase}");
        // Norms and biases, a few kB, are in the model's bytes and in no operation's.
        let bytes = sum("bytes") / measured["bytes"].as_f64().unwrap();
        assert!((0.998..=1.001).contains(&bytes), "{bytes}");
        assert!(sum("seconds") <= phase["seconds"].as_f64().unwrap());
    }
}

/// The model itself, say: it would be gone.
#[test]
fn the_drawing_replaces_nothing_but_a_drawing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("precious.gguf");
    std::fs::write(&file, "GGUF and more").unwrap();
    fails(&["--svg", file.to_str().unwrap()], 1, &["precious.gguf", "no SVG"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "GGUF and more");
}

#[test]
fn the_drawing_is_xml_with_two_panels() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.svg");
    // A name that XML must escape.
    let model = dir.path().join("a<b&c");
    let copy = Command::new(env!("CARGO_BIN_EXE_fs"))
        .args(["synth", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16/model")])
        .arg(&model)
        .output()
        .expect("fs runs");
    assert!(copy.status.success(), "{}", text(&copy.stderr));
    let output = Command::new(env!("CARGO_BIN_EXE_fs"))
        .args(["bench", "--depth", "0,4", "--kv", "f16,f32", "--model"])
        .arg(&model)
        .arg("--svg")
        .arg(&file)
        .args(SMALL)
        .output()
        .expect("fs runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let svg = std::fs::read_to_string(&file).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    for wanted in ["tokens/s", "FLOP/s", "prefill", "decode", "kv f32", "a<b&c"] {
        assert!(texts.iter().any(|text| text.contains(wanted)), "{wanted}: {texts:?}");
    }
    // Two types at two depths, two phases: a dot each in both panels, and two in the legend.
    let dots = document.descendants().filter(|node| node.attribute("class") == Some("dot")).count();
    assert_eq!(dots, 8 + 8 + 2);
    assert!(svg.contains("prefers-color-scheme:dark") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn the_table_names_the_limits() {
    let table = small(&["--ops"]);
    for word in
        ["reads", "f32 FMA", "prefill 6", "decode 3", "of read", "attention", "linear_swiglu", "between operations"]
    {
        assert!(table.contains(word), "{table}");
    }
    // The reference measures no limits; a phase that is left out is not shown.
    let table = stdout(&["--backend", "reference", "--prompt", "0", "-n", "2", "-r", "1"]);
    assert!(table.contains("limits mean nothing") && !table.contains("prefill"), "{table}");
}

#[test]
fn a_depth_beyond_the_context_is_refused() {
    fails(&["--depth", "0,1000"], 1, &["1000", "512", "1024", "at most 512"]);
    fails(&["--depth", "4294967295"], 1, &["1024"]);
    fails(&["--prompt", "2000"], 1, &["2000", "1024"]);
    // The last depth that fits does.
    stdout(&["--depth", "1018", "-p", "6", "-n", "6", "-r", "1", "--csv"]);
}

#[test]
fn bad_arguments_are_usage_errors() {
    fails(&["--prompt", "0", "--generate", "0"], 2, &["nothing to measure"]);
    fails(&["--depth", "x"], 2, &["--depth"]);
    fails(&["--kv", "f16,q99"], 2, &["q99", "f16"]);
    fails(&["--repeats", "0"], 2, &["--repeats"]);
    fails(&["--json", "--csv"], 2, &["--csv"]);
}

#[test]
fn a_drawing_that_cannot_be_written_is_refused_before_anything_is_measured() {
    // Measuring would take hours.
    fails(
        &["-p", "512", "-n", "512", "-r", "1000", "--svg", "/no/such/directory/x.svg"],
        1,
        &["/no/such/directory/x.svg"],
    );
    let dir = tempfile::tempdir().unwrap();
    fails(&["-r", "1000", "--svg", dir.path().to_str().unwrap()], 1, &[dir.path().to_str().unwrap()]);
}

#[test]
fn what_is_given_twice_is_measured_once() {
    let report: Value =
        serde_json::from_str(&small(&["--depth", "0,2,0", "--kv", "q8,f16,q8", "--json"])).expect("JSON");
    let results = report["results"].as_array().expect("a list");
    let keys: Vec<_> = results.iter().map(|r| (r["kv"].as_str().unwrap(), r["depth"].as_u64().unwrap())).collect();
    assert_eq!(keys, [("q8", 0), ("q8", 2), ("f16", 0), ("f16", 2)]);
    // Decoding reads 1, 2 and 3 positions: in q8, 34 bytes for 32 values.
    let cache = |i: usize| {
        let all = results[i]["decode"]["bytes"].as_f64().unwrap();
        all - 3.0 * report["weight_bytes_per_token"].as_f64().unwrap()
    };
    assert!(cache(0) > 0.0 && cache(0) / cache(2) == 34.0 / 64.0, "{} and {}", cache(0), cache(2));
}

/// On a device the times are its own clock's, of one command buffer for each operation, and kernels are counted.
#[test]
#[cfg(all(feature = "metal-standin", not(target_os = "macos")))]
fn a_device_times_operations_itself() {
    let arguments = ["--backend", "metal", "--prompt", "0", "--generate", "2", "--repeats", "1", "--ops"];
    let report: Value = serde_json::from_str(&stdout(&[&arguments[..], &["--json"]].concat())).expect("JSON");
    let device = &report["results"][0]["decode"]["device"];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {report}"));
    // Eight layers: each has at least the projections, attention and what stands between them.
    let [dispatches, barriers, waits] = ["dispatches", "barriers", "waits"].map(|name| number(&device[name]));
    assert!(dispatches > 8.0 * 5.0 && dispatches < 8.0 * 10.0 + 10.0, "{dispatches} dispatches");
    assert!(barriers < dispatches && waits <= 2.0 && number(&device["seconds"]) > 0.0, "{device}");
    let phase = &report["operations"][0];
    let operations = phase["operations"].as_array().expect("a list");
    let sum = |name: &str| operations.iter().map(|operation| number(&operation[name])).sum::<f64>();
    assert!(sum("seconds") > 0.0 && sum("seconds") < number(&phase["seconds"]), "{phase}");
    assert!(sum("dispatches") >= 2.0 * (dispatches - 2.0), "{} of {dispatches} a token", sum("dispatches"));
    let table = stdout(&arguments);
    for word in ["kernels", "dispatches", "barriers", "ms on the device", "encoding and waiting"] {
        assert!(table.contains(word), "{table:?} does not say {word:?}");
    }
}
