//! What mdBook runs: a book comes in on stdin as JSON and goes out on stdout with every directive replaced.
//! `book tests`, in the repository's root, prints the tests that guard the numbers which pages show, as `cargo test` takes them.

use anyhow::Context;
use book::values::Values;
use book::{Repository, expand};
use mdbook_preprocessor::parse_input;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("supports") => return ExitCode::SUCCESS,
        Some("tests") => tests(),
        _ => run(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("book: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the book could be expanded; the problems are on stderr.
fn run() -> anyhow::Result<bool> {
    let (context, mut input) = parse_input(std::io::stdin())?;
    let repository = Repository::of_book(&context)?;
    let problems = expand(&mut input, &repository)?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        let s = if problems.len() == 1 { "" } else { "s" };
        eprintln!("book: {} problem{s}; nothing is published", problems.len());
        return Ok(false);
    }
    serde_json::to_writer(std::io::stdout().lock(), &input)?;
    Ok(true)
}

/// Prints `--test NAME` for each test that a source of docs/values.toml names.
fn tests() -> anyhow::Result<bool> {
    let table = std::fs::read_to_string("docs/values.toml").context("docs/values.toml")?;
    let values = Values::new(Path::new("."), &table).map_err(|error| anyhow::anyhow!("docs/values.toml: {error}"))?;
    let tests: Vec<String> = values.tests().iter().map(|name| format!("--test {name}")).collect();
    println!("{}", tests.join(" "));
    Ok(true)
}
