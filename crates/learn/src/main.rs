//! `cargo run -p learn`: the exercises, one after the other.

use anstream::{eprintln, print, println};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use learn::explain::explain;
use learn::style::{BAD, GOOD, NAME, SOFT};
use learn::workbook::{self, shown};
use learn::{Catalogue, Exercise, prove, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exercises: write a function of the engine again, and let the engine's own tests check it.
///
/// `list` shows them all. `start` makes a copy of the engine in which one function's body is missing; write it, then `check`.
#[derive(Parser)]
#[command(name = "learn", bin_name = "cargo run -p learn --", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

const EXAMPLES: &str = "\
Examples:
  cargo run -p learn -- list               what there is, and how far you are
  cargo run -p learn -- start m2.softmax   a copy in exercises/m2.softmax, and where to write
  cargo run -p learn -- check              builds it, runs the tests, explains what is wrong
  cargo run -p learn -- hint               a little help; once more for a little more
  cargo run -p learn -- solution           the engine's own answer, of what was started

An ID may be left out after `start`: the exercise started last is meant. FS_EXERCISES names another directory for copies.";

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
    /// Prints the next hint; after the last one, all of them
    Hint {
        /// The exercise; without it, the one started last
        id: Option<String>,
    },
    /// Prints the engine's own answer to an exercise that was started, and the mistakes that its tests know
    Solution {
        /// The exercise; without it, the one started last
        id: Option<String>,
    },
    /// Proves that the exercises can be solved and that known-wrong answers fail (for those who write exercises)
    Prove {
        /// Only this one; may be given more than once
        #[arg(long, value_name = "ID")]
        only: Vec<String>,
        /// Only those of this milestone, as M2; may be given more than once
        #[arg(long, value_name = "MILESTONE")]
        milestone: Vec<String>,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{BAD}learn:{BAD:#} {error:#}");
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
        Ok(catalogue.get(&id.context("no exercise was started yet: `list` shows them, `start ID` begins one")?)?)
    };
    match action {
        Action::List => list(&catalogue),
        Action::Show { id } => {
            let exercise = chosen(id)?;
            print!("{}", page(exercise));
        }
        Action::Start { id, again } => start(&catalogue, catalogue.get(&id)?, again)?,
        Action::Check { id } => return check(&catalogue, chosen(id)?),
        Action::Hint { id } => hint(&catalogue, chosen(id)?)?,
        Action::Solution { id } => solution(&catalogue, chosen(id)?)?,
        Action::Prove { only, milestone } => {
            return prove::prove(&catalogue, &chosen_by(&catalogue, &only, &milestone)?);
        }
    }
    Ok(true)
}

/// The exercises that are named or belong to a named milestone; all if nothing is named.
fn chosen_by<'a>(catalogue: &'a Catalogue, ids: &[String], milestones: &[String]) -> Result<Vec<&'a Exercise>> {
    for id in ids {
        catalogue.get(id)?;
    }
    let all = || catalogue.exercises.iter();
    if let Some(wrong) = milestones.iter().find(|m| !all().any(|it| it.milestone().eq_ignore_ascii_case(m))) {
        bail!("there is no milestone {wrong} with exercises");
    }
    let named = |it: &&Exercise| {
        ids.contains(&it.entry.id) || milestones.iter().any(|milestone| it.milestone().eq_ignore_ascii_case(milestone))
    };
    Ok(all().filter(|it| ids.is_empty() && milestones.is_empty() || named(it)).collect())
}

fn list(catalogue: &Catalogue) {
    let mut milestone = String::new();
    let mut solved = 0;
    for exercise in &catalogue.exercises {
        if exercise.milestone() != milestone {
            milestone = exercise.milestone();
            println!("{NAME}{milestone}{NAME:#}");
        }
        let (mark, style) = match workbook::state(catalogue, &exercise.entry.id) {
            Some(state) if state.solved => ("solved", GOOD),
            Some(_) => ("begun", NAME),
            None => ("", SOFT),
        };
        solved += usize::from(mark == "solved");
        println!("  {:22} {style}{mark:7}{style:#} {}", exercise.entry.id, exercise.entry.title);
    }
    println!("\n{solved} of {} solved. Begin one: cargo run -p learn -- start ID", catalogue.exercises.len());
}

/// What an exercise asks, with all that there is to say about it.
fn page(exercise: &Exercise) -> String {
    let Exercise { entry, region } = exercise;
    let after = if entry.needs.is_empty() { String::new() } else { format!(", after {}", entry.needs.join(" and ")) };
    format!("# {}\n\n{}, in {}{after}.\n\n{}", entry.title, entry.id, region.file.display(), exercise.markdown())
}

fn start(catalogue: &Catalogue, exercise: &Exercise, again: bool) -> Result<()> {
    let file = workbook::start(catalogue, exercise, again)?;
    print!("{}", page(exercise));
    let todo: Vec<&String> =
        exercise.entry.needs.iter().filter(|id| !workbook::state(catalogue, id).is_some_and(|it| it.solved)).collect();
    for need in todo {
        println!("{SOFT}(It builds on {need}, which you have not solved yet.){SOFT:#}");
    }
    println!("\nWrite it in {NAME}{}{NAME:#}, line {}.", shown(catalogue, &file), exercise.region.lines.start + 1);
    println!("Then: cargo run -p learn -- check");
    if let Some(missing) = run::missing_for_metal().filter(|_| exercise.is_metal()) {
        println!("{BAD}Before you check:{BAD:#} {missing}.");
    }
    println!("Help:  cargo run -p learn -- hint");
    Ok(())
}

fn check(catalogue: &Catalogue, exercise: &Exercise) -> Result<bool> {
    let id = &exercise.entry.id;
    let mut state = begun(catalogue, id)?;
    let directory = workbook::directory(catalogue, id);
    if state.engine != workbook::fingerprint(catalogue, exercise)? {
        eprintln!(
            "{BAD}The engine has changed since you started{BAD:#} {id}: the copy has the older function and tests. To begin anew in \
             the newer ones, keep your answer elsewhere and run `start {id} --again`."
        );
    }
    if let Some(missing) = run::missing_for_metal().filter(|_| exercise.is_metal()) {
        bail!("{missing}");
    }
    let first = if run::target_directory(catalogue).exists() { "" } else { " (the first time takes minutes)" };
    eprintln!("{SOFT}building {}{first}{SOFT:#}", shown(catalogue, &directory));
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
        let count = exercise.entry.tests.len();
        let all = if count == 1 { "its test passes".into() } else { format!("all {count} tests pass") };
        println!("{GOOD}{id}: {all}. Well done!{GOOD:#}");
        println!("Compare with the engine's own: cargo run -p learn -- solution");
        let unsolved = |other: &&Exercise| !workbook::state(catalogue, &other.entry.id).is_some_and(|it| it.solved);
        if let Some(next) = catalogue.exercises.iter().find(unsolved) {
            println!("Next: cargo run -p learn -- start {}", next.entry.id);
        }
        return Ok(true);
    };
    println!("{BAD}{id}: not yet.{BAD:#}\n\n{}", explain(exercise, &test, &outcome));
    println!("{SOFT}The test stands in the copy, too. A hint: cargo run -p learn -- hint{SOFT:#}");
    Ok(false)
}

/// How far the reader is with an exercise that was started.
fn begun(catalogue: &Catalogue, id: &str) -> Result<workbook::State> {
    let state = workbook::state(catalogue, id);
    state.with_context(|| format!("{id} was not started yet: cargo run -p learn -- start {id}"))
}

fn hint(catalogue: &Catalogue, exercise: &Exercise) -> Result<()> {
    let (id, hints) = (&exercise.entry.id, &exercise.entry.hints);
    let mut state = begun(catalogue, id)?;
    let show = |i: usize| println!("{id}, hint {} of {}: {}", i + 1, hints.len(), hints[i].trim());
    if state.hints >= hints.len() {
        (0..hints.len()).for_each(show);
        println!("\nThere are no more hints. The engine's own body: cargo run -p learn -- solution {id}");
        return Ok(());
    }
    show(state.hints);
    state.hints += 1;
    workbook::set_state(catalogue, id, &state)
}

fn solution(catalogue: &Catalogue, exercise: &Exercise) -> Result<()> {
    let (id, region) = (&exercise.entry.id, &exercise.region);
    let (first, last) = (region.lines.start + 1, region.lines.end);
    let place = format!("{}, lines {first} to {last}", shown(catalogue, &region.file));
    // Whoever types it to hand an answer in shall not see the right one by that.
    if workbook::state(catalogue, id).is_none() {
        bail!(
            "`solution` prints the engine's own answer, and {id} was not started yet: cargo run -p learn -- start {id}. To \
             read it without doing the exercise, open {place}."
        );
    }
    println!("{place}:\n");
    print!("{}", region.body);
    println!("\nMistakes that the tests know. It goes wrong when");
    for mutant in &exercise.entry.mutants {
        println!("- {}", mutant.teaches.trim().replace('\n', "\n  "));
    }
    Ok(())
}
