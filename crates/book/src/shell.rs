//! Commands that pages tell their readers to type: in blocks (```sh) and in code spans that begin with a program's name.
//! Each must be there: the command and its options, the test, the package, the script.

use crate::command::{ABSENT, Fs, words};
use std::path::Path;

/// Programs that are not ours and need no looking up.
const OTHERS: [&str; 3] = ["cd", "git", "rustup"];

/// What a code span begins with if it is a command.
const OURS: [&str; 3] = ["fs ", "cargo ", "tools/"];

/// What is wrong with the lines of a block.
pub fn block(text: &str, root: &Path, fs: &Fs) -> Vec<String> {
    let commands = text.lines().flat_map(|line| line.split("&&"));
    commands.filter_map(|command| check(command, root, fs).err()).collect()
}

/// What is wrong with a code span, if it is a command. One with `…` in it stands for many.
pub fn span(text: &str, root: &Path, fs: &Fs) -> Option<String> {
    let command = OURS.iter().any(|begin| text.starts_with(begin)) && !text.contains('…');
    let whole = text.starts_with("tools/") && root.join(text).exists();
    (command && !whole).then(|| text.split("&&").find_map(|one| check(one, root, fs).err())).flatten()
}

/// One command.
fn check(command: &str, root: &Path, fs: &Fs) -> Result<(), String> {
    let command = command.split(" #").next().unwrap_or_default().trim();
    let words = words(command).map_err(|error| format!("`{command}`: {error}"))?;
    let set = |word: &&String| {
        word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_uppercase() || c == '_'))
    };
    let words: Vec<&str> = words.iter().skip_while(set).map(String::as_str).collect();
    let wrong = |error: String| format!("`{command}`: {error}");
    match words[..] {
        [] => Ok(()),
        ["fs", ref rest @ ..] => ours(rest, fs).map_err(wrong),
        ["cargo", ref rest @ ..] => cargo(rest, root, fs).map_err(wrong),
        [program, ..] if OTHERS.contains(&program) => Ok(()),
        [tool, ref rest @ ..] if tool.starts_with("tools/") => {
            let text = std::fs::read_to_string(root.join(tool)).map_err(|_| wrong(format!("there is no {tool}")))?;
            options(rest, &text).map_err(wrong)
        }
        [program, ..] => Err(wrong(format!("`{program}` is no program of ours"))),
    }
}

/// Every option must stand in a text: a command's help or a script.
fn options(words: &[&str], text: &str) -> Result<(), String> {
    let known: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).collect();
    for option in
        words.iter().filter(|word| word.starts_with('-') && !word[1..].starts_with(|c: char| c.is_ascii_digit()))
    {
        let name = option.split('=').next().unwrap_or_default();
        if !known.contains(&name) {
            return Err(format!("there is no option `{name}`"));
        }
    }
    Ok(())
}

/// The arguments of `fs`.
fn ours(words: &[&str], fs: &Fs) -> Result<(), String> {
    let [command, rest @ ..] = words else { return Err("which command?".into()) };
    match fs.help(command) {
        Ok(help) => options(rest, &help),
        Err(error) if error == ABSENT => Ok(()),
        Err(error) => Err(error),
    }
}

/// The arguments of `cargo`.
fn cargo(words: &[&str], root: &Path, fs: &Fs) -> Result<(), String> {
    let mut own = words.splitn(2, |word| *word == "--");
    let (cargo, program) = (own.next().unwrap_or_default(), own.next());
    let [verb, rest @ ..] = cargo else { return Err("which command?".into()) };
    if !["run", "test", "bench", "install", "build"].contains(verb) {
        return Err(format!("`cargo {verb}` is not among what pages need"));
    }
    let exists = |path: String| if root.join(&path).exists() { Ok(()) } else { Err(format!("there is no {path}")) };
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).map_err(|error| error.to_string())?;
    let (mut package, mut tests, mut filters) = (None, Vec::new(), Vec::new());
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().copied().ok_or_else(|| format!("`{word}` of what?"));
        match *word {
            "--test" => {
                let name = value()?;
                exists(format!("tests/{name}.rs"))?;
                tests.push(format!("tests/{name}.rs"));
            }
            "--bench" => {
                let name = value()?;
                exists(format!("benches/{name}.rs"))?;
            }
            "-p" | "--package" => {
                let name = value()?;
                let member = ["book", "learn", "metal-standin", "web"].contains(&name);
                exists(if member { format!("crates/{name}/Cargo.toml") } else { name.to_owned() })?;
                package = Some(name);
            }
            "--features" => {
                let name = value()?;
                if !manifest.lines().any(|line| line.starts_with(&format!("{name} = ["))) {
                    return Err(format!("there is no feature `{name}`"));
                }
            }
            "--bin" | "--path" => drop(value()?),
            "--release" | "--locked" => {}
            option if option.starts_with('-') => return Err(format!("`{option}` is not among what pages need")),
            filter if *verb == "test" => filters.push(filter),
            extra => return Err(format!("what is `{extra}`?")),
        }
    }
    for filter in filters {
        let has = |file: &String| {
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            text.lines()
                .any(|line| line.trim_start().strip_prefix("fn ").is_some_and(|rest| names(rest).contains(filter)))
        };
        if !tests.iter().any(has) {
            return Err(format!("no test has `{filter}` in its name"));
        }
    }
    match (verb, package, program) {
        (&"run", Some("learn"), Some([command, ..])) => {
            let main =
                std::fs::read_to_string(root.join("crates/learn/src/main.rs")).map_err(|error| error.to_string())?;
            match main.contains(&format!("\"{command}\"")) || main.contains(&format!("    {}", title(command))) {
                true => Ok(()),
                false => Err(format!("`learn` has no command `{command}`")),
            }
        }
        (&"run", None, Some(program)) => ours(program, fs),
        _ => Ok(()),
    }
}

/// The name that a declaration begins with.
fn names(rest: &str) -> &str {
    rest.split(['(', '<']).next().unwrap_or_default()
}

fn title(word: &str) -> String {
    let mut all = word.chars();
    all.next().map(|first| first.to_uppercase().chain(all).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        block(text, &root, &Fs::absent(&root))
    }

    #[test]
    fn commands_that_are_there_pass() {
        let good = "cargo test --test operations norms   # the narrowest\nFS_METAL_SOURCE_DIR=metal cargo test --features metal-standin --test metal_operations rows\n\
            git clone x && cd y\ncargo run --release -- generate \"Once upon a time\"\ncargo run -p learn -- start m2.softmax\ntools/site --serve\ncargo bench --bench linear\n";
        assert_eq!(wrong(good), Vec::<String>::new());
    }

    #[test]
    fn commands_that_are_not_there_are_said() {
        for (command, reason) in [
            ("cargo test --test nothing", "no tests/nothing.rs"),
            ("cargo test --test operations no_such_test", "no test has"),
            ("cargo test --features gold --test operations", "no feature `gold`"),
            ("cargo run -p teach -- start", "no teach"),
            ("cargo run -p learn -- teach", "no command `teach`"),
            ("cargo bench --bench nothing", "no benches/nothing.rs"),
            ("cargo fly", "not among"),
            ("tools/sight", "no tools/sight"),
            ("tools/site --fast", "no option `--fast`"),
            ("make all", "no program of ours"),
        ] {
            let found = wrong(command);
            assert!(found.len() == 1 && found[0].contains(reason), "{command}: {found:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn options_are_those_of_the_help() {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("fs");
        std::fs::write(&program, "#!/bin/sh\n[ $1 = inspect ] && echo ' -m, --model <M>' || exit 2\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let fs = Fs::new(program, root.path());
        assert_eq!(span("fs inspect --model x", root.path(), &fs), None);
        assert!(span("fs inspect --models x", root.path(), &fs).unwrap().contains("no option `--models`"));
        assert!(span("fs inspekt", root.path(), &fs).unwrap().contains("no command `inspekt`"));
        assert_eq!(span("fs … --json", root.path(), &fs), None);
        assert_eq!(span("x.fs", root.path(), &fs), None);
    }
}
