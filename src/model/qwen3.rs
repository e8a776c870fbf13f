//! The Qwen3 forward pass, once, for every backend.
//!
//! `forward` is the model: read it first. The rest loads its weights and keeps what it needs between calls.
//! The specification is transformers' `models/qwen3/modeling_qwen3.py`.

use super::kv_cache::{KvDType, KvLayout};
use super::rope::Rope;
use crate::backend::{Ahead, Backend, BackendError, CachePosition, Heads};
use crate::weights::{Checkpoint, Config, Tensor};

/// A model's weights on a backend. Shapes are those of [`super::expected`].
pub struct Weights<B: Backend> {
    embed_tokens: B::Weight,
    layers: Vec<Layer<B>>,
    norm: B::Weight,
    /// `None`: the embedding matrix is the head.
    lm_head: Option<B::Weight>,
}

/// One transformer block's weights.
struct Layer<B: Backend> {
    input_layernorm: B::Weight,
    q_proj: B::Weight,
    k_proj: B::Weight,
    v_proj: B::Weight,
    o_proj: B::Weight,
    /// q, k, v and o biases, where the configuration has them.
    biases: Option<[B::Weight; 4]>,
    q_norm: B::Weight,
    k_norm: B::Weight,
    post_attention_layernorm: B::Weight,
    gate_proj: B::Weight,
    up_proj: B::Weight,
    down_proj: B::Weight,
}

impl<B: Backend> Weights<B> {
    /// The matrices that a token passes through, in this order.
    pub fn matrices(&self) -> Vec<&B::Weight> {
        let layers = self.layers.iter().flat_map(|layer| {
            let Layer { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = layer;
            [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
        });
        layers.chain([self.lm_head.as_ref().unwrap_or(&self.embed_tokens)]).collect()
    }
}

/// Where the forward pass can be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// After the embedding.
    Embedding,
    /// After this transformer block.
    Block(usize),
    /// After the final norm.
    FinalNorm,
    /// The logits.
    Logits,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedding => f.pad("embedding"),
            Self::Block(layer) => f.pad(&format!("block_{layer}")),
            Self::FinalNorm => f.pad("final_norm"),
            Self::Logits => f.pad("logits"),
        }
    }
}

/// Called with each checkpoint's values, row-major; the rows are the tokens at hand (only those asked for, after the
/// last block).
pub type Probe<'a> = &'a mut dyn FnMut(Stage, Vec<f32>);

/// Which tokens' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsFor {
    /// The last token's: `[1, vocab]`.
    Last,
    /// Every token's: `[tokens, vocab]`.
    All,
    /// The last token's largest alone, which is all that greedy decoding looks at, as a promise: a device is not waited for.
    Best,
    /// The last token's largest, so many.
    Top(usize),
    /// Nobody's: the tokens only fill the cache.
    None,
}

/// What a forward pass gives, as [`LogitsFor`] asked.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Row-major; empty where nobody's were wanted.
    Logits(Vec<f32>),
    /// The token with the largest logit and that logit; see [`Backend::argmax_ahead`].
    Best(Ahead),
    /// The tokens with the largest logits and those logits; see [`Backend::top_k`].
    Top(Vec<(u32, f32)>),
}

impl Output {
    /// The logits.
    pub fn logits(self) -> Vec<f32> {
        match self {
            Self::Logits(logits) => logits,
            Self::Best(_) | Self::Top(_) => Vec::new(),
        }
    }
}

/// The tokens that go through a forward pass.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// These.
    Tokens(&'a [u32]),
    /// One, which the device has yet to name.
    Ahead(&'a Ahead),
}

impl Input<'_> {
    fn len(self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Ahead(_) => 1,
        }
    }
}

/// A model on a backend: immutable, shared by all timelines.
pub struct Qwen3<B: Backend> {
    backend: B,
    config: Config,
    weights: Weights<B>,
    rope: Rope,
}

/// One sequence of tokens: its cache and its buffers.
pub struct State<B: Backend> {
    cache: B::KvCache,
    /// Tokens whose keys and values are in the cache.
    len: usize,
    buffers: Option<Buffers<B>>,
    token_layers: u64,
}

/// Activations of up to `tokens` tokens.
struct Buffers<B: Backend> {
    tokens: usize,
    x: B::Buffer,       // [tokens, hidden]
    h: B::Buffer,       // [tokens, hidden]
    cos_sin: B::Buffer, // [tokens, head_dim]
    k: B::Buffer,       // [tokens, kv_heads * head_dim]
    v: B::Buffer,       // [tokens, kv_heads * head_dim]
    // First q and what attention mixes, [tokens, heads * head_dim]; then gate and up, [tokens, intermediate]: the widest there
    // are, and a block never needs both pairs.
    wide: [B::Buffer; 2],
    logits: B::Buffer, // [1, vocab]; more rows get a buffer of their own
}

/// The forward pass: `input` at positions `start..start + input.len()`, whose keys and values it adds to `cache`.
///
/// Returns what `wanted` names; the cache must have room.
fn forward<B: Backend>(
    Qwen3 { backend: b, config: c, weights, rope }: &Qwen3<B>,
    Buffers { x, h, cos_sin, k, v, wide, logits, .. }: &mut Buffers<B>,
    cache: &mut B::KvCache,
    start: usize,
    input: Input<'_>,
    wanted: LogitsFor,
    mut probe: Option<Probe<'_>>,
) -> Result<Output, BackendError> {
    let (n, hidden, eps) = (input.len(), c.hidden_size, c.rms_norm_eps);
    let heads = Heads { heads: c.num_attention_heads, kv_heads: c.num_key_value_heads, head_dim: c.head_dim };
    let mut look = |at, buffer: &B::Buffer, len| match &mut probe {
        Some(probe) => b.read(buffer, len).map(|values| probe(at, values)),
        None => Ok(()),
    };

    // ANCHOR: embedding
    b.write(cos_sin, &rope.cos_sin(start, n)); //                          [n, head_dim]
    match input {
        Input::Tokens(ids) => b.embed(x, &weights.embed_tokens, ids), //   [n, hidden]
        Input::Ahead(token) => b.embed_ahead(x, &weights.embed_tokens, token),
    }
    look(Stage::Embedding, x, n * hidden)?;
    // ANCHOR_END: embedding

    // ANCHOR: block
    for (layer, w) in weights.layers.iter().enumerate() {
        let at = CachePosition { layer, start, tokens: n };

        let [q, mixed] = &mut *wide;
        let projections = [&w.q_proj, &w.k_proj, &w.v_proj]; //            [n, (kv_)heads * head_dim]
        b.norm_linear_qkv([q, k, v], h, x, &w.input_layernorm, eps, projections, n);
        if let Some([q_bias, k_bias, v_bias, _]) = &w.biases {
            b.add_bias(q, q_bias, n);
            b.add_bias(k, k_bias, n);
            b.add_bias(v, v_bias, n);
        }
        b.norm_rope_store([q, k, v], [&w.q_norm, &w.k_norm], eps, cos_sin, cache, heads, at);
        b.attention(mixed, q, cache, heads, at); //                        [n, heads * head_dim]
        match &w.biases {
            None => b.linear_add(x, h, mixed, &w.o_proj, n, hidden), //    [n, hidden]
            Some([.., o_bias]) => {
                b.linear(h, mixed, &w.o_proj, n);
                b.add_bias(h, o_bias, n);
                b.add(x, h, n * hidden);
            }
        }

        let [gate, up] = &mut *wide;
        let (projections, intermediate) = ([&w.gate_proj, &w.up_proj], c.intermediate_size); // [n, intermediate]
        b.norm_linear_swiglu([gate, up], h, x, &w.post_attention_layernorm, eps, projections, n, intermediate);
        b.linear_add(x, h, gate, &w.down_proj, n, hidden); //              [n, hidden]
        look(Stage::Block(layer), x, n * hidden)?;
    }
    // ANCHOR_END: block

    // ANCHOR: head
    // Only the rows that are asked for go through the head: it is a quarter of a small model's arithmetic.
    let rows = match wanted {
        // What is in the cache is there, or the caller hears that it is not.
        LogitsFor::None => return b.finish().map(|()| Output::Logits(Vec::new())),
        LogitsFor::Last | LogitsFor::Best | LogitsFor::Top(_) => 1,
        LogitsFor::All => n,
    };
    let (mut x, mut h) = (x, h);
    if rows < n {
        b.copy_rows(h, x, n - rows, rows, hidden);
        std::mem::swap(&mut x, &mut h);
    }
    b.rms_norm(h, x, &weights.norm, eps, rows); //                         [rows, hidden]
    look(Stage::FinalNorm, h, rows * hidden)?;
    let head = weights.lm_head.as_ref().unwrap_or(&weights.embed_tokens);
    let mut many = (rows > 1).then(|| b.buffer(rows * c.vocab_size));
    let logits = many.as_mut().unwrap_or(logits);
    b.linear(logits, h, head, rows); //                                    [rows, vocab]
    look(Stage::Logits, logits, rows * c.vocab_size)?;
    // ANCHOR_END: head
    match wanted {
        LogitsFor::Best => b.argmax_ahead(logits, c.vocab_size).map(Output::Best),
        LogitsFor::Top(k) => b.top_k(logits, c.vocab_size, k).map(Output::Top),
        _ => b.read(logits, rows * c.vocab_size).map(Output::Logits),
    }
}

impl<B: Backend> Qwen3<B> {
    /// Takes the weights over to `backend`. The checkpoint must match the configuration
    /// ([`super::expected::compare`] says whether it does).
    pub fn load(backend: B, config: Config, checkpoint: &Checkpoint) -> Result<Self, BackendError> {
        let sum = |of: fn(&Tensor) -> usize| checkpoint.tensors().map(|tensor| of(tensor) as u64).sum();
        backend.admit(sum(|tensor| tensor.data.len()), sum(Tensor::elements))?;
        let load = |name: &str| match checkpoint.get(name) {
            Some(tensor) => backend.load(tensor),
            None => Err(BackendError { backend: backend.info().name, message: format!("tensor {name} is missing") }),
        };
        let layers = (0..config.num_hidden_layers).map(|i| {
            let part = |name: &str| load(&format!("model.layers.{i}.{name}"));
            Ok(Layer {
                input_layernorm: part("input_layernorm.weight")?,
                q_proj: part("self_attn.q_proj.weight")?,
                k_proj: part("self_attn.k_proj.weight")?,
                v_proj: part("self_attn.v_proj.weight")?,
                o_proj: part("self_attn.o_proj.weight")?,
                biases: match config.attention_bias {
                    false => None,
                    true => Some([
                        part("self_attn.q_proj.bias")?,
                        part("self_attn.k_proj.bias")?,
                        part("self_attn.v_proj.bias")?,
                        part("self_attn.o_proj.bias")?,
                    ]),
                },
                q_norm: part("self_attn.q_norm.weight")?,
                k_norm: part("self_attn.k_norm.weight")?,
                post_attention_layernorm: part("post_attention_layernorm.weight")?,
                gate_proj: part("mlp.gate_proj.weight")?,
                up_proj: part("mlp.up_proj.weight")?,
                down_proj: part("mlp.down_proj.weight")?,
            })
        });
        let weights = Weights {
            embed_tokens: load("model.embed_tokens.weight")?,
            layers: layers.collect::<Result<_, BackendError>>()?,
            norm: load("model.norm.weight")?,
            // A tied head is the embedding matrix even where the file stores a copy of it.
            lm_head: if config.tie_word_embeddings { None } else { Some(load("lm_head.weight")?) },
        };
        let rope = Rope::new(&config);
        Ok(Self { backend, config, weights, rope })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The weights.
    pub fn weights(&self) -> &Weights<B> {
        &self.weights
    }

    /// An empty sequence with a cache of the given type.
    pub fn state(&self, dtype: KvDType) -> State<B> {
        let layout = KvLayout {
            layers: self.config.num_hidden_layers,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            dtype,
        };
        State { cache: self.backend.kv_cache(layout), len: 0, buffers: None, token_layers: 0 }
    }

    /// Appends `input` to the sequence and returns what `wanted` names. Its tokens are inside the vocabulary and
    /// not none; the caller has checked. After an error the sequence is empty.
    pub fn append(
        &self,
        state: &mut State<B>,
        input: Input<'_>,
        wanted: LogitsFor,
        probe: Option<Probe<'_>>,
    ) -> Result<Output, BackendError> {
        let tokens = input.len();
        assert!(tokens > 0);
        // A prompt's buffers are given back when decoding begins, before the cache grows: they are most of what is held beside
        // weights and cache.
        const FEW: usize = 32;
        let fit = |buffers: &Buffers<B>| buffers.tokens >= tokens && buffers.tokens <= tokens.max(FEW);
        if !state.buffers.as_ref().is_some_and(fit) {
            state.buffers = None;
        }
        self.backend.reserve_kv(&mut state.cache, state.len + tokens);
        let buffers = state.buffers.get_or_insert_with(|| self.buffers(tokens));
        let result = forward(self, buffers, &mut state.cache, state.len, input, wanted, probe);
        if result.is_err() {
            // What was in the cache may be lost: it may have grown, and its copy to new memory may be what failed.
            (state.buffers, state.len) = (None, 0);
        }
        let output = result?;
        state.len += tokens;
        state.token_layers += (tokens * self.config.num_hidden_layers) as u64;
        Ok(output)
    }

    /// The logits of the last token, where the last [`append`](Self::append) computed them and handed over less.
    pub fn logits(&self, state: &State<B>) -> Result<Vec<f32>, BackendError> {
        match &state.buffers {
            Some(buffers) => self.backend.read(&buffers.logits, self.config.vocab_size),
            None => Ok(Vec::new()),
        }
    }

    /// The final norm and the head on some rows of the residual stream, `x: [rows, hidden]`: `[rows, vocab]`. Of what
    /// comes out of the last block, these are the logits.
    pub fn head(&self, x: &[f32]) -> Result<Vec<f32>, BackendError> {
        let (b, c, rows) = (&self.backend, &self.config, x.len() / self.config.hidden_size);
        let (mut stream, mut normed) = (b.buffer(x.len()), b.buffer(x.len()));
        let mut logits = b.buffer(rows * c.vocab_size);
        b.write(&mut stream, x);
        b.rms_norm(&mut normed, &stream, &self.weights.norm, c.rms_norm_eps, rows);
        let head = self.weights.lm_head.as_ref().unwrap_or(&self.weights.embed_tokens);
        b.linear(&mut logits, &normed, head, rows);
        b.read(&logits, rows * c.vocab_size)
    }

    fn buffers(&self, tokens: usize) -> Buffers<B> {
        let (b, c) = (&self.backend, &self.config);
        let q_dim = c.num_attention_heads * c.head_dim;
        let kv_dim = c.num_key_value_heads * c.head_dim;
        Buffers {
            tokens,
            x: b.buffer(tokens * c.hidden_size),
            h: b.buffer(tokens * c.hidden_size),
            cos_sin: b.buffer(tokens * c.head_dim),
            k: b.buffer(tokens * kv_dim),
            v: b.buffer(tokens * kv_dim),
            wide: [(); 2].map(|()| b.buffer(tokens * q_dim.max(c.intermediate_size))),
            logits: b.buffer(c.vocab_size),
        }
    }
}

impl<B: Backend> State<B> {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens from `len` on. What lies in the cache behind the length is overwritten before it is read.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Work done so far: each token that went through a block counts one.
    pub fn token_layers(&self) -> u64 {
        self.token_layers
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::reference::Reference;
    use crate::session::{Engine, EngineOptions};
    use crate::weights::ModelSource;

    use super::*;

    /// Guards against holding a prompt's activations while decoding, which no test of results can see: memory beside weights
    /// and cache is mostly theirs.
    #[test]
    fn buffers_of_a_prompt_are_given_back_when_decoding_begins() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/forward/tied-bf16/model");
        let source = ModelSource::resolve(Some(directory)).unwrap();
        let engine = Engine::load(&source, &EngineOptions::default()).unwrap();
        let (config, checkpoint) = (engine.config().clone(), engine.checkpoint());
        let model = Qwen3::load(Reference, config, checkpoint).unwrap();
        let mut state = model.state(KvDType::F16);
        let rows = |state: &State<Reference>| state.buffers.as_ref().map(|buffers| (buffers.tokens, buffers.x.len()));
        let mut append = |tokens: usize| {
            model.append(&mut state, Input::Tokens(&vec![1; tokens]), LogitsFor::Last, None).unwrap();
            rows(&state)
        };
        let hidden = model.config.hidden_size;
        assert_eq!(append(40), Some((40, 40 * hidden)));
        assert_eq!(append(1), Some((1, hidden)));
    }
}
