//! What a failed test means to the reader who wrote the answer.

use crate::catalogue::{Exercise, Mutant};
use crate::run::Outcome;
use crate::style::{BAD, GOOD, NAME};
use std::fmt;

/// The first place where an answer differs from the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The operation, or the test's own words for what it compares.
    pub operation: String,
    /// Where in the result, if it has several parts.
    pub index: Option<String>,
    /// What belongs there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// What to tell about a test that did not pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation<'a> {
    /// The test.
    pub test: String,
    /// What it is about.
    pub finding: Finding,
    /// The known mistake that has the same effect.
    pub mistake: Option<&'a Mutant>,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The `todo!()` is still there.
    Unwritten,
    /// It runs on and on.
    Endless,
    /// A result is another one than it should be.
    Differs(Divergence),
    /// Something else, in the test's words.
    Says(String),
}

/// Explains why `test` did not pass.
pub fn explain<'a>(exercise: &'a Exercise, test: &str, outcome: &Outcome) -> Explanation<'a> {
    let said = match outcome {
        Outcome::Failed(said) => message(said),
        Outcome::Passed | Outcome::Endless => String::new(),
    };
    let finding = match outcome {
        Outcome::Endless => Finding::Endless,
        _ if said.starts_with("not yet implemented") => Finding::Unwritten,
        _ => divergence(&said).map_or_else(|| Finding::Says(said.clone()), Finding::Differs),
    };
    let mistake = exercise.entry.mutants.iter().find(|mutant| mutant.is_shown_by(&said));
    Explanation { test: test.into(), finding, mistake }
}

/// The panic's message out of all that a test program has printed; the last lines if there was no panic.
pub fn message(output: &str) -> String {
    let mut lines = output.lines().skip_while(|line| !(line.starts_with("thread '") && line.contains(" panicked at ")));
    if lines.next().is_none() {
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        return lines[lines.len().saturating_sub(12)..].join("\n");
    }
    let message: Vec<&str> = lines
        .take_while(|line| {
            !line.starts_with("note: run with") && !line.starts_with("test ") && !line.starts_with("thread '")
        })
        .collect();
    message.join("\n").trim().to_owned()
}

/// Reads `operation, index 3: expected 1, found 2` (src/expect.rs), and what `assert_eq!(found, expected, "words")` says.
pub fn divergence(message: &str) -> Option<Divergence> {
    if let Some((place, values)) = message.split_once(": expected ") {
        let (expected, found) = values.split_once(", found ")?;
        let (operation, index) = match place.split_once(", index ") {
            Some((operation, index)) => (operation, Some(index.to_owned())),
            None => (place, None),
        };
        return Some(Divergence { operation: operation.into(), index, expected: expected.into(), found: found.into() });
    }
    let rest = message.strip_prefix("assertion `left == right` failed")?;
    let line = |name: &str| rest.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::to_owned);
    let words = rest.lines().next().unwrap_or_default().trim_start_matches(':').trim();
    Some(Divergence { operation: words.into(), index: None, expected: line("right: ")?, found: line("left: ")? })
}

/// With colours; `anstream` takes them out.
impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  test       {}", self.test)?;
        match &self.finding {
            Finding::Unwritten => writeln!(f, "\nThe body is still `todo!()`.")?,
            Finding::Endless => writeln!(f, "\nIt does not end: a loop whose condition never becomes false?")?,
            Finding::Differs(Divergence { operation, index, expected, found }) => {
                if !operation.is_empty() {
                    writeln!(f, "  operation  {operation}")?;
                }
                if let Some(index) = index {
                    writeln!(f, "  index      {index}, the first that differs")?;
                }
                writeln!(f, "  expected   {GOOD}{expected}{GOOD:#}\n  found      {BAD}{found}{BAD:#}")?;
            }
            Finding::Says(said) => writeln!(f, "\n{said}")?,
        }
        match self.mistake {
            Some(mutant) => writeln!(f, "\n{NAME}This is what one sees when{NAME:#} {}", mutant.teaches.trim()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_is_found_among_everything_printed() {
        let output = "\nrunning 1 test\n\nthread 'a::b' (7) panicked at src/a.rs:3:5:\nrope, index 2: expected 1, found 3\n\
                      note: run with `RUST_BACKTRACE=1`\ntest a::b ... FAILED\n\nfailures:\n";
        assert_eq!(message(output), "rope, index 2: expected 1, found 3");
        let Divergence { operation, index, expected, found } = divergence(&message(output)).unwrap();
        assert_eq!((&*operation, index.as_deref(), &*expected, &*found), ("rope", Some("2"), "1", "3"));
        // A program that was aborted has no panic of Rust's.
        assert_eq!(message("running 1 test\n\nkernel k: a race\n"), "running 1 test\nkernel k: a race");
    }

    #[test]
    fn an_assertion_of_equality_is_read_too() {
        let said = "assertion `left == right` failed: nothing to do\n  left: [1, 2]\n right: [1]";
        let found = divergence(said).unwrap();
        assert_eq!((&*found.operation, &*found.expected, &*found.found), ("nothing to do", "[1]", "[1, 2]"));
        let without = divergence("assertion `left == right` failed\n  left: 1\n right: 2").unwrap();
        assert_eq!(without.operation, "");
        assert_eq!(divergence("index out of bounds: the len is 4 but the index is 4"), None);
    }
}
