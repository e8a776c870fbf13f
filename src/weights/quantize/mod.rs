//! Writing a model as one GGUF file, quantized or not: `fs quantize`.
//!
//! Tensors go through memory one after the other, a part at a time, with every part's rows shared out among threads. The file
//! is written under another name and renamed when it is whole: whatever happens, there is the old file or the new one.

pub mod importance;
mod recipe;

pub use importance::{ColumnSums, Importance};
pub use recipe::Recipe;

use super::gguf::{self, Header, config, names, tokenizer};
use super::new_file::NewFile;
use super::{Config, DType, ModelSource, SourceError, Tensor, WeightsError};
use crate::model::expected::{compare, expected_tensors};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Values that are turned at a time: little memory, and enough for many threads.
const PART: usize = 1 << 22;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A model's files.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Tensors are missing, or of other shapes than the configuration says.
    #[error("{model}: the weights do not match the configuration\n{report}")]
    Mismatch {
        /// The model.
        model: String,
        /// Every difference.
        report: String,
    },
    /// There is a file already.
    #[error("{} is there already; --force replaces it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file would not be known as a model.
    #[error("{} does not end in .gguf, by which a model's file is known", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The file would replace the model that it is made of.
    #[error("{} is the model that is quantized; choose another name", path.display())]
    Itself {
        /// The file.
        path: PathBuf,
    },
    /// A tensor is quantized already, and is to be stored in another format.
    #[error(
        "{file}: tensor `{tensor}` is quantized already ({found}), and {wanted} is asked for: what it lost would be \
             lost twice; start from the BF16, F16 or F32 model"
    )]
    Quantized {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its format.
        found: DType,
        /// The format asked for.
        wanted: DType,
    },
    /// The caller asked to stop. Nothing is left behind.
    #[error("interrupted: nothing was written")]
    Interrupted,
}

impl From<WeightsError> for QuantizeError {
    fn from(error: WeightsError) -> Self {
        QuantizeError::Source(error.into())
    }
}

/// How to quantize.
#[derive(Debug)]
pub struct Options<'a> {
    /// The formats.
    pub recipe: &'static Recipe,
    /// How strongly each column is used, where that is known.
    pub importance: Option<&'a Importance>,
    /// Threads.
    pub threads: usize,
    /// Whether a file that is there already is replaced.
    pub force: bool,
}

/// What became of a tensor.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TensorReport {
    /// Its name in the new file.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Its format before.
    pub from: DType,
    /// Its format now.
    pub to: DType,
    /// Bytes now.
    pub bytes: u64,
    /// Root of the mean squared difference between its values before and now.
    pub rmse: f64,
    /// `rmse` divided by the root of the mean squared value.
    pub relative: f64,
    /// Whether importance was known.
    pub weighted: bool,
    /// Why its format is not the recipe's.
    pub note: Option<String>,
}

/// What became of a model.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// Each tensor, in the order of the file.
    pub tensors: Vec<TensorReport>,
    /// Values in all of them.
    pub parameters: u64,
    /// Bytes of the tensors before.
    pub bytes_before: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bits of the tensors per value.
    pub bits_per_value: f64,
    /// `rmse` over all values.
    pub rmse: f64,
    /// `rmse` divided by the root of the mean squared value.
    pub relative: f64,
}

/// A tensor of the new file.
struct Planned {
    tensor: Tensor,
    name: String,
    to: DType,
    note: Option<String>,
}

/// Squared differences and squared values.
#[derive(Clone, Copy, Default)]
struct Difference {
    error: f64,
    energy: f64,
    values: u64,
}

impl Difference {
    fn add(&mut self, other: Difference) {
        self.error += other.error;
        self.energy += other.energy;
        self.values += other.values;
    }

    fn rmse(self) -> f64 {
        (self.error / self.values.max(1) as f64).sqrt()
    }

    fn relative(self) -> f64 {
        if self.energy > 0.0 { (self.error / self.energy).sqrt() } else { 0.0 }
    }
}

/// Writes the model at `source` to `out`. `progress(values done, values in all, tensor)` is called between parts and can stop.
pub fn quantize(
    source: &ModelSource,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64, &str) -> ControlFlow<()>,
) -> Result<Summary, QuantizeError> {
    let path = || out.to_path_buf();
    if !out.is_dir() && out.extension().is_none_or(|extension| extension != "gguf") {
        return Err(QuantizeError::Name { path: path() });
    }
    if let Some(source) = source.path()
        && out.canonicalize().is_ok_and(|out| source.canonicalize().is_ok_and(|source| source == out))
    {
        return Err(QuantizeError::Itself { path: path() });
    }
    if out.exists() && !options.force {
        return Err(QuantizeError::Exists { path: path() });
    }
    let (model, planned) = plan(source, options.recipe)?;
    if let Some(importance) = options.importance {
        check_names(importance, &planned)?;
    }
    let header = header(source, &model, &planned, options.recipe)?;
    let start = header.to_bytes();
    let file_bytes = start.len() as u64 + header.data_bytes();
    let total: u64 = planned.iter().map(|planned| planned.tensor.elements() as u64).sum();

    let mut file = NewFile::create(out, file_bytes)?;
    file.write(&start)?;
    let (mut reports, mut all, mut done) = (Vec::new(), Difference::default(), 0);
    for planned in &planned {
        let importance = importance_of(planned, options.importance)?;
        let mut difference = Difference::default();
        let mut written = 0;
        for part in parts(&planned.tensor) {
            if progress(done, total, &planned.name).is_break() {
                return Err(QuantizeError::Interrupted);
            }
            let (bytes, found) = turn(planned, part, importance, options.threads)?;
            file.write(&bytes)?;
            written += bytes.len() as u64;
            done += found.values;
            difference.add(found);
        }
        file.write(&vec![0; gguf::write::padding(written)])?;
        all.add(difference);
        reports.push(TensorReport {
            name: planned.name.clone(),
            shape: planned.tensor.shape.clone(),
            from: planned.tensor.dtype,
            to: planned.to,
            bytes: written,
            rmse: difference.rmse(),
            relative: difference.relative(),
            weighted: importance.is_some() && recipe::weighs_errors(planned.to),
            note: planned.note.clone(),
        });
    }
    file.finish()?;
    let bytes: u64 = reports.iter().map(|report| report.bytes).sum();
    Ok(Summary {
        tensors: reports,
        parameters: total,
        bytes_before: planned.iter().map(|planned| planned.tensor.data.len() as u64).sum(),
        file_bytes,
        bits_per_value: bytes as f64 * 8.0 / total.max(1) as f64,
        rmse: all.rmse(),
        relative: all.relative(),
    })
}

/// The model's tensors in the order of the forward pass, with their new names and formats. The copy of a tied head that a file
/// may hold is left out.
fn plan(source: &ModelSource, recipe: &Recipe) -> Result<(Config, Vec<Planned>), QuantizeError> {
    let (checkpoint, model) = (source.require_checkpoint()?, source.config()?);
    let report = compare(&model, &checkpoint);
    if !report.is_ok() {
        return Err(QuantizeError::Mismatch { model: source.name().into(), report: report.to_string() });
    }
    let mut planned = Vec::new();
    for (name, shape) in expected_tensors(&model) {
        let (Some(tensor), Some(name)) = (checkpoint.get(&name), names::to_gguf(&name)) else { continue };
        let (to, note) = recipe.format(&name, &shape, model.num_hidden_layers, model.tie_word_embeddings);
        let from = tensor.dtype;
        if from.is_quantized() && from != to {
            let (file, tensor) = (tensor.file.to_string(), name);
            return Err(QuantizeError::Quantized { file, tensor, found: from, wanted: to });
        }
        planned.push(Planned { tensor: tensor.clone(), name, to, note });
    }
    Ok((model, planned))
}

/// Everything that the file says before its tensors.
fn header(source: &ModelSource, model: &Config, planned: &[Planned], recipe: &Recipe) -> Result<Header, QuantizeError> {
    let mut header = Header::default();
    header.text("general.architecture", config::ARCHITECTURE);
    header.text("general.type", "model");
    header.text("general.name", source.name());
    header.u32("general.file_type", recipe.file_type);
    // The version of the block layouts.
    header.u32("general.quantization_version", 2);
    config::write(&mut header, model, source.name())?;
    let generation = source.generation_config()?;
    config::write_generation(&mut header, &generation);
    if source.has_tokenizer() {
        let tokenizer = source.tokenizer()?;
        let template = source.chat_template_text()?;
        // What ends a turn is the first of the list that samples; transformers' configurations name it first, too.
        let ends = if generation.eos_token_id.is_empty() { &model.eos_token_id } else { &generation.eos_token_id };
        let files = tokenizer::TokenizerFiles {
            tokenizer: &tokenizer,
            rows: model.vocab_size,
            end_tokens: ends,
            bos_token: model.bos_token_id,
            chat_template: template.as_ref().map(|(_, text)| text.as_str()),
        };
        tokenizer::write(&mut header, &files);
    } else {
        tokenizer::write_none(&mut header);
    }
    for planned in planned {
        header.tensor(&planned.name, planned.to, &planned.tensor.shape);
    }
    Ok(header)
}

/// Refuses importance that is of none of the model's tensors: it would change nothing, silently.
fn check_names(importance: &Importance, planned: &[Planned]) -> Result<(), WeightsError> {
    if planned.iter().any(|planned| importance.columns(&planned.name).is_some()) {
        return Ok(());
    }
    let wanted = planned.iter().find(|planned| planned.tensor.shape.len() == 2);
    let message = format!(
        "it is another model's: none of its tensors (`{}`, …) is one of the model's (`{}`, …)",
        importance.names().next().unwrap_or_default(),
        wanted.map_or("", |planned| &planned.name)
    );
    Err(WeightsError::invalid(importance.file(), message))
}

/// The importance of a tensor's columns, if it is known and of use.
fn importance_of<'a>(
    planned: &Planned,
    importance: Option<&'a Importance>,
) -> Result<Option<&'a [f32]>, QuantizeError> {
    let Some(all) = importance.filter(|_| planned.to.is_quantized()) else { return Ok(None) };
    let Some(columns) = all.columns(&planned.name) else { return Ok(None) };
    let expected = planned.tensor.shape[1];
    if columns.len() != expected {
        let message =
            format!("`{}` has {} columns, and the model {expected}: it is another's", planned.name, columns.len());
        return Err(WeightsError::invalid(all.file(), message).into());
    }
    Ok(Some(columns))
}

/// Ranges of rows of about [`PART`] values.
fn parts(tensor: &Tensor) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (rows, columns) = rows_and_columns(tensor);
    let step = (PART / columns.max(1)).max(1);
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

fn rows_and_columns(tensor: &Tensor) -> (usize, usize) {
    match tensor.shape[..] {
        [columns] => (1, columns),
        [rows, columns] => (rows, columns),
        _ => (0, 0),
    }
}

/// Some rows in their new format, and what they lost.
fn turn(
    planned: &Planned,
    rows: std::ops::Range<usize>,
    importance: Option<&[f32]>,
    threads: usize,
) -> Result<(Vec<u8>, Difference), QuantizeError> {
    let (tensor, to) = (&planned.tensor, planned.to);
    let (_, columns) = rows_and_columns(tensor);
    let (from_bytes, to_bytes) = (row_bytes(tensor.dtype, columns), row_bytes(to, columns));
    let source = &tensor.data[rows.start * from_bytes..rows.end * from_bytes];
    let values = (rows.len() * columns) as u64;
    if tensor.dtype.is_quantized() {
        // Copied, as it is.
        return Ok((source.to_vec(), Difference { values, ..Difference::default() }));
    }
    let mut out = vec![0; rows.len() * to_bytes];
    let share = rows.len().div_ceil(threads.max(1));
    let results = std::thread::scope(|scope| {
        let shares = source.chunks(share * from_bytes).zip(out.chunks_mut(share * to_bytes)).enumerate();
        let workers: Vec<_> = shares
            .map(|(i, (source, out))| {
                let first = rows.start + i * share;
                scope.spawn(move || turn_rows(planned, columns, first, source, out, importance))
            })
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
    });
    let mut difference = Difference::default();
    for result in results {
        difference.add(result?);
    }
    Ok((out, difference))
}

fn row_bytes(dtype: DType, columns: usize) -> usize {
    dtype.bytes(columns).expect("whole blocks, as planned")
}

/// One thread's rows.
fn turn_rows(
    Planned { tensor, name, to, .. }: &Planned,
    columns: usize,
    first: usize,
    source: &[u8],
    out: &mut [u8],
    importance: Option<&[f32]>,
) -> Result<Difference, WeightsError> {
    let (from_bytes, to_bytes) = (row_bytes(tensor.dtype, columns), row_bytes(*to, columns));
    let (mut before, mut after) = (vec![0.0f32; columns], vec![0.0f32; columns]);
    // f32s, so that blocks are aligned.
    let mut stored = vec![0.0f32; to_bytes.div_ceil(4)];
    let stored = &mut bytemuck::cast_slice_mut(&mut stored)[..to_bytes];
    let mut difference = Difference::default();
    for (i, (source, out)) in source.chunks_exact(from_bytes).zip(out.chunks_exact_mut(to_bytes)).enumerate() {
        tensor.dtype.widen(source, &mut before);
        to.narrow(&before, importance, stored).map_err(|bad| {
            let (row, column) = (first + i, bad.index);
            let index = if tensor.shape.len() == 1 { format!("[{column}]") } else { format!("[{row}, {column}]") };
            let bytes = tensor.dtype.layout().block_bytes;
            WeightsError::Tensor {
                file: tensor.file.to_string(),
                tensor: name.clone(),
                offset: tensor.offset + (row * from_bytes + column * bytes) as u64,
                message: format!("the value at {index} is {}, which {to} cannot hold", bad.value),
            }
        })?;
        to.widen(stored, &mut after);
        out.copy_from_slice(stored);
        for (x, y) in before.iter().zip(&after) {
            difference.error += f64::from(x - y).powi(2);
            difference.energy += f64::from(*x).powi(2);
        }
        difference.values += columns as u64;
    }
    Ok(difference)
}
