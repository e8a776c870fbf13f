//! Checking a model against recorded outputs of the official implementation.
//!
//! A fixture is a `manifest.json` and the safetensors files it names, made by `scripts/oracle/make_fixtures.py`. It
//! belongs to one set of weights, named by hash: vectors of one checkpoint say nothing about another.

use super::engine::{Engine, Session, SessionOptions};
use super::error::SessionError;
use crate::model::kv_cache::KvDType;
use crate::model::qwen3::LogitsFor;
use crate::weights::{Checkpoint, SharedBytes, WeightsError};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A manifest: which model it belongs to, and what was recorded.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// The version of this layout; 1.
    pub schema: u32,
    /// Whose outputs these are.
    pub model: FixtureModel,
    /// How close is close enough.
    pub tolerance: Tolerance,
    /// The recordings.
    pub cases: Vec<Case>,
}

/// The model that a fixture belongs to.
#[derive(Clone, Debug, Deserialize)]
pub struct FixtureModel {
    /// Its name.
    pub name: String,
    /// SHA-256 of each weights file, by file name.
    pub weights_sha256: BTreeMap<String, String>,
}

/// `|found - expected| <= atol + rtol * |expected|`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Tolerance {
    /// Absolute part.
    pub atol: f32,
    /// Relative part.
    pub rtol: f32,
}

/// One prompt and what the official implementation made of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The prompt.
    pub ids: Vec<u32>,
    /// Recorded stages of the forward pass, by name.
    #[serde(default)]
    pub checkpoints: BTreeMap<String, Recorded>,
    /// The greedy continuation.
    pub greedy: Option<Greedy>,
}

/// Where a stage's values are.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    /// The safetensors file beside the manifest; the tensor has the stage's name.
    pub file: String,
    /// `[rows, width]`.
    pub shape: Vec<usize>,
    /// `all` tokens, or the `last` one only.
    pub rows: String,
}

/// A recorded greedy continuation.
#[derive(Clone, Debug, Deserialize)]
pub struct Greedy {
    /// The ids that follow the prompt.
    pub ids: Vec<u32>,
    /// The best tokens of each step.
    #[serde(default)]
    pub top: Vec<Vec<TopLogit>>,
}

/// A token and its logit.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct TopLogit {
    /// Its id.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

/// A manifest with its files.
pub struct Fixture {
    /// What was recorded.
    pub manifest: Manifest,
    files: BTreeMap<String, Checkpoint>,
}

/// A file in the binary: its path under `tests/golden/forward`, and its bytes.
#[cfg(feature = "embedded-model")]
type EmbeddedFile = (&'static str, &'static [u8]);

/// The fixtures that travel with the binary, so that `fs verify` needs nothing but the model: manifest, then files.
#[cfg(feature = "embedded-model")]
const EMBEDDED: [(&str, &[EmbeddedFile]); 2] = {
    macro_rules! golden {
        ($($path:literal),*) => {
            &[$(($path, include_bytes!(concat!("../../tests/golden/forward/", $path)))),*]
        };
    }
    [
        ("qwen3-0.6b", golden!("qwen3-0.6b/manifest.json", "qwen3-0.6b/case_0.safetensors")),
        ("stories", golden!("stories/manifest.json", "stories/case_0.safetensors")),
    ]
};

impl Fixture {
    /// Reads `directory/manifest.json` and the files it names.
    pub fn open(directory: &Path) -> Result<Fixture, WeightsError> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|source| WeightsError::Io { path, source })
        };
        let manifest = directory.join("manifest.json").display().to_string();
        Self::from_files(&manifest, &read("manifest.json")?, |name| read(name).map(SharedBytes::from_vec))
    }

    /// The fixture that travels with the binary for this model, if there is one.
    pub fn embedded(weights_sha256: &BTreeMap<String, String>) -> Result<Option<Fixture>, WeightsError> {
        #[cfg(feature = "embedded-model")]
        for (name, files) in EMBEDDED {
            let file = |wanted: &str| files.iter().find(|(path, _)| path.ends_with(&format!("/{wanted}"))).map(|f| f.1);
            let fixture = Self::from_files(name, file("manifest.json").unwrap_or_default(), |wanted| {
                // A copy, because embedded bytes are not aligned for f32.
                file(wanted).map(|bytes| SharedBytes::from_vec(bytes.to_vec())).ok_or_else(|| WeightsError::Invalid {
                    file: name.into(),
                    message: format!("the manifest names {wanted}, which is not embedded"),
                })
            })?;
            let theirs = &fixture.manifest.model.weights_sha256;
            if theirs.values().eq(weights_sha256.values()) {
                return Ok(Some(fixture));
            }
        }
        #[cfg(not(feature = "embedded-model"))]
        let _ = weights_sha256;
        Ok(None)
    }

    /// The fixture beside a model, in its directory or the one above, if there is one and it belongs to the model.
    pub fn beside(model: &Path, weights_sha256: &BTreeMap<String, String>) -> Result<Option<Fixture>, WeightsError> {
        for directory in [Some(model), model.parent()].into_iter().flatten() {
            if directory.join("manifest.json").is_file() {
                let fixture = Self::open(directory)?;
                if fixture.manifest.model.weights_sha256 == *weights_sha256 {
                    return Ok(Some(fixture));
                }
            }
        }
        Ok(None)
    }

    fn from_files(
        name: &str,
        manifest: &[u8],
        read: impl Fn(&str) -> Result<SharedBytes, WeightsError>,
    ) -> Result<Fixture, WeightsError> {
        let invalid = |message: String| WeightsError::Invalid { file: name.to_owned(), message };
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(|error| invalid(error.to_string()))?;
        if manifest.schema != 1 {
            return Err(invalid(format!("schema {} (this fs reads schema 1)", manifest.schema)));
        }
        let mut files = BTreeMap::new();
        for recorded in manifest.cases.iter().flat_map(|case| case.checkpoints.values()) {
            if !files.contains_key(&recorded.file) {
                files.insert(recorded.file.clone(), Checkpoint::from_bytes(read(&recorded.file)?, &recorded.file)?);
            }
        }
        Ok(Fixture { manifest, files })
    }
}

/// The verdict on one stage, or on one greedy continuation.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// Which case of the fixture.
    pub case: usize,
    /// The stage's name, or `greedy`.
    pub stage: String,
    /// What was compared: `[rows, width]`, or `[tokens]`.
    pub shape: Vec<usize>,
    /// Largest absolute difference.
    pub max_abs: f32,
    /// Largest difference relative to the expected value (where that is above `atol`).
    pub max_rel: f32,
    /// Whether all values are within the tolerance.
    pub ok: bool,
    /// The first value outside it.
    pub first_divergence: Option<Divergence>,
}

/// A value outside the tolerance.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Divergence {
    /// Where: `[row, column]`, or `[step]`.
    pub index: Vec<usize>,
    /// What this engine computed.
    pub found: f32,
    /// What was recorded.
    pub expected: f32,
}

/// Runs every case of `fixture` on `engine`, with an f32 cache, in the order of the forward pass.
pub fn verify(engine: &Engine, fixture: &Fixture) -> Result<Vec<Verdict>, SessionError> {
    let tolerance = fixture.manifest.tolerance;
    let mut verdicts = Vec::new();
    for (index, case) in fixture.manifest.cases.iter().enumerate() {
        if !case.checkpoints.is_empty() {
            let mut failure = None;
            engine.probe(&case.ids, LogitsFor::All, &mut |stage, values| {
                let stage = stage.to_string();
                if let Some(recorded) = case.checkpoints.get(&stage) {
                    match expected_values(fixture, recorded, &stage) {
                        Ok(expected) => {
                            // Recordings of the last row alone are compared with the last row alone.
                            let found = if recorded.rows == "last" {
                                &values[values.len() - expected.len()..]
                            } else {
                                &values
                            };
                            verdicts.push(compare(index, stage, recorded.shape.clone(), found, &expected, tolerance));
                        }
                        Err(error) => failure = Some(error),
                    }
                }
            })?;
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        if let Some(greedy) = &case.greedy {
            verdicts.push(verify_greedy(engine, index, case, greedy, tolerance)?);
        }
    }
    Ok(verdicts)
}

fn expected_values(fixture: &Fixture, recorded: &Recorded, stage: &str) -> Result<Vec<f32>, WeightsError> {
    match fixture.files.get(&recorded.file).and_then(|file| file.get(stage)) {
        Some(tensor) if tensor.shape == recorded.shape => Ok(tensor.to_f32()),
        found => Err(WeightsError::Invalid {
            file: recorded.file.clone(),
            message: format!("{stage}: expected shape {:?}, found {:?}", recorded.shape, found.map(|t| &t.shape)),
        }),
    }
}

fn compare(
    case: usize,
    stage: String,
    shape: Vec<usize>,
    found: &[f32],
    expected: &[f32],
    Tolerance { atol, rtol }: Tolerance,
) -> Verdict {
    let (mut max_abs, mut max_rel, mut first) = (0.0f32, 0.0f32, None);
    let width = shape.last().copied().unwrap_or(1).max(1);
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        max_abs = max_abs.max(if difference.is_nan() { f32::INFINITY } else { difference });
        if expected.abs() > atol {
            max_rel = max_rel.max(difference / expected.abs());
        }
        let allowed = atol + rtol * expected.abs();
        if first.is_none() && (difference > allowed || difference.is_nan()) {
            first = Some(Divergence { index: vec![i / width, i % width], found, expected });
        }
    }
    let ok = first.is_none() && found.len() == expected.len();
    Verdict { case, stage, shape, max_abs, max_rel, ok, first_divergence: first }
}

/// Decodes token by token through the cache, as generation does, and compares ids and the best logits of each step.
fn verify_greedy(
    engine: &Engine,
    index: usize,
    case: &Case,
    greedy: &Greedy,
    tolerance: Tolerance,
) -> Result<Verdict, SessionError> {
    let mut session: Session =
        engine.session(SessionOptions { kv_dtype: KvDType::F32, ..SessionOptions::default() })?;
    let mut tokens = case.ids.clone();
    let mut verdict = Verdict {
        case: index,
        stage: "greedy".into(),
        shape: vec![greedy.ids.len()],
        max_abs: 0.0,
        max_rel: 0.0,
        ok: true,
        first_divergence: None,
    };
    for (step, &expected) in greedy.ids.iter().enumerate() {
        let logits = session.evaluate(&tokens)?;
        let (best, _) = super::sampling::argmax(logits)?;
        if let Some(top) = greedy.top.get(step) {
            let found: Vec<f32> = top.iter().map(|t| logits.get(t.id as usize).copied().unwrap_or(f32::NAN)).collect();
            let recorded: Vec<f32> = top.iter().map(|t| t.logit).collect();
            let step_verdict = compare(index, String::new(), vec![top.len()], &found, &recorded, tolerance);
            verdict.max_abs = verdict.max_abs.max(step_verdict.max_abs);
            verdict.max_rel = verdict.max_rel.max(step_verdict.max_rel);
            if let (true, Some(mut divergence)) = (verdict.ok, step_verdict.first_divergence) {
                divergence.index = vec![step, divergence.index[1]];
                verdict.first_divergence = Some(divergence);
            }
            verdict.ok &= step_verdict.ok;
        }
        if best != expected {
            verdict.ok = false;
            verdict.first_divergence.get_or_insert(Divergence {
                index: vec![step],
                found: best as f32,
                expected: expected as f32,
            });
            break;
        }
        tokens.push(expected);
    }
    Ok(verdict)
}

/// The largest NMSE against the reference backend that an operation may have, with the same weights.
///
/// Sums of hundreds of products differ by the order of summation; element-wise operations only by the last bits of
/// `exp`; copies not at all. Attention over a q8 cache is no exception: both backends read the same codes, and queries are
/// not rounded. A linear layer's input may be rounded before it is multiplied, as [`Rounding`] says.
pub fn contract(operation: &str, rounding: Rounding) -> f64 {
    match operation {
        "embed" | "copy_rows" => 0.0,
        "linear" | "linear_qkv" | "linear_swiglu" | "linear_add" | "norm_linear_qkv" | "norm_linear_swiglu" => {
            match rounding {
                Rounding::None => 1e-6,
                Rounding::Bf16 => 1e-5,
                Rounding::Int8 => 5e-4,
            }
        }
        "attention" => 1e-6,
        _ => 1e-7,
    }
}

/// What linear layers round their input to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing: f32, f16 and bf16 weights are widened instead.
    None,
    /// bf16, 8 bits of precision: bf16 weights where the machine has dot products of bf16.
    Bf16,
    /// 8-bit codes with a scale for each 32 values: quantized weights.
    Int8,
}
