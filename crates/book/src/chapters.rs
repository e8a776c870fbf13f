//! The template of a chapter. `docs/chapters.toml` says which pages form one; what each must have is counted, and a chapter that
//! lacks a part is not published.

use crate::directive;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Excerpts of code that a page of one chapter shows at most, so that text remains between them, and a chapter at least.
const EXCERPTS: std::ops::RangeInclusive<usize> = 3..=6;

/// Numbers of a worked trace.
const TRACE: usize = 3;

/// Questions at the end of a chapter.
const QUESTIONS: usize = 4;

/// Works that the section on real engines cites.
const WORKS: [&str; 3] = ["book", "ds4", "raschka"];

/// The section that cites them.
const ENGINES: &str = "What real engines do";

/// One chapter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chapter {
    /// Its pages; the first one carries what a chapter has once.
    pages: Vec<String>,
    /// For a chapter that describes what nobody has built yet: why it has no code to check.
    plan: Option<String>,
}

/// All chapters, by the name that their titles begin with.
pub struct Chapters {
    all: BTreeMap<String, Chapter>,
}

/// A page for the template: its path, title and source.
pub type Page<'a> = (&'a str, &'a str, &'a str);

impl Chapters {
    /// `table` is the text of `docs/chapters.toml`.
    pub fn new(table: &str) -> Result<Self, String> {
        Ok(Self { all: toml::from_str(table).map_err(|error| error.to_string())? })
    }

    /// What the book's chapters lack: a page, a line of it, and a sentence. `is_recorded` says whether a `{{val}}` shows a number
    /// that was recorded or computed, `drawing` has the source of a figure.
    pub fn problems(
        &self,
        pages: &[Page<'_>],
        is_recorded: impl Fn(&str) -> bool,
        drawing: impl Fn(&str) -> String,
    ) -> Vec<(String, usize, String)> {
        let mut problems = Vec::new();
        let mut claimed = BTreeSet::new();
        for (name, chapter) in &self.all {
            let mut texts = Vec::new();
            for path in &chapter.pages {
                claimed.insert(path.as_str());
                match pages.iter().find(|(other, ..)| other == path) {
                    Some((path, _, text)) => texts.push((*path, *text)),
                    None => {
                        problems.push((path.clone(), 1, format!("chapter {name} has this page, and the book has not")))
                    }
                }
            }
            let Some(&(first, _)) = texts.first() else { continue };
            let lacks = match chapter.plan {
                Some(_) => plan(&texts),
                None => milestone(&texts, &|section: &str| traced(section, &is_recorded, &drawing)),
            };
            problems.extend(lacks.into_iter().map(|(at, what)| {
                let (path, line) = at.unwrap_or((first, 1));
                (path.to_owned(), line, format!("chapter {name}: {what}"))
            }));
        }
        // `M2: Forward pass` is a chapter, whether or not somebody remembered the table.
        for (path, title, _) in pages {
            let milestone = title.split_once(':').is_some_and(|(name, _)| {
                name.strip_prefix('M').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            });
            if milestone && !claimed.contains(path) {
                problems.push(((*path).to_owned(), 1, "docs/chapters.toml does not say which chapter this is".into()));
            }
        }
        problems
    }
}

/// Where, if it is a place, and what.
type Lack<'a> = (Option<(&'a str, usize)>, String);

/// What a chapter of any kind has: a goal, a prediction, a drawing, questions.
fn plan<'a>(pages: &[(&'a str, &'a str)]) -> Vec<Lack<'a>> {
    let mut lacks = Vec::new();
    let all: String = pages.iter().map(|(_, text)| format!("{text}\n")).collect();
    let mut want = |there: bool, what: &str| {
        if !there {
            lacks.push((None, what.to_owned()));
        }
    };
    let once = |class: &str| all.matches(&format!("<div class=\"{class}\">")).count() == 1;
    want(once("goal") && all.contains("**In one sentence:**"), "one goal, <div class=\"goal\">, in one sentence");
    want(all.contains("**You need**"), "what its reader needs: **You need** …");
    want(once("predict") && boxed(&all, "predict").contains('?'), "one question to predict, <div class=\"predict\">");
    want(all.contains("prediction"), "the answer to the prediction, named as such");
    want(all.contains("{{figure "), "a drawing: {{figure}}");
    let questions = section(&all, "Check yourself").matches("<details><summary>").count();
    want(questions >= QUESTIONS, &format!("{QUESTIONS} questions under ## Check yourself, not {questions}"));
    lacks
}

/// What a chapter about code has besides.
fn milestone<'a>(pages: &[(&'a str, &'a str)], traced: &impl Fn(&str) -> usize) -> Vec<Lack<'a>> {
    let mut lacks = plan(pages);
    let all: String = pages.iter().map(|(_, text)| format!("{text}\n")).collect();
    let directives: Vec<_> = directive::find(&all).into_iter().flatten().collect();
    let count = |name: &str| directives.iter().filter(|directive| directive.name == name).count();
    let mut want = |there: bool, what: String| {
        if !there {
            lacks.push((None, what));
        }
    };
    let goal = boxed(&all, "goal");
    want(
        goal.contains("**It ends with**") && goal.contains('`'),
        "the goal names what it ends with, as a command or a type".into(),
    );
    let most = unboxed(&all).split("\n## ").map(traced).max().unwrap_or_default();
    want(most >= TRACE, format!("a worked trace: {TRACE} recorded numbers under one heading, not {most}"));
    want(count("code") >= *EXCERPTS.start(), format!("{} excerpts of code, not {}", EXCERPTS.start(), count("code")));
    want(count("exercise") >= 1, "an exercise: {{exercise}}".into());
    let check = boxed(&all, "check");
    for part in ["**Against what:**", "**Tolerance:**", "**How a wrong version looks.**"] {
        want(check.contains(part), format!("its check says {part}"));
    }
    want(check.contains("```sh"), "its check has a command".into());
    want(!boxed(&all, "cost").trim().is_empty(), "what it costs: <div class=\"cost\">".into());
    want(section(&all, "Gotchas").matches("\n- ").count() >= 3, "three points under ## Gotchas".into());
    let engines = section(&all, ENGINES);
    for work in WORKS {
        want(engines.contains(&format!("{{{{cite {work}:")), format!("a place of `{work}` cited under ## {ENGINES}"));
    }
    for (path, text) in pages {
        let shown: Vec<_> = directive::find(text).into_iter().flatten().filter(|it| it.name == "code").collect();
        if shown.len() > *EXCERPTS.end() {
            let line = shown[*EXCERPTS.end()].line;
            lacks.push((
                Some((path, line)),
                format!("{} excerpts on one page, {} at most", shown.len(), EXCERPTS.end()),
            ));
        }
    }
    lacks
}

/// How many recorded numbers a text and its drawings show.
fn traced(text: &str, is_recorded: &impl Fn(&str) -> bool, drawing: &impl Fn(&str) -> String) -> usize {
    let directives = directive::find(text).into_iter().flatten();
    let count = |it: directive::Directive<'_>| match it.name {
        "val" => usize::from(is_recorded(it.arguments)),
        "figure" => {
            let svg = drawing(directive::pipes(it.arguments).0);
            let inner = directive::find(&svg).into_iter().flatten();
            inner.filter(|it| it.name == "val" && is_recorded(it.arguments)).count()
        }
        _ => 0,
    };
    directives.map(count).sum()
}

/// The text without what the boxes about the check and the cost say: numbers there are no trace.
fn unboxed(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) =
        ["check", "cost"].iter().filter_map(|class| rest.find(&format!("<div class=\"{class}\">"))).min()
    {
        out += &rest[..at];
        rest = rest[at..].split_once("\n</div>").map_or("", |(_, behind)| behind);
    }
    out + rest
}

/// The text of all boxes of a class.
fn boxed(text: &str, class: &str) -> String {
    let open = format!("<div class=\"{class}\">");
    let boxes = text.split(open.as_str()).skip(1);
    boxes.filter_map(|rest| rest.split("\n</div>").next()).collect()
}

/// The text below a heading of the second level, up to the next one.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let Some((_, rest)) = text.split_once(&format!("\n## {title}\n")) else { return "" };
    let end = rest.find("\n## ").or_else(|| rest.find("\n# ")).unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "[M1]\npages = ['m1.md']\n";
    const PAGE: &str = "# M1: One

<div class=\"goal\">

**In one sentence:** one.

**It ends with** `fs one`. **You need** nothing.

</div>

<div class=\"predict\">

**Predict.** Which?

</div>

{{figure f | F}}

The prediction's answer: {{val worked.a}}, {{val worked.b}}, {{val worked.c}}.

{{code a.rs#a}}

{{code a.rs#b}}

{{code a.rs#c}}

<div class=\"check\">

## The check

**Against what:** it. **Tolerance:** none.

**How a wrong version looks.** Bad.

```sh
cargo test
```

</div>

<div class=\"cost\">

Nothing.

</div>

## Exercises

{{exercise m1.a}}

## Gotchas

- a
- b
- c

## What real engines do

{{cite book:1}} {{cite ds4:a}} {{cite raschka:b}}

## Check yourself

<details><summary>a</summary></details>
<details><summary>b</summary></details>
<details><summary>c</summary></details>
<details><summary>d</summary></details>
";

    fn problems(table: &str, page: &str) -> Vec<String> {
        let chapters = Chapters::new(table).unwrap();
        let recorded = |arguments: &str| arguments.starts_with("worked.");
        let drawing =
            |name: &str| if name == "traced" { "{{val worked.a}} {{val worked.b}}".into() } else { String::new() };
        let found = chapters.problems(&[("m1.md", "M1: One", page)], recorded, drawing);
        found.into_iter().map(|(path, line, what)| format!("{path}:{line}: {what}")).collect()
    }

    #[test]
    fn a_whole_chapter_passes() {
        assert_eq!(problems(TABLE, PAGE), Vec::<String>::new());
    }

    #[test]
    fn each_part_is_missed() {
        for (part, with, what) in [
            ("**It ends with** `fs one`.", "", "what it ends with"),
            ("**You need**", "", "**You need**"),
            ("Which?", "This.", "predict"),
            ("The prediction's answer", "So", "answer to the prediction"),
            ("{{figure f | F}}", "", "a drawing"),
            ("{{val worked.c}}", "{{val other.c}}", "3 recorded numbers under one heading, not 2"),
            ("{{code a.rs#c}}", "", "3 excerpts of code, not 2"),
            ("**Tolerance:**", "", "**Tolerance:**"),
            ("```sh\ncargo test\n```", "", "has a command"),
            ("<div class=\"cost\">", "<div>", "what it costs"),
            ("{{exercise m1.a}}", "", "an exercise"),
            ("- c\n", "", "three points"),
            ("{{cite ds4:a}}", "", "a place of `ds4`"),
            ("<details><summary>d</summary></details>\n", "", "4 questions under ## Check yourself, not 3"),
        ] {
            let found = problems(TABLE, &PAGE.replace(part, with));
            assert!(found.len() == 1 && found[0].contains(what), "{part}: {found:?}");
        }
        let drawn =
            PAGE.replace(" {{val worked.b}}, {{val worked.c}}", "").replace("{{figure f |", "{{figure traced |");
        assert_eq!(problems(TABLE, &drawn), Vec::<String>::new(), "numbers of a drawing count");
        let apart = PAGE.replace("Nothing.", "{{val worked.d}}").replace(", {{val worked.c}}", "");
        assert_eq!(problems(TABLE, &apart).len(), 1, "what it costs is no trace");
        let long = PAGE.replace("{{code a.rs#c}}", &"{{code a.rs#c}}\n".repeat(5));
        assert_eq!(problems(TABLE, &long), ["m1.md:29: chapter M1: 7 excerpts on one page, 6 at most"]);
    }

    #[test]
    fn every_chapter_stands_in_the_table() {
        assert_eq!(problems("", PAGE), ["m1.md:1: docs/chapters.toml does not say which chapter this is"]);
        let more = problems("[M1]\npages = ['m1.md', 'm1-more.md']\n", PAGE);
        assert_eq!(more, ["m1-more.md:1: chapter M1 has this page, and the book has not"]);
    }

    #[test]
    fn a_plan_needs_no_code_but_a_reason() {
        let page = PAGE.replace("{{code a.rs#a}}", "").replace("{{exercise m1.a}}", "").replace("**Tolerance:**", "");
        assert!(!problems(TABLE, &page).is_empty());
        assert_eq!(problems("[M1]\npages = ['m1.md']\nplan = 'nothing of it is built'\n", &page), Vec::<String>::new());
    }
}
