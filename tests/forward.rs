//! The forward pass against recorded outputs of transformers, on every backend and SIMD level.
//!
//! `tests/golden/forward` holds a small random model for each way in which a Qwen3 configuration can differ, and what
//! transformers computed with it at every layer (`scripts/oracle/make_fixtures.py`).

use failed_star::backend::BackendKind;
use failed_star::backend::cpu::simd::Level;
use failed_star::session::verify::{Fixture, verify};
use failed_star::session::{Engine, EngineOptions};
use failed_star::weights::ModelSource;
use std::path::{Path, PathBuf};

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/forward");
    let entries = std::fs::read_dir(root).expect("the fixtures are in the repository");
    let mut with_model: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("model").is_dir()).collect();
    with_model.sort();
    with_model
}

fn check(fixture: &Path, options: EngineOptions) {
    let source = ModelSource::resolve(fixture.join("model").to_str()).unwrap();
    let engine = Engine::load(&source, &options).unwrap();
    let verdicts = verify(&engine, &Fixture::open(fixture).unwrap()).unwrap();
    assert!(verdicts.len() > engine.config().num_hidden_layers, "{}: hardly anything compared", fixture.display());
    for verdict in &verdicts {
        assert!(verdict.ok, "{} on {:?}: {verdict:#?}", fixture.display(), engine.backend());
    }
}

/// Some recordings are compared with nothing here: those of Qwen3-0.6B, whose weights are not in the repository. Pages show them all
/// the same, so none may change unnoticed. Who records anew writes the list anew: scripts/README.md.
#[test]
fn recordings_are_those_that_were_made() {
    use sha2::{Digest, Sha256};
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let list = std::fs::read_to_string(root.join("SHA256SUMS")).expect("tests/golden/SHA256SUMS");
    let mut listed = Vec::new();
    for line in list.lines() {
        let (sum, name) = line.split_once("  ").expect("a sum and a name");
        let bytes = std::fs::read(root.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, sum, "tests/golden/{name} is not what was recorded");
        listed.push(root.join(name));
    }
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false if path == root.join("SHA256SUMS") => {}
                false => assert!(listed.contains(&path), "{} is not in SHA256SUMS", path.display()),
            }
        }
    }
}

#[test]
fn every_kind_of_configuration_has_a_fixture() {
    assert!(fixtures().len() >= 6, "{:?}", fixtures());
}

#[test]
fn reference_agrees_with_transformers() {
    for fixture in fixtures() {
        check(&fixture, EngineOptions { backend: BackendKind::Reference, ..EngineOptions::default() });
    }
}

#[test]
fn cpu_agrees_with_transformers() {
    for fixture in fixtures() {
        for threads in [1, 3] {
            check(
                &fixture,
                EngineOptions {
                    backend: BackendKind::Cpu,
                    threads: Some(threads),
                    simd: Some(Level::detect_exact()),
                    ..EngineOptions::default()
                },
            );
        }
    }
}
