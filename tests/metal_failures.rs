//! What goes wrong with a GPU, as a user meets it: none there, a kernel that does not compile, a model that is too large, a
//! command buffer that fails. Each is one clear error, and no text that nothing computed.

#![cfg(all(feature = "metal-standin", not(target_os = "macos")))]

use failed_star::backend::BackendKind;
use failed_star::session::{Engine, EngineOptions, SessionOptions};
use failed_star::weights::ModelSource;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const GENERATE: &[&str] = &["generate", "Once upon a time", "--temperature", "0", "-n", "12", "--backend", "metal"];

/// `fs` with the embedded story model, on the stand-in's CPU unless `variables` say otherwise.
fn fs(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
    for name in ["FS_MODEL", "FS_METAL_SOURCE_DIR", "METAL_STANDIN", "METAL_STANDIN_CHECK", "METAL_STANDIN_SHUFFLE"] {
        command.env_remove(name);
    }
    let nowhere = concat!(env!("CARGO_MANIFEST_DIR"), "/target/no-models");
    command.args(args).env("FS_MODELS", nowhere).envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().expect("fs runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// It exits with 1, and its last line on stderr is an error with all of these words.
#[track_caller]
fn fails(output: &Output, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let error = stderr.find("error: ").map_or("", |at| &stderr[at..]);
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn no_device() {
    let none = [("METAL_STANDIN", "none")];
    let output = fs(GENERATE, &none);
    fails(&output, &["no Metal device", "--backend cpu"]);
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("METAL_STANDIN=none"), "the stand-in says why");
    let devices = text(&fs(&["devices"], &none).stdout);
    let line = |name: &str| devices.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert!(line("metal").contains("not here") && line("metal").contains("no Metal device"), "{devices}");
    assert!(line("cpu").contains("(auto)"), "{devices}");
    let auto = fs(&["generate", "Once upon a time", "--temperature", "0", "-n", "3", "--backend", "auto"], &none);
    assert!(auto.status.success() && text(&auto.stderr).contains(" cpu "), "{}", text(&auto.stderr));
}

/// The directory of `FS_METAL_SOURCE_DIR` with one kernel's text changed.
fn kernels(file: &str, change: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/metal")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = directory.path().join(file);
    std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
    directory
}

fn generate_with(directory: &Path) -> Output {
    fs(GENERATE, &[("FS_METAL_SOURCE_DIR", directory.to_str().unwrap())])
}

/// A kernel in a file that includes another: the line is the one in its own file.
#[test]
fn a_kernel_that_does_not_compile() {
    let mut line = 0;
    let directory = kernels("linear_row.metal", |text| {
        let at = text.find("kernel void linear_row_swiglu(").unwrap();
        line = text[..at].lines().count() + 1;
        text.replacen("kernel void linear_row_swiglu(", "kernel vood linear_row_swiglu(", 1)
    });
    let output = generate_with(directory.path());
    fails(&output, &[&format!("linear_row.metal:{line}:13: error: a kernel must return 'void'"), "kernel vood linear"]);
    let directory = kernels("packed.h", |text| text + "\nconstant float wrong = nothing;\n");
    let line = std::fs::read_to_string(directory.path().join("packed.h")).unwrap().lines().count();
    fails(&generate_with(directory.path()), &[&format!("packed.h:{line}:24: error: "), "nothing"]);
    // A header that includes itself, and a word behind the name.
    let directory = kernels("packed.h", |text| format!("#include \"packed.h\" // again\n{text}"));
    assert!(generate_with(directory.path()).status.success());
    std::fs::remove_file(directory.path().join("packed.h")).unwrap();
    fails(&generate_with(directory.path()), &["packed.h", "FS_METAL_SOURCE_DIR"]);
}

#[test]
fn a_model_larger_than_the_device_wants() {
    let model = "14.7 MB";
    let output = fs(GENERATE, &[("METAL_STANDIN_MEMORY", "10000000")]);
    fails(&output, &[model, "at most 10.0 MB", "--type q8_0` of the unquantized model makes 7.8 MB", "--backend cpu"]);
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let output = fs(GENERATE, &[("METAL_STANDIN_MEMORY", "1000000")]);
    fails(&output, &[model, "at most 1.0 MB", "--backend cpu"]);
    assert!(!text(&output.stderr).contains("--type"), "no format is small enough: {}", text(&output.stderr));
    // Room for the weights, and for nothing beside them.
    fails(&fs(GENERATE, &[("METAL_STANDIN_MEMORY", "14720000")]), &["no memory for", "bytes", "--backend cpu"]);
    // What is quantized already is counted as it is, and a format that would be larger is not offered.
    let directory = tempfile::tempdir().unwrap();
    let small = directory.path().join("q4.gguf");
    let small = small.to_str().unwrap();
    assert!(fs(&["quantize", "stories", small, "--type", "q8_0"], &[]).status.success());
    let output = fs(&["generate", "-m", small, "--backend", "metal", "Once"], &[("METAL_STANDIN_MEMORY", "5000000")]);
    fails(&output, &["take 7.8 MB", "--type q4_k_m` of the unquantized model makes 4.5 MB"]);
    assert!(!text(&output.stderr).contains("q8_0"), "{}", text(&output.stderr));
}

/// The text before the failure is what the model says, and nothing comes after it.
#[test]
fn a_command_buffer_that_fails_in_mid_generation() {
    let story = text(&fs(GENERATE, &[]).stdout);
    let output = fs(GENERATE, &[("METAL_STANDIN_FAIL", "6")]);
    fails(&output, &["the GPU did not run the command buffer", "Timeout"]);
    let told = text(&output.stdout);
    assert!(told.ends_with('\n'), "an error begins its own line: {told:?}");
    assert!(told.len() > "Once upon a time".len() && story.starts_with(told.trim_end()), "{told:?}, not of {story:?}");
}

/// Whichever command buffer fails, also one in which the cache grows: it is an error, and asked again the session answers what
/// it would have answered.
#[test]
fn a_session_works_on_after_a_failure() {
    let source =
        ModelSource::resolve(Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16/model")))
            .unwrap();
    let engine =
        Engine::load(&source, &EngineOptions { backend: BackendKind::Metal, ..EngineOptions::default() }).unwrap();
    let tokens: Vec<u32> = (0..66).map(|i| i * 37 % 256).collect();
    // A prompt, and then token by token over the edge at which the cache grows, 64.
    let first = 63;
    let mut expected = Vec::new();
    let mut session = engine.session(SessionOptions::default()).unwrap();
    for end in first..=tokens.len() {
        expected.push(session.evaluate(&tokens[..end]).unwrap().to_vec());
    }
    for failing in 0..expected.len() {
        let mut session = engine.session(SessionOptions::default()).unwrap();
        for (i, expected) in expected.iter().enumerate() {
            let tokens = &tokens[..first + i];
            if i == failing {
                metal_standin::fail_command_buffer(1);
                let error = session.evaluate(tokens).expect_err("it fails").to_string();
                metal_standin::fail_command_buffer(0);
                assert!(error.contains("Timeout"), "{error}");
            }
            let found = session.evaluate(tokens).unwrap();
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // After a failure tokens are computed together that were computed one by one; f16 in the cache rounds.
            assert!(worst < 2e-2, "pass {failing} failed, pass {i} is off by {worst}");
        }
    }
    // The same where each pass begins before the one in front of it is over: whichever fails, one call says so.
    let continuation = |failing: u64| {
        let mut session = engine.session(SessionOptions::default()).unwrap();
        let (mut tokens, mut errors) = (tokens[..first].to_vec(), Vec::new());
        metal_standin::fail_command_buffer(failing);
        while tokens.len() < first + 6 {
            match session.evaluate_best_ahead(&tokens, true) {
                Ok((id, _)) => tokens.push(id),
                Err(error) => errors.push(error.to_string()),
            }
            assert!(errors.len() < 2, "{errors:?}");
        }
        metal_standin::fail_command_buffer(0);
        (tokens, errors.len())
    };
    let (expected, _) = continuation(0);
    for failing in 1..=6 {
        assert_eq!(continuation(failing), (expected.clone(), 1), "command buffer {failing} failed");
    }
}
