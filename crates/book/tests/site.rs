//! The course itself, expanded without mdBook: every directive, link, citation, anchor, exercise and chapter of `docs`.
//!
//! What `fs` prints is checked too where a directory of programs is given (`BIN`, as for tools/site); otherwise those places are left
//! out, and the test says how many.

use book::{Repository, expand};
use mdbook_preprocessor::book::{Book, BookItem, Chapter};
use std::path::{Path, PathBuf};

/// The pages of SUMMARY.md, in order, without their nesting.
fn pages(source: &Path) -> Vec<BookItem> {
    let summary = std::fs::read_to_string(source.join("SUMMARY.md")).unwrap();
    let link = |line: &str| -> Option<(String, String)> {
        let (title, path) = line.trim_start_matches([' ', '-']).strip_prefix('[')?.split_once("](")?;
        Some((title.to_owned(), path.strip_suffix(')')?.to_owned()))
    };
    let links: Vec<_> = summary.lines().filter_map(link).collect();
    assert!(links.len() > 30, "SUMMARY.md was not understood: {links:?}");
    let chapter = |(title, path): (String, String)| {
        if path.is_empty() {
            return BookItem::Chapter(Chapter::new_draft(&title, vec![]));
        }
        let text = std::fs::read_to_string(source.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        BookItem::Chapter(Chapter::new(&title, text, path, vec![]))
    };
    links.into_iter().map(chapter).collect()
}

#[test]
fn the_course_agrees_with_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let fs = std::env::var_os("BIN")
        .map(|bin| root.join(PathBuf::from(bin)).join(format!("fs{}", std::env::consts::EXE_SUFFIX)));
    if fs.is_none() {
        // Not captured, so that it is seen beside `ok`.
        use std::io::Write;
        let _ =
            writeln!(std::io::stderr(), "the course: without BIN, what `fs` prints is not checked (tools/site does)");
    }
    let mut book = Book::new_with_items(pages(&root.join("docs/src")));
    let repository = Repository {
        docs: "docs".into(),
        pages: "docs/src".into(),
        url: "https://github.com/failed-star/fs".into(),
        commit: "HEAD".into(),
        fs,
        // Drawn by tools/wasm.
        frames: root.join("target/no-frames"),
        root,
    };
    let problems = expand(&mut book, &repository).unwrap();
    let all: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    assert!(problems.is_empty(), "{} problems:\n{all}", problems.len());
}
