//! Where exercises lie in the source.
//!
//! `// EXERCISE: id` and `// EXERCISE_END` enclose the end of a block, usually a whole function body: what stands between
//! them is what a reader writes again. Each marker has a line of its own. The same comments work in Rust and in Metal.

use std::ops::Range;
use std::path::{Path, PathBuf};

const BEGIN: &str = "// EXERCISE:";
const END: &str = "// EXERCISE_END";

/// A marker that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}", file = file.display())]
pub struct MarkerError {
    /// The file, from the repository's root.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A second exercise begins inside of one.
    #[error("exercise `{inner}` begins inside of `{outer}`; exercises must not be nested")]
    Nested {
        /// The one that is open.
        outer: String,
        /// The one that begins.
        inner: String,
    },
    /// The file ends inside of an exercise.
    #[error("exercise `{0}` has no `// EXERCISE_END`")]
    Unclosed(String),
    /// An end without a beginning.
    #[error("`// EXERCISE_END`, but no exercise is open")]
    Unopened,
    /// Nothing stands between the markers.
    #[error("exercise `{0}` is empty")]
    Empty(String),
    /// No id after the colon, or one that could not name a directory.
    #[error("`{0}` is no exercise id: small letters, digits, `_` and `.` are")]
    BadId(String),
    /// Another place has the same id.
    #[error("exercise `{0}` is marked twice")]
    Duplicate(String),
    /// The catalogue does not have it.
    #[error("exercise `{0}` is not in the catalogue (crates/learn/exercises)")]
    Unknown(String),
    /// No item stands above the marker.
    #[error("exercise `{0}` is in no function")]
    NoItem(String),
}

/// An exercise in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its id.
    pub id: String,
    /// The file, from the repository's root.
    pub file: PathBuf,
    /// Its lines in the file without the markers', counted from 0.
    pub lines: Range<usize>,
    /// The text between the markers, without the book's.
    pub body: String,
    /// The spaces that each line of the body begins with.
    pub indent: String,
    /// The function's first lines, up to the brace that opens its body.
    pub signature: String,
    /// The comment above the function, without its slashes.
    pub docs: String,
}

/// The exercises of one file, in its order.
pub fn regions(file: &Path, text: &str) -> Result<Vec<Region>, MarkerError> {
    let lines: Vec<&str> = text.lines().collect();
    let error = |line: usize, problem| MarkerError { file: file.to_owned(), line: line + 1, problem };
    let mut open: Option<(usize, &str)> = None;
    let mut found: Vec<Region> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let comment = line.trim();
        if let Some(id) = comment.strip_prefix(BEGIN) {
            let id = id.trim();
            if let Some((_, outer)) = open {
                return Err(error(at, Problem::Nested { outer: outer.into(), inner: id.into() }));
            }
            if id.is_empty() || !id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c)) {
                return Err(error(at, Problem::BadId(id.into())));
            }
            if found.iter().any(|region| region.id == id) {
                return Err(error(at, Problem::Duplicate(id.into())));
            }
            open = Some((at, id));
        } else if comment == END {
            let (begin, id) = open.take().ok_or_else(|| error(at, Problem::Unopened))?;
            let body: Vec<&str> = lines[begin + 1..at].iter().copied().filter(|line| !is_anchor(line)).collect();
            if body.iter().all(|line| line.trim().is_empty()) {
                return Err(error(begin, Problem::Empty(id.into())));
            }
            let (docs, signature) =
                item_above(&lines[..begin]).ok_or_else(|| error(begin, Problem::NoItem(id.into())))?;
            found.push(Region {
                id: id.into(),
                file: file.to_owned(),
                lines: begin + 1..at,
                body: join(&body),
                indent: lines[begin][..lines[begin].len() - lines[begin].trim_start().len()].into(),
                signature,
                docs,
            });
        }
    }
    match open {
        Some((begin, id)) => Err(error(begin, Problem::Unclosed(id.into()))),
        None => Ok(found),
    }
}

/// `text` with the body of each region replaced by what `body` makes of it. The markers stay.
pub fn replace(text: &str, regions: &[&Region], body: impl Fn(&Region) -> String) -> String {
    let mut out = String::new();
    let mut regions = regions.to_vec();
    regions.sort_by_key(|region| region.lines.start);
    let mut done = 0;
    let lines: Vec<&str> = text.lines().collect();
    for region in regions {
        out += &join(&lines[done..region.lines.start]);
        let new = body(region);
        out += &new;
        if !new.ends_with('\n') {
            out.push('\n');
        }
        done = region.lines.end;
    }
    out + &join(&lines[done..])
}

/// `text` with every line behind `indent`, and what all its lines had in common before taken away.
pub fn indented(text: &str, indent: &str) -> String {
    let filled = || text.lines().filter(|line| !line.trim().is_empty());
    let common = filled().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    let line = |line: &str| match line.trim().is_empty() {
        true => "\n".to_owned(),
        false => format!("{indent}{}\n", &line[common..]),
    };
    text.trim_matches('\n').lines().map(line).collect()
}

/// Whether a line marks an excerpt for the book: `// ANCHOR: name`, `// ANCHOR_END: name`.
fn is_anchor(line: &str) -> bool {
    let comment = line.trim().strip_prefix("//").map_or("", str::trim_start);
    comment.starts_with("ANCHOR:") || comment.starts_with("ANCHOR_END:")
}

fn join(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// The comment and the signature of the function that the line after `lines` lies in.
fn item_above(lines: &[&str]) -> Option<(String, String)> {
    let begins = |line: &&str| {
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with("//"));
        words.any(|word| word == "fn" || word == "kernel" || word == "inline")
    };
    let start = lines.iter().rposition(begins)?;
    let body = start + lines[start..].iter().position(|line| line.trim_end().ends_with('{'))?;
    let mut signature = indented(&join(&lines[start..=body]), "");
    signature.truncate(signature.trim_end().len() - 1);
    let above = lines[..start].iter().rev().map(|line| line.trim()).filter(|line| !is_anchor(line));
    let mut docs: Vec<&str> = above
        .skip_while(|line| line.starts_with("#["))
        .map_while(|line| line.strip_prefix("///").or_else(|| line.strip_prefix("// ")))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    docs.reverse();
    Some((docs.join("\n"), signature.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
/// Doubles.
///
/// `x: [n]`
#[inline]
pub fn double(
    x: f32,
) -> f32 {
    // EXERCISE: m0.double
    let two = 2.0;

    x * two
    // EXERCISE_END
}

impl A {
    fn half(self) -> f32 {
        let x = self.0;
        // EXERCISE: m0.half
        x / 2.0
        // EXERCISE_END
    }
}
";

    fn problem(text: &str) -> (usize, Problem) {
        let error = regions(Path::new("a.rs"), text).expect_err("a mistake");
        (error.line, error.problem)
    }

    #[test]
    fn a_region_knows_its_body_and_its_function() {
        let found = regions(Path::new("a.rs"), TEXT).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id.as_str(), found[0].indent.as_str()), ("m0.double", "    "));
        assert_eq!(found[0].body, "    let two = 2.0;\n\n    x * two\n");
        assert_eq!(found[0].docs, "Doubles.\n\n`x: [n]`");
        assert_eq!(found[0].signature, "pub fn double(\n    x: f32,\n) -> f32");
        assert_eq!((found[1].signature.as_str(), found[1].docs.as_str()), ("fn half(self) -> f32", ""));
    }

    /// A kernel's signature ends in a line of its own with the brace.
    #[test]
    fn a_kernel_is_a_function_too() {
        let text = "// Adds.\nkernel void add(\n    uint i [[thread_position_in_grid]])\n{\n    // EXERCISE: m6.add\n    x;\n    // EXERCISE_END\n}\n";
        let found = &regions(Path::new("add.metal"), text).unwrap()[0];
        assert_eq!(found.signature, "kernel void add(\n    uint i [[thread_position_in_grid]])");
        assert_eq!(found.docs, "Adds.");
    }

    #[test]
    fn the_books_markers_are_no_part_of_an_exercise() {
        let text = "/// Adds.\n// ANCHOR: add\nfn add() {\n    // EXERCISE: m0.add\n    // ANCHOR: x\n    x;\n    // ANCHOR_END: x\n    // EXERCISE_END\n}\n// ANCHOR_END: add\n";
        let found = &regions(Path::new("a.rs"), text).unwrap()[0];
        assert_eq!((found.docs.as_str(), found.body.as_str(), found.lines.clone()), ("Adds.", "    x;\n", 4..7));
    }

    #[test]
    fn replacing_bodies_leaves_the_rest_alone() {
        let found = regions(Path::new("a.rs"), TEXT).unwrap();
        let both: Vec<&Region> = found.iter().rev().collect();
        assert_eq!(replace(TEXT, &both, |region| region.body.clone()), TEXT);
        let new = replace(TEXT, &both, |region| format!("{}todo!()", region.indent));
        assert!(new.contains("m0.double\n    todo!()\n    // EXERCISE_END\n}\n\nimpl A"), "{new}");
        assert!(new.contains("        todo!()\n        // EXERCISE_END"), "{new}");
    }

    #[test]
    fn text_moves_as_a_whole() {
        assert_eq!(indented("    a {\n\n        b\n    }\n", "  "), "  a {\n\n      b\n  }\n");
    }

    #[test]
    fn every_wrong_marker_is_named_with_its_line() {
        let begin = "fn f() {\n// EXERCISE: m0.a\n";
        let end = "// EXERCISE_END\n";
        assert_eq!(problem(&format!("{begin}x;\n")), (2, Problem::Unclosed("m0.a".into())));
        assert_eq!(problem(&format!("x;\n{end}")), (2, Problem::Unopened));
        assert_eq!(problem(&format!("{begin}\n{end}")), (2, Problem::Empty("m0.a".into())));
        let nested = Problem::Nested { outer: "m0.a".into(), inner: "m0.b".into() };
        assert_eq!(problem(&format!("{begin}x;\n// EXERCISE: m0.b\n")), (4, nested));
        assert_eq!(problem(&format!("{begin}x;\n{end}{begin}x;\n{end}")), (6, Problem::Duplicate("m0.a".into())));
        assert_eq!(problem("// EXERCISE: M0 a\n"), (1, Problem::BadId("M0 a".into())));
        assert_eq!(problem("// EXERCISE:\n"), (1, Problem::BadId(String::new())));
        assert_eq!(problem(&format!("// EXERCISE: m0.a\nx;\n{end}")), (1, Problem::NoItem("m0.a".into())));
        let error = regions(Path::new("src/a.rs"), "// EXERCISE_END").unwrap_err();
        assert_eq!(error.to_string(), "src/a.rs:1: `// EXERCISE_END`, but no exercise is open");
    }
}
