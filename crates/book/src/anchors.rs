//! Pieces of source that pages show: the lines between `// ANCHOR: name` and `// ANCHOR_END: name`.

use crate::problem::Problem;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Longer pieces are not read; a page shows two shorter ones.
pub const MAX_LINES: usize = 40;

/// Where anchors may stand.
const DIRECTORIES: [&str; 6] = ["src", "metal", "tests", "benches", "crates", "docs/live"];

/// The files that they may stand in, by the end of the name, and the language that a page shows them in.
const LANGUAGES: [(&str, &str); 5] =
    [("rs", "rust"), ("metal", "cpp"), ("h", "cpp"), ("js", "javascript"), ("mjs", "javascript")];

/// Other people's code, which some tool may have put there.
const INSTALLED: &str = "node_modules";

/// This crate, whose subject anchors are.
const EXCEPT: &str = "crates/book/";

/// One piece of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// From the repository's root.
    pub path: String,
    /// The line of `ANCHOR:`, from 1.
    pub line: usize,
    /// The language, as a block of code names it.
    pub language: &'static str,
    /// The piece's first and last line.
    pub lines: (usize, usize),
    /// The piece without the indentation that its lines share, and without markers inside of it, exercises' too.
    pub text: String,
    /// The item that it shows or is part of, as `fn rms_norm`.
    pub item: Option<String>,
}

/// All anchors of the repository.
#[derive(Debug, Default)]
pub struct Anchors {
    all: BTreeMap<(String, String), Anchor>,
    used: RefCell<BTreeSet<(String, String)>>,
}

impl Anchors {
    /// Reads the repository at `root`. Anchors that are open, empty, double or too long are problems.
    pub fn scan(root: &Path) -> std::io::Result<(Self, Vec<Problem>)> {
        let (mut anchors, mut problems) = (Self::default(), Vec::new());
        for directory in DIRECTORIES {
            anchors.walk(root, directory, &mut problems)?;
        }
        Ok((anchors, problems))
    }

    fn walk(&mut self, root: &Path, directory: &str, problems: &mut Vec<Problem>) -> std::io::Result<()> {
        if !root.join(directory).is_dir() {
            return Ok(());
        }
        let mut entries: Vec<_> = std::fs::read_dir(root.join(directory))?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                if !format!("{path}/").starts_with(EXCEPT) && entry.file_name() != INSTALLED {
                    self.walk(root, &path, problems)?;
                }
            } else if let Ok(text) = String::from_utf8(std::fs::read(entry.path())?) {
                self.read(&path, &text, problems);
            }
        }
        Ok(())
    }

    /// Adds the anchors of one file. In a file of a kind that cannot have any, one is a problem.
    pub fn read(&mut self, path: &str, text: &str, problems: &mut Vec<Problem>) {
        let lines: Vec<&str> = text.lines().collect();
        let mut problem = |line, message: String| problems.push(Problem::new(path, line + 1, message));
        let end = path.rsplit_once('.').map_or("", |(_, end)| end);
        let Some((_, language)) = LANGUAGES.into_iter().find(|(known, _)| *known == end) else {
            let ends = LANGUAGES.map(|(end, _)| format!(".{end}")).join(", ");
            for at in (0..lines.len()).filter(|at| is_foreign_marker(lines[*at])) {
                problem(at, format!("an anchor in a file that is none of {ends}: no page could show it"));
            }
            return;
        };
        let mut open: Vec<(&str, usize)> = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            match marker(line) {
                Some(Marker::Start(name)) => open.push((name, at)),
                Some(Marker::End(name)) => match open.iter().position(|(other, _)| *other == name) {
                    None => problem(at, format!("ANCHOR_END of `{name}`, which is not open")),
                    Some(i) => {
                        let (_, start) = open.remove(i);
                        let key = (path.to_owned(), name.to_owned());
                        let anchor = cut((path, language), &lines, start, at);
                        let count = anchor.text.lines().count();
                        if anchor.text.trim().is_empty() {
                            problem(start, format!("anchor `{name}` is empty"));
                        } else if count > MAX_LINES {
                            problem(start, format!("anchor `{name}` has {count} lines, {MAX_LINES} at most"));
                        } else if self.all.insert(key, anchor).is_some() {
                            problem(start, format!("a second anchor `{name}` in this file"));
                        }
                    }
                },
                None => {}
            }
        }
        for (name, at) in open {
            problem(at, format!("anchor `{name}` has no ANCHOR_END"));
        }
    }

    /// The anchor that `path#name` names; from then on it counts as used.
    pub fn get(&self, target: &str) -> Result<&Anchor, String> {
        let (path, name) = target.split_once('#').ok_or("write {{code PATH#ANCHOR}}")?;
        let key = (path.to_owned(), name.to_owned());
        let anchor = self.all.get(&key).ok_or_else(|| format!("there is no anchor `{name}` in {path}"))?;
        self.used.borrow_mut().insert(key);
        Ok(anchor)
    }

    /// Anchors that no page shows.
    pub fn unused(&self) -> Vec<Problem> {
        let used = self.used.borrow();
        let unused = self.all.iter().filter(|(key, _)| !used.contains(*key));
        unused
            .map(|((path, name), anchor)| {
                Problem::new(path, anchor.line, format!("no page shows anchor `{name}`: show it or remove it"))
            })
            .collect()
    }
}

enum Marker<'a> {
    Start(&'a str),
    End(&'a str),
}

/// The marker that a line is, if it is nothing else.
fn marker(line: &str) -> Option<Marker<'_>> {
    let comment = line.trim().strip_prefix("//")?.trim_start();
    match comment.strip_prefix("ANCHOR_END:") {
        Some(name) => Some(Marker::End(name.trim())),
        None => Some(Marker::Start(comment.strip_prefix("ANCHOR:")?.trim())),
    }
}

/// Whether a line is a marker in the comments of some other language.
fn is_foreign_marker(line: &str) -> bool {
    let comment = ["//", "#", "--", ";", "/*", "<!--"].iter().find_map(|sign| line.trim().strip_prefix(sign));
    comment.is_some_and(|text| ["ANCHOR:", "ANCHOR_END:"].iter().any(|word| text.trim_start().starts_with(word)))
}

/// Whether a line marks an exercise of crates/learn: `// EXERCISE: id`, `// EXERCISE_END`.
fn is_exercise(line: &str) -> bool {
    let comment = line.trim().strip_prefix("//").map_or("", str::trim_start);
    comment.starts_with("EXERCISE:") || comment == "EXERCISE_END"
}

/// The piece between two markers.
fn cut((path, language): (&str, &'static str), lines: &[&str], start: usize, end: usize) -> Anchor {
    let piece: Vec<&str> =
        lines[start + 1..end].iter().copied().filter(|line| marker(line).is_none() && !is_exercise(line)).collect();
    let indent = |line: &&str| line.len() - line.trim_start().len();
    // `#pragma` and the like stand at the line's start, wherever the code around them stands.
    let directive = |line: &&str| line.starts_with('#');
    let code = || piece.iter().filter(|line| !line.trim().is_empty() && !directive(line));
    let shared = code().map(indent).min().unwrap_or(0);
    let dedent = |line: &&str| if directive(line) { 0 } else { shared };
    let text: Vec<&str> = piece.iter().map(|line| line.get(dedent(line)..).unwrap_or("")).collect();
    // An item that the piece declares at its outermost level, or else the one around it.
    let inside = piece.iter().filter(|line| indent(line) == shared).find_map(|line| item(line));
    let around = || lines[..start].iter().rev().filter(|line| indent(line) < shared).find_map(|line| item(line));
    Anchor {
        path: path.to_owned(),
        line: start + 1,
        language,
        lines: (start + 2, end.max(start + 1)),
        text: text.join("\n"),
        item: inside.or_else(around),
    }
}

/// What a line of Rust, MSL or JavaScript declares, as `fn rms_norm`.
fn item(line: &str) -> Option<String> {
    let mut rest = line.trim_start();
    for prefix in ["export ", "pub(crate) ", "pub(super) ", "pub ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    if rest.starts_with("const fn ") {
        rest = &rest["const ".len()..];
    }
    if let Some(header) = rest.strip_prefix("impl") {
        let header = header.split(" where").next()?.trim_end_matches(['{', ' ']);
        return Some(format!("impl{header}"));
    }
    if let Some(kernel) = rest.strip_prefix("kernel void ") {
        return Some(format!("kernel {}", kernel.split('(').next()?.trim()));
    }
    // A macro, and a table that one makes something of.
    let invoked = rest.strip_suffix("! {").filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    if let Some(name) = invoked.or_else(|| rest.strip_prefix("macro_rules! ")?.strip_suffix(" {")) {
        return Some(format!("{name}!"));
    }
    for keyword in ["fn", "struct", "enum", "trait", "type", "mod", "static", "const", "function", "class"] {
        if let Some(name) = rest.strip_prefix(keyword).and_then(|rest| rest.strip_prefix(' ')) {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            return (end > 0).then(|| format!("{keyword} {}", &name[..end]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Anchors, Vec<Problem>) {
        let (mut anchors, mut problems) = (Anchors::default(), Vec::new());
        anchors.read("src/a.rs", text, &mut problems);
        (anchors, problems)
    }

    fn refused(text: &str, line: usize, words: &str) {
        let (_, problems) = read(text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].line, line);
        assert!(problems[0].message.contains(words), "{}", problems[0]);
    }

    #[test]
    fn a_piece_loses_its_indentation_and_inner_markers() {
        let (anchors, problems) = read(
            "impl A {\n    // ANCHOR: f\n    /// Doc.\n    pub fn f() {\n        // ANCHOR: g\n        g();\n        // ANCHOR_END: g\n    }\n    // ANCHOR_END: f\n}\n",
        );
        assert!(problems.is_empty());
        let f = anchors.get("src/a.rs#f").unwrap();
        assert_eq!(f.text, "/// Doc.\npub fn f() {\n    g();\n}");
        assert_eq!((f.lines, f.item.as_deref()), ((3, 8), Some("fn f")));
        assert_eq!(anchors.get("src/a.rs#g").unwrap().item.as_deref(), Some("fn f"));
    }

    #[test]
    fn exercises_marked_inside_are_not_shown() {
        let (anchors, problems) =
            read("// ANCHOR: f\nfn f() {\n    // EXERCISE: m0.f\n    f();\n    // EXERCISE_END\n}\n// ANCHOR_END: f\n");
        assert!(problems.is_empty());
        assert_eq!(anchors.get("src/a.rs#f").unwrap().text, "fn f() {\n    f();\n}");
        let long = format!("// ANCHOR: a\n// EXERCISE: m0.a\n{}// EXERCISE_END\n// ANCHOR_END: a\n", "x\n".repeat(40));
        assert!(read(&long).1.is_empty(), "markers do not count");
    }

    #[test]
    fn directives_stand_where_they_stood() {
        let (anchors, _) = read("// ANCHOR: a\n#pragma unroll\n    for (;;) {\n    }\n// ANCHOR_END: a\n");
        assert_eq!(anchors.get("src/a.rs#a").unwrap().text, "#pragma unroll\nfor (;;) {\n}");
    }

    #[test]
    fn items_are_named() {
        for (line, name) in [
            ("pub(crate) fn a<T>(x: T) {", "fn a"),
            ("impl<B: Backend> State<B> {", "impl<B: Backend> State<B>"),
            ("kernel void rms_norm(device float *x", "kernel rms_norm"),
            ("pub struct Heads {", "struct Heads"),
            ("const fn of(byte: u8) -> bool {", "fn of"),
            ("const LAST: usize = 3;", "const LAST"),
            ("pub unsafe extern \"C\" fn objc_msgSend() {", "fn objc_msgSend"),
            ("macro_rules! messages {", "messages!"),
            ("messages! {", "messages!"),
            ("export async function mount(root, page) {", "function mount"),
            ("export const LAYERS = 3;", "const LAYERS"),
        ] {
            assert_eq!(item(line).as_deref(), Some(name));
        }
        assert_eq!(item("    let x = 1;"), None);
    }

    #[test]
    fn a_file_that_no_page_can_show_has_no_anchors() {
        for (path, line) in [
            ("tests/a.py", "# ANCHOR: a"),
            ("docs/live/a.css", "/* ANCHOR_END: a */"),
            ("benches/a", "<!-- ANCHOR: a -->"),
        ] {
            let (mut anchors, mut problems) = (Anchors::default(), Vec::new());
            anchors.read(path, &format!("x\n  {line}\nANCHOR: only words\n"), &mut problems);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].line, 2);
            assert!(problems[0].message.contains(".rs, .metal, .h, .js"), "{}", problems[0]);
        }
    }

    #[test]
    fn what_is_wrong_with_anchors_is_said() {
        refused("// ANCHOR: a\n\n// ANCHOR_END: a\n", 1, "empty");
        refused("x\n// ANCHOR: a\nx\n", 2, "no ANCHOR_END");
        refused("// ANCHOR_END: a\n", 1, "not open");
        refused("// ANCHOR: a\nx\n// ANCHOR_END: a\n// ANCHOR: a\ny\n// ANCHOR_END: a\n", 4, "second");
        refused(&format!("// ANCHOR: a\n{}// ANCHOR_END: a\n", "x\n".repeat(41)), 1, "41 lines");
    }

    #[test]
    fn missing_and_unused_anchors_are_said() {
        let (anchors, _) = read("// ANCHOR: a\nx\n// ANCHOR_END: a\n");
        assert!(anchors.get("src/a.rs#b").unwrap_err().contains("no anchor `b`"));
        assert!(anchors.get("src/b.rs#a").unwrap_err().contains("src/b.rs"));
        assert_eq!(anchors.unused().len(), 1);
        anchors.get("src/a.rs#a").unwrap();
        assert!(anchors.unused().is_empty());
    }
}
