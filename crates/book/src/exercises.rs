//! `{{exercise ID}}`: an exercise of crates/learn, in its own words; `{{exercises}}`: all of them, and where they stand.

use crate::problem::Problem;
use learn::{Catalogue, CatalogueError, Exercise};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

/// All exercises, and the pages that they stand in.
pub struct Exercises {
    catalogue: Catalogue,
    /// Path and title of the page, by id.
    shown: RefCell<BTreeMap<String, (String, String)>>,
}

impl Exercises {
    /// The catalogue of the repository at `root`.
    pub fn new(root: &Path) -> Result<Self, CatalogueError> {
        Ok(Self { catalogue: Catalogue::load(root)?, shown: RefCell::default() })
    }

    /// The exercise as Markdown. `page` is the path and the title of where it stands, `link` makes a link to a file.
    pub fn show(&self, id: &str, page: (&str, &str), link: impl FnOnce(&str) -> String) -> Result<String, String> {
        let exercise = self.catalogue.get(id).map_err(|error| error.to_string())?;
        if let Some((first, _)) = self.shown.borrow_mut().insert(id.into(), (page.0.into(), page.1.into())) {
            return Err(format!("exercise `{id}` stands in {first} already"));
        }
        let Exercise { entry, region } = exercise;
        let needs: Vec<String> = entry.needs.iter().map(|need| format!("<code>{need}</code>")).collect();
        let after = if needs.is_empty() { String::new() } else { format!(", after {}", needs.join(" and ")) };
        let file = region.file.to_string_lossy().replace('\\', "/");
        Ok(format!(
            "<div class=\"exercise\">\n\n### {} {{#{}}}\n\n<p class=\"where\">in <a href=\"{}\">{file}</a>{}</p>\n\n{}\n\
             ```sh\ncargo run -p learn -- start {id}\n```\n\n</div>",
            entry.title,
            fragment(id),
            link(&file),
            after,
            exercise.markdown(),
        ))
    }

    /// All exercises as a table, with links to the pages that they stand in.
    pub fn index(&self) -> String {
        let shown = self.shown.borrow();
        let mut out = String::from("| | exercise | in |\n| --- | --- | --- |\n");
        for Exercise { entry, .. } in &self.catalogue.exercises {
            out += &match shown.get(&entry.id) {
                Some((page, title)) => {
                    format!("| `{}` | [{}]({page}#{}) | {title} |\n", entry.id, entry.title, fragment(&entry.id))
                }
                None => format!("| `{}` | {} | |\n", entry.id, entry.title),
            };
        }
        out
    }

    /// Exercises that stand in no page. Those of a milestone whose chapter is still a draft need not: `drafts` are the
    /// titles of such chapters, as `M5b: A fast CPU`.
    pub fn unused(&self, drafts: &[String]) -> Vec<Problem> {
        let shown = self.shown.borrow();
        let draft = |exercise: &&Exercise| drafts.iter().any(|title| title.starts_with(&exercise.milestone()));
        let missing = self.catalogue.exercises.iter().filter(|it| !shown.contains_key(&it.entry.id) && !draft(it));
        missing
            .map(|Exercise { region, entry }| {
                let message = format!("no page has exercise `{}`: {{{{exercise {}}}}}", entry.id, entry.id);
                Problem::new(region.file.to_string_lossy(), region.lines.start, message)
            })
            .collect()
    }
}

fn fragment(id: &str) -> String {
    format!("exercise-{}", id.replace('.', "-"))
}
