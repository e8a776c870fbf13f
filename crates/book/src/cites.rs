//! `{{cite SOURCE:KEY}}`: places in other people's work, all listed in `docs/cites.toml`.

use serde::Deserialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// One work that pages cite.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its title and author, for the cross-reference page.
    pub title: String,
    /// Where it is.
    pub url: String,
    /// What stands in a page: `{key}`, `{page}`, `{path}`, `{symbol}` and `{topic}` are replaced.
    pub label: String,
    /// Where an entry is, with the same words; without one, `url`.
    pub link: Option<String>,
    /// The places, by key.
    pub entries: BTreeMap<String, Entry>,
}

/// One place in a work.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What is there, in our words.
    pub topic: String,
    /// The page, in a work that has pages.
    pub page: Option<u32>,
    /// The line that defines the symbol, in a work whose `link` has files of one commit.
    pub line: Option<u32>,
    /// Where it is, if not where `link` says.
    pub url: Option<String>,
}

/// A place where a page cites.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The page's path and title, and the fragment of the heading above.
    pub page: String,
    /// The page's title.
    pub title: String,
}

/// All works.
pub struct Cites {
    sources: BTreeMap<String, Source>,
    /// The works' names as the file has them: the order of the cross-reference page.
    order: Vec<String>,
    uses: RefCell<BTreeMap<(String, String), BTreeSet<Use>>>,
}

impl Cites {
    /// `table` is the text of `docs/cites.toml`.
    pub fn new(table: &str) -> Result<Self, String> {
        let order: toml::Table = toml::from_str(table).map_err(|error| error.to_string())?;
        let sources: BTreeMap<String, Source> = toml::from_str(table).map_err(|error| error.to_string())?;
        for (name, source) in &sources {
            for (key, entry) in &source.entries {
                if let Some((_, message)) = crate::lint::typed(0, &entry.topic).next() {
                    return Err(format!("{name}:{key}: {message}"));
                }
            }
        }
        Ok(Self { sources, order: order.keys().cloned().collect(), uses: RefCell::default() })
    }

    /// The link that `SOURCE:KEY` is in a page.
    pub fn show(&self, target: &str, from: Use) -> Result<String, String> {
        let (source_name, key) = target.split_once(':').ok_or("write {{cite SOURCE:KEY}}")?;
        let source = self.sources.get(source_name);
        let source = source.ok_or_else(|| format!("docs/cites.toml has no work `{source_name}`"))?;
        let entry = source.entries.get(key);
        let entry = entry.ok_or_else(|| format!("docs/cites.toml has no `{key}` in `{source_name}`"))?;
        self.uses.borrow_mut().entry((source_name.into(), key.into())).or_default().insert(from);
        Ok(source.shown(source_name, key, entry))
    }

    /// Entries that no page cites.
    pub fn unused(&self) -> Vec<String> {
        let uses = self.uses.borrow();
        let all = self.sources.iter().flat_map(|(name, source)| source.entries.keys().map(move |key| (name, key)));
        all.filter(|(name, key)| !uses.contains_key(&((*name).clone(), (*key).clone())))
            .map(|(name, key)| format!("{name}:{key}"))
            .collect()
    }

    /// The cross-reference page's body: for each work, each place and the pages that cite it.
    pub fn index(&self) -> String {
        let uses = self.uses.borrow();
        let mut out = String::new();
        for (name, source) in self.order.iter().filter_map(|name| Some((name, self.sources.get(name)?))) {
            out += &format!(
                "\n## {}\n\n<{}>\n\n| place | what is there | cited in |\n| --- | --- | --- |\n",
                source.title, source.url
            );
            for (key, entry) in &source.entries {
                let pages = uses.get(&(name.clone(), key.clone()));
                let pages: Vec<String> =
                    pages.into_iter().flatten().map(|at| format!("[{}]({})", at.title, at.page)).collect();
                out += &format!("| {} | {} | {} |\n", source.shown(name, key, entry), entry.topic, pages.join(", "));
            }
        }
        out
    }
}

impl Source {
    fn shown(&self, name: &str, key: &str, entry: &Entry) -> String {
        let (path, symbol) = key.split_once('#').unwrap_or((key, ""));
        let page = entry.page.map(|page| page.to_string()).unwrap_or_default();
        let fill = |template: &str| {
            let words = [("key", key), ("path", path), ("symbol", symbol), ("page", &page), ("topic", &entry.topic)];
            words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(&format!("{{{word}}}"), value))
        };
        let mut link = entry.url.clone().unwrap_or_else(|| fill(self.link.as_ref().unwrap_or(&self.url)));
        if let Some(line) = entry.line {
            link += &format!("#L{line}");
        }
        let label = fill(&self.label);
        let label = label.trim_end_matches([' ', '·']);
        format!("<span class=\"cite cite-{name}\">[{label}]({link})</span>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
[book]
title = "A Book"
url = "https://example.org/book"
label = "Book § {key}, p. {page}"
[book.entries]
"2.1" = { topic = "linear layers", page = 44 }
[code]
title = "Some Code"
url = "https://example.org/code"
label = "code {path} · {symbol}"
link = "https://example.org/code/blob/abc/{path}"
[code.entries]
"norm.c#rms" = { topic = "RMSNorm", line = 7 }
"whole.c" = { topic = "a whole file" }
"#;

    fn from(page: &str) -> Use {
        Use { page: page.into(), title: "T".into() }
    }

    #[test]
    fn cites_become_links() {
        let cites = Cites::new(TABLE).unwrap();
        assert_eq!(
            cites.show("book:2.1", from("a.md")).unwrap(),
            "<span class=\"cite cite-book\">[Book § 2.1, p. 44](https://example.org/book)</span>"
        );
        let code = cites.show("code:norm.c#rms", from("a.md")).unwrap();
        assert!(code.contains("[code norm.c · rms](https://example.org/code/blob/abc/norm.c#L7)"), "{code}");
        assert!(cites.show("code:whole.c", from("a.md")).unwrap().contains("[code whole.c]("));
    }

    #[test]
    fn unknown_and_unused_cites_are_said() {
        let cites = Cites::new(TABLE).unwrap();
        assert!(cites.show("film:1", from("a.md")).unwrap_err().contains("no work `film`"));
        assert!(cites.show("book:9", from("a.md")).unwrap_err().contains("no `9`"));
        let typed = Cites::new(&TABLE.replace("linear layers", "layers of 4096 rows")).err().unwrap();
        assert!(typed.contains("book:2.1: `4096` is typed by hand"), "{typed}");
        cites.show("book:2.1", from("a.md")).unwrap();
        assert_eq!(cites.unused(), ["code:norm.c#rms", "code:whole.c"]);
    }

    #[test]
    fn the_index_is_the_inverse_of_the_cites() {
        let cites = Cites::new(TABLE).unwrap();
        cites.show("book:2.1", from("b.md#x")).unwrap();
        cites.show("book:2.1", from("a.md#y")).unwrap();
        let index = cites.index();
        assert!(index.contains("| linear layers | [T](a.md#y), [T](b.md#x) |"), "{index}");
    }
}
