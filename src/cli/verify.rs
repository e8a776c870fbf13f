//! `fs verify`: check a model, layer by layer.

use super::common::{self, DeviceArgs, Ids};
use anyhow::{Context, bail};
use failed_star::backend::BackendKind;
use failed_star::backend::compare::Record;
use failed_star::backend::cpu::simd::Level;
use failed_star::session::Engine;
use failed_star::session::verify::{Fixture, Rounding, Verdict, contract, verify};
use failed_star::weights::ModelSource;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `fs verify`.
#[derive(clap::Args)]
#[command(after_help = "\
Without --against, runs the recorded outputs of the official implementation (transformers) that belong to the model:
those of qwen3-0.6b and of the story model are inside this program, others lie beside the model or are named with --golden.

Examples:
  fs verify
  fs verify qwen3-0.6b
  fs verify tests/golden/forward/tied-bf16/model --backend reference
  fs verify --against reference --prompt \"Once upon a time\"")]
pub struct Args {
    /// A model's name, its directory, or its weights file [default: as for `fs generate`]
    model: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Directory of a fixture: manifest.json and what it names
    #[arg(long, value_name = "DIR", conflicts_with = "against")]
    golden: Option<PathBuf>,
    /// Compare the backend with another one, operation by operation
    #[arg(long, value_name = "BACKEND", value_parser = ["reference"])]
    against: Option<String>,
    /// The text to compare on
    #[arg(
        long,
        default_value = "Once upon a time there was a little dog named Spot.",
        value_name = "TEXT",
        requires = "against"
    )]
    prompt: String,
    /// The token ids to compare on, instead of a text
    #[arg(long, value_name = "IDS", value_parser = common::parse_ids, requires = "against")]
    ids: Option<Ids>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `fs verify`; exits 1 if anything is outside its tolerance.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = ModelSource::resolve(args.model.as_deref())?;
    let mut device = args.device;
    if args.against.is_none() && device.backend.resolve() == BackendKind::Cpu {
        // Recorded outputs were computed in f32.
        device.simd = device.level().or_else(|| Some(Level::detect_exact()));
    }
    let engine = common::load(&source, &device)?;
    let ok = if args.against.is_some() {
        let ids = match &args.ids {
            Some(Ids(ids)) => ids.clone(),
            None => engine.tokenizer()?.encode(&args.prompt),
        };
        let records = engine.compare_with_reference(&device.options(), &ids)?;
        report_operations(&records, engine.rounding(&device.options()), args.json)?
    } else {
        let fixture = match &args.golden {
            Some(directory) => Fixture::open(directory)?,
            None => find_fixture(&source)?,
        };
        if args.golden.is_some() && source.weights_sha256()? != fixture.manifest.model.weights_sha256 {
            bail!("these vectors belong to another model: {}", fixture.manifest.model.name);
        }
        report_stages(&engine, &fixture, args.json)?
    };
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn find_fixture(source: &ModelSource) -> anyhow::Result<Fixture> {
    let weights = source.weights_sha256()?;
    if let Some(fixture) = Fixture::embedded(&weights)? {
        return Ok(fixture);
    }
    let directory = source.path().map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    let beside = directory.as_deref().map(|path| Fixture::beside(path, &weights)).transpose()?.flatten();
    beside.with_context(|| {
        let name = directory.map_or(source.name().to_owned(), |path| path.display().to_string());
        let hashes: String = weights.iter().map(|(file, hash)| format!("\n  {hash}  {file}")).collect();
        format!(
            "no recorded outputs belong to {name}; name some with --golden DIR, or compare backends with --against \
             reference\nsha256 of its weights:{hashes}"
        )
    })
}

fn report_stages(engine: &Engine, fixture: &Fixture, as_json: bool) -> anyhow::Result<bool> {
    let verdicts = verify(engine, fixture)?;
    let ok = verdicts.iter().all(|verdict| verdict.ok);
    let tolerance = fixture.manifest.tolerance;
    if as_json {
        common::print_json(&json!({
            "model": fixture.manifest.model.name, "atol": tolerance.atol, "rtol": tolerance.rtol, "ok": ok, "stages": verdicts,
        }))?;
        return Ok(ok);
    }
    let mut out = common::stdout();
    writeln!(
        out,
        "{}: recorded outputs of transformers, tolerance {} + {} of the value",
        fixture.manifest.model.name, tolerance.atol, tolerance.rtol
    )?;
    writeln!(out, "{:>4}  {:<12} {:<15} {:>11} {:>11}  verdict", "case", "stage", "shape", "max abs", "max rel")?;
    for Verdict { case, stage, shape, max_abs, max_rel, ok, .. } in &verdicts {
        let (shape, verdict) = (format!("{shape:?}"), if *ok { "ok" } else { "FAIL" });
        writeln!(out, "{case:>4}  {stage:<12} {shape:<15} {max_abs:>11.3e} {max_rel:>11.3e}  {verdict}")?;
    }
    match verdicts.iter().find(|verdict| !verdict.ok) {
        None => writeln!(out, "all {} agree", verdicts.len())?,
        Some(Verdict { case, stage, first_divergence: Some(d), .. }) => writeln!(
            out,
            "first divergence: case {case}, {stage} {:?}: found {}, expected {}",
            d.index, d.found, d.expected
        )?,
        Some(Verdict { case, stage, .. }) => writeln!(out, "first divergence: case {case}, {stage}: another shape")?,
    }
    Ok(ok)
}

/// One line an operation: its worst over the whole prompt, against the contract for its kind.
fn report_operations(records: &[Record], rounding: Rounding, as_json: bool) -> anyhow::Result<bool> {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        if !names.contains(&record.operation) {
            names.push(record.operation);
        }
    }
    let worst = |name: &str| {
        let of_name = || records.iter().filter(|record| record.operation == name);
        let max_abs = of_name().map(|record| record.max_abs).fold(0.0, f32::max);
        let nmse = of_name().map(|record| record.nmse).fold(0.0, f64::max);
        (of_name().count(), max_abs, nmse)
    };
    let ok = records.iter().all(|record| record.nmse <= contract(record.operation, rounding));
    if as_json {
        common::print_json(&json!({"ok": ok, "operations": records}))?;
        return Ok(ok);
    }
    let mut out = common::stdout();
    writeln!(
        out,
        "{:<16} {:>5} {:>11} {:>11} {:>9}  verdict",
        "operation", "calls", "max abs", "worst NMSE", "allowed"
    )?;
    for name in names {
        let (calls, max_abs, nmse) = worst(name);
        let (allowed, verdict) =
            (contract(name, rounding), if nmse <= contract(name, rounding) { "ok" } else { "FAIL" });
        writeln!(out, "{name:<16} {calls:>5} {max_abs:>11.3e} {nmse:>11.3e} {allowed:>9.0e}  {verdict}")?;
    }
    match records.iter().position(|record| record.nmse > contract(record.operation, rounding)) {
        None => writeln!(out, "all {} operations agree", records.len())?,
        Some(i) => writeln!(out, "first divergence: operation number {i}, {}", records[i].operation)?,
    }
    Ok(ok)
}
