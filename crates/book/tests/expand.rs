//! Whole books: what is published, and each thing that must stop it.

use book::{Problem, Repository, expand};
use mdbook_preprocessor::book::{Book, BookItem, Chapter};
use std::path::Path;

const SOURCE: &str = "// ANCHOR: add\npub fn add() {}\n// ANCHOR_END: add\n";
const VALUES: &str = "[a]\njson = 'tests/a.json'\n";
const CITES: &str =
    "[web]\ntitle = 'The Web'\nurl = 'https://example.org'\nlabel = 'web {key}'\n[web.entries]\nx = { topic = 'x' }\n";
const GLOSSARY: &str = "[token]\ntext = 'A piece of [text].'\n[text]\ntext = 'Letters, {{val a.n}} of them.'\n";
const FIGURE: &str = "<svg role=\"img\" viewBox=\"0 0 9 9\" aria-labelledby=\"f--title f--desc\"><title id=\"f--title\">F</title><desc id=\"f--desc\">{{val a.n}}</desc></svg>";
const FRAME: &str = "<div class=\"live\" data-live=\"w\">\n<div class=\"frame\">7</div>\n</div>\n";
const PAGE: &str = "# One\n\n{{code src/a.rs#add}}\n\nIt is {{val a.n}}, as {{cite web:x}} says of a [token]; see [two](two.md#part) and {{file src/a.rs}}.\n\n{{figure f | A figure}}\n\n{{widget w}}\n";
const TWO: &str = "# Two\n\n## Part\n\n{{crossref}}\n\n{{gallery}}\n\n{{exercise m1.add}}\n\n{{exercises}}\n";
const EXERCISE_SOURCE: &str =
    "/// Adds; see [`a`].\nfn f(x: u8) -> u8 {\n    // EXERCISE: m1.add\n    x + 1\n    // EXERCISE_END\n}\n";
const EXERCISE: &str = "[[exercise]]\nid = 'm1.add'\ntitle = 'One more'\nstatement = 'Add 1.'\nworked = '1 gives 2.'\ntests = ['t']\n\
    hints = ['Use +.']\n[[exercise.mutants]]\nchange = [['+', '-']]\nteaches = 'less'\n";

/// A repository with two pages and a glossary, and its expanded pages or problems.
fn build(change: impl FnOnce(&Path, &mut [(&str, String); 3])) -> Result<Vec<String>, Vec<Problem>> {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        std::fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(root.path().join(path), text).unwrap();
    };
    put("src/a.rs", SOURCE);
    put("tests/a.json", "{\"n\": 1234}");
    put("docs/values.toml", VALUES);
    put("docs/chapters.toml", "");
    put("docs/cites.toml", CITES);
    put("docs/glossary.toml", GLOSSARY);
    put("docs/figures/f.svg", FIGURE);
    put("docs/src/x", "");
    put("src/e.rs", EXERCISE_SOURCE);
    put("metal/README.md", "");
    put("crates/learn/exercises/m1.toml", EXERCISE);
    put("docs/live/w.js", "");
    put("frames/w.html", FRAME);
    let mut pages =
        [("one.md", PAGE.into()), ("two.md", TWO.into()), ("glossary.md", "# Glossary\n\n{{glossary}}\n".into())];
    change(root.path(), &mut pages);
    let chapter = |(path, text): &(&str, String)| BookItem::Chapter(Chapter::new(path, text.clone(), *path, vec![]));
    let mut book = Book::new_with_items(pages.iter().map(chapter).collect());
    let repository = Repository {
        root: root.path().into(),
        docs: "docs".into(),
        pages: "docs/src".into(),
        url: "https://example.com/fs".into(),
        commit: "abc".into(),
        fs: Some(root.path().join("no fs")),
        frames: root.path().join("frames"),
    };
    let problems = expand(&mut book, &repository).unwrap();
    if !problems.is_empty() {
        return Err(problems);
    }
    let text = |item: &BookItem| match item {
        BookItem::Chapter(chapter) => chapter.content.clone(),
        _ => String::new(),
    };
    Ok(book.items.iter().map(text).collect())
}

#[test]
fn a_whole_book_is_expanded() {
    let pages = build(|_, _| ()).unwrap();
    for part in [
        "```rust\npub fn add() {}\n```",
        "<a href=\"https://example.com/fs/blob/abc/src/a.rs#L2-L2\">src/a.rs</a> · <code>fn add</code>",
        "It is 1,234, as <span class=\"cite cite-web\">[web x](https://example.org)</span>",
        "[`src/a.rs`](https://example.com/fs/blob/abc/src/a.rs)",
        "[token]: glossary.md#token",
        "<desc id=\"f--desc\">1,234</desc>",
        "\n\n<div class=\"live\" data-live=\"w\">\n<div class=\"frame\">7</div>\n</div>\n",
    ] {
        assert!(pages[0].contains(part), "{part}\n{}", pages[0]);
    }
    assert!(pages[1].contains("[one.md](one.md#one)"), "{}", pages[1]);
    assert!(pages[1].contains("id=\"gallery-f\""));
    for part in [
        "### One more {#exercise-m1-add}",
        "<a href=\"https://example.com/fs/blob/abc/src/e.rs\">src/e.rs</a>",
        "```rust\nfn f(x: u8) -> u8\n```\n\n</div>\n\n\nAdds; see `a`.\n\nAdd 1.\n\n**An example:** 1 gives 2.\n",
        "```sh\ncargo run -p learn -- start m1.add\n```",
        "| `m1.add` | [One more](two.md#exercise-m1-add) | two.md |",
    ] {
        assert!(pages[1].contains(part), "{part}\n{}", pages[1]);
    }
    assert!(pages[2].contains("## token\n\nA piece of [text].") && pages[2].contains("Letters, 1,234 of them."));
    assert!(pages[2].contains("[text]: #text") && pages[2].contains("In: [one.md](one.md)"));
}

/// The one problem that a change makes.
fn problem(change: impl FnOnce(&Path, &mut [(&str, String); 3])) -> Problem {
    let mut problems = build(change).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// The problem of a line added to page one, which ends in line 10.
fn line(text: &str) -> String {
    let problem = problem(|_, pages| pages[0].1 += &format!("\n{text}\n"));
    assert_eq!((problem.file.as_str(), problem.line), ("docs/src/one.md", 11), "{problem}");
    problem.message
}

#[test]
fn a_page_that_asks_for_what_is_not_there_stops_the_build() {
    for (text, reason) in [
        ("{{code src/a.rs#sub}}", "no anchor `sub`"),
        ("text {{code src/a.rs#add}}", "a line of its own"),
        ("{{val a.m}}", "no `m`"),
        ("{{val b.n}}", "no source `b`"),
        ("{{cite web:y}}", "no `y`"),
        ("{{out fs inspect}}", "tools/site"),
        ("{{figure g | G}}", "g.svg"),
        ("{{figure f | again}}", "twice"),
        ("{{file src/b.rs}}", "no src/b.rs"),
        ("{{exercise m1.ad}}", "did you mean `m1.add`?"),
        ("text {{exercise m1.ad}}", "a line of its own"),
        ("{{widget v}}", "no widget `v`"),
        ("{{widget w}}", "twice"),
        ("{{nonsense}}", "no directive"),
        ("{{val a.n", "not closed"),
        ("a [word] in brackets", "neither a link nor a term"),
        ("[gone](three.md)", "no page three.md"),
        ("[gone](two.md#whole)", "no `#whole`"),
        ("[own](https://example.com/fs/blob/main/x)", "{{file PATH}}"),
        ("4096 rows", "typed by hand"),
        ("97 % of it", "typed by hand"),
        ("it took **13** seconds", "typed by hand"),
        ("half a second", "typed by hand"),
        ("seven million", "typed by hand"),
        ("{{lit 4096}} rows", "has no reason"),
        ("{{lit 4096 | cited}} rows", "nothing is cited"),
        ("{{lit 2 * a.n | arithmetic}} rows", "asks a source"),
        ("{{val 4096}} rows", "asks nobody"),
        ("<p>4096 rows</p>", "typed by hand"),
        ("<a href=\"three.html\">gone</a>", "no page three.md"),
        ("`cargo fly`", "not among"),
        ("`tools/sight`", "no tools/sight"),
    ] {
        let message = line(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn a_command_that_is_not_there_stops_the_build() {
    let message = line("```sh\ntools/sight\n```");
    assert!(message.contains("there is no tools/sight"), "{message}");
}

#[test]
fn output_that_was_typed_stops_the_build() {
    let message = line("```text\nall agree\n```");
    assert!(message.contains("{{out}}"), "{message}");
}

#[test]
fn literals_with_a_reason_are_shown() {
    let text = "{{lit 4,096 | example}}, {{lit 3 / 2 | arithmetic | digits 1}}, {{cite web:x}}: {{lit 284 | cited}}";
    let pages = build(|_, pages| pages[0].1 += &format!("\n{text}\n")).unwrap();
    assert!(pages[0].contains("4,096, 1.5, <span") && pages[0].contains(": 284"), "{}", pages[0]);
}

#[test]
fn a_number_in_a_drawing_stops_the_build() {
    let figure = FIGURE.replace("</svg>", "\n<text>4096 rows</text></svg>");
    let typed = build(|root, _| std::fs::write(root.join("docs/figures/f.svg"), figure).unwrap()).unwrap_err();
    let said = |words: &str| typed.iter().any(|problem| problem.message.contains(words));
    assert!(said("docs/figures/f.svg: line 2: `4096` is typed by hand"), "{typed:?}");
}

#[test]
fn a_coordinate_is_the_drawing_s_own() {
    let figure = FIGURE.replace("</svg>", "<path d=\"M{{val 150 + 115 * a.n / 1234}} {{val 2 * 61}}\"/></svg>");
    let pages = build(|root, _| std::fs::write(root.join("docs/figures/f.svg"), figure).unwrap()).unwrap();
    assert!(pages[0].contains("<path d=\"M265 122\"/>"), "{}", pages[0]);
}

#[test]
fn a_chapter_without_its_parts_stops_the_build() {
    let mut problems = build(|root, pages| {
        std::fs::write(root.join("docs/chapters.toml"), "[M1]\npages = ['one.md']\nplan = 'not yet'\n").unwrap();
        pages[0].1 += "\n<div class=\"goal\">\n\n**In one sentence:** one. **You need** nothing.\n\n</div>\n";
    })
    .unwrap_err();
    assert!(problems.remove(0).to_string().starts_with("docs/src/one.md:1: chapter M1: "), "{problems:?}");
    assert_eq!(problems.len(), 2, "a prediction, its answer, questions: {problems:#?}");
}

#[test]
fn what_scrolls_can_be_reached_by_keyboard() {
    let pages = build(|_, pages| pages[0].1 += "\n| a | b |\n| --- | --- |\n| 1 | 2 |\n").unwrap();
    for label in ["Code: src/a.rs · fn add", "Drawing: F", "Table: a, b"] {
        assert!(pages[0].contains(&format!("role=\"region\" tabindex=\"0\" aria-label=\"{label}\"")), "{}", pages[0]);
    }
}

#[test]
fn a_widget_s_script_is_shown_like_any_source() {
    let put = |text: &'static str| move |root: &Path| std::fs::write(root.join("docs/live/w.js"), text).unwrap();
    let script = put("export function draw() {\n    // ANCHOR: draw\n    return 7;\n    // ANCHOR_END: draw\n}\n");
    let pages = build(|root, pages| {
        script(root);
        pages[0].1 += "\n{{code docs/live/w.js#draw}}\n";
    })
    .unwrap();
    assert!(pages[0].contains("w.js</a> · <code>function draw</code>"), "{}", pages[0]);
    assert!(pages[0].contains("```javascript\nreturn 7;\n```"), "{}", pages[0]);
    assert_eq!(
        problem(|root, _| script(root)).to_string(),
        "docs/live/w.js:2: no page shows anchor `draw`: show it or remove it"
    );
    let open = problem(|root, _| put("// ANCHOR: draw\n")(root));
    assert_eq!(open.to_string(), "docs/live/w.js:1: anchor `draw` has no ANCHOR_END");
    let foreign = problem(|root, _| std::fs::write(root.join("docs/live/w.css"), "/* ANCHOR: a */\n").unwrap());
    assert_eq!((foreign.file.as_str(), foreign.line), ("docs/live/w.css", 1));
}

#[test]
fn what_no_page_uses_stops_the_build() {
    let without = |part: &'static str| problem(move |_, pages| pages[0].1 = pages[0].1.replace(part, ""));
    assert_eq!(without("{{code src/a.rs#add}}").file, "src/a.rs");
    assert_eq!(without("{{widget w}}").to_string(), "docs/live/w.js:1: no page shows this widget");
    assert_eq!(without("{{cite web:x}}").to_string(), "docs/cites.toml:6: no page cites `web:x`");
    assert_eq!(without("{{figure f | A figure}}").file, "docs/figures/f.svg");
    let forgotten = problem(|_, pages| pages[1].1 = pages[1].1.replace("{{exercise m1.add}}", ""));
    assert_eq!(forgotten.to_string(), "src/e.rs:3: no page has exercise `m1.add`: {{exercise m1.add}}");
    let again = problem(|_, pages| pages[0].1 += "\n{{exercise m1.add}}\n");
    assert_eq!(again.to_string(), "docs/src/two.md:9: exercise `m1.add` stands in one.md already");
    let unused =
        problem(|root, _| std::fs::write(root.join("docs/values.toml"), format!("{VALUES}[b]\njson = 'b'\n")).unwrap());
    assert_eq!((unused.file.as_str(), unused.line), ("docs/values.toml", 3));
}

#[test]
fn a_frame_that_was_not_drawn_or_would_end_the_block_stops_the_build() {
    let gone = problem(|root, _| std::fs::rename(root.join("frames/w.html"), root.join("frames/v.html")).unwrap());
    assert!(gone.message.contains("has not been drawn"), "{gone}");
    let torn = problem(|root, _| std::fs::write(root.join("frames/w.html"), FRAME.replace('7', "\n\n")).unwrap());
    assert!(torn.message.contains("empty line"), "{torn}");
}

#[test]
fn without_node_a_page_says_that_nothing_was_drawn() {
    let pages = build(|root, _| std::fs::remove_dir_all(root.join("frames")).unwrap()).unwrap();
    assert!(pages[0].contains("<div class=\"live undrawn\">"), "{}", pages[0]);
}

#[test]
fn a_removed_anchor_stops_the_build() {
    let removed = problem(|root, _| std::fs::write(root.join("src/a.rs"), "pub fn add() {}\n").unwrap());
    assert_eq!(removed.to_string(), "docs/src/one.md:3: there is no anchor `add` in src/a.rs");
}

#[test]
fn a_broken_anchor_stops_the_build_at_the_source() {
    let broken = problem(|root, _| {
        std::fs::write(root.join("src/b.rs"), "\n// ANCHOR: b\n// ANCHOR_END: b\n").unwrap();
    });
    assert_eq!((broken.file.as_str(), broken.line), ("src/b.rs", 2));
}

#[test]
fn a_page_has_one_title() {
    let second = problem(|_, pages| pages[1].1 += "\n# Again\n");
    assert!(second.message.contains("one level-one heading"), "{second}");
}

#[test]
fn a_term_that_the_glossary_does_not_have_stops_the_build() {
    let change = |root: &Path| std::fs::write(root.join("docs/glossary.toml"), GLOSSARY.replace("Letters", "[ink]"));
    assert!(problem(|root, _| change(root).unwrap()).message.contains("[ink]"));
}
