//! Continuing a sequence: evaluate, sample, append, until something says stop.

use super::engine::Session;
use super::error::SessionError;
use super::sampling::{Choice, Sampler, SamplingParams, TokenLogprob, Wants, check_best};
use super::stop::StopMatcher;
use crate::clock::Instant;
use crate::text::StreamDecoder;
use std::ops::ControlFlow;
use std::time::Duration;

/// How to continue.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// How to choose each token.
    pub sampling: SamplingParams,
    /// The most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Tokens that end the text; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Strings that end the text; they are not part of it.
    pub stop_strings: Vec<String>,
}

/// Why a continuation ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A stop token was drawn.
    StopToken,
    /// A stop string appeared.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The caller broke off.
    Interrupted,
}

/// One generated token, as it comes.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedToken {
    /// Its id.
    pub id: u32,
    /// The text that is certain now; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// Natural logarithm of its probability under the model, before penalties and truncation, if
    /// [`SamplingParams::logprobs`] asked for it.
    pub logprob: Option<f32>,
    /// The most likely tokens, if they were asked for.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Generated ids; a stop token is not among them.
    pub ids: Vec<u32>,
    /// Their text, up to a stop string.
    pub text: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// How long it took.
    pub timings: Timings,
}

/// How long a continuation took, and how much of the prompt was in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the cache held already.
    pub cached_tokens: usize,
    /// Computing the others, and sampling the first token from their logits.
    pub prefill: Duration,
    /// Tokens that took a pass over the weights of their own: all that were sampled but the first.
    pub decoded_tokens: usize,
    /// Computing and sampling those; what the caller does with them is not counted.
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens computed a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.prefill)
    }

    /// Tokens generated a second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decoded_tokens, self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// What a caller is told while a continuation runs.
pub enum Event<'a> {
    /// `done` of `total` prompt tokens are in the cache.
    Prefill {
        /// In the cache.
        done: usize,
        /// In the prompt.
        total: usize,
    },
    /// A token was generated.
    Token(&'a GeneratedToken),
    /// Text that was held back and is certain at the end.
    Rest(&'a str),
}

/// A continuation at work, one token a [`step`](Self::step): for callers that cannot wait until it is over.
pub struct Generation {
    options: GenerateOptions,
    prompt_len: usize,
    /// The prompt and what was generated.
    tokens: Vec<u32>,
    sampler: Sampler,
    wants: Wants,
    decoder: StreamDecoder,
    stops: StopMatcher,
    text: String,
    timings: Timings,
    stop_reason: Option<StopReason>,
}

impl Generation {
    /// Checks the prompt and the options, and computes the prompt on `session`; `progress(done, total)` hears of its chunks
    /// and can break off.
    ///
    /// A prompt that leaves no room for a single token is an error, before any work; one that fills the context on the way
    /// ends with [`StopReason::ContextFull`].
    pub fn new(
        session: &mut Session,
        prompt: &[u32],
        options: GenerateOptions,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Generation, SessionError> {
        let engine = session.engine().clone();
        let sampler = Sampler::new(options.sampling.clone(), engine.config().vocab_size)?;
        if prompt.len() >= session.context() {
            return Err(SessionError::ContextTooLong {
                needed: prompt.len() + 1,
                context: session.context(),
                model_context: engine.config().max_context(),
            });
        }
        let mut timings = Timings { prompt_tokens: prompt.len(), ..Timings::default() };
        let before = session.token_layers();
        let started = Instant::now();
        session.evaluate_with_progress(prompt, progress)?;
        timings.prefill = started.elapsed();
        let computed = (session.token_layers() - before) / engine.config().num_hidden_layers as u64;
        timings.cached_tokens = prompt.len() - computed as usize;
        Ok(Generation {
            prompt_len: prompt.len(),
            tokens: prompt.to_vec(),
            // Where logits lie in a device's memory, it finds those that the sampler looks at.
            wants: if engine.counters().is_some() { sampler.wants() } else { sampler.wants().without_top() },
            sampler,
            decoder: StreamDecoder::default(),
            stops: StopMatcher::new(options.stop_strings.clone()),
            text: String::new(),
            timings,
            stop_reason: None,
            options,
        })
    }

    /// Computes and samples the next token on the session that it began on; `None` when the continuation is over.
    pub fn step(&mut self, session: &mut Session) -> Result<Option<GeneratedToken>, SessionError> {
        if self.stop_reason.is_none() {
            if self.options.max_tokens.is_some_and(|max| self.tokens.len() - self.prompt_len >= max) {
                self.stop_reason = Some(StopReason::MaxTokens);
            } else if self.tokens.len() >= session.context() {
                self.stop_reason = Some(StopReason::ContextFull);
            }
        }
        if self.stop_reason.is_some() {
            return Ok(None);
        }
        // Evaluating what was appended last; nothing is left to do for the first token after the prompt.
        let started = Instant::now();
        let choice = match self.wants {
            Wants::Best => {
                let next = self.tokens.len() + 1;
                let most = self.options.max_tokens.map_or(usize::MAX, |max| self.prompt_len.saturating_add(max));
                let go_on = next < most.min(session.context());
                let (id, _) = check_best(session.evaluate_best_ahead(&self.tokens, go_on)?)?;
                Choice { id, logprob: None, top: Vec::new() }
            }
            Wants::Top(n) => match self.sampler.sample_top(session.evaluate_top(&self.tokens, n)?)? {
                Some(choice) => choice,
                None => self.sampler.sample(session.all_logits()?, &self.tokens, self.prompt_len)?,
            },
            Wants::All => self.sampler.sample(session.evaluate(&self.tokens)?, &self.tokens, self.prompt_len)?,
        };
        if self.tokens.len() == self.prompt_len {
            self.timings.prefill += started.elapsed();
        } else {
            self.timings.decode += started.elapsed();
            self.timings.decoded_tokens += 1;
        }
        // ANCHOR: token
        if self.options.stop_tokens.contains(&choice.id) {
            self.stop_reason = Some(StopReason::StopToken);
            return Ok(None);
        }
        self.tokens.push(choice.id);
        let piece = self.decoder.push(session.engine().token_bytes(choice.id));
        let (piece, stopped) = self.stops.push(&piece);
        self.text.push_str(&piece);
        if stopped.is_some() {
            self.stop_reason = Some(StopReason::StopString);
        }
        // ANCHOR_END: token
        Ok(Some(GeneratedToken { id: choice.id, text: piece, logprob: choice.logprob, top_logprobs: choice.top }))
    }

    /// Ends it, now if it is not over: what was generated, and the text that was held back and is certain at the end (`None`
    /// where a stop string has ended the text).
    pub fn finish(mut self) -> (Completion, Option<String>) {
        let mut stop_reason = self.stop_reason.unwrap_or(StopReason::Interrupted);
        let rest = (stop_reason != StopReason::StopString).then(|| {
            let (mut rest, stopped) = self.stops.push(&self.decoder.finish());
            match stopped {
                Some(_) => stop_reason = StopReason::StopString,
                None => rest.push_str(&self.stops.finish()),
            }
            rest
        });
        self.text.push_str(rest.as_deref().unwrap_or_default());
        let ids = self.tokens.split_off(self.prompt_len);
        (Completion { ids, text: self.text, stop_reason, timings: self.timings }, rest)
    }
}

impl Session {
    /// Continues `prompt`, calling `on_event` for each chunk of the prompt and each token; breaking off ends it. See
    /// [`Generation`], which does the work.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion, SessionError> {
        let mut progress = |done, total| on_event(Event::Prefill { done, total });
        let mut generation = Generation::new(self, prompt, options.clone(), &mut progress)?;
        while let Some(token) = generation.step(self)? {
            if on_event(Event::Token(&token)).is_break() {
                break;
            }
        }
        self.stop_running_ahead();
        let (completion, rest) = generation.finish();
        if let Some(rest) = rest {
            // The text is complete either way; there is nothing left to break off.
            let _ = on_event(Event::Rest(&rest));
        }
        Ok(completion)
    }
}
