//! Files become named tensors: configuration, safetensors (one file or shards), GGUF, dtypes, and where models live.
//!
//! Everything in a file is checked with overflow-safe arithmetic before it is allocated or indexed: a lying file
//! gets a [`WeightsError`] that names the file, the tensor and the byte offset.
//!
//! What downloads and writes files is left out on wasm, where a model comes as bytes: [`ModelSource::from_gguf`].

mod bytes;
mod checkpoint;
mod config;
#[cfg(not(target_family = "wasm"))]
pub mod download;
mod dtype;
mod embedded;
mod error;
pub mod formats;
mod generation_config;
pub mod gguf;
mod json;
pub mod known_models;
mod model_directory;
#[cfg(not(target_family = "wasm"))]
mod new_file;
#[cfg(not(target_family = "wasm"))]
pub mod quantize;
#[cfg(target_family = "wasm")]
pub mod quantize {
    //! Which formats a file would have; writing one is left out.
    mod recipe;
    pub use recipe::Recipe;
}
mod safetensors;
mod source;
#[cfg(not(target_family = "wasm"))]
pub mod synth;

pub use bytes::SharedBytes;
pub use checkpoint::{Checkpoint, Tensor};
pub use config::{Config, RopeScaling};
pub use dtype::{DType, Unstorable};
pub use error::{SourceError, WeightsError};
pub use generation_config::GenerationConfig;
pub use json::printable;
pub use model_directory::model_directory;
pub use source::ModelSource;
