//! `config.json`: the numbers that fix the shape of every tensor.

use super::{DType, WeightsError};

/// A Qwen3 dense model's configuration, checked: every count is at least 1 and every product of them fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows of the embedding; at least the tokenizer's largest id plus one.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads` (grouped-query attention).
    pub num_key_value_heads: usize,
    /// Width of one head. Explicit: `num_attention_heads * head_dim` need not equal `hidden_size`.
    pub head_dim: usize,
    /// The longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// How RoPE frequencies are changed for longer contexts.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether the q, k, v and o projections have biases.
    pub attention_bias: bool,
    /// The dtype that the configuration names for its weights (each tensor's own dtype is what counts).
    pub dtype: Option<DType>,
}

/// RoPE for contexts longer than the model was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// YaRN (arXiv 2309.00071), as Qwen3 documents it.
    Yarn {
        /// How many times longer than `original_max_position_embeddings` the context may be.
        factor: f64,
        /// The context the model was trained on.
        original_max_position_embeddings: usize,
        /// Multiplies cos and sin; `None` means `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations under which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Whether the ends of the ramp between the two are rounded to whole dimensions.
        truncate: bool,
    },
}

impl Config {
    /// Reads `config.json`; `file` is the name used in errors.
    pub fn from_json(_json: &[u8], _file: &str) -> Result<Config, WeightsError> {
        todo!()
    }
}
