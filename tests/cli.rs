//! The commands that run a model, as a user meets them: the real binary, its exit codes, stdout and stderr.

use failed_star::backend::cpu::simd::Level;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// `fs` where no model has been pulled, so that the embedded story model is the default.
fn fs(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
    let nowhere = concat!(env!("CARGO_MANIFEST_DIR"), "/target/no-models");
    command.args(args).env("FS_MODELS", nowhere).env_remove("FS_MODEL").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    fs(args).output().expect("fs runs")
}

fn run_with_stdin(args: &[&str], input: &[u8]) -> Output {
    let mut child =
        fs(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("fs runs");
    // An error may end the program before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("fs ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).expect("one JSON value on stdout")
}

/// Asserts the exit code, nothing on stdout, and an error on stderr that has all of these words.
fn fails(output: &Output, code: i32, words: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

const GREEDY: &[&str] = &["generate", "Once upon a time", "--temperature", "0", "--max-tokens", "12"];

#[test]
fn a_story_with_no_download() {
    let output = run(&["generate", "Once upon a time", "--seed", "1", "--max-tokens", "60"]);
    assert!(output.status.success());
    let story = text(&output.stdout);
    assert!(story.starts_with("Once upon a time"), "{story}");
    assert!(story.split_whitespace().count() > 30, "{story}");
    let notes = text(&output.stderr);
    for word in ["stories", "BF16", "cpu", "thread", "fs pull qwen3-0.6b", "tok/s", "GB/s", "seed 1"] {
        assert!(notes.contains(word), "{notes:?} does not say {word:?}");
    }
    let quiet = run(&["generate", "Once upon a time", "--max-tokens", "3", "--quiet"]);
    assert!(quiet.stderr.is_empty(), "{}", text(&quiet.stderr));
}

#[test]
fn json_holds_ids_text_reason_and_timings() {
    let value = json(&[GREEDY, &["--json"]].concat());
    assert_eq!(value["ids"].as_array().map(Vec::len), Some(12));
    assert_eq!(value["stop_reason"], "max_tokens");
    assert_eq!(value["timings"]["prompt_tokens"].as_u64(), value["prompt_ids"].as_array().map(|ids| ids.len() as u64));
    let text = stdout(&[GREEDY, &["--no-echo"]].concat());
    assert_eq!(value["text"].as_str(), Some(text.trim_end_matches('\n')), "both forms say the same");
    // The text's ids, decoded by the other command, are the text.
    let ids: Vec<String> = value["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(stdout(&["detokenize", &ids.join(",")]), text.trim_end_matches('\n'));
}

#[test]
fn ids_and_text_are_the_same_prompt() {
    let from_text = json(&[GREEDY, &["--json"]].concat());
    let ids: Vec<String> = from_text["prompt_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let from_ids = json(&["generate", "--ids", &ids.join(","), "--temperature", "0", "-n", "12", "--json"]);
    assert_eq!(from_ids["ids"], from_text["ids"]);
    let reference = json(&[GREEDY, &["--json", "--backend", "reference"]].concat());
    assert_eq!(reference["ids"], from_text["ids"], "backends agree on greedy text");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let tell = |seed| {
        json(&["generate", "One day", "--temperature", "1", "--seed", seed, "-n", "30", "--json"])["ids"].clone()
    };
    assert_eq!(tell("7"), tell("7"));
    assert_ne!(tell("7"), tell("8"));
}

#[test]
fn stopping() {
    let plain = json(&[GREEDY, &["--json"]].concat());
    let story = plain["text"].as_str().unwrap();
    let stop = story.split_whitespace().nth(3).unwrap();
    let stopped = json(&[GREEDY, &["--json", "--stop", stop]].concat());
    assert_eq!(stopped["stop_reason"], "stop_string");
    assert_eq!(stopped["text"].as_str().unwrap(), &story[..story.find(stop).unwrap()]);
    let id = &plain["ids"][4];
    let first = plain["ids"].as_array().unwrap().iter().position(|i| i == id).unwrap();
    let stopped = json(&[GREEDY, &["--json", "--stop-token", &id.to_string()]].concat());
    assert_eq!(stopped["stop_reason"], "stop_token");
    assert_eq!(stopped["ids"].as_array().unwrap().len(), first);
    let full = json(&["generate", "One day", "--context", "16", "--ignore-eos", "--json"]);
    assert_eq!(full["stop_reason"], "context_full");
    assert_eq!(full["ids"].as_array().unwrap().len() + full["prompt_ids"].as_array().unwrap().len(), 16);
}

#[test]
fn log_probabilities_and_logits_agree() {
    let logits = json(&["logits", "Once upon a time", "--top", "3", "--json", "--kv", "f32"]);
    let generated = json(&[
        "generate",
        "Once upon a time",
        "--temperature",
        "0",
        "-n",
        "1",
        "--logprobs",
        "3",
        "--json",
        "--kv",
        "f32",
    ]);
    let (best, first) = (&logits["top"][0], &generated["logprobs"][0]);
    assert_eq!((&best["id"], &best["logprob"], &best["text"]), (&first["id"], &first["logprob"], &first["text"]));
    assert_eq!(first["top"].as_array().map(Vec::len), Some(3));
    assert!(logits["top"][0]["logit"].as_f64() > logits["top"][1]["logit"].as_f64());
    let table = stdout(&["logits", "Once upon a time", "--top", "2"]);
    assert_eq!(table.lines().count(), 3, "{table}");
}

#[test]
fn penalties_and_bias_change_the_text() {
    let plain = json(&[GREEDY, &["--json"]].concat());
    let first = plain["ids"][0].to_string();
    let banned = json(&[GREEDY, &["--json", "--logit-bias", &format!("{first}=-1e9")]].concat());
    assert_ne!(banned["ids"][0], plain["ids"][0]);
    let repeated = ["generate", "--ids", "5,5,5,5,5,5", "--temperature", "0", "-n", "8", "--json"];
    let presence = json(&[&repeated[..], &["--presence-penalty", "100"]].concat());
    let ids: Vec<u64> = presence["ids"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "a token that has appeared cannot come again: {ids:?}");
}

#[test]
fn verify_runs_the_vectors_that_belong_to_a_model() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16");
    let model = format!("{golden}/model");
    let report = stdout(&["verify", &model, "--golden", golden]);
    assert!(report.contains("block_1") && report.contains("greedy") && report.contains("agree"), "{report}");
    let value = json(&["verify", &model, "--golden", golden, "--backend", "reference", "--json"]);
    assert_eq!(value["ok"], true);
    let beside = stdout(&["verify", &model]);
    assert!(beside.contains("tied-bf16") && beside.contains("agree"), "found beside the model: {beside}");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(std::path::Path::new(&model).join(file), dir.path().join(file)).unwrap();
    }
    let alone = dir.path().display().to_string();
    fails(&run(&["verify", &alone]), 1, &["no recorded outputs belong to", "--golden", "--against reference"]);
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/published-yarn-f32");
    fails(&run(&["verify", &model, "--golden", other]), 1, &["another model"]);
    let embedded = stdout(&["verify"]);
    assert!(embedded.contains("stories") && embedded.contains("agree"), "{embedded}");
}

#[test]
fn verify_finds_a_wrong_weight_and_says_where() {
    // A fixture whose model has one changed weight in block 1; its manifest claims it, so that the values decide.
    let golden = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    for file in ["case_0.safetensors", "case_1.safetensors", "model/config.json", "model/generation_config.json"] {
        std::fs::copy(golden.join(file), dir.path().join(file)).unwrap();
    }
    let mut weights = std::fs::read(golden.join("model/model.safetensors")).unwrap();
    let checkpoint = failed_star::weights::Checkpoint::open(&golden.join("model")).unwrap();
    let at = checkpoint.get("model.layers.1.mlp.down_proj.weight").unwrap().offset as usize;
    weights[at + 1] ^= 0x40;
    std::fs::write(dir.path().join("model/model.safetensors"), &weights).unwrap();
    let hash = |bytes: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let original = hash(&std::fs::read(golden.join("model/model.safetensors")).unwrap());
    let manifest = std::fs::read_to_string(golden.join("manifest.json")).unwrap();
    std::fs::write(dir.path().join("manifest.json"), manifest.replace(&original, &hash(&weights))).unwrap();

    let path = |name: &str| dir.path().join(name).display().to_string();
    let output = run(&["verify", &path("model"), "--golden", &path("")]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    assert!(report.contains("first divergence: case 0, block_1"), "{report}");
    assert!(report.lines().any(|line| line.contains("block_0") && line.ends_with("ok")), "{report}");
}

#[test]
fn verify_compares_backends_operation_by_operation() {
    let report = stdout(&["verify", "--against", "reference", "--prompt", "Tom had a red ball."]);
    for operation in
        ["embed", "rms_norm", "linear_qkv", "norm_rope_store", "attention", "linear_swiglu", "operations agree"]
    {
        assert!(report.contains(operation), "{report}");
    }
    let value = json(&["verify", "--against", "reference", "--ids", "5,6,7", "--json"]);
    assert_eq!(value["ok"], true);
}

#[test]
fn chat_through_a_pipe() {
    let args = ["chat", "--seed", "3", "--max-tokens", "40"];
    let output = run_with_stdin(&args, b"Tell me a story about a cat.\n/stats\n\nTell me another one.\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answers = text(&output.stdout);
    assert!(answers.split_whitespace().count() > 40, "two answers: {answers}");
    assert!(!answers.contains("<|im_"), "{answers}");
    assert!(!answers.contains('\u{1b}'), "no colours in a pipe");
    assert!(text(&output.stderr).contains("context:"), "{}", text(&output.stderr));
    let again = run_with_stdin(&args, b"Tell me a story about a cat.\n/undo\n/quit\nnever read\n");
    assert!(answers.starts_with(&text(&again.stdout)), "the same seed, the same first answer");
}

#[test]
fn a_conversation_can_be_saved_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("talk.json").display().to_string();
    let input = format!("/system You are kind.\nHello\n/save {file}\n");
    assert!(run_with_stdin(&["chat", "-n", "5"], input.as_bytes()).status.success());
    let saved: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let roles: Vec<_> = saved.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    let output = run_with_stdin(&["chat", "-n", "5", "--load", &file], b"/undo\n/save /dev/full/x\n");
    fails(&output, 1, &["cannot write /dev/full/x"]);
    // The temporary name beside a saved file is nobody else's, and nothing of it stays.
    let neighbour = dir.path().join("talk.partial");
    std::fs::write(&neighbour, "keep").unwrap();
    assert!(run_with_stdin(&["chat"], format!("/save {file}\n").as_bytes()).status.success());
    assert_eq!(std::fs::read_to_string(&neighbour).unwrap(), "keep");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    std::fs::write(&file, r#"[{"role": "wizard", "content": "x"}]"#).unwrap();
    fails(&run_with_stdin(&["chat", "--load", &file], b""), 1, &["talk.json", "wizard", "assistant"]);
    std::fs::write(&file, "not json").unwrap();
    fails(&run_with_stdin(&["chat", "--load", &file], b""), 1, &["talk.json", "not a saved conversation"]);
    fails(&run_with_stdin(&["chat"], b"/nonsense\n"), 1, &["/nonsense", "/help"]);
}

#[test]
fn bad_input_is_an_error_that_says_what_to_do() {
    fails(&run(&["generate", ""]), 1, &["prompt is empty"]);
    fails(&run(&["generate", "--ids", "5,4096"]), 1, &["4096", "vocabulary of 4096"]);
    fails(&run(&["generate", "--ids", "5,x"]), 2, &["`x` is not a token id"]);
    fails(&run_with_stdin(&["generate"], b"Once \xff upon"), 1, &["stdin", "byte 5", "0xff"]);
    let long = "word ".repeat(1200);
    fails(&run_with_stdin(&["generate"], long.as_bytes()), 1, &["do not fit into a context of 1024"]);
    fails(&run(&["generate", "x", "--context", "100000"]), 1, &["100000", "1024"]);
    fails(&run(&["generate", "x", "--temperature", "-1"]), 2, &["--temperature", "0 or more"]);
    fails(&run(&["generate", "x", "--top-p", "2"]), 2, &["--top-p", "from 0 to 1"]);
    fails(&run(&["generate", "x", "--repetition-penalty", "0"]), 2, &["--repetition-penalty", "more than 0"]);
    fails(&run(&["generate", "x", "--min-p", "nan"]), 2, &["--min-p"]);
    fails(&run(&["verify", "--against", "reference", "--ids", &"1,".repeat(1025)]), 1, &["1025", "1024"]);
    fails(&run(&["generate", "x", "--logit-bias", "99999=1"]), 1, &["99999"]);
    fails(&run(&["generate", "x", "--threads", "0"]), 2, &["--threads"]);
    fails(&run(&["generate", "x", "--backend", "gpu"]), 2, &["cpu", "reference"]);
    fails(&run(&["generate", "x", "--backend", "cpu", "--metal-plain"]), 2, &["--metal-plain", "--backend metal"]);
    fails(&run(&["generate", "x", "--model", "qwen3-0.6b"]), 1, &["no weights", "fs pull qwen3-0.6b"]);
    fails(&run(&["generate", "x", "--model", "no-such-model"]), 1, &["no-such-model", "fs pull"]);
    fails(&run(&["generate", "--file", "/no/such/file"]), 1, &["/no/such/file"]);
    fails(&run(&["generate", "text", "--ids", "1"]), 2, &["cannot be used with"]);
    fails(&run(&["logits", ""]), 1, &["prompt is empty"]);
    fails(&run(&["frobnicate"]), 2, &["frobnicate"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_not() {
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    for args in
        [GREEDY, &["logits", "Once"], &["verify"], &["generate", "x", "-n", "2", "--json"], &["inspect"], &["--help"]]
    {
        let output = fs(args).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains("cannot write to stdout: No space left"),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let mut child =
        fs(&["generate", "Once", "--ignore-eos"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && !text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
}

/// What is measured beside a story must not take more memory than the story: a bandwidth test's own memory would not fit here.
#[cfg(target_os = "linux")]
#[test]
fn a_story_is_told_in_little_memory() {
    let command = format!("ulimit -v 300000; exec {} generate Once -n 8 --threads 2", env!("CARGO_BIN_EXE_fs"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("GB/s of weights") && !said.contains("this machine's"), "{said}");
}

#[test]
fn help_has_examples() {
    for command in [
        "generate",
        "chat",
        "tokenize",
        "detokenize",
        "inspect",
        "logits",
        "verify",
        "perplexity",
        "pull",
        "models",
        "synth",
        "bench",
    ] {
        let help = stdout(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("fs {command}")), "{command}: {help}");
    }
}

#[test]
fn a_model_without_a_tokenizer_answers_in_ids() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16/model");
    let args = ["generate", "--model", model, "--ids", "1,2", "-n", "5", "--temperature", "0"];
    let ids: Vec<u64> = stdout(&args).split_whitespace().map(|id| id.parse().expect("an id")).collect();
    assert_eq!(json(&[&args[..], &["--json"]].concat())["ids"], serde_json::json!(ids));
    assert_eq!(ids.len(), 5);
    fails(&run(&["generate", "--model", model, "text"]), 1, &["no tokenizer.json", "token ids"]);
}

#[test]
fn the_simd_level_can_be_forced() {
    let one = |more: &[&str], variable: &str| {
        let args = [&["generate", "Once", "-n", "1"], more].concat();
        fs(&args).env("FS_SIMD", variable).output().expect("fs runs")
    };
    let scalar = ["--simd", "scalar"];
    for output in [one(&scalar, ""), one(&[], "scalar"), one(&scalar, "nonsense")] {
        assert!(output.status.success() && text(&output.stderr).contains("cpu scalar"), "{}", text(&output.stderr));
    }
    let fastest = Level::detect().name();
    assert!(text(&one(&[], "").stderr).contains(&format!("cpu {fastest} ")), "an empty variable is none");
    assert!(one(&["--backend", "reference"], "nonsense").status.success(), "it is for the cpu backend");
    fails(&one(&["--simd", "sse9"], ""), 2, &["--simd", "sse9", "scalar", fastest]);
    fails(&one(&[], "sse9"), 2, &["FS_SIMD", "sse9", "scalar", fastest]);
    fails(&one(&["--simd", "scalar", "--backend", "reference"], ""), 2, &["--simd is for the cpu backend"]);
    let help = stdout(&["generate", "--help"]);
    for level in Level::available().into_iter().map(Level::name).chain(Level::missing()) {
        assert!(help.contains(level), "{help}");
    }
}

#[test]
fn more_threads_than_cores_are_warned_of() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let (fits, more) = (cores.to_string(), (cores + 1).to_string());
    let notes = |args: &[&str]| text(&run(&[&["logits", "Once", "--top", "1"], args].concat()).stderr);
    assert!(notes(&["--threads", &more]).contains(&format!("warning: {more} threads on {cores} core")));
    assert!(!notes(&["--threads", &fits]).contains("warning"));
    assert_eq!(notes(&["--threads", &more, "--quiet"]), "");
}

#[test]
fn timings_count_passes_over_the_weights() {
    let timings = json(&[GREEDY, &["--json"]].concat())["timings"].clone();
    assert_eq!(timings["decoded_tokens"], 11, "the first of 12 tokens comes from the prompt's logits");
    let rate = 11.0 / timings["decode_seconds"].as_f64().unwrap();
    assert!((timings["decode_tokens_per_second"].as_f64().unwrap() / rate - 1.0).abs() < 1e-6);
}

#[cfg(unix)]
#[test]
fn an_interrupted_story_ends_cleanly_and_whole() {
    use std::io::Read;
    let args = ["generate", "Once", "--ignore-eos", "--backend", "reference", "--logprobs", "--json"];
    let mut child = fs(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("fs runs");
    // The line about the model comes before the first token, and the handler is set before that line.
    let mut line = [0; 1];
    child.stderr.as_mut().expect("a pipe").read_exact(&mut line).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    if !output.stdout.is_empty() {
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(value["stop_reason"], "interrupted");
        assert_eq!(value["ids"].as_array().map(Vec::len), value["logprobs"].as_array().map(Vec::len));
    }
}

/// A prompt that nobody types at has nothing to end cleanly: one signal is enough, and it is not waited for input.
#[cfg(unix)]
#[test]
fn waiting_for_input_ends_at_the_first_signal() {
    use std::io::Read;
    let mut child = fs(&["chat"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("fs runs");
    child.stderr.as_mut().expect("a pipe").read_exact(&mut [0]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    for _ in 0..600 {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(130));
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    panic!("still waiting for input");
}
