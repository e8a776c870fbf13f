//! Proves the exercises: the engine without the answers compiles, its named tests fail; with the right answers they pass; and
//! with each known-wrong answer they fail, in the words that `check` knows it by.
//!
//! Building a copy for every wrong answer would take an hour. So one copy holds all answers of all exercises, right and wrong,
//! and an environment variable says which one runs. Metal's kernels are compiled when they are used: each answer is a
//! directory of sources.

use crate::catalogue::{Catalogue, Exercise};
use crate::explain::message;
use crate::markers::indented;
use crate::run::{self, Outcome};
use crate::workbook;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Says which answer of which exercise runs: `m2.rms_norm=wrong-1`.
const VARIABLE: &str = "FS_EXERCISE";

/// An answer to try.
#[derive(Clone, Copy)]
enum Answer {
    /// The engine's.
    Right,
    /// None at all.
    Empty,
    /// A known-wrong one, by its place.
    Wrong(usize),
}

impl Answer {
    fn name(self) -> String {
        match self {
            Answer::Right => "right".into(),
            Answer::Empty => "empty".into(),
            Answer::Wrong(i) => format!("wrong-{}", i + 1),
        }
    }
}

/// Proves these exercises, prints a line for each and returns whether all hold. Without a compiler for kernels those in Metal
/// are left out, and a line says so.
pub fn prove(catalogue: &Catalogue, chosen: &[&Exercise]) -> Result<bool> {
    let all: Vec<&Exercise> = catalogue.exercises.iter().collect();
    let missing = run::missing_for_metal();
    let (skipped, chosen): (Vec<&Exercise>, Vec<&Exercise>) =
        chosen.iter().copied().partition(|it| missing.is_some() && it.is_metal());
    let without = run::target_directory(catalogue).join("without-answers");
    workbook::copy(catalogue, &without, &all, workbook::empty)?;
    if !run::compiles(catalogue, &without)? {
        bail!("the engine without answers does not compile: {}", without.display());
    }
    println!("the engine without any answer compiles");
    let directory = run::target_directory(catalogue).join("all-answers");
    let rust: Vec<&Exercise> = all.iter().copied().filter(|exercise| !exercise.is_metal()).collect();
    let metal: Vec<&Exercise> = chosen.iter().copied().filter(|exercise| exercise.is_metal()).collect();
    let copied: Vec<&Exercise> = rust.iter().chain(&metal).copied().collect();
    workbook::copy(catalogue, &directory, &copied, |exercise| match exercise.is_metal() {
        true => exercise.region.body.clone(),
        false => all_answers(exercise),
    })?;

    let mut programs: Vec<((String, bool), PathBuf)> = Vec::new();
    let mut hold = 0;
    for exercise in &chosen {
        let kind = (exercise.entry.target.clone(), exercise.is_metal());
        if !programs.iter().any(|(built, _)| *built == kind) {
            let program = run::build(catalogue, &directory, &kind.0, kind.1)?;
            programs.push((kind.clone(), program.context("a wrong answer does not compile; all must")?));
        }
        let program = &programs.iter().find(|(built, _)| *built == kind).context("built above")?.1;
        let problems = problems(catalogue, exercise, program, &directory)?;
        let verdict = if problems.is_empty() { "holds" } else { "DOES NOT HOLD" };
        println!(
            "{:22} {verdict}: {} tests, {} wrong answers",
            exercise.entry.id,
            exercise.entry.tests.len(),
            exercise.entry.mutants.len()
        );
        problems.iter().for_each(|problem| println!("    {}", problem.replace('\n', "\n    ")));
        hold += usize::from(problems.is_empty());
    }
    for exercise in skipped {
        println!("{:22} skipped: {}", exercise.entry.id, missing.as_deref().unwrap_or_default());
    }
    println!("{hold} of {} exercises hold", chosen.len());
    Ok(hold == chosen.len())
}

/// All answers of an exercise, of which one runs.
fn all_answers(exercise: &Exercise) -> String {
    let Exercise { entry, region } = exercise;
    let id = &entry.id;
    let arm = |pattern: String, body: &str| format!("{pattern} => {{\n{}}}\n", indented(body, "    "));
    let of = |answer: Answer| format!("Ok(\"{id}={}\")", answer.name());
    let mut arms = arm(of(Answer::Empty), &workbook::empty(exercise));
    for (i, mutant) in entry.mutants.iter().enumerate() {
        // The catalogue was checked when it was loaded: every wrong answer can be made.
        arms += &arm(of(Answer::Wrong(i)), &mutant.of(region).unwrap_or_default());
    }
    arms += &arm("_".into(), &region.body);
    let all = format!("match std::env::var(\"{VARIABLE}\").as_deref() {{\n{}}}\n", indented(&arms, "    "));
    indented(&all, &region.indent)
}

/// What does not hold of an exercise.
fn problems(catalogue: &Catalogue, exercise: &Exercise, program: &Path, directory: &Path) -> Result<Vec<String>> {
    let entry = &exercise.entry;
    let mut problems = Vec::new();
    let sources = |answer| kernels(catalogue, exercise, answer);
    let choice = |answer: Answer| format!("{}={}", entry.id, answer.name());

    let (right, empty) = (choice(Answer::Right), choice(Answer::Empty));
    let (right_sources, empty_sources) = (sources(Answer::Right)?, sources(Answer::Empty)?);
    for test in &entry.tests {
        let outcome = run::test(program, directory, test, &environment(&right, &right_sources))?;
        if outcome != Outcome::Passed {
            problems.push(format!("the right answer fails {test}: {outcome:?}"));
        }
        match run::test(program, directory, test, &environment(&empty, &empty_sources))? {
            Outcome::Failed(said) if exercise.is_metal() || said.contains("not yet implemented") => {}
            outcome => problems.push(format!("without an answer, {test} does not fail as it should: {outcome:?}")),
        }
    }
    let mut said = Vec::new();
    for (i, mutant) in entry.mutants.iter().enumerate() {
        let answer = Answer::Wrong(i);
        let (choice, sources) = (choice(answer), sources(answer)?);
        let failure = run::first_failure(exercise, program, directory, &environment(&choice, &sources))?;
        said.push(match failure {
            None => {
                problems.push(format!("wrong answer {} passes: {}", i + 1, mutant.teaches.trim()));
                String::new()
            }
            Some((_, Outcome::Failed(output))) => message(&output),
            Some((test, _)) => format!("{test} does not end"),
        });
    }
    for (i, (mutant, message)) in entry.mutants.iter().zip(&said).enumerate() {
        if message.is_empty() {
            continue;
        }
        let (number, shows) = (i + 1, &mutant.shows);
        if !mutant.is_shown_by(message) {
            problems.push(format!("wrong answer {number} should show {shows:?}, but says:\n{message}"));
        }
        let others = said.iter().enumerate().filter(|(other, said)| *other != i && mutant.is_shown_by(said));
        for (other, _) in others {
            problems
                .push(format!("what wrong answer {number} shows, wrong answer {} shows, too: {shows:?}", other + 1));
        }
    }
    Ok(problems)
}

/// A directory of kernels with this answer; `None` for an exercise in Rust.
fn kernels(catalogue: &Catalogue, exercise: &Exercise, answer: Answer) -> Result<Option<String>> {
    if !exercise.is_metal() {
        return Ok(None);
    }
    let body = match answer {
        Answer::Right => exercise.region.body.clone(),
        Answer::Empty => workbook::empty(exercise),
        Answer::Wrong(i) => exercise.entry.mutants[i].of(&exercise.region).map_err(anyhow::Error::msg)?,
    };
    let directory = run::target_directory(catalogue).join("kernels").join(answer.name());
    workbook::copy_kernels(catalogue, &directory, exercise, &body)?;
    Ok(Some(directory.to_string_lossy().into_owned()))
}

fn environment<'a>(choice: &'a str, kernels: &'a Option<String>) -> Vec<(&'a str, &'a str)> {
    let kernels = kernels.as_deref().map(|directory| ("FS_METAL_SOURCE_DIR", directory));
    [(VARIABLE, choice)].into_iter().chain(kernels).collect()
}
