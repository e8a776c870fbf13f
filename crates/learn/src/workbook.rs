//! Copies of the engine in which a body is missing, and what a reader has done so far.
//!
//! A copy is a crate of its own: `src` and `metal` without the command line, a manifest with the dependencies that this
//! source names, and the repository's `Cargo.lock`. All copies share one target directory, so dependencies are built once.

use crate::catalogue::{Catalogue, Exercise, files_below, read};
use crate::markers::{self, Region, indented};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where the reader's copies are, from the repository's root; git ignores it. `FS_EXERCISES` names another place.
const DIRECTORY: &str = "exercises";

/// A file in a copy: what the engine was, hints shown, and whether its tests have passed.
const STATE: &str = ".state.toml";

/// How far a reader is with an exercise.
#[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct State {
    /// [`fingerprint`] of the engine that was copied, in hexadecimal digits.
    #[serde(default)]
    pub engine: String,
    /// Hints that were shown.
    pub hints: usize,
    /// Whether the tests have passed.
    pub solved: bool,
}

/// The directory of an exercise.
pub fn directory(catalogue: &Catalogue, id: &str) -> PathBuf {
    all(catalogue).join(id)
}

/// The directory of all of them.
fn all(catalogue: &Catalogue) -> PathBuf {
    catalogue.root.join(std::env::var_os("FS_EXERCISES").unwrap_or(DIRECTORY.into()))
}

/// The exercise that was started last.
pub fn current(catalogue: &Catalogue) -> Option<String> {
    let id = fs::read_to_string(all(catalogue).join(".current")).ok()?;
    Some(id.trim().to_owned())
}

/// How far the reader is; `None` if the exercise was not started.
pub fn state(catalogue: &Catalogue, id: &str) -> Option<State> {
    let text = fs::read_to_string(directory(catalogue, id).join(STATE)).ok()?;
    Some(toml::from_str(&text).unwrap_or_default())
}

/// Notes how far the reader is.
pub fn set_state(catalogue: &Catalogue, id: &str, state: &State) -> Result<()> {
    write(&directory(catalogue, id).join(STATE), toml::to_string(state)?.as_bytes())
}

/// Makes the copy of an exercise; `again` throws away the one that is there. Returns the file to work in.
pub fn start(catalogue: &Catalogue, exercise: &Exercise, again: bool) -> Result<PathBuf> {
    let id = &exercise.entry.id;
    let to = directory(catalogue, id);
    if to.exists() {
        if !again {
            bail!("{} is there already: go on in it, or begin anew with `start {id} --again`", shown(catalogue, &to));
        }
        fs::remove_dir_all(&to).with_context(|| format!("removing {}", to.display()))?;
    }
    copy(catalogue, &to, &[exercise], |_| hole(exercise))?;
    set_state(catalogue, id, &State { engine: fingerprint(catalogue, exercise)?, ..State::default() })?;
    write(&all(catalogue).join(".current"), id.as_bytes())?;
    Ok(to.join(&exercise.region.file))
}

/// A number of what an exercise is about in the engine: its file and its tests', with the statement. If it changes after a
/// copy was made, that copy is of an older engine.
pub fn fingerprint(catalogue: &Catalogue, exercise: &Exercise) -> Result<String> {
    let mut files = vec![exercise.region.file.clone()];
    files.extend(exercise.test_files(&catalogue.root));
    files.dedup();
    let mut text = exercise.markdown();
    for file in files {
        text += &read(&catalogue.root.join(file))?;
    }
    // FNV-1a
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Ok(format!("{hash:016x}"))
}

/// What stands where the answer belongs: the exercise as a comment, and in Rust a `todo!()`.
fn hole(exercise: &Exercise) -> String {
    let Exercise { entry, region } = exercise;
    let (example, tests) = (format!("Example: {}", entry.worked.trim()), format!("Tests: {}", entry.tests.join(", ")));
    let mut text: String = [entry.statement.trim(), "", &example, "", &tests]
        .iter()
        .flat_map(|paragraph| paragraph.split('\n'))
        .map(|line| format!("// {line}").trim_end().to_owned() + "\n")
        .collect();
    text += &empty(exercise);
    indented(&text, &region.indent)
}

/// The least that compiles: in Rust a `todo!()`, in Metal nothing at all.
pub fn empty(exercise: &Exercise) -> String {
    match exercise.is_metal() {
        true => format!("// {}: write this kernel.\n", exercise.entry.id),
        false => format!("todo!(\"{}\")\n", exercise.entry.id),
    }
}

/// Makes or renews a copy of the engine at `to`, with the bodies of `exercises` replaced. Only files that differ are written,
/// so that what was built of an earlier copy is used again.
pub fn copy(
    catalogue: &Catalogue,
    to: &Path,
    exercises: &[&Exercise],
    body: impl Fn(&Exercise) -> String,
) -> Result<()> {
    let root = &catalogue.root;
    let mut sources = Vec::new();
    let mut kept = HashSet::new();
    for path in files_below(&root.join("src"))?.into_iter().chain(files_below(&root.join("metal"))?) {
        let relative = path.strip_prefix(root)?.to_owned();
        if relative.starts_with("src/cli") || relative == Path::new("src/main.rs") {
            continue;
        }
        let mut text = read(&path)?;
        let here: Vec<&&Exercise> = exercises.iter().filter(|exercise| exercise.region.file == relative).collect();
        let regions: Vec<&Region> = here.iter().map(|exercise| &exercise.region).collect();
        if !here.is_empty() {
            let of = |region: &Region| here.iter().find(|exercise| exercise.region.id == region.id);
            text = markers::replace(&text, &regions, |region| of(region).map_or(String::new(), |&&it| body(it)));
        }
        write(&to.join(&relative), text.as_bytes())?;
        kept.insert(to.join(&relative));
        if relative.starts_with("src") {
            sources.push(text);
        }
    }
    for file in exercises.iter().flat_map(|exercise| &exercise.entry.files) {
        let from = root.join(file);
        for path in if from.is_dir() { files_below(&from)? } else { vec![from] } {
            write(&to.join(path.strip_prefix(root)?), &fs::read(&path).with_context(|| path.display().to_string())?)?;
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(read(&path)?);
            }
        }
    }
    // What the engine has no more must not be in the copy.
    for stale in files_below(&to.join("src"))?.into_iter().filter(|path| !kept.contains(path)) {
        fs::remove_file(&stale).with_context(|| format!("removing {}", stale.display()))?;
    }
    let engine = read(&root.join("Cargo.toml"))?;
    write(&to.join("Cargo.toml"), manifest(&engine, &sources, root, to)?.as_bytes())?;
    // Cargo takes out of it what the copy does not have, so it is never equal to the repository's.
    let (engine, lock) = (root.join("Cargo.lock"), to.join("Cargo.lock"));
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if changed(&lock) < changed(&engine) {
        fs::copy(engine, &lock).with_context(|| format!("writing {}", lock.display()))?;
    }
    Ok(())
}

/// Copies the kernels to `to`, with the body of one replaced.
pub fn copy_kernels(catalogue: &Catalogue, to: &Path, exercise: &Exercise, body: &str) -> Result<()> {
    for path in files_below(&catalogue.root.join("metal"))? {
        let relative = path.strip_prefix(&catalogue.root)?;
        let mut text = read(&path)?;
        if exercise.region.file == relative {
            text = markers::replace(&text, &[&exercise.region], |_| body.to_owned());
        }
        write(&to.join(relative.strip_prefix("metal")?), text.as_bytes())?;
    }
    Ok(())
}

/// The manifest of the `copy`, a directory: that of the engine at `root`, without what only
/// its binary and its benchmarks need, and built for short waiting instead of speed.
fn manifest(engine: &str, sources: &[String], root: &Path, copy: &Path) -> Result<String> {
    // From the copy to the repository: up, or, where the copy is elsewhere, from the top.
    let (directory, back) = match copy.strip_prefix(root) {
        Ok(inside) => (inside, "../".repeat(inside.components().count())),
        Err(_) => (copy, format!("{}/", root.display())),
    };
    let mut manifest: Table = engine.parse().context("the engine's Cargo.toml")?;
    for key in ["bin", "bench", "profile", "lints", "workspace"] {
        manifest.remove(key);
    }
    let package = manifest.get_mut("package").and_then(Value::as_table_mut).context("Cargo.toml has no [package]")?;
    for key in ["default-run", "include", "readme"] {
        package.remove(key);
    }
    // All copies are built into one directory, and of two packages with one name and version cargo takes one for the other.
    let place = directory.to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let version = package.get("version").and_then(Value::as_str).unwrap_or("0.0.0");
    package.insert("version".into(), format!("{version}+{place}").into());
    if let Some(features) = manifest.get_mut("features").and_then(Value::as_table_mut) {
        features.remove("default");
    }
    trim(&mut manifest, sources, &back);
    if let Some(targets) = manifest.get_mut("target").and_then(Value::as_table_mut) {
        targets.iter_mut().filter_map(|(_, target)| target.as_table_mut()).for_each(|t| trim(t, sources, &back));
    }
    let rest = "
        workspace = {}
        # A function that is not written yet uses nothing.
        lints.rust.unused = 'allow'
        profile.dev = { opt-level = 0, debug = 'line-tables-only' }
    ";
    manifest.extend(rest.parse::<Table>()?);
    Ok(toml::to_string(&manifest)?)
}

/// Leaves the dependencies that `sources` name, and those that only a feature turns on; corrects relative paths.
fn trim(table: &mut Table, sources: &[String], back: &str) {
    for kind in ["dependencies", "dev-dependencies"] {
        let Some(dependencies) = table.get_mut(kind).and_then(Value::as_table_mut) else { continue };
        dependencies.retain(|name, dependency| {
            let optional = dependency.get("optional").and_then(Value::as_bool) == Some(true);
            optional || sources.iter().any(|source| names(source, &name.replace('-', "_")))
        });
        for (_, dependency) in dependencies.iter_mut() {
            if let Some(Value::String(path)) = dependency.as_table_mut().and_then(|table| table.get_mut("path")) {
                path.insert_str(0, back);
            }
        }
    }
}

/// Whether `source` uses the crate `name`: `name::`, `use name`.
fn names(source: &str, name: &str) -> bool {
    source.match_indices(name).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        let after = &source[at + name.len()..];
        let whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        whole && (after.starts_with("::") || source[..at].ends_with("use ") && after.starts_with([';', ' ']))
    })
}

/// Writes a file, and the directories above it, unless it says just that already.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// A path as it is short to read: from the repository's root.
pub fn shown(catalogue: &Catalogue, path: &Path) -> String {
    path.strip_prefix(&catalogue.root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_has_what_the_source_names_and_no_more() {
        let engine = "
            [package]
            name = 'engine'
            default-run = 'fs'
            [[bin]]
            name = 'fs'
            [features]
            default = ['big']
            big = []
            standin = ['dep:standin']
            [dependencies]
            half = '2'
            clap = '4'
            serde-json = '1'
            standin = { path = 'crates/standin', optional = true }
            [target.'cfg(unix)'.dependencies]
            libc = '1'
            mmap = '1'
            [dev-dependencies]
            tempfile = '3'
            divan = '1'
        ";
        let sources = [
            "use half::f16; let x = serde_json::from_str(y);".to_owned(),
            "use tempfile; mmap::map(overlapping::x)".into(),
        ];
        let found: Table =
            manifest(engine, &sources, Path::new("/fs"), Path::new("/fs/exercises/m2.rope")).unwrap().parse().unwrap();
        let keys = |table: &Value| table.as_table().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&found["dependencies"]), ["half", "serde-json", "standin"]);
        assert_eq!(keys(&found["dev-dependencies"]), ["tempfile"]);
        assert_eq!(keys(&found["target"]["cfg(unix)"]["dependencies"]), ["mmap"]);
        assert_eq!(keys(&found["features"]), ["big", "standin"]);
        assert_eq!(found["dependencies"]["standin"]["path"].as_str(), Some("../../crates/standin"));
        assert_eq!(keys(&found["package"]), ["name", "version"]);
        assert_eq!(found["package"]["version"].as_str(), Some("0.0.0+exercises-m2-rope"));
        assert!(found.contains_key("workspace") && !found.contains_key("bin"));
    }

    #[test]
    fn only_files_that_differ_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        write(&path, b"x").unwrap();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        write(&path, b"y").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"y");
    }
}
