//! `config.json`: the numbers that fix the shape of every tensor.

use super::json::{Fields, parse_object, printable};
use super::{DType, WeightsError};
use serde_json::Value;

/// The most that each count may be. Far above every dense model, and low enough that no product of counts
/// that this crate forms overflows 64 bits, and that a lying file cannot ask for long lists of names.
mod limit {
    pub const VOCAB: usize = 1 << 24;
    pub const HIDDEN: usize = 1 << 20;
    pub const INTERMEDIATE: usize = 1 << 22;
    pub const LAYERS: usize = 1 << 10;
    pub const HEADS: usize = 1 << 12;
    pub const HEAD_DIM: usize = 1 << 10;
    pub const POSITIONS: usize = 1 << 24;
}

/// `head_dim` when the file does not say: transformers' `Qwen3Config` default, whatever the hidden size.
const DEFAULT_HEAD_DIM: usize = 128;

/// A Qwen3 dense model's configuration, checked: every count is at least 1 and every product of them fits.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
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
    /// Token that begins a text, where the model has one; Qwen3 does not put it before prompts.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; `generation_config.json`, where it names some, counts more.
    pub eos_token_id: Vec<u32>,
}

/// RoPE for contexts longer than the model was trained on.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Frequencies as they are.
    #[serde(rename = "default")]
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
    ///
    /// Both spellings are read: `rope_theta`, `rope_scaling` and `torch_dtype` as Qwen published them, and
    /// `rope_parameters` and `dtype` as transformers 5 writes them. Fields that would change what the model
    /// computes and that `fs` does not implement are refused by name; the rest are ignored.
    pub fn from_json(json: &[u8], file: &str) -> Result<Config, WeightsError> {
        let config = Config::of_any_size(json, file)?;
        config.check_sizes(file)?;
        Ok(config)
    }

    /// The same for a model that is counted and not loaded: its matrices may be more than this machine can address.
    pub fn of_any_size(json: &[u8], file: &str) -> Result<Config, WeightsError> {
        let object = parse_object(json, file)?;
        let fields = Fields::new(file, "", &object);
        refuse_unsupported(&fields)?;

        let count = |field: &str, max: usize| {
            fields.count(field, max)?.ok_or_else(|| fields.error(field, format!("a whole number from 1 to {max}")))
        };
        let num_attention_heads = count("num_attention_heads", limit::HEADS)?;
        let num_key_value_heads = count("num_key_value_heads", limit::HEADS)?;
        if num_attention_heads % num_key_value_heads != 0 {
            return Err(
                fields.error("num_key_value_heads", format!("a divisor of num_attention_heads, {num_attention_heads}"))
            );
        }
        let head_dim = fields.count("head_dim", limit::HEAD_DIM)?.unwrap_or(DEFAULT_HEAD_DIM);
        if head_dim % 2 != 0 {
            return Err(fields.error("head_dim", "an even number: RoPE turns pairs of elements"));
        }
        let max_position_embeddings = count("max_position_embeddings", limit::POSITIONS)?;

        let eps = "a number over 0 and under 1";
        let rms_norm_eps = fields
            .number("rms_norm_eps", eps, |n| n as f32 > 0.0 && n < 1.0)?
            .ok_or_else(|| fields.error("rms_norm_eps", eps))?;
        let (rope_theta, rope_scaling) = read_rope(&fields, max_position_embeddings)?;

        Ok(Config {
            vocab_size: count("vocab_size", limit::VOCAB)?,
            hidden_size: count("hidden_size", limit::HIDDEN)?,
            intermediate_size: count("intermediate_size", limit::INTERMEDIATE)?,
            num_hidden_layers: count("num_hidden_layers", limit::LAYERS)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: rms_norm_eps as f32,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: fields.flag("attention_bias")?.unwrap_or(false),
            dtype: read_dtype(&fields)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_id: fields.token_ids("eos_token_id")?,
        })
    }

    /// Width of all query heads together, which is also what `o_proj` takes in.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together, or of all value heads.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Bytes that one token of context takes in the KV cache: a key and a value in every layer.
    pub fn kv_bytes_per_token(&self, bytes_per_element: usize) -> u64 {
        2 * self.num_hidden_layers as u64 * self.kv_dim() as u64 * bytes_per_element as u64
    }

    /// The most tokens that a context may hold: YaRN's stretched one where it is longer.
    pub fn max_context(&self) -> usize {
        match self.rope_scaling {
            RopeScaling::None => self.max_position_embeddings,
            RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
                let stretched = (factor * original_max_position_embeddings as f64) as usize;
                stretched.clamp(self.max_position_embeddings, limit::POSITIONS)
            }
        }
    }

    /// Refuses matrices that this machine's `usize` cannot address, even in f32.
    fn check_sizes(&self, file: &str) -> Result<(), WeightsError> {
        for (rows, columns, fields) in [
            (self.vocab_size, self.hidden_size, "vocab_size * hidden_size"),
            (self.q_dim(), self.hidden_size, "num_attention_heads * head_dim * hidden_size"),
            (self.intermediate_size, self.hidden_size, "intermediate_size * hidden_size"),
        ] {
            if rows.checked_mul(columns).and_then(|n| n.checked_mul(4)).is_none_or(|n| n > isize::MAX as usize) {
                let message = format!("{fields} is {rows} * {columns}: more than this machine can address");
                return Err(WeightsError::invalid(file, message));
            }
        }
        Ok(())
    }
}

/// Refuses, by name, what would make the model another one than `fs` computes.
fn refuse_unsupported(fields: &Fields) -> Result<(), WeightsError> {
    let only_qwen3 = "`qwen3`: fs runs the dense Qwen3 models (Qwen3ForCausalLM)";
    match fields.text("model_type")? {
        Some("qwen3") => {}
        _ => return Err(fields.error("model_type", only_qwen3)),
    }
    let architectures = fields.optional("architectures", "a list of names", |value| {
        value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()
    })?;
    if let Some(names) = architectures
        && !names.contains(&"Qwen3ForCausalLM")
    {
        let found = printable(&format!("{names:?}"));
        let message = format!("architectures: found {found}, expected Qwen3ForCausalLM, the only one fs runs");
        return Err(fields.invalid(message));
    }
    if fields.text("hidden_act")?.is_some_and(|act| act != "silu") {
        return Err(fields.error("hidden_act", "`silu`, the only activation that Qwen3 uses"));
    }
    if fields.flag("use_sliding_window")? == Some(true) {
        return Err(fields.error("use_sliding_window", "false: fs does not implement sliding-window attention"));
    }
    let layer_types = fields.optional("layer_types", "a list of names", |value| {
        value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()
    })?;
    if let Some(other) = layer_types.unwrap_or_default().iter().find(|name| **name != "full_attention") {
        let other = printable(other);
        let message = format!("layer_types: found `{other}`, expected \"full_attention\", the only kind fs implements");
        return Err(fields.invalid(message));
    }
    if let Some(quantization) = fields.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        let method = printable(method);
        let message = format!("quantization_config: the weights are quantized ({method}); use the BF16 checkpoint");
        return Err(fields.invalid(message));
    }
    Ok(())
}

fn read_dtype(fields: &Fields) -> Result<Option<DType>, WeightsError> {
    let field = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    fields.optional(field, "\"bfloat16\", \"float16\" or \"float32\"", |value| match value.as_str()? {
        "bfloat16" => Some(DType::BF16),
        "float16" => Some(DType::F16),
        "float32" => Some(DType::F32),
        _ => None,
    })
}

/// The RoPE base and scaling, from `rope_theta` and `rope_scaling`, or from `rope_parameters`, which holds both.
fn read_rope(fields: &Fields, max_position_embeddings: usize) -> Result<(f64, RopeScaling), WeightsError> {
    let theta_is = "a number over 1 and up to 1e15";
    let theta = |fields: &Fields| fields.number("rope_theta", theta_is, |n| n > 1.0 && n <= 1e15);
    let outer = theta(fields)?;
    let published = read_rope_object(fields, "rope_scaling", max_position_embeddings, theta)?;
    let written = read_rope_object(fields, "rope_parameters", max_position_embeddings, theta)?;
    let (inner, scaling) = match (published, written) {
        (Some(a), Some(b)) if a.1 != b.1 => {
            return Err(fields.invalid("rope_scaling and rope_parameters disagree; remove one of them".into()));
        }
        (Some(a), Some(b)) => (b.0.or(a.0), b.1),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => (None, RopeScaling::None),
    };
    match (outer, inner) {
        (Some(a), Some(b)) if a != b => {
            Err(fields.invalid(format!("rope_theta is given twice, as {a} and as {b}; remove one of them")))
        }
        (Some(theta), _) | (None, Some(theta)) => Ok((theta, scaling)),
        (None, None) => Err(fields.error("rope_theta", theta_is)),
    }
}

type RopeObject = Option<(Option<f64>, RopeScaling)>;

fn read_rope_object(
    fields: &Fields,
    name: &str,
    max_position_embeddings: usize,
    theta: impl Fn(&Fields) -> Result<Option<f64>, WeightsError>,
) -> Result<RopeObject, WeightsError> {
    let Some(object) = fields.optional(name, "an object", Value::as_object)? else { return Ok(None) };
    let prefix = format!("{name}.");
    let rope = fields.inside(&prefix, object);
    let theta = theta(&rope)?;
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    if !matches!(kind, "default" | "yarn") {
        let field = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
        return Err(rope.error(field, "`default` or `yarn`: fs implements no other"));
    }
    const COMMON: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    const YARN: [&str; 6] =
        ["factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"];
    let known = |field: &str| COMMON.contains(&field) || kind == "yarn" && YARN.contains(&field);
    if let Some(field) = rope.names().find(|field| rope.get(field).is_some() && !known(field)) {
        return Err(rope.error(field, format!("no such field with rope_type `{kind}`: fs does not implement it")));
    }
    rope.number("partial_rotary_factor", "1: Qwen3 rotates whole heads", |n| n == 1.0)?;
    if kind == "default" {
        return Ok(Some((theta, RopeScaling::None)));
    }
    let at_least_1 = "a number from 1 to 1e6";
    let factor = rope
        .number("factor", at_least_1, |n| (1.0..=1e6).contains(&n))?
        .ok_or_else(|| rope.error("factor", at_least_1))?;
    let rotations = |field, default: f64| {
        let value = rope.number(field, "a number over 0 and up to 1e6", |n| n > 0.0 && n <= 1e6)?;
        Ok::<f64, WeightsError>(value.unwrap_or(default))
    };
    let (beta_fast, beta_slow) = (rotations("beta_fast", 32.0)?, rotations("beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        return Err(rope.error("beta_fast", format!("at least beta_slow, {beta_slow}")));
    }
    let attention = "a number over 0 and up to 1000";
    let scaling = RopeScaling::Yarn {
        factor,
        original_max_position_embeddings: rope
            .count("original_max_position_embeddings", limit::POSITIONS)?
            .unwrap_or(max_position_embeddings),
        attention_factor: rope.number("attention_factor", attention, |n| n > 0.0 && n <= 1000.0)?,
        beta_fast,
        beta_slow,
        truncate: rope.flag("truncate")?.unwrap_or(true),
    };
    Ok(Some((theta, scaling)))
}
