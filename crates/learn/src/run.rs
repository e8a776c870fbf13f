//! Building a copy of the engine and running single tests of it.

use crate::catalogue::{Catalogue, Exercise};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A test that runs longer than this does not end. The slowest takes a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// What a test did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, and this is what it said.
    Failed(String),
    /// It did not end in time.
    Endless,
}

/// The directory that all copies are built into.
pub fn target_directory(catalogue: &Catalogue) -> PathBuf {
    catalogue.root.join("target/learn")
}

/// Builds the tests of `target` (`lib`, or a file of `tests/`) in the copy at `directory` and returns the program; `None` if
/// the compiler has refused it and said why on stderr.
pub fn build(catalogue: &Catalogue, directory: &Path, target: &str, metal: bool) -> Result<Option<PathBuf>> {
    let mut command = cargo(catalogue, directory, "test");
    command.args(["--no-run", "--message-format=json-render-diagnostics"]);
    match target {
        "lib" => command.arg("--lib"),
        test => command.args(["--test", test]),
    };
    if metal && !cfg!(target_os = "macos") {
        command.args(["--features", "metal-standin"]);
    }
    let output = command.stdout(Stdio::piped()).spawn().and_then(|child| child.wait_with_output());
    let output = output.context("cargo does not run")?;
    if !output.status.success() {
        return Ok(None);
    }
    // Of all that cargo reports, the last program that it has built for testing.
    let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let mut programs = messages.filter_map(|message: serde_json::Value| {
        let wanted = message["profile"]["test"] == true && message["target"]["name"] != "build-script-build";
        wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    Ok(Some(programs.next_back().context("cargo built no test program")?))
}

/// What kernels need to be compiled and is not here, with how to get it; `None` if nothing is missing.
pub fn missing_for_metal() -> Option<String> {
    let clang = std::env::var("METAL_STANDIN_CLANG").unwrap_or_else(|_| "clang-19".into());
    let starts = || Command::new(&clang).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let missing = !cfg!(target_os = "macos") && !starts();
    missing.then(|| format!("{clang} is missing, which the stand-in for Metal needs (Debian: apt-get install --no-install-recommends clang-19)"))
}

/// Whether the copy at `directory` compiles with its tests; the compiler says on stderr why not.
pub fn compiles(catalogue: &Catalogue, directory: &Path) -> Result<bool> {
    let mut command = cargo(catalogue, directory, "check");
    Ok(command.args(["--lib", "--profile", "test"]).status().context("cargo does not run")?.success())
}

fn cargo(catalogue: &Catalogue, directory: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.arg(subcommand).arg("--quiet").current_dir(directory);
    command.env("CARGO_TARGET_DIR", target_directory(catalogue));
    command
}

/// Runs one test of a program that [`build`] made.
pub fn test(program: &Path, directory: &Path, name: &str, environment: &[(&str, &str)]) -> Result<Outcome> {
    let log = program.with_extension("log");
    let write = || std::fs::File::create(&log).with_context(|| format!("writing {}", log.display()));
    let file = write()?;
    let mut child = Command::new(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .current_dir(directory)
        .env("RUST_BACKTRACE", "0")
        // A failure is to be told, not to be kept in a file beside the source.
        .env("PROPTEST_FAILURE_PERSISTENCE", "off")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Endless);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    if status.success() && !said.contains("1 passed") {
        bail!("there is no test {name} in {}", program.display());
    }
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed(said) })
}

/// Runs an exercise's tests in order, up to the first that does not pass; `None` if all do.
pub fn first_failure(
    exercise: &Exercise,
    program: &Path,
    directory: &Path,
    environment: &[(&str, &str)],
) -> Result<Option<(String, Outcome)>> {
    for name in &exercise.entry.tests {
        let outcome = test(program, directory, name, environment)?;
        if outcome != Outcome::Passed {
            return Ok(Some((name.clone(), outcome)));
        }
    }
    Ok(None)
}
