//! Running a prompt under the recorder.

use super::record::Recorder;
use super::{Bytes, FORMAT, Lens, Operation, Pass, Token, TopToken, Trace, TraceOptions, VERSION};
use crate::backend::observed::Observed;
use crate::backend::{Backend, Heads};
use crate::model::expected;
use crate::model::kv_cache::KvLayout;
use crate::model::qwen3::{LogitsFor, Qwen3, Stage, State};
use crate::session::sampling::log_softmax_top;
use crate::session::{Engine, EngineOptions, SessionError, WithBackend};

/// Runs `ids`, and as many tokens more as `options` asks for, on a backend like the engine's, which `device` describes, and
/// writes down what happened. The prompt goes in one pass.
pub fn trace(
    engine: &Engine,
    device: &EngineOptions,
    ids: &[u32],
    options: &TraceOptions,
) -> Result<Trace, SessionError> {
    let context = engine.config().max_context();
    engine.check(ids, context)?;
    let needed = ids.len().saturating_add(options.generate);
    if needed > context {
        return Err(SessionError::ContextTooLong { needed, context, model_context: context });
    }
    device.with_backend(TraceOn { engine, ids, options })
}

struct TraceOn<'a> {
    engine: &'a Engine,
    ids: &'a [u32],
    options: &'a TraceOptions,
}

/// A model under the recorder.
type Traced<B> = Qwen3<Observed<B, Recorder>>;

impl WithBackend for TraceOn<'_> {
    type Out = Trace;

    fn run<B: Backend>(self, backend: B) -> Result<Trace, SessionError> {
        let Self { engine, ids, options } = self;
        let c = engine.config();
        let heads = Heads { heads: c.num_attention_heads, kv_heads: c.num_key_value_heads, head_dim: c.head_dim };
        let layout = KvLayout {
            layers: c.num_hidden_layers,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            dtype: options.kv_dtype,
        };
        let info = backend.info();
        let recorder = Recorder::new(*options, heads, layout);
        let model: Traced<B> = Qwen3::load(Observed::new(backend, recorder), c.clone(), engine.checkpoint())?;

        let mut state = model.state(options.kv_dtype);
        let mut tokens = ids.to_vec();
        let mut passes = vec![self.pass(&model, &mut state, ids)?];
        for _ in 0..options.generate {
            let next = passes[passes.len() - 1].next.id;
            tokens.push(next);
            passes.push(self.pass(&model, &mut state, &[next])?);
        }
        Ok(Trace {
            format: FORMAT,
            version: VERSION,
            model: engine.name().into(),
            dtype: engine.weights_dtype(),
            config: c.clone(),
            backend: info.name,
            device: info.device,
            threads: info.threads,
            kv: options.kv_dtype.name(),
            kv_bytes_per_token: layout.bytes_per_token(),
            weight_bytes_per_token: engine.weight_bytes_per_token(),
            tokens: tokens.into_iter().map(|id| self.token(id)).collect(),
            prompt_tokens: ids.len(),
            rows: options.rows,
            passes,
        })
    }
}

impl TraceOn<'_> {
    fn pass<B: Backend>(
        &self,
        model: &Traced<B>,
        state: &mut State<Observed<B, Recorder>>,
        ids: &[u32],
    ) -> Result<Pass, SessionError> {
        let (options, hidden, start) = (self.options, model.config().hidden_size, state.len());
        // The residual stream of the recorded tokens, by stage.
        let mut stream = Vec::new();
        let mut probe = |stage, mut values: Vec<f32>| {
            if let Stage::Embedding | Stage::Block(_) = stage {
                stream.push((stage, values.split_off(hidden * (ids.len() - options.rows.count(ids.len())))));
            }
        };
        let probe: Option<crate::model::qwen3::Probe<'_>> = if options.top > 0 { Some(&mut probe) } else { None };
        let logits = model.append(state, ids, LogitsFor::Last, probe)?.logits();
        let operations = model.backend().observer().take_operations();
        let [best] = self.top(&logits, 1)?.try_into().unwrap_or_else(|_| unreachable!("there is a largest logit"));

        let mut lens = Vec::new();
        for (stage, values) in stream {
            let logits = model.head(&values)?;
            let rows = logits.chunks_exact(model.config().vocab_size).map(|row| self.top(row, options.top));
            lens.push(Lens { stage: stage.to_string(), rows: rows.collect::<Result<_, _>>()? });
        }
        // The lens ran operations, too; they are not part of the pass.
        model.backend().observer().take_operations();

        let mut bytes = Bytes::default();
        for operation in &operations {
            bytes += operation.bytes;
        }
        let TopToken { id, text, .. } = best;
        Ok(Pass {
            phase: if start == 0 { "prefill" } else { "decode" },
            start,
            tokens: ids.len(),
            operation_count: operations.len(),
            bytes,
            flop: operations.iter().map(|operation| operation.flop).sum(),
            flop_without_cache: expected::flop(model.config(), 0, start + ids.len()) as u64,
            seconds: operations.iter().map(|operation| operation.seconds).sum(),
            operations: if options.operations { operations } else { Vec::<Operation>::new() },
            lens,
            next: Token { id, text },
        })
    }

    /// The most likely tokens.
    fn top(&self, logits: &[f32], count: usize) -> Result<Vec<TopToken>, SessionError> {
        let top = log_softmax_top(logits, count)?.into_iter();
        Ok(top
            .map(|t| {
                let Token { id, text } = self.token(t.id);
                TopToken { id, text, logit: t.logit, probability: t.logprob.exp() }
            })
            .collect())
    }

    fn token(&self, id: u32) -> Token {
        Token { id, text: String::from_utf8_lossy(self.engine.token_bytes(id)).into_owned() }
    }
}
