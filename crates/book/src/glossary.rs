//! The words of the field: `docs/glossary.toml`. A page links one by writing it in brackets: `[KV cache]`, or
//! `[caches][KV cache]`; a bracket that is neither a term nor a link fails the build.

use serde::Deserialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// One term.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// What it is, in one to three sentences of Markdown.
    pub text: String,
    /// Other spellings.
    #[serde(default)]
    pub also: Vec<String>,
}

/// All terms.
pub struct Glossary {
    terms: BTreeMap<String, Term>,
    /// Every spelling in lower case, and the term it means.
    spellings: BTreeMap<String, String>,
    uses: RefCell<BTreeMap<String, BTreeSet<(String, String)>>>,
}

impl Glossary {
    /// `table` is the text of `docs/glossary.toml`.
    pub fn new(table: &str) -> Result<Self, String> {
        let terms: BTreeMap<String, Term> = toml::from_str(table).map_err(|error| error.to_string())?;
        let mut spellings = BTreeMap::new();
        for (name, term) in &terms {
            for spelling in std::iter::once(name).chain(&term.also) {
                if let Some(other) = spellings.insert(spelling.to_lowercase(), name.clone()) {
                    return Err(format!("`{spelling}` is both {other} and {name}"));
                }
            }
        }
        Ok(Self { terms, spellings, uses: RefCell::default() })
    }

    /// The fragment of the term that is spelled so, noting that `page` (path, title) links it.
    pub fn fragment(&self, spelling: &str, page: (&str, &str)) -> Option<String> {
        let name = self.spellings.get(&spelling.to_lowercase())?;
        self.uses.borrow_mut().entry(name.clone()).or_default().insert((page.0.into(), page.1.into()));
        Some(crate::links::fragment_of_heading(name))
    }

    /// The glossary page's body. `expand` replaces the directives of a text.
    pub fn page(&self, mut expand: impl FnMut(&str) -> String) -> String {
        let uses = self.uses.borrow();
        let mut order: Vec<&String> = self.terms.keys().collect();
        order.sort_by_key(|name| name.to_lowercase());
        let mut out = String::from("<div class=\"glossary\">\n");
        for name in order {
            let term = &self.terms[name];
            out += &format!("\n## {name}\n\n{}\n", expand(&term.text));
            if !term.also.is_empty() {
                out += &format!("Also: {}.\n", term.also.join(", "));
            }
            let pages = uses.get(name).into_iter().flatten();
            let pages: Vec<String> = pages.map(|(path, title)| format!("[{title}]({path})")).collect();
            if !pages.is_empty() {
                out += &format!("\n<div class=\"where\">\n\nIn: {}\n\n</div>\n", pages.join(", "));
            }
        }
        out + "\n</div>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "['KV cache']\ntext = 'Keys and values.'\nalso = ['cache']\n[token]\ntext = 'A piece.'\n";

    #[test]
    fn spellings_lead_to_terms_and_back() {
        let glossary = Glossary::new(TABLE).unwrap();
        assert_eq!(glossary.fragment("kv Cache", ("m4.md", "M4")).as_deref(), Some("kv-cache"));
        assert_eq!(glossary.fragment("cache", ("m2.md", "M2")).as_deref(), Some("kv-cache"));
        assert_eq!(glossary.fragment("bread", ("m2.md", "M2")), None);
        let page = glossary.page(str::to_owned);
        assert!(page.contains("In: [M2](m2.md), [M4](m4.md)"), "{page}");
    }

    #[test]
    fn a_spelling_means_one_thing() {
        let table = format!("{TABLE}also = ['Cache']\n");
        assert!(Glossary::new(&table).err().unwrap().contains("both"));
    }
}
