//! The catalogue: what each exercise asks, hints, tests, and known-wrong answers.
//!
//! One TOML file a milestone, in the order of the course. What the source says already (signature, shapes, the right
//! answer) is read from there, by the exercise's markers.

use crate::markers::{self, MarkerError, Problem, Region};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why there is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A file cannot be read.
    #[error("{path}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no catalogue.
    #[error("{path}", path = path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where, and why.
        source: Box<toml::de::Error>,
    },
    /// A marker in the source is wrong.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// An entry is wrong.
    #[error("exercise `{id}`: {problem}")]
    Entry {
        /// The exercise.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// Somebody asks for an exercise that there is not.
    #[error("there is no exercise `{id}`{}", near.as_ref().map_or("; `list` shows them all".into(), |near| format!("; did you mean `{near}`?")))]
    Unknown {
        /// What was asked for.
        id: String,
        /// One that is spelled nearly so.
        near: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    exercise: Vec<Entry>,
}

/// An exercise as the catalogue has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `m2.rms_norm`: the milestone and the marker's id.
    pub id: String,
    /// A few words.
    pub title: String,
    /// Exercises that come before.
    #[serde(default)]
    pub needs: Vec<String>,
    /// What to do, in Markdown; signature and shapes come from the source.
    pub statement: String,
    /// One example with numbers, each of which stands in a test.
    pub worked: String,
    /// The tests that a right answer passes, in the order in which they are run.
    pub tests: Vec<String>,
    /// Where they are: `lib`, or a file of `tests/`.
    #[serde(default = "lib")]
    pub target: String,
    /// What the copy of the engine needs besides its source: files or directories of the repository.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Each says more than the one before.
    pub hints: Vec<String>,
    /// Answers that are known to be wrong.
    pub mutants: Vec<Mutant>,
}

fn lib() -> String {
    "lib".into()
}

/// A wrong answer, and what it teaches.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Replacements in the right answer that make it wrong: each text, wherever it stands, becomes the other.
    #[serde(default)]
    pub change: Vec<(String, String)>,
    /// The whole wrong answer, where it is another one altogether.
    #[serde(default)]
    pub body: Option<String>,
    /// A part of what the tests then say, which no other mutant makes them say: how `check` knows the mistake.
    #[serde(default)]
    pub shows: String,
    /// What the mistake is and why it is one.
    pub teaches: String,
}

impl Mutant {
    /// The wrong answer; says which text is not in the right one.
    pub fn of(&self, region: &Region) -> Result<String, String> {
        if let Some(body) = &self.body {
            return Ok(markers::indented(body, &region.indent));
        }
        let mut body = region.body.clone();
        for (from, to) in &self.change {
            if !body.contains(from.as_str()) {
                return Err(format!("the body has no `{from}` to change"));
            }
            body = body.replace(from.as_str(), to);
        }
        Ok(body)
    }

    /// Whether a failed test that says `message` looks like this mistake: `found 1` is not in `found 12`.
    pub fn is_shown_by(&self, message: &str) -> bool {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.');
        !self.shows.is_empty()
            && message.match_indices(&self.shows).any(|(at, shows)| ends(&message[at + shows.len()..]))
    }
}

/// An exercise: its entry, and its place in the source.
#[derive(Debug, Clone)]
pub struct Exercise {
    /// What the catalogue says.
    pub entry: Entry,
    /// What the source says.
    pub region: Region,
}

/// All exercises, in the order of the course.
#[derive(Debug)]
pub struct Catalogue {
    /// The repository.
    pub root: PathBuf,
    /// In order.
    pub exercises: Vec<Exercise>,
}

/// Where markers are looked for.
const SOURCES: [(&str, &[&str]); 2] = [("src", &["rs"]), ("metal", &["metal", "h"])];

impl Catalogue {
    /// Reads the catalogue and the markers of the repository at `root`, and checks that they fit each other.
    pub fn load(root: &Path) -> Result<Catalogue, CatalogueError> {
        let mut entries = Vec::new();
        let directory = root.join("crates/learn/exercises");
        for path in files_below(&directory)?.into_iter().filter(|path| has_extension(path, &["toml"])) {
            let text = read(&path)?;
            let file: File =
                toml::from_str(&text).map_err(|error| CatalogueError::Toml { path, source: Box::new(error) })?;
            entries.extend(file.exercise);
        }
        let mut regions = Vec::new();
        for (directory, extensions) in SOURCES {
            for path in files_below(&root.join(directory))?.into_iter().filter(|path| has_extension(path, extensions)) {
                let relative = path.strip_prefix(root).unwrap_or(&path);
                regions.extend(markers::regions(relative, &read(&path)?)?);
            }
        }
        Ok(Catalogue { root: root.to_owned(), exercises: join(entries, regions)? })
    }

    /// The exercise with this id.
    pub fn get(&self, id: &str) -> Result<&Exercise, CatalogueError> {
        let found = self.exercises.iter().find(|exercise| exercise.entry.id == id);
        found.ok_or_else(|| {
            // The milestone may be missing, or another one.
            let name = |id: &str| id.rsplit('.').next().unwrap_or(id).to_lowercase();
            let nearness = |exercise: &Exercise| strsim::jaro_winkler(&name(&exercise.entry.id), &name(id));
            let all = self.exercises.iter().map(|exercise| (nearness(exercise), &exercise.entry.id));
            // Of the same name in two chapters, the one that was asked for.
            let whole = |other: &str| strsim::jaro_winkler(other, id);
            let near = all
                .filter(|(nearness, _)| *nearness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| whole(a.1).total_cmp(&whole(b.1))));
            CatalogueError::Unknown { id: id.into(), near: near.map(|(_, id)| id.clone()) }
        })
    }
}

/// Gives each entry its region, and checks the entries: ids, prerequisites, mutants, texts.
fn join(entries: Vec<Entry>, regions: Vec<Region>) -> Result<Vec<Exercise>, CatalogueError> {
    let mut by_id: BTreeMap<String, Region> = BTreeMap::new();
    for region in regions {
        if let Some(first) = by_id.get(&region.id) {
            let (file, line) = (region.file.clone(), region.lines.start);
            debug_assert_ne!(first.file, file, "the same file was checked before");
            return Err(MarkerError { file, line, problem: Problem::Duplicate(region.id) }.into());
        }
        by_id.insert(region.id.clone(), region);
    }
    let mut exercises: Vec<Exercise> = Vec::new();
    for entry in entries {
        let wrong = |problem: String| CatalogueError::Entry { id: entry.id.clone(), problem };
        if exercises.iter().any(|exercise| exercise.entry.id == entry.id) {
            return Err(wrong("it is in the catalogue twice".into()));
        }
        let region =
            by_id.remove(&entry.id).ok_or_else(|| wrong("no `// EXERCISE:` in the source has this id".into()))?;
        for need in &entry.needs {
            if !exercises.iter().any(|exercise| exercise.entry.id == *need) {
                return Err(wrong(format!("it needs `{need}`, which does not come before it")));
            }
        }
        for (what, missing) in [
            ("title", entry.title.is_empty()),
            ("statement", entry.statement.trim().is_empty()),
            ("worked example", entry.worked.trim().is_empty()),
            ("test", entry.tests.is_empty()),
            ("hint", entry.hints.is_empty() || entry.hints.iter().any(|hint| hint.trim().is_empty())),
            ("mutant", entry.mutants.is_empty()),
        ] {
            if missing {
                return Err(wrong(format!("it has no {what}")));
            }
        }
        for (i, mutant) in entry.mutants.iter().enumerate() {
            let wrong = |problem: String| wrong(format!("mutant {}: {problem}", i + 1));
            if mutant.body.is_some() != mutant.change.is_empty() {
                return Err(wrong("it needs either `change` or `body`".into()));
            }
            if mutant.of(&region).map_err(wrong)? == region.body {
                return Err(wrong("it is the right answer".into()));
            }
        }
        exercises.push(Exercise { entry, region });
    }
    match by_id.into_values().next() {
        Some(region) => {
            let (file, line) = (region.file, region.lines.start);
            Err(MarkerError { file, line, problem: Problem::Unknown(region.id) }.into())
        }
        None => Ok(exercises),
    }
}

impl Exercise {
    /// `M2`
    pub fn milestone(&self) -> String {
        self.entry.id.split('.').next().unwrap_or_default().to_uppercase()
    }

    /// Whether it is a kernel for the GPU.
    pub fn is_metal(&self) -> bool {
        self.region.file.starts_with("metal")
    }

    /// The files that its tests are in, from the repository's root.
    pub fn test_files(&self, root: &Path) -> Vec<PathBuf> {
        let file = |test: &String| match test.split_once("::tests::") {
            Some((module, _)) => {
                let module = Path::new("src").join(module.replace("::", "/"));
                let file = module.with_extension("rs");
                if root.join(&file).exists() { file } else { module.join("mod.rs") }
            }
            None => Path::new("tests").join(&self.entry.target).with_extension("rs"),
        };
        self.entry.tests.iter().map(file).collect()
    }

    /// What to do, as Markdown without a heading: signature, shapes, statement, example, tests.
    pub fn markdown(&self) -> String {
        let Exercise { entry, region } = self;
        let language = if self.is_metal() { "cpp" } else { "rust" };
        let mut out = format!("```{language}\n{}\n```\n\n", region.signature);
        if !region.docs.is_empty() {
            out += &format!("{}\n\n", without_links(&region.docs));
        }
        out += &format!("{}\n\n**An example:** {}\n\n", entry.statement.trim(), entry.worked.trim());
        let tests: Vec<String> = entry.tests.iter().map(|test| format!("`{test}`")).collect();
        out + &format!("**Tests:** {}.\n", tests.join(", "))
    }
}

/// Rustdoc's links to items, ``[`Item`]`` and ``[`Item`](path)``, as the item alone: elsewhere they lead nowhere.
fn without_links(docs: &str) -> String {
    let mut out = String::new();
    let mut rest = docs;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((item, after)) = link.split_once("`]") else { break };
        out += &format!("{before}`{item}`");
        rest = after.strip_prefix('(').and_then(|target| target.split_once(')')).map_or(after, |(_, after)| after);
    }
    out + rest
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
}

pub(crate) fn read(path: &Path) -> Result<String, CatalogueError> {
    std::fs::read_to_string(path).map_err(|source| CatalogueError::Io { path: path.into(), source })
}

/// Every file in a directory and below it, in order of their names.
pub(crate) fn files_below(directory: &Path) -> Result<Vec<PathBuf>, CatalogueError> {
    let io = |source| CatalogueError::Io { path: directory.into(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "
        [[exercise]]
        id = 'm2.one'
        title = 'One'
        statement = 'Add one.'
        worked = '1 becomes 2.'
        tests = ['one::tests::adds']
        hints = ['Use +.']
        [[exercise.mutants]]
        change = [['x + 1', 'x - 1']]
        shows = 'found 0'
        teaches = 'The sign.'
    ";
    const SOURCE: &str = "fn one(x: i32) -> i32 {\n    // EXERCISE: m2.one\n    x + 1\n    // EXERCISE_END\n}\n";

    fn load(catalogue: &str, source: &str) -> Result<Catalogue, CatalogueError> {
        let root = tempfile::tempdir().unwrap();
        for directory in ["crates/learn/exercises", "src/deep", "metal"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::fs::write(root.path().join("crates/learn/exercises/m2.toml"), catalogue).unwrap();
        std::fs::write(root.path().join("src/deep/one.rs"), source).unwrap();
        Catalogue::load(root.path())
    }

    fn message(catalogue: &str, source: &str) -> String {
        load(catalogue, source).expect_err("a mistake").to_string()
    }

    #[test]
    fn entries_meet_their_places_in_the_source() {
        let catalogue = load(ENTRY, SOURCE).unwrap();
        let one = catalogue.get("m2.one").unwrap();
        assert_eq!(one.region.file, Path::new("src/deep/one.rs"));
        assert_eq!(one.milestone(), "M2");
        assert_eq!(one.entry.mutants[0].of(&one.region).unwrap(), "    x - 1\n");
        let page = one.markdown();
        for part in ["fn one(x: i32) -> i32\n```", "Add one.", "1 becomes 2.", "`one::tests::adds`"] {
            assert!(page.contains(part), "{part:?} is not in {page}");
        }
        assert_eq!(catalogue.get("one").unwrap_err().to_string(), "there is no exercise `one`; did you mean `m2.one`?");
        assert_eq!(
            catalogue.get("m9.x").unwrap_err().to_string(),
            "there is no exercise `m9.x`; `list` shows them all"
        );
    }

    #[test]
    fn a_misspelled_id_is_recognized() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let catalogue = Catalogue::load(&root).unwrap();
        for (asked, meant) in
            [("m2.rms_nrom", "m2.rms_norm"), ("softmax", "m2.softmax"), ("m1.topp", "m3.top_p"), ("ROPE", "m2.rope")]
        {
            let error = catalogue.get(asked).unwrap_err().to_string();
            assert!(error.ends_with(&format!("did you mean `{meant}`?")), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let twice = format!("{ENTRY}{ENTRY}");
        for (catalogue, source, wanted) in [
            (ENTRY, "fn one() {}", "`m2.one`: no `// EXERCISE:` in the source"),
            (
                ENTRY,
                &format!("{SOURCE}{}", SOURCE.replace("m2.one", "m2.two")),
                "src/deep/one.rs:7: exercise `m2.two` is not in",
            ),
            (&twice, SOURCE, "`m2.one`: it is in the catalogue twice"),
            (
                &ENTRY.replace("title", "needs = ['m2.zero']\ntitle"),
                SOURCE,
                "needs `m2.zero`, which does not come before",
            ),
            (&ENTRY.replace("['Use +.']", "[]"), SOURCE, "no hint"),
            (&ENTRY.replace("'x + 1'", "'x * 1'"), SOURCE, "mutant 1: the body has no `x * 1`"),
            (&ENTRY.replace("'x - 1'", "'x + 1'"), SOURCE, "mutant 1: it is the right answer"),
            (&ENTRY.replace("change = [['x + 1', 'x - 1']]", ""), SOURCE, "either `change` or `body`"),
        ] {
            let found = message(catalogue, source);
            assert!(found.contains(wanted), "{found:?}, expected {wanted:?}");
        }
        assert!(message(&ENTRY.replace("hints", "hnits"), SOURCE).contains("m2.toml"), "a misspelled field");
    }

    #[test]
    fn links_to_items_become_names() {
        let docs = "See [`a::B`] and [`c`](Self::c) (of [n]).";
        assert_eq!(without_links(docs), "See `a::B` and `c` (of [n]).");
    }

    #[test]
    fn a_mistake_is_known_by_all_of_a_number() {
        let one = &load(ENTRY, SOURCE).unwrap().exercises[0].entry.mutants[0];
        assert!(one.is_shown_by("one: expected 2, found 0") && one.is_shown_by("found 0, index"));
        assert!(
            !one.is_shown_by("expected 2, found 0.5") && !one.is_shown_by("found 01") && !one.is_shown_by("found 7")
        );
        assert!(!Mutant { shows: String::new(), ..one.clone() }.is_shown_by("anything"));
    }

    /// The repository's own catalogue, and that no example has a number that its tests do not have.
    #[test]
    fn examples_say_what_the_tests_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let catalogue = Catalogue::load(&root).unwrap();
        let mut missing = Vec::new();
        for exercise in &catalogue.exercises {
            let entry = &exercise.entry;
            let mut tests = String::new();
            for (test, file) in entry.tests.iter().zip(exercise.test_files(&root)) {
                let text = read(&root.join(file)).unwrap();
                let name = test.rsplit("::").next().unwrap();
                if !text.contains(&format!("fn {name}(")) {
                    missing.push(format!("{}: test {name}", entry.id));
                }
                tests += &text;
            }
            for number in numbers(&entry.worked).filter(|number| !numbers(&tests).any(|found| found == *number)) {
                missing.push(format!("{}: number {number}", entry.id));
            }
        }
        assert!(missing.is_empty(), "not in the tests: {missing:#?}");
    }

    /// The numbers of a text, without sign; `1,024` and `1_024` are 1024.
    fn numbers(text: &str) -> impl Iterator<Item = f64> {
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric() && !"._,".contains(c));
        let parts = parts.filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        parts.filter_map(|part| {
            let part = part.trim_end_matches(|c: char| !c.is_ascii_hexdigit()).replace(['_', ','], "");
            let hex = part.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16).map(|n| n as f64).ok());
            hex.unwrap_or_else(|| part.parse().ok())
        })
    }
}
