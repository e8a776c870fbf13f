//! Continuing a sequence: evaluate, sample, append, until something says stop.

use super::engine::Session;
use super::error::SessionError;
use super::sampling::{Choice, Sampler, SamplingParams, TokenLogprob, check_best};
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

impl Session {
    /// Continues `prompt`, calling `on_event` for each chunk of the prompt and each token; breaking off ends it.
    ///
    /// The prompt and the limit are checked before any work: a prompt that leaves no room for a single token is an error,
    /// and one that fills the context on the way ends with [`StopReason::ContextFull`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Completion, SessionError> {
        let engine = self.engine().clone();
        let mut sampler = Sampler::new(options.sampling.clone(), engine.config().vocab_size)?;
        if prompt.len() >= self.context() {
            return Err(SessionError::ContextTooLong {
                needed: prompt.len() + 1,
                context: self.context(),
                model_context: engine.config().max_context(),
            });
        }
        let mut timings = Timings { prompt_tokens: prompt.len(), ..Timings::default() };
        let before = self.token_layers();
        let started = Instant::now();
        self.evaluate_with_progress(prompt, &mut |done, total| on_event(Event::Prefill { done, total }))?;
        timings.prefill = started.elapsed();
        let computed = (self.token_layers() - before) / engine.config().num_hidden_layers as u64;
        timings.cached_tokens = prompt.len() - computed as usize;

        let mut tokens = prompt.to_vec();
        let mut text = String::new();
        let mut decoder = StreamDecoder::default();
        let mut stops = StopMatcher::new(options.stop_strings.clone());
        let mut stop_reason = loop {
            if options.max_tokens.is_some_and(|max| tokens.len() - prompt.len() >= max) {
                break StopReason::MaxTokens;
            }
            if tokens.len() >= self.context() {
                break StopReason::ContextFull;
            }
            // Evaluating what was appended last; nothing is left to do for the first token after the prompt.
            let started = Instant::now();
            let choice = match sampler.wants_only_the_best() {
                true => {
                    let (id, _) = check_best(self.evaluate_best(&tokens)?)?;
                    Choice { id, logprob: None, top: Vec::new() }
                }
                false => sampler.sample(self.evaluate(&tokens)?, &tokens, prompt.len())?,
            };
            if tokens.len() == prompt.len() {
                timings.prefill += started.elapsed();
            } else {
                timings.decode += started.elapsed();
                timings.decoded_tokens += 1;
            }
            if options.stop_tokens.contains(&choice.id) {
                break StopReason::StopToken;
            }
            tokens.push(choice.id);
            let piece = decoder.push(engine.token_bytes(choice.id));
            let (piece, stopped) = stops.push(&piece);
            text.push_str(&piece);
            let token =
                GeneratedToken { id: choice.id, text: piece, logprob: choice.logprob, top_logprobs: choice.top };
            let flow = on_event(Event::Token(&token));
            if stopped.is_some() {
                break StopReason::StopString;
            }
            if flow.is_break() {
                break StopReason::Interrupted;
            }
        };
        if stop_reason != StopReason::StopString {
            let (mut rest, stopped) = stops.push(&decoder.finish());
            match stopped {
                Some(_) => stop_reason = StopReason::StopString,
                None => rest.push_str(&stops.finish()),
            }
            text.push_str(&rest);
            // The text is complete either way; there is nothing left to break off.
            let _ = on_event(Event::Rest(&rest));
        }
        Ok(Completion { ids: tokens.split_off(prompt.len()), text, stop_reason, timings })
    }
}
