//! `fs inspect`: architecture, tensors, memory and cost of a model, and whether its weights fit its configuration.

use super::common::{self, count};
use anyhow::bail;
use failed_star::model::expected::{Cost, Report, compare, cost, expected_tensors};
use failed_star::weights::{Checkpoint, Config, DType, ModelSource, RopeScaling, Tensor, WeightsError, printable};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

/// Arguments of `fs inspect`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fs inspect                      the model that is used when none is named
  fs inspect qwen3-0.6b           a model by name; without weights, what its configuration expects
  fs inspect path/to/Qwen3-8B     a directory, a config.json, a .safetensors or a .gguf file
  fs inspect --json stories | jq .cost

Exit status: 1 if the files are not valid, or the weights do not fit config.json.")]
pub struct Args {
    /// A name, a directory or a file
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// The same, as other commands take it
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One line of the tensor table: a tensor in a file, or one that the configuration expects.
struct Row {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: u64,
    /// File and byte offset; `None` if there are no weights.
    place: Option<(String, u64)>,
}

/// What is known of a model.
struct Inspection {
    name: String,
    directory: String,
    config: Option<Config>,
    cost: Option<Cost>,
    report: Option<Report>,
    has_weights: bool,
    rows: Vec<Row>,
    /// A GGUF file's keys and values.
    metadata: Vec<(String, String)>,
}

/// Runs `fs inspect`.
pub fn run(args: Args) -> anyhow::Result<()> {
    let source = ModelSource::resolve(args.positional.or(args.model).as_deref())?;
    if let Some(notice) = source.default_notice() {
        eprintln!("{notice}");
    }
    let inspection = Inspection::of(&source)?;
    let text = match args.json {
        true => format!("{:#}\n", inspection.to_json()),
        false => inspection.to_text(),
    };
    common::print(&text)?;
    match &inspection.report {
        Some(report) if !report.is_ok() => {
            bail!("{}: the weights do not fit config.json: {} problems", inspection.name, report.problems.len())
        }
        _ => Ok(()),
    }
}

impl Inspection {
    fn of(source: &ModelSource) -> Result<Inspection, WeightsError> {
        let checkpoint = source.checkpoint()?;
        // A weights file on its own still has a table worth seeing.
        let config = match source.config() {
            Err(WeightsError::Absent { .. }) if checkpoint.is_some() => None,
            // A GGUF file of another model, or of something else.
            Err(WeightsError::Metadata { key, .. }) if key == "general.architecture" => None,
            config => Some(config?),
        };
        let stored_as = |config: &Config, name: &str| match checkpoint.as_ref().and_then(|all| all.get(name)) {
            Some(tensor) => tensor.dtype,
            None => config.dtype.unwrap_or(DType::BF16),
        };
        Ok(Inspection {
            name: source.name().to_string(),
            directory: source.path().map_or("in the binary".into(), |dir| dir.display().to_string()),
            cost: config.as_ref().map(|config| cost(config, |name| stored_as(config, name))),
            report: config.as_ref().zip(checkpoint.as_ref()).map(|(config, all)| compare(config, all)),
            has_weights: checkpoint.is_some(),
            rows: match (&checkpoint, &config) {
                (Some(checkpoint), config) => stored_rows(checkpoint, config.as_ref()),
                (None, Some(config)) => expected_rows(config, |name| stored_as(config, name)),
                (None, None) => Vec::new(),
            },
            metadata: match source.gguf() {
                Some(gguf) => gguf.entries.iter().map(|e| (printable(&e.key), e.value.to_string())).collect(),
                None => Vec::new(),
            },
            config,
        })
    }

    fn stored_parameters(&self) -> u64 {
        self.rows.iter().map(|row| row.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    fn stored_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.bytes).sum()
    }

    fn to_json(&self) -> Value {
        let tensors: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name, "dtype": row.dtype, "shape": row.shape, "bytes": row.bytes,
                    "file": row.place.as_ref().map(|place| &place.0),
                    "offset": row.place.as_ref().map(|place| place.1),
                })
            })
            .collect();
        json!({
            "model": self.name,
            "directory": self.directory,
            "config": self.config,
            "metadata": self.metadata.iter().cloned().collect::<BTreeMap<_, _>>(),
            "has_weights": self.has_weights,
            "stored": self.has_weights.then(|| json!({
                "tensors": self.rows.len(), "parameters": self.stored_parameters(), "bytes": self.stored_bytes(),
            })),
            "cost": self.cost,
            "kv_cache_f16": self.config.as_ref().map(|config| {
                let per_token = config.kv_bytes_per_token(2);
                let context = config.max_context();
                json!({ "bytes_per_token": per_token, "context": context, "bytes": per_token * context as u64 })
            }),
            "ok": self.report.as_ref().map(Report::is_ok),
            "report": self.report,
            "tensors": tensors,
        })
    }

    fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{} ({})\n", self.name, self.directory)?;
        match &self.config {
            Some(config) => write_architecture(out, config)?,
            None if !self.metadata.is_empty() => writeln!(out, "not a Qwen3 model: nothing to compare with\n")?,
            None => writeln!(out, "no config.json beside it: nothing to compare the tensors with\n")?,
        }
        if !self.metadata.is_empty() {
            let width = self.metadata.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
            self.metadata.iter().try_for_each(|(key, value)| writeln!(out, "{key:<width$}  {value}"))?;
            writeln!(out)?;
        }
        self.write_tensors(out)?;

        let mut line = |name: &str, value: String| writeln!(out, "{name:<23}{value}");
        if self.has_weights {
            let tensors = self.rows.len();
            line(
                "parameters stored",
                format!("{} in {}", grouped(self.stored_parameters()), count(tensors, "tensor")),
            )?;
            line("bytes stored", bytes(self.stored_bytes()))?;
        }
        if let (Some(config), Some(cost)) = (&self.config, &self.cost) {
            let tied = if config.tie_word_embeddings { " (embedding and head are one)" } else { "" };
            let (per_token, context) = (config.kv_bytes_per_token(2), config.max_context());
            line("parameters logical", format!("{}{tied}", grouped(cost.parameters)))?;
            line("weights in memory", bytes(cost.weight_bytes))?;
            line("KV cache, f16", format!("{} bytes a token", grouped(per_token)))?;
            line(
                "  at full context",
                format!("{} for {} tokens", bytes(per_token * context as u64), grouped(context as u64)),
            )?;
            line("decode reads at least", format!("{} of weights a token,", bytes(cost.decode_bytes)))?;
            line("", format!("and {} bytes of KV for each token of context", grouped(per_token)))?;
        }
        writeln!(out)?;
        match &self.report {
            Some(report) => writeln!(out, "{report}"),
            None if !self.has_weights => {
                writeln!(out, "no weights here: the table is what config.json expects; `fs pull` downloads them")
            }
            None => Ok(()),
        }
    }

    fn write_tensors(&self, out: &mut String) -> std::fmt::Result {
        let shown: Vec<[String; 6]> = self
            .rows
            .iter()
            .map(|row| {
                let (file, offset) = row.place.as_ref().map_or(("-".into(), "-".into()), |(file, offset)| {
                    let file = Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned();
                    (file, grouped(*offset))
                });
                let (shape, dtype) = (format!("{:?}", row.shape), row.dtype.to_string());
                [printable(&row.name), dtype, shape, grouped(row.bytes), offset, file]
            })
            .collect();
        let header = ["tensor", "dtype", "shape", "bytes", "offset", "file"].map(String::from);
        let width =
            |column: usize| shown.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0);
        let [name, dtype, shape, size, offset] = [0, 1, 2, 3, 4].map(width);
        for row in [&header].into_iter().chain(&shown) {
            let [a, b, c, d, e, f] = row;
            writeln!(out, "{a:<name$}  {b:<dtype$}  {c:<shape$}  {d:>size$}  {e:>offset$}  {f}")?;
        }
        writeln!(out)
    }
}

/// The tensors of a checkpoint in the order of the forward pass; those that no one expects, last.
fn stored_rows(checkpoint: &Checkpoint, config: Option<&Config>) -> Vec<Row> {
    let expected = config.map(expected_tensors).unwrap_or_default();
    let order: HashMap<&str, usize> = expected.iter().enumerate().map(|(i, (name, _))| (name.as_str(), i)).collect();
    let mut tensors: Vec<&Tensor> = checkpoint.tensors().collect();
    tensors.sort_by_key(|tensor| order.get(tensor.name.as_str()).copied().unwrap_or(usize::MAX));
    let row = |tensor: &Tensor| Row {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        bytes: tensor.data.len() as u64,
        place: Some((tensor.file.to_string(), tensor.offset)),
    };
    tensors.into_iter().map(row).collect()
}

fn expected_rows(config: &Config, dtype: impl Fn(&str) -> DType) -> Vec<Row> {
    let row = |(name, shape): (String, Vec<usize>)| {
        let dtype = dtype(&name);
        let bytes = dtype.bytes(shape.iter().product()).unwrap_or(0) as u64;
        Row { name, dtype, shape, bytes, place: None }
    };
    expected_tensors(config).into_iter().map(row).collect()
}

fn write_architecture(out: &mut String, config: &Config) -> std::fmt::Result {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<23}{value}");
    let heads = config.num_attention_heads;
    line("architecture", format!("Qwen3, {}", count(config.num_hidden_layers, "layer")))?;
    line("hidden, intermediate", format!("{}, {}", config.hidden_size, config.intermediate_size))?;
    line(
        "attention",
        format!(
            "{heads} query heads and {} key/value heads of {} ({} to 1){}",
            config.num_key_value_heads,
            config.head_dim,
            heads / config.num_key_value_heads,
            if config.attention_bias { ", with biases" } else { "" }
        ),
    )?;
    let head = if config.tie_word_embeddings { "tied to the embedding" } else { "a matrix of its own" };
    line("vocabulary", format!("{}; the head is {head}", grouped(config.vocab_size as u64)))?;
    let scaling = match &config.rope_scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
            format!(", YaRN {factor} times {}", grouped(*original_max_position_embeddings as u64))
        }
    };
    line("RoPE", format!("base {}{scaling}", config.rope_theta))?;
    line("context", format!("{} tokens", grouped(config.max_context() as u64)))?;
    line("norm epsilon", config.rms_norm_eps.to_string())?;
    line("dtype", config.dtype.map_or("not named".into(), |dtype| dtype.to_string()))?;
    writeln!(out)
}

/// `1,192,099,840 bytes (1.192 GB)`; GB are 10^9 bytes, as memory bandwidths are given.
fn bytes(n: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|unit| n >= unit.0) {
        Some((size, unit)) => format!("{} bytes ({:.3} {unit})", grouped(n), n as f64 / *size as f64),
        None => format!("{n} bytes"),
    }
}

/// `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
