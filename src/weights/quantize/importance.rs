//! How strongly each column of each matrix is used: mean squared activations, in llama.cpp's GGUF format.
//!
//! A matrix's output errs by `Σ_i (w_i - w'_i) x_i`. Over many inputs, the squared error grows with the mean of `x_i²`: an error
//! in a column that is fed large numbers costs more. The file holds, for each tensor `NAME` of the model, `NAME.in_sum2` (sums
//! of squares, a column each) and `NAME.counts` (how many rows were summed).

use crate::weights::gguf::{Gguf, Header, write::padding};
use crate::weights::new_file::NewFile;
use crate::weights::{DType, Tensor, WeightsError};
use std::collections::BTreeMap;
use std::path::Path;

/// Sums over the inputs of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSums {
    /// `[columns]`: sums of squares.
    pub squares: Vec<f32>,
    /// Rows that were summed.
    pub rows: u64,
}

/// Mean squared activations by tensor, under the names that GGUF gives them.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    file: String,
    means: BTreeMap<String, Vec<f32>>,
}

impl Importance {
    /// What was collected.
    pub fn from_sums(sums: &BTreeMap<String, ColumnSums>) -> Importance {
        let mean = |sums: &ColumnSums| sums.squares.iter().map(|sum| sum / sums.rows.max(1) as f32).collect();
        let means = sums.iter().map(|(name, sums)| (name.clone(), mean(sums))).collect();
        Importance { file: "importance".into(), means }
    }

    /// Reads a file.
    pub fn open(path: &Path) -> Result<Importance, WeightsError> {
        let gguf = Gguf::open(path)?;
        if gguf.text("general.type")? != Some("imatrix") {
            let message = "expected `imatrix`: not a file of `fs imatrix` or llama-imatrix (in its GGUF format)";
            return Err(gguf.error("general.type", message));
        }
        let counted: BTreeMap<&str, &Tensor> =
            gguf.tensors.iter().filter_map(|tensor| Some((tensor.name.strip_suffix(".counts")?, tensor))).collect();
        let mut means = BTreeMap::new();
        for tensor in &gguf.tensors {
            let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
            let refuse = |message: &str| WeightsError::Tensor {
                file: gguf.file.to_string(),
                tensor: tensor.name.clone(),
                offset: tensor.offset,
                message: message.into(),
            };
            let counts = counted.get(name).ok_or_else(|| refuse("its `.counts` are missing"))?;
            if counts.elements() != 1 {
                return Err(refuse("it has several matrices (of experts), which no Qwen3 tensor has"));
            }
            let (mut mean, rows) = (tensor.to_f32(), counts.to_f32()[0]);
            mean.iter_mut().for_each(|sum| *sum /= rows);
            if !mean.iter().all(|mean| mean.is_finite() && *mean >= 0.0) {
                return Err(refuse("a mean square is not a number of 0 or more"));
            }
            means.insert(name.to_string(), mean);
        }
        if means.is_empty() {
            return Err(WeightsError::invalid(&gguf.file, "it has no tensor `….in_sum2`"));
        }
        Ok(Importance { file: gguf.file.to_string(), means })
    }

    /// The file's name in errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.means.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.means.is_empty()
    }

    /// The tensors' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.means.keys().map(String::as_str)
    }

    /// The mean squares of a tensor's columns.
    pub fn columns(&self, name: &str) -> Option<&[f32]> {
        self.means.get(name).map(Vec::as_slice)
    }
}

/// Writes a file; `dataset` says what the text was, `chunk` how many tokens were read together, `chunks` how often.
pub fn write(
    path: &Path,
    sums: &BTreeMap<String, ColumnSums>,
    dataset: &str,
    chunk: u32,
    chunks: u32,
) -> Result<(), WeightsError> {
    if let Some((name, _)) = sums.iter().find(|(_, sums)| sums.squares.iter().any(|square| !square.is_finite())) {
        let message =
            format!("not written: what goes into `{name}` is not finite; the model's weights hold NaN or infinities");
        return Err(WeightsError::invalid(&path.display().to_string(), message));
    }
    let mut header = Header::default();
    header.text("general.type", "imatrix");
    header.texts("imatrix.datasets", [dataset].into_iter());
    header.u32("imatrix.chunk_count", chunks);
    header.u32("imatrix.chunk_size", chunk);
    let mut data = Vec::new();
    let mut add = |name: String, values: &[f32]| {
        header.tensor(&name, DType::F32, &[1, values.len()]);
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        data.resize(data.len() + padding(data.len() as u64), 0u8);
    };
    for (name, sums) in sums {
        add(format!("{name}.in_sum2"), &sums.squares);
        add(format!("{name}.counts"), &[sums.rows as f32]);
    }
    let start = header.to_bytes();
    let mut file = NewFile::create(path, (start.len() + data.len()) as u64)?;
    file.write(&start)?;
    file.write(&data)?;
    file.finish()
}
