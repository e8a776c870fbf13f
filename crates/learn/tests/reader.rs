//! Exercises as a reader does them: the real program, and, where one is checked, the real compiler and the real tests.

use std::path::{Path, PathBuf};
use std::process::Command;

const ID: &str = "m4.bytes_per_token";

/// Where this reader's exercises are, from the repository's root.
const DIRECTORY: &str = "target/learn/reader";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether `learn` exits with 0, and what it prints; `directory` is where the reader's copies are.
fn learn(directory: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_learn"));
    let output = command.args(arguments).env("FS_EXERCISES", directory).output().expect("learn runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

/// Returns what it said.
#[track_caller]
fn says(directory: &Path, arguments: &[&str], success: bool, words: &[&str]) -> String {
    let (succeeded, said) = learn(directory, arguments);
    assert_eq!(succeeded, success, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {word:?} is missing in: {said}");
    }
    said
}

/// Nothing is built for these: `start` copies, `hint` and `solution` read.
#[test]
fn help_is_given_in_order_and_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let says = |arguments: &[&str], success: bool, words: &[&str]| says(directory.path(), arguments, success, words);
    says(&["solution"], false, &["no exercise was started yet", "`start ID`"]);
    let said =
        says(&["solution", ID], false, &["prints the engine's own answer", "was not started yet", "start m4.bytes"]);
    assert!(said.contains("open src/model/kv_cache.rs, lines ") && !said.contains("self.layers"), "{said}");
    says(&["hint", ID], false, &["was not started yet"]);

    says(&["start", ID], true, &["kv_cache.rs, line"]);
    let said = says(&["hint"], true, &["hint 1 of 2"]);
    assert!(!said.contains("hint 2"), "{said}");
    let said = says(&["hint"], true, &["hint 2 of 2"]);
    assert!(!said.contains("no more"), "{said}");
    for _ in 0..2 {
        says(&["hint"], true, &["hint 1 of 2", "hint 2 of 2", "no more hints", "solution m4.bytes_per_token"]);
    }
    says(&["solution"], true, &["2 * self.layers * self.kv_heads", "Mistakes that the tests know"]);
}

#[test]
#[ignore = "builds a copy of the engine: tools/test-exercises runs it"]
fn an_exercise_from_start_to_solution() {
    let _ = std::fs::remove_dir_all(root().join(DIRECTORY));
    let says =
        |arguments: &[&str], success: bool, words: &[&str]| says(Path::new(DIRECTORY), arguments, success, words);
    says(&["check"], false, &["no exercise was started yet"]);
    says(&["hint", ID], false, &["was not started"]);
    says(&["start", ID], true, &["fn bytes_per_token", "takes 114,688 bytes", "kv_cache.rs, line"]);
    says(&["start", ID], false, &["is there already", "--again"]);
    says(&["list"], true, &["begun", "0 of"]);
    says(&["check"], false, &["still `todo!()`"]);

    let file = root().join(DIRECTORY).join(ID).join("src/model/kv_cache.rs");
    let text = std::fs::read_to_string(&file).expect("the copy");
    let write = |answer: &str| {
        let new = text.replace("todo!(\"m4.bytes_per_token\")", answer);
        assert_ne!(new, text);
        std::fs::write(&file, new).expect("room on the disk");
    };
    write("self.layers +");
    says(&["check"], false, &["does not compile yet"]);
    let tiles = "self.kv_heads * self.head_dim.div_ceil(TILE) * self.dtype.bytes_per_tile_row()";
    write(&format!("self.layers * {tiles}"));
    let halved = ["Qwen3-0.6B, f16", "expected   114688", "found      57344", "keys or values are forgotten"];
    says(&["check"], false, &halved);
    write("usize::MAX");
    let (_, said) = learn(Path::new(DIRECTORY), &["check"]);
    assert!(said.contains("not yet") && !said.contains("This is what one sees"), "no known mistake: {said}");
    write(&format!("let both = 2 * self.layers;\n        both * {tiles}"));
    says(&["check"], true, &["passes", "Next:"]);
    says(&["list"], true, &["solved", "1 of"]);

    says(&["hint"], true, &["hint 1 of 2"]);
    says(&["solution"], true, &["2 * self.layers * self.kv_heads", "keys or values are forgotten"]);
    says(&["start", ID, "--again"], true, &["kv_cache.rs"]);
    assert_eq!(std::fs::read_to_string(&file).expect("the copy"), text, "a new start is the first one again");
    says(&["show", "m4.bytes_per_tokn"], false, &["did you mean `m4.bytes_per_token`?"]);
    std::fs::write(file.parent().expect("src").join("../../.state.toml"), "hints = 0\nsolved = false\n")
        .expect("room on the disk");
    says(&["check"], false, &["The engine has changed since you started", "still `todo!()`"]);
}
