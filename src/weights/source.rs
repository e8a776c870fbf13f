//! Where a model comes from: `--model` takes a name, a directory or a file.

use super::{Checkpoint, Config, GenerationConfig, WeightsError};
use crate::text::{ChatTemplate, Tokenizer};

/// A place that a model's files can be read from. Nothing is read until it is asked for, so
/// `fs tokenize` needs no weights and `fs inspect` works on a configuration alone.
pub struct ModelSource {}

impl ModelSource {
    /// Finds a model: `None` is the default model, otherwise a directory, a file, or a name such as `qwen3-0.6b`.
    pub fn resolve(_model: Option<&str>) -> Result<ModelSource, WeightsError> {
        todo!()
    }

    /// What to call the model on screen, e.g. `qwen3-0.6b` or the directory's name.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// `config.json`.
    pub fn config(&self) -> Result<Config, WeightsError> {
        todo!()
    }

    /// `generation_config.json`; its absence is not an error.
    pub fn generation_config(&self) -> Result<GenerationConfig, WeightsError> {
        todo!()
    }

    /// `tokenizer.json`.
    pub fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        todo!()
    }

    /// `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`; `None` if there is neither.
    pub fn chat_template(&self) -> anyhow::Result<Option<ChatTemplate>> {
        todo!()
    }

    /// The weights; `None` if the source has a configuration but no weights.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, WeightsError> {
        todo!()
    }
}
