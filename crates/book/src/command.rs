//! `{{out fs …}}`: what the program prints, run while the book is built.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Commands whose output depends on the machine unless the reference backend runs them.
const COMPUTE: [&str; 5] = ["generate", "chat", "logits", "verify", "perplexity"];
/// Commands whose output is the machine.
const MEASURE: [&str; 3] = ["bench", "devices", "models"];

/// The answer of [`Fs::absent`].
pub const ABSENT: &str = "there is no program to run";

/// What a command printed.
#[derive(Clone, Debug, Default)]
pub struct Printed {
    /// The results.
    pub stdout: String,
    /// The notes and errors.
    pub stderr: String,
}

/// The program beside this one, run in the repository's root and without the user's models and settings.
pub struct Fs {
    program: Option<PathBuf>,
    root: PathBuf,
    done: RefCell<BTreeMap<String, Printed>>,
}

impl Fs {
    /// `program` is the path of `fs`.
    pub fn new(program: PathBuf, root: &Path) -> Self {
        Self { program: Some(program), root: root.to_owned(), done: RefCell::default() }
    }

    /// One that was not built: whatever it is asked, the answer is [`ABSENT`], and pages show a mark in its place. So
    /// everything else of them can be checked.
    pub fn absent(root: &Path) -> Self {
        Self { program: None, root: root.to_owned(), done: RefCell::default() }
    }

    /// One that is not there, for tests.
    #[cfg(test)]
    pub fn nowhere(root: &Path) -> Self {
        Self::new(root.join("no fs here"), root)
    }

    /// Runs `fs …`, which must end with this exit code. Words are separated by spaces; quotes keep them together.
    pub fn run(&self, line: &str, code: i32) -> Result<Printed, String> {
        if let Some(printed) = self.done.borrow().get(line) {
            return Ok(printed.clone());
        }
        let words = words(line)?;
        let [program, arguments @ ..] = &words[..] else { return Err("which command?".into()) };
        if program != "fs" {
            return Err(format!("`{program}`: only `fs` is run"));
        }
        let first = arguments.first().map(String::as_str).unwrap_or_default();
        if MEASURE.contains(&first) {
            return Err(format!(
                "`fs {first}` prints what this machine is: show a file of benches/results by {{{{val}}}}"
            ));
        }
        let reference = arguments.windows(2).any(|two| two == ["--backend", "reference"]);
        if COMPUTE.contains(&first) && !reference {
            return Err(format!(
                "`fs {first}` needs `--backend reference`: the others' last digits depend on the machine"
            ));
        }
        let output = self.start(arguments)?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| format!("`{line}` prints bytes, not text"));
        let printed = Printed { stdout: text(output.stdout)?, stderr: text(output.stderr)? };
        if output.status.code() != Some(code) {
            return Err(format!("`{line}` ended with {}: {}", output.status, printed.stderr.trim()));
        }
        self.done.borrow_mut().insert(line.to_owned(), printed.clone());
        Ok(printed)
    }

    /// What `fs COMMAND --help` says.
    pub fn help(&self, command: &str) -> Result<String, String> {
        let line = format!("fs {command} --help");
        if let Some(printed) = self.done.borrow().get(&line) {
            return Ok(printed.stdout.clone());
        }
        let output = self.start(&[command.to_owned(), "--help".to_owned()])?;
        if !output.status.success() {
            return Err(format!("`fs` has no command `{command}`"));
        }
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        self.done.borrow_mut().insert(line, Printed { stdout: stdout.clone(), stderr: String::new() });
        Ok(stdout)
    }

    fn start(&self, arguments: &[String]) -> Result<std::process::Output, String> {
        let program = self.program.as_ref().ok_or(ABSENT)?;
        Command::new(program)
            .args(arguments)
            .current_dir(&self.root)
            .env("FS_MODELS", self.root.join("target/no-models"))
            .env_remove("FS_MODEL")
            .env_remove("FS_SIMD")
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100")
            .output()
            .map_err(|error| format!("{}: {error}; tools/site builds it", program.display()))
    }
}

/// Keeps the lines that `ranges` names (`1-9,14,20-22`), with a line `…` where some are left out.
pub fn keep_lines(text: &str, ranges: &str) -> Result<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut kept, mut end) = (Vec::new(), 0);
    for range in ranges.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let number = |word: &str| word.trim().parse::<usize>().map_err(|_| format!("`lines {ranges}`: lines 2-9,14?"));
        let (from, to) = (number(from)?, number(to)?);
        if from <= end || to < from || to > lines.len() {
            return Err(format!("`lines {ranges}`: there are {} lines, and ranges go upwards", lines.len()));
        }
        if from > end + 1 {
            kept.push("…");
        }
        kept.extend(&lines[from - 1..to]);
        end = to;
    }
    if end < lines.len() {
        kept.push("…");
    }
    Ok(kept.join("\n"))
}

/// Splits a command line: spaces separate, `'…'` and `"…"` keep together, nothing is expanded.
pub(crate) fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | '$' | '`' | ';' | '&') => {
                return Err(format!("`{c}` is for a shell; there is none"));
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_quotes() {
        assert_eq!(words("fs tokenize 'a  b' \"c d\" ''").unwrap(), ["fs", "tokenize", "a  b", "c d", ""]);
        assert!(words("fs 'a").is_err());
        assert!(words("fs inspect | head").is_err());
        assert_eq!(words("fs 'a|b'").unwrap(), ["fs", "a|b"]);
    }

    #[test]
    fn lines_are_kept_and_gaps_shown() {
        assert_eq!(keep_lines("a\nb\nc\nd\n", "1-2,4").unwrap(), "a\nb\n…\nd");
        assert_eq!(keep_lines("a\nb\nc\nd\n", "2").unwrap(), "…\nb\n…");
        for bad in ["5", "2-1", "3,1", "x", "0"] {
            assert!(keep_lines("a\nb\nc\nd\n", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_the_same_everywhere_is_run() {
        let fs = Fs::nowhere(Path::new("."));
        for (line, reason) in [
            ("ls", "only `fs`"),
            ("fs bench", "what this machine is"),
            ("fs logits hello", "--backend reference"),
            ("fs inspect stories", "tools/site builds it"),
        ] {
            let error = fs.run(line, 0).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_fails_is_an_error_unless_that_is_the_point() {
        let fs = Fs::new("/bin/false".into(), Path::new("."));
        assert!(fs.run("fs inspect", 0).unwrap_err().contains("ended with"));
        assert!(fs.run("fs inspect", 1).is_ok());
    }
}
