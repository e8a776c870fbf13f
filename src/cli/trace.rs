//! `fs trace`: what a prompt does to the model, operation by operation.

use super::common::{self, ModelArgs, PromptArgs};
use failed_star::model::kv_cache::KvDType;
use failed_star::trace::{self, Lens, Operation, Pass, Rows, Trace, TraceOptions};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Arguments of `fs trace`.
#[derive(clap::Args)]
#[command(after_help = "\
Operations are the plain ones: fused ones are taken apart, so that each step has its values (`fs bench --ops` times what
really runs). Bytes are what must be read and written at least; FLOPs are those of dot products.

Examples:
  fs trace \"Once upon a time\"
  fs trace \"Once upon a time\" --layer 3
  fs trace \"Once upon a time\" --generate 8 --summary
  fs trace \"Once upon a time\" --rows all --values all --json > trace.json
  fs trace \"Once upon a time\" --json | jq '.passes[0].lens[] | [.stage, .rows[-1][0].text]' -c")]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Element type of the KV cache: f16, f32 or q8
    #[arg(long, default_value = "f16", value_name = "TYPE")]
    kv: KvDType,
    /// Go on with the N most likely tokens, one pass each
    #[arg(short = 'n', long, default_value_t = 0, value_name = "N")]
    generate: usize,
    /// Passes and their totals, without the operations
    #[arg(long, conflicts_with = "layer")]
    summary: bool,
    /// Whose values, attention and lens to record: those of the last token at hand, or of all
    #[arg(long, default_value = "last", value_name = "last|all")]
    rows: Rows,
    /// How many values of a row to record, or `all`; 0 records neither values nor attention
    #[arg(long, default_value = "8", value_name = "N", value_parser = parse_values)]
    values: usize,
    /// How many tokens to show after each layer; 0 leaves the logit lens out
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
    /// Which layer's operations the table shows; the others are like it
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "json")]
    layer: usize,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

fn parse_values(text: &str) -> Result<usize, String> {
    if text == "all" {
        Ok(usize::MAX)
    } else {
        text.parse().map_err(|_| format!("`{text}` is neither a number nor `all`"))
    }
}

/// Runs `fs trace`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let engine = args.model.load()?;
    let ids = args.prompt.tokens(&engine)?;
    let options = TraceOptions {
        kv_dtype: args.kv,
        generate: args.generate,
        operations: !args.summary,
        rows: args.rows,
        values: args.values,
        top: args.top,
    };
    let layers = engine.config().num_hidden_layers;
    if args.layer >= layers {
        anyhow::bail!("there is no layer {}: {} has {layers}, counted from 0", args.layer, engine.name());
    }
    let trace = trace::trace(&engine, &args.model.device.options(), &ids, &options)?;
    match args.json {
        true => common::print(serde_json::to_string(&trace)? + "\n")?,
        false => common::print(table(&trace, args.layer)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(trace: &Trace, layer: usize) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let texts: Vec<String> = trace.tokens.iter().map(|token| format!("{:?}", token.text)).collect();
    writeln!(out, "{} tokens: {}", trace.tokens.len(), texts.join(" "))?;
    for pass in &trace.passes {
        let (first, last) = (pass.start, pass.start + pass.tokens - 1);
        let at = if first == last { format!("position {first}") } else { format!("positions {first} to {last}") };
        writeln!(out, "\n{} of {at}", pass.phase)?;
        if !pass.operations.is_empty() {
            operations(&mut out, trace, pass, layer)?;
        }
        let bytes = &pass.bytes;
        writeln!(
            out,
            "  {} operations: weights {}, KV read {} and written {}, activations {}; {}FLOP; {:.2} ms",
            pass.operation_count,
            size(bytes.weights),
            size(bytes.kv_read),
            size(bytes.kv_written),
            size(bytes.activations_read + bytes.activations_written),
            number(pass.flop),
            1e3 * pass.seconds
        )?;
        if !pass.lens.is_empty() {
            writeln!(out, "\n  What comes next, if the layers so far were all:")?;
        }
        for Lens { stage, rows } in &pass.lens {
            let top = rows.last().map(Vec::as_slice).unwrap_or_default();
            let top: Vec<String> = top.iter().map(|t| format!("{:?} {:.1}%", t.text, 100.0 * t.probability)).collect();
            writeln!(out, "  {stage:<11}{}", top.join("  "))?;
        }
        writeln!(out, "  next token: {} {:?}", pass.next.id, pass.next.text)?;
    }
    Ok(out)
}

fn operations(out: &mut String, trace: &Trace, pass: &Pass, layer: usize) -> std::fmt::Result {
    writeln!(
        out,
        "  {:<11}{:<25}{:>13}{:>12}{:>11}{:>9}{:>9}{:>8}  values of the last token",
        "operation", "tensor", "out", "weights", "read", "written", "FLOP", "us"
    )?;
    let mut skipped = Vec::new();
    for operation in &pass.operations {
        match operation.layer {
            Some(other) if other != layer => {
                if skipped.last() != Some(&other) {
                    skipped.push(other);
                }
            }
            _ => {
                skip(out, &mut skipped)?;
                row(out, trace, operation)?;
            }
        }
    }
    skip(out, &mut skipped)
}

/// A line in the place of layers that are not shown.
fn skip(out: &mut String, layers: &mut Vec<usize>) -> std::fmt::Result {
    match (layers.first(), layers.last()) {
        (Some(first), Some(last)) if first == last => writeln!(out, "  … layer {first}: the same operations")?,
        (Some(first), Some(last)) => writeln!(out, "  … layers {first} to {last}: the same operations")?,
        _ => {}
    }
    layers.clear();
    Ok(())
}

fn row(out: &mut String, trace: &Trace, o: &Operation) -> std::fmt::Result {
    let tensor = o.tensor.as_deref().unwrap_or_default().trim_start_matches("model.").trim_end_matches(".weight");
    let tensor = match o.layer {
        Some(layer) => tensor.trim_start_matches(&format!("layers.{layer}.")),
        None => tensor,
    };
    let shape = |shape: Option<&[usize; 2]>| shape.map_or(String::new(), |[a, b]| format!("{a} x {b}"));
    let weights: Vec<String> = o.weights.iter().map(usize::to_string).collect();
    let values = o.values.as_ref().and_then(|values| values.rows.last());
    let values: Vec<String> = values.into_iter().flatten().take(4).map(|v| format!("{v:.3}")).collect();
    let bytes = &o.bytes;
    writeln!(
        out,
        "  {:<11}{tensor:<25}{:>13}{:>12}{:>11}{:>9}{:>9}{:>8.1}  {}",
        o.operation,
        shape(o.outputs.first()),
        weights.join(" x "),
        size(bytes.weights + bytes.kv_read + bytes.activations_read),
        size(bytes.kv_written + bytes.activations_written),
        number(o.flop),
        1e6 * o.seconds,
        values.join(" ")
    )?;
    // Where the last token looks, head by head: the position with the largest weight.
    for (head, weights) in o.attention.last().into_iter().flatten().enumerate() {
        let Some((at, weight)) = weights.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)) else { continue };
        let text = trace.tokens.get(at).map_or("", |token| token.text.as_str());
        writeln!(out, "    head {head} looks most at position {at}, {text:?}: {:.0}%", 100.0 * weight)?;
    }
    Ok(())
}

/// `12.3 M`: three digits and a unit.
fn number(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 || unit == "T" {
            let digits = if unit.is_empty() || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1e3;
    }
    unreachable!("the last unit holds everything")
}

fn size(bytes: u64) -> String {
    number(bytes) + "B"
}
