//! The course's preprocessor for mdBook. What a page shows of the code comes from the code; what cannot be found is a
//! problem with a file and a line, and nothing is published.
//!
//! | in a page | becomes |
//! | --- | --- |
//! | `{{code PATH#ANCHOR}}` | the source between `// ANCHOR: name` and `// ANCHOR_END: name`, with its place: [`anchors`] |
//! | `{{val EXPRESSION \| FORMAT}}` | a number from the sources of `docs/values.toml`: [`values`], [`format`](mod@format) |
//! | `{{out fs … \| lines 1-9,12}}` | what the program prints, run now: [`command`]; `\| fails` for errors; `$(EXPRESSION)` is a value |
//! | `{{cite SOURCE:KEY}}` | a link to an entry of `docs/cites.toml`: [`cites`] |
//! | `{{figure NAME \| CAPTION}}` | a drawing of `docs/figures`: [`figures`] |
//! | `{{exercise ID}}` | what an exercise of crates/learn asks, and the command that begins it: [`exercises`] |
//! | `{{widget NAME}}` | the default frame of a widget of `docs/live`, which its script then takes over: [`widgets`] |
//! | `{{file PATH}}` | a link to a file of the repository, at the commit that is built |
//! | `{{benchmarks DIRECTORY}}` | the runs of `tools/bench-peers` that are kept there: [`benchmarks`] |
//! | `{{lit 1024 \| KIND}}` | a number that no code knows, and why: [`lint::KINDS`] |
//! | `[term]`, `[words][term]` | a link to the glossary, `docs/glossary.toml`: [`glossary`] |
//! | `{{glossary}}`, `{{crossref}}`, `{{gallery}}`, `{{exercises}}` | all terms, cites, drawings, exercises, and where they are used |
//!
//! Links between pages are checked ([`links`]); numbers and code that were typed by hand are found ([`lint`]); commands that pages
//! tell to type are looked up ([`shell`]); a chapter has all its parts ([`chapters`]); what scrolls can be reached by keyboard
//! ([`regions`]).

pub mod anchors;
pub mod benchmarks;
pub mod chapters;
pub mod cites;
pub mod command;
pub mod directive;
pub mod exercises;
mod expression;
pub mod figures;
pub mod format;
pub mod glossary;
pub mod links;
pub mod lint;
mod node;
mod problem;
pub mod regions;
pub mod shell;
mod text;
pub mod values;
pub mod widgets;

pub use problem::Problem;

use anchors::Anchors;
use anyhow::{Context, bail};
use chapters::Chapters;
use cites::Cites;
use command::Fs;
use directive::Directive;
use exercises::Exercises;
use figures::Figures;
use glossary::Glossary;
use links::Outline;
use mdbook_preprocessor::PreprocessorContext;
use mdbook_preprocessor::book::{Book, BookItem};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use values::Values;
use widgets::Widgets;

/// Where the book's subject is.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The repository's root.
    pub root: PathBuf,
    /// The book's directory, from the root.
    pub docs: String,
    /// The pages' directory, from the root.
    pub pages: String,
    /// Its address on the web.
    pub url: String,
    /// The commit that is built.
    pub commit: String,
    /// The program that pages run; without one, what it would print is left out and all else is checked.
    pub fs: Option<PathBuf>,
    /// Where tools/wasm put the widgets' frames.
    pub frames: PathBuf,
}

impl Repository {
    /// The repository that a book is part of: its address from book.toml, its commit from git; `fs` is the program
    /// beside this one, built with it.
    pub fn of_book(context: &PreprocessorContext) -> anyhow::Result<Self> {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").arg("-C").arg(&context.root).args(arguments).output();
            let output = output.context("git cannot be run")?;
            if !output.status.success() {
                bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let url: Option<String> = context.config.get("output.html.git-repository-url")?;
        let docs = git(&["rev-parse", "--show-prefix"])?.trim_end_matches('/').to_owned();
        let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
        let fs = std::env::current_exe()?.with_file_name(format!("fs{}", std::env::consts::EXE_SUFFIX));
        Ok(Self {
            frames: root.join("target/site-live/frames"),
            root,
            pages: format!("{docs}/{}", context.config.book.src.display()),
            docs,
            url: url.context("book.toml: output.html.git-repository-url is missing")?,
            commit: git(&["rev-parse", "HEAD"])?,
            fs: Some(fs),
        })
    }

    fn blob(&self, path: &str) -> String {
        format!("{}/blob/{}/{path}", self.url.trim_end_matches('/'), self.commit)
    }
}

/// Expands every page of `book` in place and returns all that is wrong, in order. If anything is, the book is not to be
/// published.
pub fn expand(book: &mut Book, repository: &Repository) -> anyhow::Result<Vec<Problem>> {
    let mut builder = Builder::new(repository)?;
    let mut pages = Vec::new();
    let mut drafts = Vec::new();
    gather(&book.items, &mut pages, &mut drafts);
    let mut expanded: BTreeMap<String, String> =
        pages.iter().map(|page| (page.path.clone(), builder.page(page))).collect();

    let generated = [
        ("{{glossary}}", builder.glossary_page()),
        ("{{crossref}}", builder.cites.index()),
        ("{{exercises}}", builder.exercises.index()),
        ("{{gallery}}", builder.figures.gallery(&pages.iter().map(|page| page.path.clone()).collect::<Vec<_>>())),
    ];
    for text in expanded.values_mut() {
        for (directive, page) in &generated {
            *text = text.replace(&hold(directive), page);
        }
    }
    builder.check_links(&pages, &expanded);
    builder.check_chapters(&pages);
    for page in &pages {
        if let Some(text) = expanded.get_mut(&page.path) {
            builder.make_reachable(page, text);
        }
    }
    builder.check_unused(&drafts)?;

    book.for_each_chapter_mut(|chapter| {
        if let Some(text) = chapter.path.as_ref().and_then(|path| expanded.remove(&path.display().to_string())) {
            chapter.content = text;
        }
    });
    builder.problems.sort();
    builder.problems.dedup();
    Ok(builder.problems)
}

/// A page before it is expanded.
struct Page {
    /// From the pages' directory, as in a link.
    path: String,
    title: String,
    text: String,
}

/// All pages, and the titles of chapters that are not written yet.
fn gather(items: &[BookItem], pages: &mut Vec<Page>, drafts: &mut Vec<String>) {
    for item in items {
        if let BookItem::Chapter(chapter) = item {
            match &chapter.path {
                Some(path) => {
                    let (path, title) = (path.display().to_string(), chapter.name.clone());
                    pages.push(Page { path, title, text: chapter.content.clone() });
                }
                None => drafts.push(chapter.name.clone()),
            }
            gather(&chapter.sub_items, pages, drafts);
        }
    }
}

/// What stands in a page for a directive that needs all other pages first.
fn hold(directive: &str) -> String {
    format!("\u{1}{directive}\u{1}")
}

struct Builder<'a> {
    repository: &'a Repository,
    anchors: Anchors,
    values: Values,
    cites: Cites,
    glossary: Glossary,
    figures: Figures,
    exercises: Exercises,
    widgets: Widgets,
    chapters: Chapters,
    fs: Fs,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn new(repository: &'a Repository) -> anyhow::Result<Self> {
        let docs = repository.root.join(&repository.docs);
        let table = |name: &str| {
            let path = docs.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let wrong = |name: &'static str| move |error: String| anyhow::anyhow!("docs/{name}: {error}");
        let (anchors, problems) = Anchors::scan(&repository.root)?;
        Ok(Self {
            repository,
            anchors,
            values: Values::new(&repository.root, &table("values.toml")?).map_err(wrong("values.toml"))?,
            cites: Cites::new(&table("cites.toml")?).map_err(wrong("cites.toml"))?,
            glossary: Glossary::new(&table("glossary.toml")?).map_err(wrong("glossary.toml"))?,
            figures: Figures::new(&docs.join("figures")),
            exercises: Exercises::new(&repository.root)?,
            widgets: Widgets::new(&docs.join("live"), &repository.frames),
            chapters: Chapters::new(&table("chapters.toml")?).map_err(wrong("chapters.toml"))?,
            fs: match &repository.fs {
                Some(program) => Fs::new(program.clone(), &repository.root),
                None => Fs::absent(&repository.root),
            },
            problems,
        })
    }

    fn file_of(&self, page: &Page) -> String {
        format!("{}/{}", self.repository.pages, page.path)
    }

    /// A page's text with its directives replaced and its terms linked.
    fn page(&mut self, page: &Page) -> String {
        let file = self.file_of(page);
        let masked = directive::mask(&page.text);
        let outline = links::outline(&masked);
        let mut problems: Vec<(usize, String)> =
            lint::problems(&outline).into_iter().map(|(at, message)| (links::line_of(&masked, at), message)).collect();

        let root = &self.repository.root;
        for fence in outline.fences.iter().filter(|fence| fence.language == "sh") {
            let wrong = shell::block(&fence.text, root, &self.fs);
            problems.extend(wrong.into_iter().map(|message| (links::line_of(&masked, fence.at), message)));
        }
        for (at, span) in &outline.spans {
            let wrong = shell::span(span, root, &self.fs);
            problems.extend(wrong.map(|message| (links::line_of(&masked, *at), message)));
        }

        let (mut text, failed) = directive::replace(&page.text, |directive| self.replace(page, &outline, directive));
        problems.extend(failed);

        let titles = outline.titles + page.text.matches("<h1").count();
        if titles != 1 {
            problems.push((1, format!("a page has one level-one heading, not {titles}")));
        }
        let mut terms = BTreeMap::new();
        for (at, bracket) in &outline.brackets {
            match self.glossary.fragment(bracket, (&page.path, &page.title)) {
                Some(fragment) => drop(terms.insert(bracket.to_lowercase(), fragment)),
                None => problems.push((
                    links::line_of(&masked, *at),
                    format!("`[{bracket}]` is neither a link nor a term of docs/glossary.toml"),
                )),
            }
        }
        let glossary = links::relative(&page.path, "glossary.md");
        text = text.replace("```text sketch\n", "```text\n");
        text.push_str("\n\n");
        for (term, fragment) in terms {
            text.push_str(&format!("[{term}]: {glossary}#{fragment}\n"));
        }
        self.problems.extend(problems.into_iter().map(|(line, message)| Problem::new(&file, line, message)));
        text
    }

    fn replace(&self, page: &Page, outline: &Outline, directive: &Directive<'_>) -> Result<String, String> {
        let block = |html: Result<String, String>| match directive.alone {
            true => html,
            false => Err(format!("{{{{{}}}}} stands in a line of its own", directive.name)),
        };
        match directive.name {
            "code" => block(self.code(directive.arguments)),
            "out" => block(match self.out(directive.arguments) {
                Err(error) if error == command::ABSENT => Ok("…".into()),
                shown => shown,
            }),
            "figure" => block(self.figures.show(directive.arguments, (&page.path, &page.title), |svg| self.svg(svg))),
            "exercise" => block(
                self.exercises.show(directive.arguments, (&page.path, &page.title), |file| self.repository.blob(file)),
            ),
            "benchmarks" => {
                let link = |path: &str| self.repository.blob(path);
                block(benchmarks::sections(&self.repository.root, directive.arguments, link))
            }
            "widget" => block(self.widgets.show(directive.arguments, &page.path)),
            "val" => self.values.show(directive.arguments, &self.fs),
            "lit" => self.literal(&page.text, directive),
            "cite" => {
                let above = outline.headings.iter().rev().find(|(at, _)| *at <= directive.span.start);
                let fragment = above.map(|(_, fragment)| format!("#{fragment}")).unwrap_or_default();
                let from = cites::Use { page: format!("{}{fragment}", page.path), title: page.title.clone() };
                self.cites.show(directive.arguments, from)
            }
            "file" => {
                let (path, text) = directive::pipes(directive.arguments);
                if !self.repository.root.join(path).exists() {
                    return Err(format!("there is no {path} in the repository"));
                }
                let text = text.first().map_or_else(|| format!("`{path}`"), |text| (*text).to_owned());
                Ok(format!("[{text}]({})", self.repository.blob(path)))
            }
            "glossary" | "crossref" | "gallery" | "exercises" => {
                block(Ok(hold(&format!("{{{{{}}}}}", directive.name))))
            }
            name => Err(format!("there is no directive `{name}`")),
        }
    }

    /// A number that was typed, with the reason why it may be.
    fn literal(&self, text: &str, directive: &Directive<'_>) -> Result<String, String> {
        let (number, rest) = directive::pipes(directive.arguments);
        match rest[..] {
            ["arithmetic", ref formats @ ..] => self.values.arithmetic(number, formats, &self.fs),
            [_, _, ..] => Err("one reason is enough".into()),
            ref kind => {
                let line = text.lines().nth(directive.line - 1).unwrap_or_default();
                lint::literal(number, kind.first().copied(), line).map(str::to_owned)
            }
        }
    }

    fn code(&self, target: &str) -> Result<String, String> {
        let anchor = self.anchors.get(target)?;
        let (first, last) = anchor.lines;
        let link = format!("{}#L{first}-L{last}", self.repository.blob(&anchor.path));
        let item = anchor.item.as_ref().map(|item| format!(" · <code>{}</code>", escape(item))).unwrap_or_default();
        Ok(format!(
            "<div class=\"snippet\">\n<p class=\"where\"><a href=\"{link}\">{}</a>{item}</p>\n\n{}\n\n</div>",
            anchor.path,
            fence(anchor.language, &anchor.text)
        ))
    }

    fn out(&self, arguments: &str) -> Result<String, String> {
        let (line, filters) = directive::pipes(arguments);
        let fails = filters.contains(&"fails");
        let line = &self.values.substitute(line, &self.fs)?;
        let printed = self.fs.run(line, i32::from(fails))?;
        let mut text = if fails { printed.stderr } else { printed.stdout };
        for filter in filters.iter().filter(|filter| **filter != "fails") {
            let ranges = filter.strip_prefix("lines ").ok_or_else(|| format!("there is no filter `{filter}`"))?;
            text = command::keep_lines(&text, ranges)?;
        }
        let count = text.lines().count();
        if text.trim().is_empty() {
            return Err(format!("`{line}` prints nothing"));
        }
        if count > anchors::MAX_LINES {
            return Err(format!("`{line}` prints {count} lines: choose some by `| lines 1-9,20`"));
        }
        Ok(format!(
            "<div class=\"snippet output\">\n\n{}\n\n</div>",
            fence("text", &format!("$ {line}\n{}", text.trim_end()))
        ))
    }

    /// A drawing with its values.
    fn svg(&self, svg: &str) -> Result<String, String> {
        let mut html = links::Html::default();
        for (number, line) in directive::mask(svg).split_inclusive('\n').enumerate() {
            if let Some((_, message)) = lint::typed(0, &html.text(line)).next() {
                return Err(format!("line {}: {message}", number + 1));
            }
        }
        let (out, problems) = directive::replace(svg, |directive| match directive.name {
            // Inside of a tag: a coordinate.
            "val" if svg[..directive.span.start].rfind('<') > svg[..directive.span.start].rfind('>') => {
                self.values.place(directive.arguments, &self.fs)
            }
            "val" => self.values.show(directive.arguments, &self.fs).map(|text| escape(&text)),
            "lit" => self.literal(svg, directive),
            name => Err(format!("a drawing has {{{{val}}}} and {{{{lit}}}}, not `{name}`")),
        });
        if let Some((line, message)) = problems.into_iter().next() {
            return Err(format!("line {line}: {message}"));
        }
        Ok(out)
    }

    fn glossary_page(&mut self) -> String {
        let page = Page { path: "glossary.md".into(), title: "Glossary".into(), text: String::new() };
        let file = format!("{}/glossary.toml", self.repository.docs);
        let (mut problems, mut terms) = (Vec::new(), BTreeSet::new());
        let text = self.glossary.page(|text| {
            let outline = links::outline(&directive::mask(text));
            terms.extend(outline.brackets.iter().map(|(_, bracket)| bracket.clone()));
            let (text, failed) = directive::replace(text, |directive| self.replace(&page, &outline, directive));
            problems.extend(failed.into_iter().map(|(_, message)| message));
            problems.extend(lint::problems(&outline).into_iter().map(|(_, message)| message));
            text
        });
        let mut definitions = String::from("\n\n");
        for term in terms {
            match self.glossary.fragment(&term, (&page.path, &page.title)) {
                Some(fragment) => definitions.push_str(&format!("[{term}]: #{fragment}\n")),
                None => problems.push(format!("`[{term}]` is neither a link nor a term")),
            }
        }
        self.problems.extend(problems.into_iter().map(|message| Problem::new(&file, 1, message)));
        text + &definitions
    }

    fn check_chapters(&mut self, pages: &[Page]) {
        let all: Vec<_> =
            pages.iter().map(|page| (page.path.as_str(), page.title.as_str(), page.text.as_str())).collect();
        let recorded = |arguments: &str| self.values.is_recorded(arguments);
        let problems =
            self.chapters.problems(&all, recorded, |name: &str| self.figures.source(name).unwrap_or_default());
        let file = |path: &str| format!("{}/{path}", self.repository.pages);
        self.problems.extend(problems.into_iter().map(|(path, line, what)| Problem::new(file(&path), line, what)));
    }

    /// Puts regions around what may scroll.
    fn make_reachable(&mut self, page: &Page, text: &mut String) {
        match regions::wrap(text) {
            Ok(wrapped) => *text = wrapped,
            Err(at) => {
                let words: String = text[at..].chars().take(40).collect();
                let message = format!("a table or code inside of a list or a quotation: `{words}`");
                self.problems.push(Problem::new(self.file_of(page), 1, message));
            }
        }
    }

    fn check_links(&mut self, pages: &[Page], expanded: &BTreeMap<String, String>) {
        let fragments: BTreeMap<String, BTreeSet<String>> =
            expanded.iter().map(|(path, text)| (path.clone(), links::outline(text).fragments)).collect();
        let source = self.repository.root.join(&self.repository.pages);
        for page in pages {
            let masked = directive::mask(&page.text);
            for (at, link) in links::outline(&masked).links {
                let own = link.starts_with(&self.repository.url);
                let checked = match own {
                    true => Err(format!("`{link}`: {{{{file PATH}}}} links to the commit that is built")),
                    false => links::check(&page.path, &link, &fragments, &source),
                };
                if let Err(message) = checked {
                    self.problems.push(Problem::new(self.file_of(page), links::line_of(&masked, at), message));
                }
            }
        }
    }

    fn check_unused(&mut self, drafts: &[String]) -> anyhow::Result<()> {
        self.problems.extend(self.anchors.unused());
        self.problems.extend(self.exercises.unused(drafts));
        let docs = &self.repository.docs;
        // The line of a table's file that begins with one of these.
        let at = |file: &str, begins: [String; 2], message: String| {
            let text = std::fs::read_to_string(self.repository.root.join(docs).join(file)).unwrap_or_default();
            let line = text.lines().position(|line| begins.iter().any(|word| line.starts_with(word.as_str())));
            Problem::new(format!("{docs}/{file}"), line.map_or(1, |i| i + 1), message)
        };
        for name in self.values.unused() {
            let begins = [format!("[{name}]"), format!("[\"{name}\"]")];
            self.problems.push(at("values.toml", begins, format!("no page asks source `{name}`")));
        }
        for cite in self.cites.unused() {
            let key = cite.split_once(':').map_or("", |(_, key)| key);
            let begins = [format!("\"{key}\" ="), format!("{key} =")];
            self.problems.push(at("cites.toml", begins, format!("no page cites `{cite}`")));
        }
        for name in self.figures.unused()? {
            self.problems.push(Problem::new(format!("{docs}/figures/{name}"), 1, "no page shows this drawing"));
        }
        for name in self.widgets.unused()? {
            self.problems.push(Problem::new(format!("{docs}/live/{name}.js"), 1, "no page shows this widget"));
        }
        Ok(())
    }
}

/// A fenced block that nothing inside of it can close.
fn fence(language: &str, text: &str) -> String {
    let mut ticks = String::from("```");
    while text.contains(&ticks) {
        ticks.push('`');
    }
    format!("{ticks}{language}\n{text}\n{ticks}")
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
