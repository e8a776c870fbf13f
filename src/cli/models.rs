//! `fs models`: what is on this machine.

use failed_star::weights::download::Source;
use failed_star::weights::{ModelSource, model_directory};
use indicatif::DecimalBytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fs models                                  a table
  fs models --json | jq '.models[].name'
  rm -r \"$(fs models --path)/qwen3-0.6b\"     removes a model";

/// Arguments of `fs models`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print the directory that holds the models, and nothing else
    #[arg(long, conflicts_with = "json")]
    path: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// One row of the table.
#[derive(Serialize)]
struct Row {
    /// For `--model`.
    name: String,
    /// `complete`, `partial` (an interrupted `fs pull`), `no weights`, or `broken`.
    state: &'static str,
    /// Why it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// `None`: it is in the binary.
    path: Option<PathBuf>,
    /// Bytes on disk, or of the tensors in the binary; of a partial model also how many it will have.
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_size: Option<u64>,
    /// That most of the parameters have.
    dtype: Option<String>,
    /// Elements of all tensors, as stored.
    parameters: Option<u64>,
    repo: Option<String>,
    commit: Option<String>,
}

/// Runs `fs models`.
pub fn run(args: Args) -> anyhow::Result<()> {
    let root = model_directory()?;
    if args.path {
        return super::common::print(format!("{}\n", root.display()));
    }
    let mut rows: Vec<Row> = in_directory(&root)?;
    for name in ["stories", "qwen3-0.6b"] {
        // A directory of that name comes first, as it does for --model.
        if !rows.iter().any(|row| row.name == name && row.state != "partial")
            && let Ok(source) = ModelSource::resolve(Some(name))
            && source.path().is_none()
        {
            rows.push(row(name.to_string(), &source));
        }
    }
    if args.json {
        return super::common::print(format!("{:#}\n", serde_json::json!({ "directory": root, "models": rows })));
    }
    super::common::print(&table(&rows, &root)?)
}

/// The directories that hold a `config.json` or are an interrupted pull's, by name.
fn in_directory(root: &Path) -> anyhow::Result<Vec<Row>> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| anyhow::anyhow!("{}: {error}", root.display()))?,
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let mut rows = Vec::new();
    for name in names.iter().filter(|name| !name.starts_with('.') && !name.ends_with(".old")) {
        let dir = root.join(name);
        let origin = Source::read(&dir);
        let mut row = if let Some(name) = name.strip_suffix(".partial") {
            let Some(origin) = &origin else { continue };
            let full_size = Some(origin.files.iter().map(|file| file.size).sum());
            Row { full_size, ..Row::new(name.to_string(), "partial") }
        } else if dir.join("config.json").is_file() {
            // By path: a directory in the current one may have the same name.
            row(name.clone(), &ModelSource::resolve(dir.to_str())?)
        } else {
            continue;
        };
        row.size = Some(size(&dir));
        (row.repo, row.commit) = origin.map(|origin| (origin.repo, origin.commit)).unzip();
        row.path = Some(dir);
        rows.push(row);
    }
    Ok(rows)
}

/// Bytes of the files in `dir`.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::metadata(entry.path()).ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

impl Row {
    fn new(name: String, state: &'static str) -> Row {
        let (dtype, parameters, size, full_size) = (None, None, None, None);
        Row { name, state, problem: None, path: None, size, full_size, dtype, parameters, repo: None, commit: None }
    }
}

/// Reads headers only.
fn row(name: String, source: &ModelSource) -> Row {
    let checkpoint = match source.config().and_then(|_| source.checkpoint()) {
        Ok(Some(checkpoint)) => checkpoint,
        Ok(None) => return Row::new(name, "no weights"),
        Err(error) => return Row { problem: Some(error.to_string()), ..Row::new(name, "broken") },
    };
    let mut elements = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        *elements.entry(tensor.dtype).or_insert(0u64) += tensor.elements() as u64;
    }
    let most = elements.iter().max_by_key(|(_, count)| **count);
    Row {
        dtype: most.map(|(dtype, _)| dtype.to_string()),
        parameters: Some(elements.values().sum()),
        size: Some(checkpoint.tensors().map(|tensor| tensor.data.len() as u64).sum()),
        ..Row::new(name, "complete")
    }
}

fn table(rows: &[Row], root: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let width = rows.iter().map(|row| row.name.len()).chain([4]).max().unwrap_or(4);
    writeln!(text, "{:<width$}  {:>9}  {:<5}  {:>10}  {:<10}  FROM", "NAME", "SIZE", "DTYPE", "PARAMETERS", "STATE")?;
    for row in rows {
        let size = row.size.map_or("-".into(), |size| DecimalBytes(size).to_string());
        let parameters = row.parameters.map_or("-".into(), |n| match n {
            1_000_000_000.. => format!("{:.2} B", n as f64 / 1e9),
            1_000_000.. => format!("{:.2} M", n as f64 / 1e6),
            _ => n.to_string(),
        });
        let from = match (&row.repo, &row.commit, &row.path) {
            (Some(repo), Some(commit), _) => format!("{repo}@{commit:.12}"),
            (_, _, Some(path)) => path.display().to_string(),
            _ => "this binary".into(),
        };
        let dtype = row.dtype.as_deref().unwrap_or("-");
        writeln!(text, "{:<width$}  {size:>9}  {dtype:<5}  {parameters:>10}  {:<10}  {from}", row.name, row.state)?;
        if let Some(full) = row.full_size {
            writeln!(text, "{:<width$}  of {}: `fs pull` goes on from here", "", DecimalBytes(full))?;
        }
        if let Some(problem) = &row.problem {
            writeln!(text, "{:<width$}  {problem}", "")?;
        }
        if row.state == "no weights" {
            writeln!(text, "{:<width$}  tokenizer and configuration only: `fs pull {}` gets the rest", "", row.name)?;
        }
    }
    writeln!(text, "\nModels are in {}; to remove one, delete its directory there.", root.display())?;
    Ok(text)
}
