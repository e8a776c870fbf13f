//! `cargo run -p learn`: the exercises, one after the other.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use learn::explain::explain;
use learn::workbook::{self, shown};
use learn::{Catalogue, Exercise, prove, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exercises: write a function of the engine again, and let the engine's own tests check it.
///
/// `list` shows them all. `start` makes a copy of the engine in which one function's body is missing; write it, then `check`.
#[derive(Parser)]
#[command(name = "learn")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Lists the exercises and how far you are
    List,
    /// Prints what an exercise asks, as Markdown
    Show {
        /// The exercise; without it, the one started last
        id: Option<String>,
    },
    /// Makes a copy of the engine to write an answer in
    Start {
        /// The exercise
        id: String,
        /// Throws away the copy that is there, and begins anew
        #[arg(long)]
        again: bool,
    },
    /// Runs the exercise's tests on your answer
    Check {
        /// The exercise; without it, the one started last
        id: Option<String>,
    },
    /// Prints the next hint
    Hint {
        /// The exercise; without it, the one started last
        id: Option<String>,
    },
    /// Prints the engine's own answer
    Solution {
        /// The exercise; without it, the one started last
        id: Option<String>,
    },
    /// Proves that the exercises can be solved and that known-wrong answers fail (for those who write exercises)
    Prove {
        /// Only this one; may be given more than once
        #[arg(long, value_name = "ID")]
        only: Vec<String>,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("learn: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what was asked for came out well.
fn act(action: Action) -> Result<bool> {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let root = root.join("../..").canonicalize().context("the repository is not where learn was built")?;
    let catalogue = Catalogue::load(&root)?;
    let chosen = |id: Option<String>| -> Result<&Exercise> {
        let id = id.or_else(|| workbook::current(&catalogue));
        Ok(catalogue.get(&id.context("no exercise was started yet: name one, or `start` one")?)?)
    };
    match action {
        Action::List => list(&catalogue),
        Action::Show { id } => {
            let exercise = chosen(id)?;
            println!("# {}\n\n{}", exercise.entry.title, exercise.markdown());
        }
        Action::Start { id, again } => start(&catalogue, catalogue.get(&id)?, again)?,
        Action::Check { id } => return check(&catalogue, chosen(id)?),
        Action::Hint { id } => hint(&catalogue, chosen(id)?)?,
        Action::Solution { id } => solution(&catalogue, chosen(id)?),
        Action::Prove { only } => return prove::prove(&catalogue, &only),
    }
    Ok(true)
}

fn list(catalogue: &Catalogue) {
    let mut milestone = String::new();
    let mut solved = 0;
    for exercise in &catalogue.exercises {
        if exercise.milestone() != milestone {
            milestone = exercise.milestone();
            println!("{milestone}");
        }
        let state = workbook::state(catalogue, &exercise.entry.id);
        let mark = match &state {
            Some(state) if state.solved => "solved",
            Some(_) => "begun",
            None => "",
        };
        solved += usize::from(mark == "solved");
        println!("  {:22} {:7} {}", exercise.entry.id, mark, exercise.entry.title);
    }
    println!("\n{solved} of {} solved. `cargo run -p learn -- start ID` begins one.", catalogue.exercises.len());
}

fn start(catalogue: &Catalogue, exercise: &Exercise, again: bool) -> Result<()> {
    let id = &exercise.entry.id;
    let file = workbook::start(catalogue, exercise, again)?;
    println!("# {}\n\n{}", exercise.entry.title, exercise.markdown());
    let todo: Vec<&String> =
        exercise.entry.needs.iter().filter(|id| !workbook::state(catalogue, id).is_some_and(|it| it.solved)).collect();
    for need in todo {
        println!("(It builds on `{need}`, which you have not solved yet.)");
    }
    println!(
        "Write it in {}, line {}. Then: cargo run -p learn -- check",
        shown(catalogue, &file),
        exercise.region.lines.start + 1
    );
    if exercise.is_metal() && !cfg!(target_os = "macos") {
        println!(
            "The kernel is run by the stand-in for Metal, which needs clang 19 (Debian: apt-get install clang-19)."
        );
    }
    println!("(id: {id}; hints: cargo run -p learn -- hint)");
    Ok(())
}

fn check(catalogue: &Catalogue, exercise: &Exercise) -> Result<bool> {
    let id = &exercise.entry.id;
    let Some(mut state) = workbook::state(catalogue, id) else { bail!("{id} was not started: `start {id}`") };
    let directory = workbook::directory(catalogue, id);
    eprintln!("building {} (the first time takes minutes, later ones seconds)", shown(catalogue, &directory));
    let Some(program) = run::build(catalogue, &directory, &exercise.entry.target, exercise.is_metal())? else {
        println!("\n{id} does not compile yet; the compiler says above why.");
        return Ok(false);
    };
    let kernels = directory.join("metal").to_string_lossy().into_owned();
    let environment: &[(&str, &str)] = if exercise.is_metal() { &[("FS_METAL_SOURCE_DIR", &kernels)] } else { &[] };
    let failure = run::first_failure(exercise, &program, &directory, environment)?;
    state.solved = failure.is_none();
    workbook::set_state(catalogue, id, &state)?;
    let Some((test, outcome)) = failure else {
        println!("{id}: all {} tests pass. Well done!", exercise.entry.tests.len());
        println!("Compare with the engine's own: cargo run -p learn -- solution");
        let unsolved = |other: &&Exercise| !workbook::state(catalogue, &other.entry.id).is_some_and(|it| it.solved);
        if let Some(next) = catalogue.exercises.iter().find(unsolved) {
            println!("Next: cargo run -p learn -- start {}", next.entry.id);
        }
        return Ok(true);
    };
    println!("{id}: not yet.\n\n{}", explain(exercise, &test, &outcome));
    println!("The test is in the copy, too. A hint: cargo run -p learn -- hint");
    Ok(false)
}

fn hint(catalogue: &Catalogue, exercise: &Exercise) -> Result<()> {
    let (id, hints) = (&exercise.entry.id, &exercise.entry.hints);
    let Some(mut state) = workbook::state(catalogue, id) else { bail!("{id} was not started: `start {id}`") };
    state.hints = (state.hints + 1).min(hints.len());
    println!("{id}, hint {} of {}: {}", state.hints, hints.len(), hints[state.hints - 1].trim());
    workbook::set_state(catalogue, id, &state)
}

fn solution(catalogue: &Catalogue, exercise: &Exercise) {
    let region = &exercise.region;
    let (first, last) = (region.lines.start + 1, region.lines.end);
    println!("{}, lines {first} to {last}:\n", shown(catalogue, &region.file));
    println!("{}\n{{", region.signature);
    print!("{}", region.body);
    println!("}}");
    println!("\nKnown mistakes, which the tests find:");
    for mutant in &exercise.entry.mutants {
        println!("- {}", mutant.teaches.trim());
    }
}
