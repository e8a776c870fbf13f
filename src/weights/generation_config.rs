//! `generation_config.json`: the sampling defaults that a model's authors recommend.

use super::WeightsError;

/// Sampling defaults. A missing field is `None`; missing files give `Default`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// `false` means greedy.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keeps the k most likely tokens.
    pub top_k: Option<usize>,
    /// Keeps the most likely tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Keeps tokens with at least this share of the most likely token's probability.
    pub min_p: Option<f32>,
    /// Divides (or multiplies, when negative) the logits of tokens already seen.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a text (one id or a list in the file).
    pub eos_token_id: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`; `file` is the name used in errors.
    pub fn from_json(_json: &[u8], _file: &str) -> Result<GenerationConfig, WeightsError> {
        todo!()
    }
}
