//! GGUF: one file that is a whole model: configuration, tokenizer, chat template and tensors, quantized or not.
//!
//! ```text
//! "GGUF"  version: u32  tensors: u64  keys: u64
//! key: string  kind: u32  value                              for each key
//! name: string  dimensions: u32  sizes: u64…  type: u32  offset: u64     for each tensor
//! padding to the alignment (key `general.alignment`, else 32)
//! the tensors' bytes; their offsets count from here, and are multiples of the alignment
//! ```
//!
//! Everything is little-endian; a string is its length (u64) and that many bytes of UTF-8. Sizes are innermost first,
//! the other way round from here. The specification is `docs/gguf.md` of ggml; version 3 added big-endian files
//! (which `fs` does not read), and 2 made the counts 64 bits wide.
//!
//! In reading order: [`read`] takes a file apart and trusts nothing in it; [`metadata`] finds values by key;
//! [`config`], [`tokenizer`] and [`names`] say what the keys and tensor names of a Qwen3 model mean, in both
//! directions; [`mod@write`] puts a file together.

pub mod config;
pub mod metadata;
pub mod names;
pub mod read;
pub mod tokenizer;
pub mod write;

pub use metadata::{Array, Entry, Kind, Value};
pub use write::Header;

use super::{Checkpoint, SharedBytes, Tensor, WeightsError, checkpoint};
use std::path::Path;
use std::sync::Arc;

/// The four bytes that a file begins with.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// What tensors are aligned to where the file does not say.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// The key that says otherwise.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// A file, checked: every value and every tensor lies inside it.
#[derive(Debug)]
pub struct Gguf {
    /// Its name in errors.
    pub file: Arc<str>,
    /// 2 or 3.
    pub version: u32,
    /// What its tensors are aligned to, in bytes.
    pub alignment: usize,
    /// Its keys and values, in the order of the file.
    pub entries: Vec<Entry>,
    /// Its tensors by the names that the file gives them, in the order of the file, not copied. Shapes are outermost
    /// first.
    pub tensors: Vec<Tensor>,
    bytes: SharedBytes,
}

impl Gguf {
    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<Gguf, WeightsError> {
        Self::from_bytes(checkpoint::map_file(path)?, &path.display().to_string())
    }

    /// Checks a file that is already in memory; `file` is the name used in errors.
    pub fn from_bytes(bytes: SharedBytes, file: &str) -> Result<Gguf, WeightsError> {
        read::read(bytes.aligned(), file)
    }

    /// The tensors by the names that the rest of `fs` uses; those that it has no name for keep their own.
    pub fn checkpoint(&self) -> Checkpoint {
        let renamed = self.tensors.iter().map(|tensor| {
            let name = names::to_hugging_face(&tensor.name).unwrap_or_else(|| tensor.name.clone());
            Tensor { name, ..tensor.clone() }
        });
        Checkpoint::from_tensors(renamed)
    }
}
