//! [`Engine`] and [`Session`]: tokens in, logits out, with as little work as the cache allows. Longer than other files, because what
//! a session has computed, what runs ahead of it and what it takes back are one contract, read together.

use crate::backend::compare::{Compare, Record};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::Level;
use crate::backend::reference::Reference;
use crate::backend::{Ahead, Backend, BackendError, BackendInfo, BackendKind, Counters, Peak, plain};
use crate::model::expected;
use crate::model::kv_cache::{KvDType, KvLayout};
use crate::model::qwen3::{Input, LogitsFor, Output, Probe, Qwen3, State};
use crate::session::SessionError;
use crate::session::verify::Rounding;
use crate::text::{ChatTemplate, Tokenizer};
use crate::weights::{Checkpoint, Config, DType, GenerationConfig, ModelSource};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// How to load a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// What to run on.
    pub backend: BackendKind,
    /// Threads of the CPU backend; `None`: one a core.
    pub threads: Option<usize>,
    /// SIMD level of the CPU backend; `None`: the fastest of this machine.
    pub simd: Option<Level>,
    /// Plain kernels in place of the fused and fast ones, on the Metal backend.
    pub metal_plain: bool,
}

impl EngineOptions {
    /// A backend is made here and nowhere else: calls the method of `visitor` with it.
    pub(crate) fn with_backend<V: WithBackend>(&self, visitor: V) -> Result<V::Out, SessionError> {
        match self.backend.resolve() {
            BackendKind::Reference => visitor.run(Reference),
            #[cfg(any(target_os = "macos", feature = "metal-standin"))]
            BackendKind::Metal => visitor.run(crate::backend::metal::Metal::new(self.metal_plain)?),
            #[cfg(not(any(target_os = "macos", feature = "metal-standin")))]
            BackendKind::Metal => Err(SessionError::Backend(BackendError {
                backend: "metal",
                message: format!("{}; run with --backend cpu", crate::backend::METAL_IS_NOT_BUILT),
            })),
            BackendKind::Cpu | BackendKind::Auto => visitor.run(self.cpu()),
        }
    }

    pub(super) fn cpu(&self) -> Cpu {
        Cpu::with_level(self.threads, self.simd.unwrap_or_else(Level::detect))
    }
}

/// What is done with a backend whose type is chosen at run time.
pub(crate) trait WithBackend {
    /// What comes of it.
    type Out;
    /// Does it.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Out, SessionError>;
}

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// The most tokens the session may hold; `None`: what the model was made for.
    pub context: Option<usize>,
    /// Element type of the KV cache.
    pub kv_dtype: KvDType,
    /// Prompt tokens computed at a time: more is faster and takes more memory.
    pub chunk: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { context: None, kv_dtype: KvDType::F16, chunk: 512 }
    }
}

/// A model on a backend, with its tokenizer: immutable, and cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// Loads a model on a backend.
struct Load<'a> {
    config: Config,
    checkpoint: &'a Checkpoint,
}

impl WithBackend for Load<'_> {
    type Out = Arc<dyn Model>;

    fn run<B: Backend>(self, backend: B) -> Result<Arc<dyn Model>, SessionError> {
        Ok(Arc::new(Qwen3::load(backend, self.config, self.checkpoint)?))
    }
}

/// Compares a backend with the reference on some tokens.
struct CompareOn<'a> {
    engine: &'a Engine,
    ids: &'a [u32],
}

impl WithBackend for CompareOn<'_> {
    type Out = Vec<Record>;

    fn run<B: Backend>(self, backend: B) -> Result<Vec<Record>, SessionError> {
        let Self { engine, ids } = self;
        let backend = Compare::new(Reference, backend);
        let model = Qwen3::load(backend, engine.config().clone(), &engine.inner.checkpoint)?;
        let mut state = model.state(KvDType::F32);
        // The prompt but for its last token, and then that one alone: prefill and decode take different paths.
        let (prompt, last) = ids.split_at(ids.len() - 1);
        for part in [prompt, last].into_iter().filter(|part| !part.is_empty()) {
            model.append(&mut state, Input::Tokens(part), LogitsFor::Last, None)?;
        }
        Ok(model.backend().take_records())
    }
}

struct Inner {
    name: String,
    model: Arc<dyn Model>,
    tokenizer: Option<Tokenizer>,
    /// What a model of this kind has its tokenizer in.
    tokenizer_part: &'static str,
    chat_template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
    checkpoint: Checkpoint,
}

impl Engine {
    /// Loads the model at `source`.
    pub fn load(source: &ModelSource, options: &EngineOptions) -> Result<Engine, SessionError> {
        let checkpoint = source.require_checkpoint()?;
        let config = source.config()?;
        let report = expected::compare(&config, &checkpoint);
        if !report.is_ok() {
            return Err(SessionError::Mismatch { model: source.name().into(), report: report.to_string() });
        }
        let model = options.with_backend(Load { config, checkpoint: &checkpoint })?;
        let inner = Inner {
            name: source.name().into(),
            model,
            tokenizer: source.has_tokenizer().then(|| source.tokenizer()).transpose()?,
            tokenizer_part: match source.gguf() {
                Some(_) => "tokenizer in its GGUF metadata (keys `tokenizer.ggml.…`)",
                None => "tokenizer.json",
            },
            chat_template: source.chat_template()?,
            generation_config: source.generation_config()?,
            checkpoint,
        };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        self.inner.model.config()
    }

    /// What the model runs on.
    pub fn backend(&self) -> BackendInfo {
        self.inner.model.backend()
    }

    /// The model's tokenizer. A model without one can be run on token ids, not on text.
    pub fn tokenizer(&self) -> Result<&Tokenizer, SessionError> {
        let Inner { name, tokenizer, tokenizer_part: part, .. } = &*self.inner;
        tokenizer.as_ref().ok_or_else(|| SessionError::NoTokenizer { model: name.clone(), part })
    }

    /// The bytes of a token; empty if it has none, as the rows of the embedding beyond the tokenizer's last id, which
    /// the model never learned to use.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.inner.tokenizer.as_ref().and_then(|tokenizer| tokenizer.token_bytes(id)).unwrap_or_default()
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.chat_template.as_ref()
    }

    /// The sampling defaults that come with the model.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.inner.generation_config
    }

    /// Tokens that end a text: those of generation_config.json, else of config.json.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let recommended = &self.generation_config().eos_token_id;
        if recommended.is_empty() { self.config().eos_token_id.clone() } else { recommended.clone() }
    }

    /// Bytes a second that this machine reads, measured now on the model's own weights; `None` where the backend cannot tell,
    /// or a cache may hold all of them.
    pub fn read_bandwidth_of_weights(&self) -> Option<f64> {
        self.inner.model.read_bandwidth(true)
    }

    /// Bytes a second that this machine reads, measured now, if need be on 384 MiB of memory that is taken for it; `None` where
    /// the backend cannot tell.
    pub fn read_bandwidth(&self) -> Option<f64> {
        self.read_bandwidth_of_weights().or_else(|| self.inner.model.read_bandwidth(false))
    }

    /// Operations a second that this machine reaches on registers alone, measured now, by kind of instruction.
    pub fn peak_ops(&self) -> Vec<Peak> {
        self.inner.model.peak_ops()
    }

    /// What this thread has given the device to do so far; `None` on a backend that has no device.
    pub fn counters(&self) -> Option<Counters> {
        self.inner.model.counters()
    }

    /// Writes a trace of everything that the GPU does from now on to `path`, until the engine is dropped.
    pub fn capture(&self, path: &Path) -> Result<(), SessionError> {
        Ok(self.inner.model.capture(path)?)
    }

    /// The weights as they lie in their files.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.inner.checkpoint
    }

    /// The dtype of most of the weights' bytes, for the line that `fs` prints at start.
    pub fn weights_dtype(&self) -> &'static str {
        let mut bytes = std::collections::BTreeMap::new();
        for tensor in self.inner.checkpoint.tensors() {
            *bytes.entry(tensor.dtype).or_insert(0) += tensor.data.len();
        }
        bytes.into_iter().max_by_key(|row| row.1).map_or("none", |(dtype, _)| dtype.name())
    }

    /// What the linear layers round their input to, on the backend that `options` asks for.
    pub fn rounding(&self, options: &EngineOptions) -> Rounding {
        let some = |wanted: fn(DType) -> bool| self.inner.checkpoint.tensors().any(|tensor| wanted(tensor.dtype));
        match options.backend.resolve() {
            BackendKind::Reference | BackendKind::Metal => Rounding::None,
            BackendKind::Cpu if some(DType::is_quantized) => Rounding::Int8,
            BackendKind::Cpu if some(|dtype| dtype == DType::BF16) && options.cpu().rounds_to_bf16() => Rounding::Bf16,
            BackendKind::Cpu | BackendKind::Auto => Rounding::None,
        }
    }

    /// Bytes of weights that decoding one token reads.
    pub fn weight_bytes_per_token(&self) -> usize {
        self.weight_bytes(1)
    }

    /// Bytes of weights that a pass over `tokens` tokens reads: everything once, and of the embedding a row for each token.
    pub fn weight_bytes(&self, tokens: usize) -> usize {
        let tied = self.config().tie_word_embeddings;
        let rows = |t: &crate::weights::Tensor| tokens * (t.data.len() / t.shape.first().copied().unwrap_or(1).max(1));
        self.inner
            .checkpoint
            .tensors()
            .map(|tensor| match tensor.name.as_str() {
                "lm_head.weight" if tied => 0,
                "model.embed_tokens.weight" if !tied => rows(tensor),
                "model.embed_tokens.weight" => tensor.data.len() + rows(tensor),
                _ => tensor.data.len(),
            })
            .sum()
    }

    /// Starts an empty sequence.
    pub fn session(&self, options: SessionOptions) -> Result<Session, SessionError> {
        let model_context = self.config().max_context();
        let context = options.context.unwrap_or(model_context);
        if context > model_context {
            let model = self.name().to_owned();
            return Err(SessionError::ContextBeyondModel { context, model_context, model });
        }
        Ok(Session {
            engine: self.clone(),
            timeline: self.inner.model.clone().timeline(options.kv_dtype),
            options: SessionOptions { context: Some(context), chunk: options.chunk.max(1), ..options },
            tokens: Vec::new(),
            logits: Vec::new(),
            ahead: None,
        })
    }

    /// Checks tokens from outside: there are some, the model knows them, and they fit into `context`.
    pub(crate) fn check(&self, ids: &[u32], context: usize) -> Result<(), SessionError> {
        if ids.is_empty() {
            return Err(SessionError::EmptyPrompt);
        }
        if ids.len() > context {
            let (needed, model_context) = (ids.len(), self.config().max_context());
            return Err(SessionError::ContextTooLong { needed, context, model_context });
        }
        let vocab_size = self.config().vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(index) => Err(SessionError::TokenOutOfRange { id: ids[index], index, vocab_size }),
            None => Ok(()),
        }
    }

    /// Runs `ids` from the start with an f32 cache and shows `probe` every stage; see [`super::verify`].
    pub fn probe(&self, ids: &[u32], rows: LogitsFor, probe: Probe<'_>) -> Result<(), SessionError> {
        self.check(ids, self.config().max_context())?;
        let mut timeline = self.inner.model.clone().timeline(KvDType::F32);
        timeline.append(Input::Tokens(ids), rows, Some(probe))?;
        Ok(())
    }

    /// Runs `ids` on `kind` and on the reference backend side by side and returns the differences, operation by
    /// operation.
    pub fn compare_with_reference(&self, kind: &EngineOptions, ids: &[u32]) -> Result<Vec<Record>, SessionError> {
        self.check(ids, self.config().max_context())?;
        kind.with_backend(CompareOn { engine: self, ids })
    }
}

/// One growing sequence of tokens, with the keys and values that belong to it.
pub struct Session {
    engine: Engine,
    timeline: Box<dyn Timeline>,
    options: SessionOptions,
    /// The tokens whose keys and values are in the cache.
    tokens: Vec<u32>,
    /// Logits of the last of them; empty if they have not been computed.
    logits: Vec<f32>,
    /// The pass that runs ahead of them; see [`Session::evaluate_best_ahead`].
    ahead: Option<RunsAhead>,
}

/// A pass over one more token than a session has, begun before the caller said that it wants it.
struct RunsAhead {
    /// The token: the best one after those that the session has.
    token: u32,
    /// The best one after that.
    best: Ahead,
}

impl Session {
    /// The engine it runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The most tokens it may hold.
    pub fn context(&self) -> usize {
        self.options.context.unwrap_or(usize::MAX)
    }

    /// Bytes of KV cache that one token takes.
    pub fn kv_bytes_per_token(&self) -> usize {
        let c = self.engine.config();
        let layout = KvLayout {
            layers: c.num_hidden_layers,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            dtype: self.options.kv_dtype,
        };
        layout.bytes_per_token()
    }

    /// Work done so far: every token that went through a transformer block counts one.
    pub fn token_layers(&self) -> u64 {
        self.timeline.token_layers()
    }

    // ANCHOR: evaluate
    /// Makes `tokens` true and returns the logits of the last one: `[vocab]`.
    ///
    /// The longest common prefix with what is in the cache is reused; the rest of the cache is
    /// forgotten, the rest of `tokens` computed.
    pub fn evaluate(&mut self, tokens: &[u32]) -> Result<&[f32], SessionError> {
        self.evaluate_with_progress(tokens, &mut |_, _| ControlFlow::Continue(()))
    }
    // ANCHOR_END: evaluate

    /// [`evaluate`](Self::evaluate), calling `progress(done, total)` between chunks; breaking off leaves the chunks that
    /// are done in the cache.
    pub fn evaluate_with_progress(
        &mut self,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<&[f32], SessionError> {
        if self.tokens != tokens || self.logits.is_empty() {
            self.advance(tokens, LogitsFor::Last, progress)?;
        }
        Ok(&self.logits)
    }

    /// [`evaluate`](Self::evaluate), but returns only the token with the largest logit, and that logit: a GPU then finds it,
    /// and nothing else has to leave it. NaN counts as the largest; of equal ones, the first wins.
    pub fn evaluate_best(&mut self, tokens: &[u32]) -> Result<(u32, f32), SessionError> {
        self.evaluate_best_ahead(tokens, false)
    }

    /// [`evaluate_best`](Self::evaluate_best), for a caller that will, most likely, append this token and ask again: with
    /// `go_on`, the pass over it begins before this method has even heard which it is, so that a device is at work while the
    /// caller looks at the token. Any other call forgets what ran ahead; only time is lost.
    pub fn evaluate_best_ahead(&mut self, tokens: &[u32], go_on: bool) -> Result<(u32, f32), SessionError> {
        if self.tokens == tokens && !self.logits.is_empty() {
            return Ok(plain::argmax(&self.logits));
        }
        let best = match self.ahead.take() {
            // As expected: the pass is on its way, or over.
            Some(RunsAhead { token, best }) if tokens.split_last() == Some((&token, &self.tokens)) => {
                self.tokens.push(token);
                self.logits.clear();
                best
            }
            other => {
                self.ahead = other;
                match self.advance(tokens, LogitsFor::Best, &mut |_, _| ControlFlow::Continue(()))? {
                    Output::Best(best) => best,
                    _ => unreachable!("there is at least one token, and the answer for the last is what was asked for"),
                }
            }
        };
        // ANCHOR: ahead
        // Where the answer is known already, no time is gained.
        let go_on = go_on && self.tokens.len() < self.context() && matches!(best, Ahead::Number(_));
        let next = go_on.then(|| self.append(Input::Ahead(&best), LogitsFor::Best));
        let found = self.settle(best);
        if let Some(Ok(Output::Best(best))) = next {
            match found {
                Ok((token, _)) => self.ahead = Some(RunsAhead { token, best }),
                // What ran after a pass that failed means nothing, whatever became of it.
                Err(_) => drop(self.settle(best)),
            }
        }
        // If the pass ahead could not be begun, it is tried again, from the first token on, when
        // its token is asked for.
        Ok(found?)
        // ANCHOR_END: ahead
    }

    /// [`evaluate`](Self::evaluate), but returns only the `k` tokens with the largest logits, and those, the largest first; of
    /// equal ones the lowest id first.
    pub fn evaluate_top(&mut self, tokens: &[u32], k: usize) -> Result<Vec<(u32, f32)>, SessionError> {
        if self.tokens == tokens && !self.logits.is_empty() {
            return Ok(plain::top_k(&self.logits, k));
        }
        match self.advance(tokens, LogitsFor::Top(k), &mut |_, _| ControlFlow::Continue(()))? {
            Output::Top(top) => Ok(top),
            _ => unreachable!("there is at least one token, and the answer for the last is what was asked for"),
        }
    }

    /// All logits of the last token, where [`evaluate_top`](Self::evaluate_top) has just returned a part of them.
    pub(super) fn all_logits(&mut self) -> Result<&[f32], SessionError> {
        if self.logits.is_empty() {
            self.logits = self.timeline.logits()?;
        }
        Ok(&self.logits)
    }

    /// Forgets the pass that runs ahead, once it is over.
    pub fn stop_running_ahead(&mut self) {
        if let Some(RunsAhead { best, .. }) = self.ahead.take() {
            // Nobody asked for its answer, so nobody has to hear that it failed: what it has lost is computed again.
            let _ = self.settle(best);
            self.timeline.truncate(self.tokens.len());
        }
    }

    /// Makes `tokens` true and returns what is wanted of the last one; logits are kept in `self.logits`.
    fn advance(
        &mut self,
        tokens: &[u32],
        last_wanted: LogitsFor,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Output, SessionError> {
        self.engine.check(tokens, self.context())?;
        self.stop_running_ahead();
        // ANCHOR: reuse
        // EXERCISE: m4.reuse
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let mut output = Output::Logits(Vec::new());
        // The logits of the last token are wanted, so at least that one is computed again.
        let mut done = common.min(tokens.len() - 1);
        self.tokens.truncate(done);
        self.timeline.truncate(done);
        self.logits.clear();
        while done < tokens.len() {
            if progress(done, tokens.len()).is_break() {
                return Err(SessionError::Interrupted { done, total: tokens.len() });
            }
            let chunk = &tokens[done..tokens.len().min(done + self.options.chunk)];
            let last = done + chunk.len() == tokens.len();
            let wanted = if last { last_wanted } else { LogitsFor::None };
            output = self.append(Input::Tokens(chunk), wanted)?;
            self.tokens.extend_from_slice(chunk);
            done += chunk.len();
        }
        if let Output::Logits(logits) = &mut output {
            self.logits = std::mem::take(logits);
        }
        Ok(output)
        // EXERCISE_END
        // ANCHOR_END: reuse
    }

    /// Computes some tokens more, or one whose name is not known yet. After an error there are none, and the next call computes
    /// all that it needs.
    fn append(&mut self, input: Input<'_>, wanted: LogitsFor) -> Result<Output, BackendError> {
        self.timeline.append(input, wanted, None).inspect_err(|_| self.tokens.clear())
    }

    /// Waits for a pass. One that failed may have lost what was in the cache.
    fn settle(&mut self, best: Ahead) -> Result<(u32, f32), BackendError> {
        self.timeline.settle(best).inspect_err(|_| {
            self.tokens.clear();
            self.timeline.truncate(0);
        })
    }

    /// Makes `tokens` true and returns the logits of `tokens[first..]`, row-major: `[tokens.len() - first, vocab]`.
    ///
    /// What is in the cache before `first` is reused; the rest goes in chunks, but for the rows asked for, which are
    /// computed at once. With Qwen3's vocabulary a row takes 608 KB, so a long text is asked for piece by piece.
    pub fn evaluate_rows(&mut self, tokens: &[u32], first: usize) -> Result<Vec<f32>, SessionError> {
        self.engine.check(tokens, self.context())?;
        self.stop_running_ahead();
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let mut done = common.min(first);
        self.tokens.truncate(done);
        self.timeline.truncate(done);
        self.logits.clear();
        let mut rows = Vec::new();
        while done < tokens.len() {
            let (end, wanted) = match done < first {
                true => (first.min(tokens.len()).min(done + self.options.chunk), LogitsFor::None),
                false => (tokens.len(), LogitsFor::All),
            };
            rows = self.append(Input::Tokens(&tokens[done..end]), wanted)?.logits();
            self.tokens.extend_from_slice(&tokens[done..end]);
            done = end;
        }
        Ok(rows)
    }

    // ANCHOR: rewind
    /// Forgets all tokens from `len` on.
    pub fn rewind(&mut self, len: usize) {
        self.stop_running_ahead();
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.logits.clear();
            self.timeline.truncate(len);
        }
    }
    // ANCHOR_END: rewind

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.rewind(0);
    }
}

impl Drop for Session {
    /// The backend keeps every promise until somebody has asked for it.
    fn drop(&mut self) {
        self.stop_running_ahead();
    }
}

/// A [`Qwen3`] with its backend's type forgotten, so that one program chooses the backend at run time.
trait Model: Send + Sync {
    fn config(&self) -> &Config;
    fn backend(&self) -> BackendInfo;
    fn read_bandwidth(&self, of_weights: bool) -> Option<f64>;
    fn peak_ops(&self) -> Vec<Peak>;
    fn counters(&self) -> Option<Counters>;
    fn capture(&self, path: &Path) -> Result<(), BackendError>;
    fn timeline(self: Arc<Self>, dtype: KvDType) -> Box<dyn Timeline>;
}

/// A [`State`] with the model it belongs to.
trait Timeline: Send {
    fn append(&mut self, input: Input<'_>, wanted: LogitsFor, probe: Option<Probe<'_>>)
    -> Result<Output, BackendError>;
    fn settle(&mut self, ahead: Ahead) -> Result<(u32, f32), BackendError>;
    fn logits(&self) -> Result<Vec<f32>, BackendError>;
    fn truncate(&mut self, len: usize);
    fn token_layers(&self) -> u64;
}

impl<B: Backend> Model for Qwen3<B> {
    fn config(&self) -> &Config {
        Qwen3::config(self)
    }

    fn backend(&self) -> BackendInfo {
        Qwen3::backend(self).info()
    }

    fn read_bandwidth(&self, of_weights: bool) -> Option<f64> {
        let weights = if of_weights { self.weights().matrices() } else { Vec::new() };
        Qwen3::backend(self).read_bandwidth(&weights)
    }

    fn peak_ops(&self) -> Vec<Peak> {
        Qwen3::backend(self).peak_ops()
    }

    fn counters(&self) -> Option<Counters> {
        Qwen3::backend(self).counters()
    }

    fn capture(&self, path: &Path) -> Result<(), BackendError> {
        Qwen3::backend(self).capture(path)
    }

    fn timeline(self: Arc<Self>, dtype: KvDType) -> Box<dyn Timeline> {
        let state = self.state(dtype);
        Box::new((self, state))
    }
}

impl<B: Backend> Timeline for (Arc<Qwen3<B>>, State<B>) {
    fn append(
        &mut self,
        input: Input<'_>,
        wanted: LogitsFor,
        probe: Option<Probe<'_>>,
    ) -> Result<Output, BackendError> {
        let (model, state) = self;
        model.append(state, input, wanted, probe)
    }

    fn settle(&mut self, ahead: Ahead) -> Result<(u32, f32), BackendError> {
        self.0.backend().settle(ahead)
    }

    fn logits(&self) -> Result<Vec<f32>, BackendError> {
        self.0.logits(&self.1)
    }

    fn truncate(&mut self, len: usize) {
        self.1.truncate(len);
    }

    fn token_layers(&self) -> u64 {
        self.1.token_layers()
    }
}
