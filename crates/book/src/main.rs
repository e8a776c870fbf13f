//! What mdBook runs: a book comes in on stdin as JSON and goes out on stdout with every directive replaced.

use book::{Repository, expand};
use mdbook_preprocessor::parse_input;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("supports") {
        return ExitCode::SUCCESS;
    }
    match run() {
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
