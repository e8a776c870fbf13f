//! One exercise from beginning to end, as a reader does it: the real program, the real compiler, the real tests.

use std::path::{Path, PathBuf};
use std::process::Command;

const ID: &str = "m2.kv_head";

/// Where this reader's exercises are, from the repository's root.
const DIRECTORY: &str = "target/learn/reader";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether `learn` exits with 0, and what it prints.
fn learn(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_learn"));
    let output = command.args(arguments).env("FS_EXERCISES", DIRECTORY).output().expect("learn runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

#[track_caller]
fn says(arguments: &[&str], success: bool, words: &[&str]) {
    let (succeeded, said) = learn(arguments);
    assert_eq!(succeeded, success, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {word:?} is missing in: {said}");
    }
}

#[test]
#[ignore = "builds a copy of the engine: tools/test-exercises runs it"]
fn an_exercise_from_start_to_solution() {
    let _ = std::fs::remove_dir_all(root().join(DIRECTORY));
    says(&["check"], false, &["no exercise was started yet"]);
    says(&["hint", ID], false, &["was not started"]);
    says(&["start", ID], true, &["fn kv_head_of", "6 query heads and 2 KV heads", "attention.rs, line"]);
    says(&["start", ID], false, &["is there already", "--again"]);
    says(&["list"], true, &["begun", "0 of"]);
    says(&["check"], false, &["still `todo!()`"]);

    let file = root().join(DIRECTORY).join(ID).join("src/backend/reference/attention.rs");
    let text = std::fs::read_to_string(&file).expect("the copy");
    let write = |answer: &str| {
        let new = text.replace("todo!(\"m2.kv_head\")", answer);
        assert_ne!(new, text);
        std::fs::write(&file, new).expect("room on the disk");
    };
    write("head +");
    says(&["check"], false, &["does not compile yet"]);
    write("head % kv_heads");
    let dealt = ["6 query heads over 2", "index      1", "expected   0", "found      1", "like cards"];
    says(&["check"], false, &dealt);
    write("head * kv_heads / heads");
    says(&["check"], true, &["tests pass", "Next:"]);
    says(&["list"], true, &["solved", "1 of"]);

    says(&["hint"], true, &["hint 1 of 2"]);
    says(&["hint"], true, &["hint 2 of 2"]);
    says(&["hint"], true, &["hint 2 of 2"]);
    says(&["solution"], true, &["head / (heads / kv_heads)", "like cards"]);
    says(&["start", ID, "--again"], true, &["attention.rs"]);
    assert_eq!(std::fs::read_to_string(&file).expect("the copy"), text, "a new start is the first one again");
    says(&["show", "kv_hed"], false, &["there is no exercise `kv_hed`"]);
}
