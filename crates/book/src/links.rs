//! Links between pages, and the terms in brackets.

use pulldown_cmark::{BrokenLink, CowStr, Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a page's Markdown holds, for checks. Positions are bytes of the text.
#[derive(Debug, Default)]
pub struct Outline {
    /// Targets of links and images.
    pub links: Vec<(usize, String)>,
    /// Brackets that are no link.
    pub brackets: Vec<(usize, String)>,
    /// The fragments that can be linked to.
    pub fragments: BTreeSet<String>,
    /// Where each heading starts, and its fragment.
    pub headings: Vec<(usize, String)>,
    /// Prose, a paragraph or a cell at a time and without its marks; code spans; the text inside of HTML.
    pub prose: Vec<(usize, String)>,
    /// Code spans.
    pub spans: Vec<(usize, String)>,
    /// Blocks of code.
    pub fences: Vec<Fence>,
    /// Level-one headings.
    pub titles: usize,
}

/// A block of code.
#[derive(Debug, Default)]
pub struct Fence {
    /// Where it starts.
    pub at: usize,
    /// What stands behind its ticks.
    pub language: String,
    /// What is in it.
    pub text: String,
}

/// The options that mdBook parses with.
pub(crate) fn options() -> Options {
    Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_DEFINITION_LIST
        | Options::ENABLE_GFM
}

/// Parses a page.
pub fn outline(text: &str) -> Outline {
    let mut outline = Outline::default();
    let mut brackets = Vec::new();
    let mut broken = |link: BrokenLink<'_>| {
        brackets.push((link.span.start, link.reference.to_string()));
        Some((CowStr::from("bracket:"), CowStr::from("")))
    };
    let mut heading: Option<(usize, Option<String>, String)> = None;
    let (mut in_code, mut in_prose, mut html) = (false, false, Html::default());
    let mut counts = BTreeMap::new();
    for (event, span) in Parser::new_with_broken_link_callback(text, options(), Some(&mut broken)).into_offset_iter() {
        // A number's unit may stand behind a mark, the end of a line, or an entity (`4&nbsp;GiB`), which is an event of its own.
        let goes_on = in_prose;
        in_prose = match &event {
            Event::Text(_) => !in_code,
            Event::SoftBreak | Event::HardBreak => in_prose,
            Event::Start(Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Link { .. }) => in_prose,
            Event::End(TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough | TagEnd::Link) => in_prose,
            _ => false,
        };
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) if &*dest_url != "bracket:" => {
                outline.links.push((span.start, dest_url.to_string()));
            }
            Event::Start(Tag::Heading { level, id, .. }) => {
                outline.titles += usize::from(level == pulldown_cmark::HeadingLevel::H1);
                heading = Some((span.start, id.map(|id| id.to_string()), String::new()));
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((at, id, text)) = heading.take() {
                    let fragment = id.unwrap_or_else(|| fragment_of_heading(&text));
                    let count = counts.entry(fragment.clone()).or_insert(0);
                    let unique = if *count == 0 { fragment } else { format!("{fragment}-{count}") };
                    *count += 1;
                    outline.fragments.insert(unique.clone());
                    outline.headings.push((at, unique));
                }
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                in_code = true;
                let language = match kind {
                    pulldown_cmark::CodeBlockKind::Fenced(language) => language.to_string(),
                    pulldown_cmark::CodeBlockKind::Indented => String::new(),
                };
                outline.fences.push(Fence { at: span.start, language, text: String::new() });
            }
            Event::End(TagEnd::CodeBlock) => in_code = false,
            Event::Text(text) if in_code => {
                if let Some(fence) = outline.fences.last_mut() {
                    fence.text.push_str(&text);
                }
            }
            Event::Text(text) => {
                if let Some((.., heading)) = &mut heading {
                    heading.push_str(&text);
                }
                match outline.prose.last_mut() {
                    Some((_, last)) if goes_on => last.push_str(&text),
                    _ => outline.prose.push((span.start, text.to_string())),
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let (Some((_, last)), true) = (outline.prose.last_mut(), goes_on) {
                    last.push('\n');
                }
            }
            Event::Code(text) => {
                if let Some((.., heading)) = &mut heading {
                    heading.push_str(&text);
                }
                outline.prose.push((span.start, text.to_string()));
                outline.spans.push((span.start, text.to_string()));
            }
            Event::Html(text) | Event::InlineHtml(text) => {
                let ids = text.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next());
                outline.fragments.extend(ids.map(str::to_owned));
                let targets = text.split("<a ").skip(1).filter_map(|rest| attribute(rest.split('>').next()?, "href"));
                // Pages are named as files are: what a browser gets as `.html` is a `.md` here.
                let page = |target: &str| match target.contains("://") {
                    true => target.to_owned(),
                    false => target.replacen(".html", ".md", 1),
                };
                outline.links.extend(targets.map(|target| (span.start, page(target))));
                let text = html.text(&text);
                if !text.trim().is_empty() {
                    outline.prose.push((span.start, text));
                }
            }
            _ => {}
        }
    }
    outline.brackets = brackets;
    outline
}

/// What a reader of HTML reads; tags may go over several pieces.
#[derive(Default)]
pub struct Html {
    in_tag: bool,
    tag: String,
}

impl Html {
    /// The text between the tags of the next piece, and that of the attributes which are read aloud.
    pub fn text(&mut self, html: &str) -> String {
        let mut out = String::new();
        for c in html.chars() {
            match c {
                '<' => self.in_tag = true,
                '>' if self.in_tag => {
                    for name in ["alt", "aria-label", "title"] {
                        if let Some(value) = attribute(&self.tag, name) {
                            out += &format!(" {value} ");
                        }
                    }
                    self.in_tag = false;
                    self.tag.clear();
                }
                c if self.in_tag => self.tag.push(c),
                c => out.push(c),
            }
        }
        out.replace("&nbsp;", "\u{a0}")
    }
}

/// The value of an attribute, of what stands in a tag.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let all = format!(" {name}=\"");
    let start = if tag.starts_with(&all[1..]) { all.len() - 1 } else { tag.find(&all)? + all.len() };
    tag[start..].split('"').next()
}

/// The id that mdBook gives a heading: small letters, digits, `_` and `-`; spaces become `-`.
pub fn fragment_of_heading(text: &str) -> String {
    let keep = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    };
    text.trim().to_lowercase().chars().filter_map(keep).collect()
}

/// The line of a byte, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// `target` as seen from the page `from`, from the book's root.
pub fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What is wrong with a link of the page `from`. `pages` has each page's fragments, `source` the book's files.
pub fn check(from: &str, link: &str, pages: &BTreeMap<String, BTreeSet<String>>, source: &Path) -> Result<(), String> {
    if link.starts_with("https://") || link.starts_with("mailto:") {
        return Ok(());
    }
    if link.contains("://") {
        return Err(format!("`{link}`: links to other sites are https"));
    }
    let (target, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = if target.is_empty() { Some(from.to_owned()) } else { resolve(from, target) };
    let target = target.ok_or_else(|| format!("`{link}` leads out of the book"))?;
    match pages.get(&target) {
        Some(fragments) if fragment.is_empty() || fragments.contains(fragment) => Ok(()),
        Some(_) => Err(format!("{target} has no `#{fragment}`")),
        None if fragment.is_empty() && !target.ends_with(".md") && source.join(&target).is_file() => Ok(()),
        None => Err(format!("there is no page {target}")),
    }
}

/// `to` as a link from the page `from`; both from the book's root.
pub fn relative(from: &str, to: &str) -> String {
    format!("{}{to}", "../".repeat(from.matches('/').count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_outlined() {
        let text = "# One `two`\n\n[a](b.md#c) and [term], [other][term] `[1]`\n\n## One `two`\n\n```sh\nfs [x]\n```\n<p id=\"z\">\n";
        let outline = outline(text);
        assert_eq!(outline.links, [(13, "b.md#c".to_owned())]);
        assert_eq!(outline.brackets.iter().map(|(_, term)| term.as_str()).collect::<Vec<_>>(), ["term", "term"]);
        let fragments: Vec<&str> = outline.fragments.iter().map(String::as_str).collect();
        assert_eq!(fragments, ["one-two", "one-two-1", "z"]);
        assert_eq!((outline.titles, outline.fences.len(), outline.fences[0].text.as_str()), (1, 1, "fs [x]\n"));
        assert_eq!(line_of(text, outline.brackets[0].0), 3);
    }

    #[test]
    fn html_has_links_and_text() {
        let outline = outline(
            "<p>4&nbsp;GiB <a class=\"x\" href=\"b.html#c\">b</a>\n<a href=\"https://a.org/x.html\">a</a></p>\n\n8&nbsp;GiB\n",
        );
        let links: Vec<&str> = outline.links.iter().map(|(_, link)| link.as_str()).collect();
        assert_eq!(links, ["b.md#c", "https://a.org/x.html"]);
        let prose: String = outline.prose.iter().map(|(_, text)| format!("{text}|")).collect();
        assert_eq!(prose, "4\u{a0}GiB b\n|a\n|8\u{a0}GiB|");
    }

    #[test]
    fn dead_links_are_said() {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("logo.svg"), "").unwrap();
        let fragments = |all: &[&str]| all.iter().map(|f| (*f).to_owned()).collect::<BTreeSet<_>>();
        let pages = BTreeMap::from([("a.md".to_owned(), fragments(&["x"])), ("m2/b.md".to_owned(), fragments(&["y"]))]);
        for good in ["../a.md", "../a.md#x", "b.md#y", "#y", "https://example.org", "../logo.svg"] {
            assert_eq!(check("m2/b.md", good, &pages, source.path()), Ok(()), "{good}");
        }
        for bad in ["a.md", "../a.md#z", "#x", "../../a.md", "http://example.org", "../gone.svg", "../a.html"] {
            assert!(check("m2/b.md", bad, &pages, source.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_from_a_folder_climb_out() {
        assert_eq!(relative("m2/rope.md", "glossary.md"), "../glossary.md");
        assert_eq!(relative("map.md", "glossary.md"), "glossary.md");
    }
}
