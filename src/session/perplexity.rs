//! How well a model predicts a text, and how far one model is from another: perplexity and KL divergence.
//!
//! The text is tokenized once and cut into windows; the model sees a window alone, from position 0. A token's score is
//! its negative log-likelihood in nats, `-ln p(token | the window before it)`. Two ways to cut, both in common use:
//!
//! - **Chunks** (the default): windows of `context` tokens, one after the other. The first half of each is context only:
//!   the logits at positions `context/2 ..= context - 2` score the tokens one further, so every scored token has more than
//!   `context/2` tokens before it. What is left of the text at the end is not scored. This is llama.cpp's
//!   `llama-perplexity` (`perplexity` and `kl_divergence` in `tools/perplexity/perplexity.cpp`), number for number.
//! - **Strided**: windows of `context` tokens that begin `stride` tokens after one another and overlap; each scores the
//!   tokens that no window before it has seen, and the last one ends with the text. So every token but the first is scored
//!   exactly once. This is the sliding window of transformers' documentation (`docs/source/en/perplexity.md`), with every
//!   token weighing the same (the example there counts each later window one token short). llama.cpp's `--ppl-stride` moves
//!   its windows in the same way, but of the first it scores the last `stride` tokens only, and it drops what is left at
//!   the end.
//!
//! A text shorter than one window is one window, and all its tokens but the first are scored. No BOS token is put in front
//! of a window: llama.cpp replaces the first token of each by one if the vocabulary asks for it, and Qwen3's does not.
//!
//! Logits are f32 as the model gives them; exponentials, sums and differences of them are f64.

use super::engine::{Engine, SessionOptions};
use super::error::SessionError;
use super::sampling::{SamplingError, argmax};
use crate::model::kv_cache::KvDType;
use serde::Serialize;
use std::f64::consts::LN_2;
use std::ops::{ControlFlow, Range};

/// The most bytes of logits that are asked for at a time.
const LOGITS_BYTES: usize = 64 << 20;
/// Context tokens computed between two looks at whether to go on.
const CONTEXT_CHUNK: usize = 512;
/// The shortest window whose second half holds a token to score.
const SHORTEST_CONTEXT: usize = 3;

/// Why a text cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum PerplexityError {
    /// The model, its tokenizer or its device.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// There is nothing to predict.
    #[error("the text has {tokens} token{}; at least 2 are needed, since the first has nothing to be predicted from", if *tokens == 1 { "" } else { "s" })]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
    },
    /// Windows in which nothing would be scored.
    #[error("windows of {context} tokens are too short; the context must be at least {SHORTEST_CONTEXT}")]
    ContextTooShort {
        /// Asked for.
        context: usize,
    },
    /// Windows that would leave tokens out.
    #[error("a stride of {stride} was asked for; it must be at least 1 and below the context of {context}")]
    Stride {
        /// Asked for.
        stride: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// The models do not predict the same tokens, so their distributions cannot be compared.
    #[error("{candidate} and {reference} have different vocabularies: {difference}; compare models that share one")]
    Vocabulary {
        /// The model that is scored.
        candidate: String,
        /// The model it is compared with.
        reference: String,
        /// The first thing that differs.
        difference: String,
    },
    /// Logits that are no distribution.
    #[error("{model}, at token {position} of the text")]
    Logits {
        /// The model.
        model: String,
        /// Index in the text of the token whose logits they are.
        position: usize,
        /// What is wrong with them.
        source: SamplingError,
    },
}

/// How to cut the text.
#[derive(Clone, Copy, Debug)]
pub struct PerplexityOptions {
    /// Tokens of a window.
    pub context: usize,
    /// `None`: chunks; `Some(n)`: overlapping windows, each `n` tokens further. See the [module](self).
    pub stride: Option<usize>,
    /// Element type of the KV cache.
    pub kv_dtype: KvDType,
    /// Element type of the reference model's KV cache.
    pub against_kv_dtype: KvDType,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { context: 512, stride: None, kv_dtype: KvDType::F16, against_kv_dtype: KvDType::F16 }
    }
}

/// A stretch of the text that the model sees alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens.
    pub tokens: Range<usize>,
    /// The first of them that is scored; so are all after it. Never the window's first.
    pub scored_from: usize,
}

impl Window {
    /// How many tokens it scores.
    pub fn scored(&self) -> usize {
        self.tokens.end - self.scored_from
    }
}

/// Cuts a text of `tokens` tokens; see the [module](self).
pub fn windows(tokens: usize, context: usize, stride: Option<usize>) -> Result<Vec<Window>, PerplexityError> {
    if tokens < 2 {
        return Err(PerplexityError::TooShort { tokens });
    }
    if context < SHORTEST_CONTEXT {
        return Err(PerplexityError::ContextTooShort { context });
    }
    if let Some(stride) = stride.filter(|&stride| stride == 0 || stride >= context) {
        return Err(PerplexityError::Stride { stride, context });
    }
    if tokens <= context && (stride.is_some() || tokens < context) {
        return Ok(vec![Window { tokens: 0..tokens, scored_from: 1 }]);
    }
    Ok(match stride {
        None => {
            let starts = (0..tokens / context).map(|i| i * context);
            starts.map(|at| Window { tokens: at..at + context, scored_from: at + context / 2 + 1 }).collect()
        }
        Some(stride) => {
            let moved = (tokens - context).div_ceil(stride);
            let ends = (0..=moved).map(|i| (i * stride, tokens.min(i * stride + context)));
            ends.map(|(at, end)| Window {
                tokens: at..end,
                scored_from: if at == 0 { 1 } else { at - stride + context },
            })
            .collect()
        }
    })
}

/// What was found out about one token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenScore {
    /// Its index in the text.
    pub position: usize,
    /// `-ln p(token)`: nats.
    pub nll: f64,
    /// The same place under the reference model, where there is one.
    pub against: Option<Against>,
}

/// How the reference model's distribution `P` and the candidate's, `Q`, differ in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Against {
    /// `-ln P(token)`: nats.
    pub nll: f64,
    /// `KL(P‖Q) = Σ P ln(P / Q)` over the vocabulary: nats.
    pub kl: f64,
    /// Whether both hold the same token for the most likely one.
    pub same_top: bool,
}

/// How far the work has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Tokens that went through the model, context included.
    pub done: usize,
    /// Tokens that will.
    pub total: usize,
    /// Tokens scored.
    pub scored: usize,
    /// Their mean negative log-likelihood; NaN before the first.
    pub nll: f64,
}

/// The scores of a text.
#[derive(Clone, Debug)]
pub struct Scores {
    /// The windows that were cut.
    pub windows: Vec<Window>,
    /// The scored tokens in the order of the text; those that were done where the caller broke off.
    pub tokens: Vec<TokenScore>,
    /// Whether the caller broke off.
    pub interrupted: bool,
}

/// The token ids of `text` under the candidate's tokenizer; an error if the reference has another vocabulary or cuts the
/// text in another way.
pub fn tokenize(candidate: &Engine, reference: Option<&Engine>, text: &str) -> Result<Vec<u32>, PerplexityError> {
    let ids = candidate.tokenizer()?.encode(text);
    if let Some(reference) = reference {
        check_vocabularies(candidate, reference)?;
        let theirs = reference.tokenizer()?.encode(text);
        if ids != theirs {
            let at = ids.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            return Err(different(candidate, reference, format!("they cut this text differently, from token {at} on")));
        }
    }
    Ok(ids)
}

fn different(candidate: &Engine, reference: &Engine, difference: String) -> PerplexityError {
    let (candidate, reference) = (candidate.name().to_owned(), reference.name().to_owned());
    PerplexityError::Vocabulary { candidate, reference, difference }
}

/// The same number of logits, and the same bytes for each token.
fn check_vocabularies(candidate: &Engine, reference: &Engine) -> Result<(), PerplexityError> {
    let (ours, theirs) = (candidate.config().vocab_size, reference.config().vocab_size);
    if ours != theirs {
        return Err(different(candidate, reference, format!("{ours} and {theirs} tokens")));
    }
    match (0..ours as u32).find(|&id| candidate.token_bytes(id) != reference.token_bytes(id)) {
        None => Ok(()),
        Some(id) => {
            let show = |engine: &Engine| String::from_utf8_lossy(engine.token_bytes(id)).into_owned();
            let difference = format!("token {id} is {:?} and {:?}", show(candidate), show(reference));
            Err(different(candidate, reference, difference))
        }
    }
}

/// Scores `ids` under `candidate`, and compares it in every place with `reference`, if there is one.
///
/// Both models go through a window together, so no more than a piece of one window's logits is in memory at a time.
/// `progress` is called between pieces; breaking off keeps what is scored.
pub fn score(
    candidate: &Engine,
    reference: Option<&Engine>,
    ids: &[u32],
    options: &PerplexityOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Scores, PerplexityError> {
    if let Some(reference) = reference {
        check_vocabularies(candidate, reference)?;
    }
    let session_options =
        |kv_dtype| SessionOptions { context: Some(options.context), kv_dtype, ..SessionOptions::default() };
    let mut session = candidate.session(session_options(options.kv_dtype))?;
    let mut beside = reference.map(|engine| engine.session(session_options(options.against_kv_dtype))).transpose()?;
    let windows = windows(ids.len(), options.context, options.stride)?;
    candidate.check(ids, usize::MAX)?;
    // The last token of a window predicts nothing that is scored, so it does not go through the model.
    let total = windows.iter().map(|window| window.tokens.len() - 1).sum();
    let rows_at_a_time = (LOGITS_BYTES / (4 * candidate.config().vocab_size)).max(1);
    let mut scores = Scores { windows, tokens: Vec::new(), interrupted: false };
    let (mut done, mut sum) = (0, 0.0);

    for window in &scores.windows {
        let start = window.tokens.start;
        let inputs = &ids[start..window.tokens.end - 1];
        let first = window.scored_from - 1 - start;
        let mut at = 0;
        while at < inputs.len() {
            let scored = scores.tokens.len();
            if progress(Progress { done, total, scored, nll: sum / scored as f64 }).is_break() {
                scores.interrupted = true;
                return Ok(scores);
            }
            let end = match at < first {
                true => first.min(at + CONTEXT_CHUNK),
                false => inputs.len().min(at + rows_at_a_time),
            };
            let rows = at.max(first)..end.max(first);
            let q = session.evaluate_rows(&inputs[..end], rows.start)?;
            let p = beside.as_mut().map(|session| session.evaluate_rows(&inputs[..end], rows.start)).transpose()?;
            if !rows.is_empty() {
                let from = start + rows.start + 1;
                let targets = &ids[from..start + rows.end + 1];
                scores.tokens.extend(score_rows((candidate, &q), reference.zip(p.as_deref()), targets, from)?);
                sum += scores.tokens[scored..].iter().map(|score| score.nll).sum::<f64>();
            }
            done += end - at;
            at = end;
        }
    }
    Ok(scores)
}

/// Scores `targets`, which begin at `from` in the text, each by its row of the models' logits: `[targets, vocab]`.
///
/// A row takes a millisecond at Qwen3's vocabulary, mostly in `exp`, so the rows are shared out among threads.
fn score_rows(
    (candidate, q): (&Engine, &[f32]),
    reference: Option<(&Engine, &[f32])>,
    targets: &[u32],
    from: usize,
) -> Result<Vec<TokenScore>, PerplexityError> {
    let vocab = candidate.config().vocab_size;
    let score = |row: usize| {
        let bad = |engine: &Engine, source| PerplexityError::Logits {
            model: engine.name().into(),
            position: from + row - 1,
            source,
        };
        let (target, logits) = (targets[row] as usize, row * vocab..(row + 1) * vocab);
        let q = &q[logits.clone()];
        let (q_top, q_norm) = log_sum_exp(q).map_err(|error| bad(candidate, error))?;
        let mut score = TokenScore { position: from + row, nll: q_norm - f64::from(q[target]), against: None };
        if let Some((reference, p)) = reference {
            let p = &p[logits];
            let (p_top, p_norm, kl) = compare(p, q, q_norm).map_err(|error| bad(reference, error))?;
            score.against = Some(Against { nll: p_norm - f64::from(p[target]), kl, same_top: p_top == q_top });
        }
        Ok(score)
    };
    let threads = candidate.backend().threads;
    let per_thread = targets.len().div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let score = &score;
        let rows = (0..targets.len()).step_by(per_thread).map(|at| at..targets.len().min(at + per_thread));
        let parts: Vec<_> = rows.map(|rows| scope.spawn(move || rows.map(score).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().expect("scoring does not panic")).collect()
    })
}

/// The most likely token, and `ln Σ exp(logits)`, which turns a logit into a log-probability.
fn log_sum_exp(logits: &[f32]) -> Result<(u32, f64), SamplingError> {
    let (top, max) = argmax(logits)?;
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    Ok((top, max + sum.ln()))
}

// ANCHOR: compare
/// [`log_sum_exp`] of `p`, and `KL(P‖Q)` from the same exponentials.
///
/// `ln P - ln Q` is `(p - q) - (p_norm - q_norm)`, and the second part is the same for every token, so
/// `KL = Σ P (p - q) - (p_norm - q_norm)`: exactly 0 for equal logits.
fn compare(p: &[f32], q: &[f32], q_norm: f64) -> Result<(u32, f64, f64), SamplingError> {
    let (top, max) = argmax(p)?;
    let max = f64::from(max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for (&p, &q) in p.iter().zip(q) {
        let (p, q) = (f64::from(p), f64::from(q));
        let weight = (p - max).exp();
        sum += weight;
        // A token that P excludes adds nothing, whatever Q holds of it: 0 ln 0 is 0.
        weighted += if weight > 0.0 { weight * (p - q) } else { 0.0 };
    }
    let p_norm = max + sum.ln();
    Ok((top, p_norm, weighted / sum - (p_norm - q_norm)))
}
// ANCHOR_END: compare

/// A mean over the scored tokens, with its standard error: the deviation of the tokens over the root of their number.
///
/// It takes the tokens for independent. Neighbours in a text are not, so read it as a lower bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` of a single token.
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// Of values that can be gone through twice: subtracting the mean first loses no digits.
    fn of(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let n = values.len() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
        Self { mean, standard_error: (n > 1.0).then(|| (squares / (n - 1.0) / n).sqrt()) }
    }

    /// `exp` of it, the error to first order: as llama.cpp gives perplexity's.
    fn exp(self) -> Self {
        let mean = self.mean.exp();
        Self { mean, standard_error: self.standard_error.map(|error| error * mean) }
    }
}

/// What `fs perplexity` reports.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens scored.
    pub tokens: usize,
    /// Bytes of their text (in NFC).
    pub bytes: usize,
    /// Negative log-likelihood: nats a token.
    pub nll: Estimate,
    /// All of it in bits, over the bytes; `None` of a model whose tokens have none. Comparable between tokenizers.
    pub bits_per_byte: Option<f64>,
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: Estimate,
    /// Against the reference model, if there is one.
    pub against: Option<Comparison>,
}

/// How far the candidate is from the reference.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
    /// The reference's own negative log-likelihood: nats a token.
    pub nll: Estimate,
    /// The reference's own perplexity.
    pub perplexity: Estimate,
    /// The candidate's perplexity over the reference's: `exp` of the mean difference, token by token.
    pub perplexity_ratio: Estimate,
    /// `KL(reference‖candidate)`: nats a token.
    pub kl: Estimate,
    /// Half of the tokens have less.
    pub kl_median: f64,
    /// 99 of 100 tokens have less.
    pub kl_p99: f64,
    /// The largest.
    pub kl_max: f64,
    /// The share of places where both hold the same token for the most likely one.
    pub same_top: Estimate,
    /// The probability of the text's token under the candidate, less that under the reference.
    pub probability_change: Estimate,
}

impl Report {
    /// Sums up `scores` of `ids`; `None` if no token was scored.
    pub fn new(engine: &Engine, ids: &[u32], scores: &Scores) -> Option<Report> {
        let tokens = &scores.tokens;
        if tokens.is_empty() {
            return None;
        }
        let nll = Estimate::of(tokens.iter().map(|token| token.nll));
        let bytes = tokens.iter().map(|token| engine.token_bytes(ids[token.position]).len()).sum();
        let bits = nll.mean * tokens.len() as f64 / LN_2;
        let pairs: Vec<(f64, Against)> =
            tokens.iter().filter_map(|token| token.against.map(|against| (token.nll, against))).collect();
        Some(Report {
            tokens: tokens.len(),
            bytes,
            nll,
            bits_per_byte: (bytes > 0).then(|| bits / bytes as f64),
            perplexity: nll.exp(),
            against: (!pairs.is_empty()).then(|| Comparison::new(&pairs)),
        })
    }
}

impl Comparison {
    fn new(pairs: &[(f64, Against)]) -> Comparison {
        let nll = Estimate::of(pairs.iter().map(|(_, p)| p.nll));
        let mut kl: Vec<f64> = pairs.iter().map(|(_, p)| p.kl).collect();
        kl.sort_by(f64::total_cmp);
        Comparison {
            nll,
            perplexity: nll.exp(),
            perplexity_ratio: Estimate::of(pairs.iter().map(|(q, p)| q - p.nll)).exp(),
            kl: Estimate::of(pairs.iter().map(|(_, p)| p.kl)),
            kl_median: quantile(&kl, 0.5),
            kl_p99: quantile(&kl, 0.99),
            kl_max: quantile(&kl, 1.0),
            same_top: Estimate::of(pairs.iter().map(|(_, p)| f64::from(u8::from(p.same_top)))),
            probability_change: Estimate::of(pairs.iter().map(|(q, p)| (-q).exp() - (-p.nll).exp())),
        }
    }
}

/// The value at `share` of the way through `sorted`, linear between its neighbours (numpy's default).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if below == above { below } else { below + (above - below) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    fn cut(tokens: usize, context: usize, stride: Option<usize>) -> Vec<Window> {
        windows(tokens, context, stride).expect("windows")
    }

    fn window(tokens: Range<usize>, scored_from: usize) -> Window {
        Window { tokens, scored_from }
    }

    #[test]
    fn chunks_by_hand() {
        // The first half of each window of 4 is context; what is left of 10 tokens is not scored.
        expect::same("10 tokens in windows of 4", &cut(10, 4, None), &[window(0..4, 3), window(4..8, 7)]);
        expect::same("4 tokens in windows of 4", &cut(4, 4, None), &[window(0..4, 3)]);
        expect::same("3 tokens in windows of 4", &cut(3, 4, None), &[window(0..3, 1)]);
    }

    #[test]
    fn strides_by_hand() {
        let expected = [window(0..4, 1), window(2..6, 4), window(4..8, 6), window(6..9, 8)];
        expect::same("9 tokens in windows of 4, 2 further each", &cut(9, 4, Some(2)), &expected);
        expect::same("4 tokens in windows of 4, 2 further each", &cut(4, 4, Some(2)), &[window(0..4, 1)]);
        let scored: Vec<usize> = cut(100, 16, Some(5)).into_iter().flat_map(|w| w.scored_from..w.tokens.end).collect();
        expect::same("scored of 100 tokens in windows of 16, 5 further each", &scored, &(1..100).collect::<Vec<_>>());
    }
}
