//! Named tensors from one safetensors file, from shards listed in an index, or from a GGUF file.

use super::gguf::Gguf;
use super::json::{MAX_JSON_BYTES, Named, Unique, printable, read_bounded};
use super::safetensors::read_tensors;
use super::{DType, SharedBytes, WeightsError};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of a model's weights when they are one file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The name of the index when they are several.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// One tensor as it lies in its file: row-major, little-endian, not copied.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the file, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its dimensions, outermost first. A projection is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// Its bytes: `dtype.bytes(product of shape)` of them, aligned to the element size.
    pub data: SharedBytes,
    /// The file it lies in.
    pub file: Arc<str>,
    /// Where its first byte lies in that file.
    pub offset: u64,
}

/// All tensors of a model, by name.
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// A copy of the elements as f32; see [`DType::widen`].
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        self.dtype.widen(&self.data, &mut out);
        out
    }

    /// As backends with kernels of their own keep it: itself, but for Q4_1, which none has a kernel for and a few matrices of
    /// llama.cpp's files are stored in. The stored bytes are not needed any more then.
    pub fn for_kernels(&self) -> Cow<'_, Tensor> {
        match self.dtype {
            DType::Q4_1 => {
                let wider = self.to_f16();
                self.data.release();
                Cow::Owned(wider)
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// The same numbers in f16, rounded to its 11 bits. Larger ones than an f16 holds become infinite.
    pub fn to_f16(&self) -> Tensor {
        // Row by row: of the whole in f32 there would be four bytes for each of two.
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        let row_bytes = self.dtype.bytes(columns).expect("rows are whole blocks");
        let (mut row, mut bytes) = (vec![0.0; columns], Vec::with_capacity(self.elements() * size_of::<half::f16>()));
        for stored in self.data.chunks_exact(row_bytes.max(1)) {
            self.dtype.widen(stored, &mut row);
            bytes.extend(row.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()));
        }
        Tensor { dtype: DType::F16, data: SharedBytes::from_vec(bytes).aligned(), ..self.clone() }
    }
}

impl Checkpoint {
    /// Opens and checks a `.safetensors` file, a `.safetensors.index.json`, a `.gguf` file, or a directory that holds
    /// `model.safetensors` or `model.safetensors.index.json`. Files are mapped, not read.
    pub fn open(path: &Path) -> Result<Checkpoint, WeightsError> {
        let shown = path.display().to_string();
        if path.is_dir() {
            return match find_weights(path) {
                Some(weights) => Checkpoint::open(&weights),
                None => Err(WeightsError::Absent {
                    model: shown,
                    part: "weights".into(),
                    hint: format!("a model directory holds {SINGLE_FILE}, or {INDEX_FILE} and its shards"),
                }),
            };
        }
        if shown.ends_with(".index.json") {
            return open_shards(path);
        }
        if shown.ends_with(".gguf") {
            return Ok(Gguf::open(path)?.checkpoint());
        }
        if shown.ends_with(".safetensors") {
            return Checkpoint::from_bytes(map_file(path)?, &shown);
        }
        Err(WeightsError::invalid(
            &shown,
            "expected a .safetensors file, a .safetensors.index.json, a .gguf file, or a directory",
        ))
    }

    /// Checks one safetensors file that is already in memory; `file` is the name used in errors. Bytes that are
    /// not aligned to 8 are copied once, so that tensors can be read as numbers.
    pub fn from_bytes(bytes: SharedBytes, file: &str) -> Result<Checkpoint, WeightsError> {
        Ok(Checkpoint::from_tensors(read_tensors(&bytes.aligned(), file)?.into_iter()))
    }

    /// These tensors, whose names differ.
    pub(super) fn from_tensors(tensors: impl Iterator<Item = Tensor>) -> Checkpoint {
        Checkpoint { tensors: tensors.map(|tensor| (tensor.name.clone(), tensor)).collect() }
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }
}

/// The weights in a model's directory: the single file, else the index. transformers looks in this order.
pub(crate) fn find_weights(dir: &Path) -> Option<PathBuf> {
    [SINGLE_FILE, INDEX_FILE].map(|name| dir.join(name)).into_iter().find(|path| path.exists())
}

pub(super) fn map_file(path: &Path) -> Result<SharedBytes, WeightsError> {
    let refuse = |message: &str| WeightsError::invalid(&path.display().to_string(), message);
    // The kind first: opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(WeightsError::io(path))?.is_file() {
        return Err(refuse("not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(WeightsError::io(path))?;
    if file.metadata().map_err(WeightsError::io(path))?.len() == 0 {
        return Err(refuse("the file is empty; download it again"));
    }
    // SAFETY: the map is read-only, and this program never writes to a model's file that it has opened (a
    // download is written under another name and renamed). Should another program write to it, any byte may
    // change, and every bit pattern is a valid u8 and a valid float; what was checked is the header, which is
    // not read again. Should another program shorten it, reading past its end raises SIGBUS: the process ends,
    // and no wrong memory is read.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(WeightsError::io(path))?;
    Ok(SharedBytes::from_mmap(map))
}

/// An index: which shard holds which tensor.
struct Index {
    weight_map: Vec<(String, String)>,
}

/// A value of the index's outermost object.
enum IndexValue {
    WeightMap(Vec<(String, String)>),
    Other,
}

impl Named for IndexValue {
    fn read<'de, D: Deserializer<'de>>(name: &str, value: D) -> Result<Self, D::Error> {
        match name {
            "weight_map" => Unique::<String>::deserialize(value).map(|map| IndexValue::WeightMap(map.0)),
            // `metadata` holds a total size, which nothing here needs to believe.
            _ => IgnoredAny::deserialize(value).map(|_| IndexValue::Other),
        }
    }
}

impl Index {
    fn from_json(json: &[u8], file: &str) -> Result<Index, WeightsError> {
        let Unique::<IndexValue>(values) = serde_json::from_slice(json).map_err(|error| {
            WeightsError::invalid(file, format!("not a valid index: {}", printable(&error.to_string())))
        })?;
        let weight_map = values.into_iter().find_map(|(_, value)| match value {
            IndexValue::WeightMap(map) => Some(map),
            IndexValue::Other => None,
        });
        let weight_map = weight_map.ok_or_else(|| WeightsError::invalid(file, "field `weight_map` is missing"))?;
        for (tensor, shard) in &weight_map {
            // A shard lies beside its index: no name may lead out of the directory, on any operating system.
            let plain = shard.ends_with(".safetensors")
                && !shard.starts_with('.')
                && !shard.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control());
            if !plain {
                return Err(WeightsError::invalid(
                    file,
                    format!(
                        "tensor `{}` is said to lie in `{}`; expected the plain name of a .safetensors file beside the index",
                        printable(tensor),
                        printable(shard),
                    ),
                ));
            }
        }
        Ok(Index { weight_map })
    }
}

fn open_shards(path: &Path) -> Result<Checkpoint, WeightsError> {
    let file = path.display().to_string();
    let Index { weight_map } = Index::from_json(&read_bounded(path, MAX_JSON_BYTES)?, &file)?;
    let invalid = |message: String| Err(WeightsError::invalid(&file, message));

    let dir = path.parent().unwrap_or(Path::new(""));
    let shards: BTreeSet<&str> = weight_map.iter().map(|(_, shard)| shard.as_str()).collect();
    let missing: Vec<&str> = shards.iter().copied().filter(|shard| !dir.join(shard).exists()).collect();
    if !missing.is_empty() {
        return invalid(format!(
            "{} of {} shards are missing: {}; download them into the same directory",
            missing.len(),
            shards.len(),
            missing.join(", ")
        ));
    }

    let listed: HashMap<&str, &str> = weight_map.iter().map(|(t, shard)| (t.as_str(), shard.as_str())).collect();
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut problems = Vec::new();
    for shard in shards {
        let shard_path = dir.join(shard);
        for tensor in read_tensors(&map_file(&shard_path)?, &shard_path.display().to_string())? {
            let name = printable(&tensor.name);
            match listed.get(tensor.name.as_str()) {
                None => problems.push(format!("{shard} holds tensor `{name}`, which the index does not list")),
                Some(said) if *said != shard => {
                    problems.push(format!("tensor `{name}` lies in {shard}, but the index says {said}"));
                }
                Some(_) => {
                    tensors.insert(tensor.name.clone(), tensor);
                }
            }
        }
    }
    for (name, shard) in &weight_map {
        if !tensors.contains_key(name) {
            problems.push(format!("tensor `{}` is not in {shard}, where the index says it is", printable(name)));
        }
    }
    if !problems.is_empty() {
        let more = problems.len().saturating_sub(10);
        problems.truncate(10);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return invalid(format!("the index and its shards disagree: {}{more}", problems.join("; ")));
    }
    Ok(Checkpoint { tensors })
}
