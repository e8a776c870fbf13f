//! `generation_config.json`: the sampling defaults that a model's authors recommend.

use super::WeightsError;
use super::json::{Fields, parse_object};

/// Sampling defaults. A missing field is `None`; missing files give `Default`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// `false` means greedy.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keeps the k most likely tokens; 0 keeps all.
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
    /// Reads `generation_config.json`; `file` is the name used in errors. Fields that `fs` does not know are
    /// ignored, as transformers ignores them: they are advice, and do not change what the model computes.
    pub fn from_json(json: &[u8], file: &str) -> Result<GenerationConfig, WeightsError> {
        let object = parse_object(json, file)?;
        let fields = Fields::new(file, "", &object);
        let number = |field: &str, expected: &str, accept: fn(f64) -> bool| {
            fields.number(field, expected, |n| accept(n) && (n as f32).is_finite()).map(|n| n.map(|n| n as f32))
        };
        Ok(GenerationConfig {
            do_sample: fields.flag("do_sample")?,
            temperature: number("temperature", "a number of 0 or more", |n| n >= 0.0)?,
            top_k: fields.optional("top_k", "a whole number of 0 or more", |value| {
                value.as_u64().and_then(|k| usize::try_from(k).ok())
            })?,
            top_p: number("top_p", "a number over 0 and up to 1", |n| n as f32 > 0.0 && n <= 1.0)?,
            min_p: number("min_p", "a number from 0 to 1", |n| (0.0..=1.0).contains(&n))?,
            repetition_penalty: number("repetition_penalty", "a number over 0", |n| n as f32 > 0.0)?,
            eos_token_id: fields.token_ids("eos_token_id")?,
        })
    }
}
