//! What the user asks for: a short name, `owner/name[@revision]`, or a web address.

use super::error::{DownloadError, shown};
use crate::weights::known_models::{self, KNOWN};

/// A repository at a revision, and the local name of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// The name for `--model`: `qwen3-0.6b`, or `owner/name`.
    pub name: String,
    /// `owner/name` on the hub.
    pub repo: String,
    /// The model's directory, inside the model directory: `qwen3-0.6b`, or `owner--name`.
    pub directory: String,
    /// A branch, a tag or a commit; `None` is `main`.
    pub revision: Option<String>,
}

impl Reference {
    /// Parses `qwen3-0.6b`, `owner/name`, `https://huggingface.co/owner/name[/tree/revision]`, the first two with
    /// an optional `@revision`.
    pub fn parse(text: &str) -> Result<Reference, DownloadError> {
        let text = text.trim();
        let page = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let (repo, revision) = match page {
            Some(page) => parse_page(page).ok_or_else(|| {
                DownloadError::Name(format!(
                    "{}: not the page of a model; expected https://huggingface.co/OWNER/NAME",
                    shown(text)
                ))
            })?,
            None => match text.split_once('@') {
                Some((repo, revision)) => (repo.to_string(), Some(revision.to_string())),
                None => (text.to_string(), None),
            },
        };
        let unknown = || {
            let names = KNOWN.map(|row| row.0).join(", ");
            let text = shown(&repo);
            DownloadError::Name(match repo.contains('/') {
                true => format!("{text:?} is not a repository's name; expected OWNER/NAME"),
                false => {
                    format!("{text:?} is not a known model; known are {names}, and any other Qwen3 model as OWNER/NAME")
                }
            })
        };
        let full = known_models::repository(&repo).ok_or_else(unknown)?;
        // The suffixes of this module's own directories.
        if full.ends_with(".partial") || full.ends_with(".old") || full.ends_with('.') {
            return Err(unknown());
        }
        let directory = known_models::directory_name(&full).ok_or_else(unknown)?;
        // A name's repository is listed by its short name, in whatever case either was written.
        let short = KNOWN.iter().find(|row| row.0 == directory);
        let (name, repo) = short.map_or((full.clone(), full), |row| (row.0.to_string(), row.1.to_string()));
        if revision.as_ref().is_some_and(|r| r.is_empty() || r.len() > 200 || r.chars().any(char::is_control)) {
            return Err(DownloadError::Name(format!("{}: the revision is empty or not a name", shown(text))));
        }
        Ok(Reference { name, repo, directory, revision })
    }
}

/// `huggingface.co/owner/name[/tree/revision[/…]][?…][#…]`
fn parse_page(page: &str) -> Option<(String, Option<String>)> {
    let path = page.split(['?', '#']).next()?;
    let mut segments = path.split('/').filter(|s| !s.is_empty());
    let _host = segments.next()?;
    let (owner, name) = (segments.next()?, segments.next()?);
    let revision = match segments.next() {
        Some("tree" | "blob" | "resolve") => segments.next().map(|r| r.replace("%2F", "/")),
        _ => None,
    };
    Some((format!("{owner}/{name}"), revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, Option<String>) {
        let r = Reference::parse(text).expect(text);
        (r.name, r.repo, r.revision)
    }

    #[test]
    fn every_spelling_names_the_same_repository() {
        let expected =
            |r: Option<&str>| ("qwen3-0.6b".to_string(), "Qwen/Qwen3-0.6B".to_string(), r.map(str::to_string));
        for text in ["qwen3-0.6b", "Qwen3-0.6B", "Qwen/Qwen3-0.6B", "https://huggingface.co/Qwen/Qwen3-0.6B/"] {
            assert_eq!(parsed(text), expected(None), "{text}");
        }
        assert_eq!(parsed("https://huggingface.co/Qwen/Qwen3-0.6B?x=1#y"), expected(None));
        assert_eq!(parsed("https://huggingface.co/Qwen/Qwen3-0.6B/tree/refs%2Fpr%2F1"), expected(Some("refs/pr/1")));
        assert_eq!(parsed("qwen3-0.6b@v1"), expected(Some("v1")));
        assert_eq!(parsed("a/b@main"), ("a/b".into(), "a/b".into(), Some("main".into())));
    }

    #[test]
    fn what_could_leave_the_model_directory_is_refused() {
        for text in
            ["", "..", "a/..", "../b", "a/b/c", "a/.b", "/b", "a/", "a\\b/c", "a/b@", "https://h/a", "a/b\u{1b}[2J"]
        {
            assert!(matches!(Reference::parse(text), Err(DownloadError::Name(_))), "{text:?}");
        }
    }
}
