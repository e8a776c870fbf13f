//! The tensors that a configuration expects, how a checkpoint differs from them, and what a token costs.

use crate::weights::{Checkpoint, Config, DType, printable};
use std::collections::BTreeMap;
use std::fmt;

/// The embedding matrix, `[vocab_size, hidden_size]`: one row a token.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output head, `[vocab_size, hidden_size]`. When tied, the embedding is the head; a file may still hold a
/// copy under this name (Qwen3-0.6B's does), which must fit and is not used.
pub const HEAD: &str = "lm_head.weight";

/// Name and shape of every tensor that the model uses, in the order of the forward pass.
///
/// A projection is `[out_features, in_features]`. Q is `num_attention_heads * head_dim` wide, K and V
/// `num_key_value_heads * head_dim`; the norms of Q and K span one head.
// ANCHOR: expected_tensors
pub fn expected_tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_dim(), config.kv_dim());
    let mut tensors = vec![(EMBEDDING.to_string(), vec![config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[hidden]);
        for (name, out, into) in [("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)] {
            add(&format!("self_attn.{name}_proj.weight"), &[out, into]);
            if config.attention_bias {
                add(&format!("self_attn.{name}_proj.bias"), &[out]);
            }
        }
        add("self_attn.q_norm.weight", &[config.head_dim]);
        add("self_attn.k_norm.weight", &[config.head_dim]);
        add("post_attention_layernorm.weight", &[hidden]);
        add("mlp.gate_proj.weight", &[intermediate, hidden]);
        add("mlp.up_proj.weight", &[intermediate, hidden]);
        add("mlp.down_proj.weight", &[hidden, intermediate]);
    }
    tensors.push(("model.norm.weight".to_string(), vec![hidden]));
    if !config.tie_word_embeddings {
        tensors.push((HEAD.to_string(), vec![config.vocab_size, hidden]));
    }
    tensors
}
// ANCHOR_END: expected_tensors

/// What the weights cost, whatever the context. Bytes read from the KV cache come on top:
/// [`Config::kv_bytes_per_token`] for each token of context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cost {
    /// Values in the model, a tied head counted once.
    pub parameters: u64,
    /// Bytes that these take.
    pub weight_bytes: u64,
    /// Bytes of weights that one decoded token reads at least: every layer, the norms and the head once, and
    /// one row of the embedding. (With a tied head the whole embedding is read, as the head.)
    pub decode_bytes: u64,
    /// Bytes of one row of the embedding: each token of a pass but the first reads one more.
    pub embedding_row_bytes: u64,
}

// ANCHOR: cost
/// The cost of a model whose tensor `name` is stored as `dtype(name)`.
pub fn cost(config: &Config, dtype: impl Fn(&str) -> DType) -> Cost {
    let mut cost = Cost { parameters: 0, weight_bytes: 0, decode_bytes: 0, embedding_row_bytes: 0 };
    for (name, shape) in expected_tensors(config) {
        // Config's limits keep every one of these far below 64 bits.
        let elements: u64 = shape.iter().map(|&n| n as u64).product();
        let layout = dtype(&name).layout();
        let bytes = |elements: u64| elements / layout.block as u64 * layout.block_bytes as u64;
        cost.parameters += elements;
        cost.weight_bytes += bytes(elements);
        if name == EMBEDDING {
            cost.embedding_row_bytes = bytes(config.hidden_size as u64);
            cost.decode_bytes += cost.embedding_row_bytes;
        }
        if name != EMBEDDING || config.tie_word_embeddings {
            cost.decode_bytes += bytes(elements);
        }
    }
    cost
}
// ANCHOR_END: cost

/// Multiplications and additions of the dot products that `tokens` tokens from position `start` on cost, with logits for
/// the last of them: the linear layers, and attention over all positions before each token.
pub fn flop(config: &Config, start: usize, tokens: usize) -> f64 {
    let matrices = expected_tensors(config).into_iter().filter(|(_, shape)| shape.len() == 2);
    let layers = matrices.filter(|(name, _)| name != EMBEDDING && name != HEAD);
    let weights: f64 = layers.map(|(_, shape)| shape.iter().map(|&n| n as f64).product::<f64>()).sum();
    // In f64: a model that is only counted may have more weights than a 32-bit `usize` reaches.
    let head = config.vocab_size as f64 * config.hidden_size as f64;
    // Token t looks at start + t + 1 positions: a multiplication and an addition for each key and for each value.
    let (start, tokens) = (start as f64, tokens as f64);
    let pairs = tokens * start + tokens * (tokens + 1.0) / 2.0;
    2.0 * (tokens * weights + head) + 4.0 * config.num_hidden_layers as f64 * config.q_dim() as f64 * pairs
}

/// One way in which a checkpoint differs from what its configuration expects.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// The model needs this tensor, and no file holds it.
    Missing {
        /// Its name.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A file holds this tensor, and the model has no use for it: the configuration is another model's.
    Unexpected {
        /// Its name.
        name: String,
        /// The shape it has.
        found: Vec<usize>,
        /// The file it lies in.
        file: String,
    },
    /// The tensor is there in another shape.
    Shape {
        /// Its name.
        name: String,
        /// The shape it has.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The file it lies in.
        file: String,
        /// Where it begins in the file.
        offset: u64,
    },
}

/// Everything in which a checkpoint differs from its configuration, found at once.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// What keeps the model from running; sorted by name within missing, unexpected and mis-shaped.
    pub problems: Vec<Problem>,
    /// Tensors stored in another dtype than the configuration names, by dtype. This is allowed (each tensor is
    /// read in its own dtype), but worth knowing.
    pub other_dtypes: BTreeMap<DType, Vec<String>>,
}

/// Compares the tensors of a checkpoint with those that the configuration expects.
pub fn compare(config: &Config, checkpoint: &Checkpoint) -> Report {
    let mut expected: BTreeMap<String, Vec<usize>> = expected_tensors(config).into_iter().collect();
    let missing = expected.iter().filter(|(name, _)| checkpoint.get(name).is_none());
    let missing: Vec<Problem> =
        missing.map(|(name, shape)| Problem::Missing { name: name.clone(), expected: shape.clone() }).collect();
    // The stored copy of a tied head is allowed, not required.
    expected.entry(HEAD.to_string()).or_insert_with(|| vec![config.vocab_size, config.hidden_size]);

    let (mut unexpected, mut misshaped, mut other_dtypes) = (Vec::new(), Vec::new(), BTreeMap::new());
    for tensor in checkpoint.tensors() {
        let (name, found, file) = (tensor.name.clone(), tensor.shape.clone(), tensor.file.to_string());
        if config.dtype.is_some_and(|dtype| dtype != tensor.dtype) {
            other_dtypes.entry(tensor.dtype).or_insert_with(Vec::new).push(name.clone());
        }
        match expected.get(&name) {
            None => unexpected.push(Problem::Unexpected { name, found, file }),
            Some(shape) if *shape != found => {
                let (expected, offset) = (shape.clone(), tensor.offset);
                misshaped.push(Problem::Shape { name, found, expected, file, offset });
            }
            Some(_) => {}
        }
    }
    Report { problems: [missing, unexpected, misshaped].concat(), other_dtypes }
}

impl Report {
    /// Whether the model can run: nothing is missing, unexpected or mis-shaped.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut missing, mut unexpected, mut misshaped) = (0, 0, 0);
        for problem in &self.problems {
            match problem {
                Problem::Missing { name, expected } => {
                    missing += 1;
                    writeln!(f, "missing     {name}: expected {expected:?}")?;
                }
                Problem::Unexpected { name, found, file } => {
                    unexpected += 1;
                    writeln!(f, "unexpected  {}: {found:?} in {file}", printable(name))?;
                }
                Problem::Shape { name, found, expected, file, offset } => {
                    misshaped += 1;
                    writeln!(f, "wrong shape {name}: found {found:?}, expected {expected:?} ({file}, byte {offset})")?;
                }
            }
        }
        for (dtype, names) in &self.other_dtypes {
            let (count, first) = (names.len(), printable(&names[0]));
            writeln!(f, "note: {count} tensors are {dtype}, not the dtype that config.json names (first: {first})")?;
        }
        match self.problems.is_empty() {
            true => write!(f, "every tensor that config.json expects is there, in its shape, and no other"),
            false => {
                write!(f, "{missing} missing, {unexpected} unexpected, {misshaped} mis-shaped: ")?;
                write!(f, "config.json and the weights belong to different models, or the download is not whole")
            }
        }
    }
}
