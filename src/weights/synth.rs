//! A full-size model with random weights, from a configuration alone: how long a model takes depends on its shape and not
//! on its values, so the real shapes can be timed without the real weights.
//!
//! Projections and embeddings are normal with standard deviation `1 / sqrt(in_features)`, so that activations neither
//! vanish nor explode on the way through the layers; norms are ones. Every value is a function of the seed, its tensor's
//! number and its place alone, so any number of threads writes the same file.

use super::checkpoint::{SINGLE_FILE, find_weights};
use super::json::parse_object;
use super::new_file::NewFile;
use super::{Config, DType, ModelSource, WeightsError};
use crate::model::expected::expected_tensors;
use half::bf16;
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// What a model's directory holds beside its weights.
const SMALL_FILES: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// How to make a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct SynthOptions {
    /// The same seed gives the same file.
    pub seed: u64,
    /// Replace a model that is in the directory already.
    pub force: bool,
}

/// What was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Synthesized {
    /// The model's directory.
    pub path: PathBuf,
    /// Tensors written.
    pub tensors: usize,
    /// Values in them.
    pub parameters: u64,
    /// Bytes of the weights' file.
    pub bytes: u64,
}

/// Makes `out` a complete model's directory: the configuration and tokenizer of `source`, and `model.safetensors` with
/// random BF16 values. Memory stays at a few MB whatever the model's size.
///
/// `progress` hears the bytes written and the bytes in all, and may break off. The weights appear under their name when
/// they are whole; after an error (a full disk, for one) nothing partial stays, and what was there before is unharmed.
pub fn synthesize(
    source: &ModelSource,
    out: &Path,
    options: SynthOptions,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Synthesized, WeightsError> {
    let config = source.config()?;
    let mut small = Vec::new();
    for name in SMALL_FILES {
        let bytes = source.read(name)?.map(|(file, bytes)| match name {
            "config.json" => config_for_bf16(&config, bytes.into_owned(), &file),
            _ => Ok(bytes.into_owned()),
        });
        small.push((out.join(name), bytes.transpose()?));
    }
    if !options.force {
        let other = small.iter().find(|(path, bytes)| path.exists() && fs::read(path).ok() != *bytes);
        if let Some(path) = find_weights(out).or(other.map(|(path, _)| path.clone())) {
            let message = "is there already; choose another directory, or --force to replace the model in this one";
            return Err(WeightsError::invalid(&path.display().to_string(), message));
        }
    }

    if out.exists() && !out.is_dir() {
        let message = "is no directory; a model is one: name another place";
        return Err(WeightsError::invalid(&out.display().to_string(), message));
    }
    let is_new = !out.exists();
    fs::create_dir_all(out).map_err(WeightsError::io(out))?;
    let written = write_weights(&config, out, options.seed, progress).and_then(|written| {
        for (path, bytes) in small {
            match bytes {
                Some(bytes) => {
                    let mut file = NewFile::create(&path, bytes.len() as u64)?;
                    file.write(&bytes)?;
                    file.finish()?;
                }
                // Of a model that was here before: with these weights it would be wrong.
                None if path.exists() => fs::remove_file(&path).map_err(WeightsError::io(path))?,
                None => {}
            }
        }
        Ok(written)
    });
    if written.is_err() && is_new {
        // Only if it is empty; the error that matters is the first one.
        let _ = fs::remove_dir(out);
    }
    written
}

/// The configuration, saying that the weights are BF16.
fn config_for_bf16(config: &Config, json: Vec<u8>, file: &str) -> Result<Vec<u8>, WeightsError> {
    if config.dtype.is_none_or(|dtype| dtype == DType::BF16) {
        return Ok(json);
    }
    let mut object = parse_object(&json, file)?;
    for (_, dtype) in object.iter_mut().filter(|(field, _)| matches!(field.as_str(), "dtype" | "torch_dtype")) {
        *dtype = json!("bfloat16");
    }
    Ok(serde_json::to_vec_pretty(&object).expect("strings as keys"))
}

/// A piece of the file that one thread fills: up to 4 MB of one tensor.
struct Piece {
    /// Its place in the file.
    offset: u64,
    /// The tensor's key and this piece's first element in it.
    key: u64,
    first: u64,
    elements: usize,
    /// The values' standard deviation; `None`: all are 1.
    deviation: Option<f64>,
}

const PIECE: usize = 2 << 20;

fn write_weights(
    config: &Config,
    out: &Path,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Synthesized, WeightsError> {
    let (header, pieces) = layout(config, seed);
    let path = out.join(SINGLE_FILE);
    let total = pieces.last().map_or(0, |last| last.offset + 2 * last.elements as u64);
    let quantiles = normal_quantiles();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    let mut file = NewFile::create(&path, total)?;
    file.write(&header)?;
    let mut done = header.len() as u64;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(threads);
        for _ in 0..threads {
            let (sender, pieces, next, quantiles) = (sender.clone(), &pieces, &next, &quantiles);
            scope.spawn(move || {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // The writer has gone: it met an error.
                    if sender.send((piece.offset, piece.values(quantiles))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (offset, values) in receiver {
            let bytes: &[u8] = bytemuck::cast_slice(&values);
            file.write_at(offset, bytes)?;
            done += bytes.len() as u64;
            if progress(done, total).is_break() {
                let interrupted = io::Error::new(io::ErrorKind::Interrupted, "interrupted; nothing was kept");
                return Err(WeightsError::io(&path)(interrupted));
            }
        }
        Ok(())
    })?;
    file.finish()?;
    let tensors = expected_tensors(config);
    let parameters = tensors.iter().map(|(_, shape)| elements(shape)).sum();
    Ok(Synthesized { path: out.to_path_buf(), tensors: tensors.len(), parameters, bytes: total })
}

/// The file's header, its length before it, and what comes after it.
fn layout(config: &Config, seed: u64) -> (Vec<u8>, Vec<Piece>) {
    let mut entries = Map::new();
    // transformers refuses a file that does not say which library's conventions it follows.
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    let (mut pieces, mut end) = (Vec::new(), 0u64);
    for (number, (name, shape)) in expected_tensors(config).into_iter().enumerate() {
        let (elements, key) = (elements(&shape), mix(seed ^ mix(number as u64)));
        let inputs = shape.last().copied().unwrap_or(1) as f64;
        let deviation = (!name.ends_with("norm.weight")).then(|| inputs.sqrt().recip());
        for first in (0..elements).step_by(PIECE) {
            let elements = (elements - first).min(PIECE as u64) as usize;
            pieces.push(Piece { offset: end + 2 * first, key, first, elements, deviation });
        }
        let offsets = [end, end + 2 * elements];
        end = offsets[1];
        entries.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": offsets }));
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header.splice(0..0, (header.len() as u64).to_le_bytes());
    for piece in &mut pieces {
        piece.offset += header.len() as u64;
    }
    (header, pieces)
}

/// Elements of a tensor; the configuration's limits keep it far below 64 bits.
fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|&n| n as u64).product()
}

impl Piece {
    /// This piece's values, little-endian as the file wants them.
    fn values(&self, quantiles: &[f64]) -> Vec<u16> {
        let Some(deviation) = self.deviation else { return vec![bf16::ONE.to_bits().to_le(); self.elements] };
        let table: Vec<u16> = quantiles.iter().map(|q| bf16::from_f64(q * deviation).to_bits().to_le()).collect();
        let table: &[u16; QUANTILES] = table.as_slice().try_into().expect("as long as the quantiles");
        let mut values = vec![0; self.elements];
        // One random number makes four values; pieces begin at multiples of four.
        for (i, values) in values.chunks_mut(4).enumerate() {
            let random = mix(self.key.wrapping_add(self.first / 4 + i as u64));
            for (lane, value) in values.iter_mut().enumerate() {
                *value = table[(random >> (16 * lane)) as usize % QUANTILES];
            }
        }
        values
    }
}

/// Values that a tensor may have: as many as fit into the fastest cache.
const QUANTILES: usize = 4096;

/// The normal distribution cut into [`QUANTILES`] equally likely parts: the middle of each. Looking a uniform random
/// number up here makes it normal, at the speed of memory.
fn normal_quantiles() -> Vec<f64> {
    let below = |x: f64| 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let quantile = |i: usize| {
        let (wanted, mut low, mut high) = ((i as f64 + 0.5) / QUANTILES as f64, -5.0, 5.0);
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if below(middle) < wanted { low = middle } else { high = middle }
        }
        low
    };
    (0..QUANTILES).map(quantile).collect()
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), over steps of its golden-ratio increment: random bits at any place
/// of the sequence, without the ones before.
fn mix(place: u64) -> u64 {
    let mut z = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
