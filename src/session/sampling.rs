//! From logits to the next token. Longer than other files: a sixth of it are the examples by hand that exercises are checked with.
//!
//! [`Sampler::sample`] applies these steps, each off unless asked for, in the order in which transformers applies its
//! logits processors (`generation/utils.py`, `_get_logits_processor`); presence and frequency penalties, which
//! transformers lacks, stand beside the other penalty:
//!
//! | step | effect | off |
//! | --- | --- | --- |
//! | logit bias | adds to the logits of given tokens | empty |
//! | repetition penalty | divides positive, multiplies negative logits of tokens in prompt or answer (arXiv 1909.05858) | 1 |
//! | presence, frequency penalty | subtract `presence + count * frequency` for tokens in the answer (OpenAI's API) | 0 |
//! | temperature | divides all logits; 0 takes the largest and ends here | 1 |
//! | top-k | keeps the k largest, and what equals the k-th | 0 |
//! | top-p | keeps the fewest tokens, most likely first, whose probabilities reach p (arXiv 1904.09751) | 1 |
//! | min-p | keeps tokens at least `min_p` times as likely as the most likely one (arXiv 2407.01082) | 0 |
//! | draw | one random number picks among what is left, in proportion to probability | |
//!
//! The same seed and logits give the same tokens on every machine: the random numbers are [`Rng`]'s, and probabilities
//! are f64 sums, in a fixed order, of `libm::exp`, which (unlike the standard library's, the operating system's) is the
//! same IEEE additions and multiplications everywhere.

use crate::backend::plain::{self, max_and_nan};
use crate::weights::GenerationConfig;

/// What can be wrong with sampling parameters or with the logits to sample from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A parameter outside its range.
    #[error("{name} is {found}; it must be {expected}")]
    Parameter {
        /// The parameter's field name.
        name: &'static str,
        /// Its value.
        found: f32,
        /// What is allowed.
        expected: &'static str,
    },
    /// A token id in the logit bias or the history that the model does not have.
    #[error("token id {id} in the {place} is outside the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// Where the id stands.
        place: &'static str,
        /// The id.
        id: u32,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// As many logits as the vocabulary has tokens are needed.
    #[error("found {found} logits, expected one for each of the vocabulary's {vocab_size} tokens")]
    LogitCount {
        /// How many logits there are.
        found: usize,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// A logit is NaN or +infinity (or became it under bias and penalties): the numbers before it went wrong.
    #[error("the logit of token {id} is {value}; check the weights, and any logit bias or penalty")]
    NotFinite {
        /// The token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// Every logit is -infinity.
    #[error("no token is left to choose from: every logit is -infinity")]
    NothingLeft,
}

/// How to choose a token. The default is greedy: the largest logit wins.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps the k largest logits; 0 is off.
    pub top_k: usize,
    /// Keeps the most likely tokens that together reach this probability; 1 is off, 0 keeps one.
    pub top_p: f32,
    /// Keeps tokens with at least this share of the most likely token's probability; 0 is off.
    pub min_p: f32,
    /// Makes tokens of prompt and answer less likely if above 1; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that the answer contains; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once for each time that the answer contains the token; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens; -infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Where the random numbers start.
    pub seed: u64,
    /// `Some(n)`: report the log-probability of the chosen token and of the n most likely ones.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// What the model's authors recommend. As in transformers, no `do_sample` means greedy. A field that is absent
    /// leaves its step off (transformers would keep 50 tokens where `top_k` is absent).
    pub fn from_generation_config(config: &GenerationConfig) -> SamplingParams {
        let greedy = SamplingParams {
            repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
            ..SamplingParams::default()
        };
        if config.do_sample != Some(true) {
            return greedy;
        }
        SamplingParams {
            temperature: config.temperature.unwrap_or(1.0),
            top_k: config.top_k.unwrap_or(0),
            top_p: config.top_p.unwrap_or(1.0),
            min_p: config.min_p.unwrap_or(0.0),
            ..greedy
        }
    }

    /// Checks every field's range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let at_least_0 = |v: f32| v.is_finite() && v >= 0.0;
        let share = |v: f32| (0.0..=1.0).contains(&v);
        let above_0 = |v: f32| v.is_finite() && v > 0.0;
        let bias = self.logit_bias.iter().map(|b| b.1).find(|b| b.is_nan() || *b == f32::INFINITY);
        for (name, found, ok, expected) in [
            ("temperature", self.temperature, at_least_0(self.temperature), "0 (greedy) or a finite number above it"),
            ("top_p", self.top_p, share(self.top_p), "between 0 and 1"),
            ("min_p", self.min_p, share(self.min_p), "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty, above_0(self.repetition_penalty), "finite and above 0"),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "finite"),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "finite"),
            ("logit_bias", bias.unwrap_or(0.0), bias.is_none(), "a finite number, or -infinity to forbid the token"),
        ] {
            if !ok {
                return Err(SamplingError::Parameter { name, found, expected });
            }
        }
        Ok(())
    }

    fn changes_logits(&self) -> bool {
        !self.logit_bias.is_empty() || self.penalizes()
    }

    fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// A token with the model's opinion of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Its logit as the model computed it.
    pub logit: f32,
    /// Natural logarithm of its probability in the softmax of all logits as the model computed them.
    pub logprob: f32,
}

/// The token that a [`Sampler`] chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub id: u32,
    /// Its log-probability **before** any of the sampler's steps, if [`SamplingParams::logprobs`] asks for it: it says
    /// what the model thought, whatever the settings.
    pub logprob: Option<f32>,
    /// The most likely tokens, likewise; as many as were asked for.
    pub top: Vec<TokenLogprob>,
}

/// Which logits a sampler looks at; see [`Sampler::wants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// The largest.
    Best,
    /// So many, the largest: for [`Sampler::sample_top`].
    Top(usize),
    /// All of them.
    All,
}

impl Wants {
    /// All of them in place of a few.
    pub fn without_top(self) -> Self {
        if matches!(self, Self::Top(_)) { Self::All } else { self }
    }
}

/// The largest top-k for which it is worth while to find the tokens before reading logits.
const MOST_TOP: usize = 256;

/// A token that is still in the race.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit after bias and penalties.
    pub logit: f32,
    /// Its probability up to a common factor: `exp((logit - largest logit) / temperature)`, so the most likely has 1.
    pub weight: f64,
}

impl Candidate {
    /// The most likely first; of equals, the lowest id.
    fn rank(&self, other: &Candidate) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens: parameters, the state of the random numbers, and buffers used again for every token.
pub struct Sampler {
    params: SamplingParams,
    rng: Rng,
    /// The logits after bias and penalties. `[vocab_size]`
    adjusted: Vec<f32>,
    /// How often each token is in the part of the history at hand; all 0 between uses. `[vocab_size]`
    counts: Vec<u32>,
    /// What is left after the steps so far, by ascending id.
    candidates: Vec<Candidate>,
    /// The largest logits seen so far, for top-k.
    largest: Vec<f32>,
}

impl Sampler {
    /// A sampler for logits over `vocab_size` tokens.
    pub fn new(params: SamplingParams, vocab_size: usize) -> Result<Sampler, SamplingError> {
        params.validate()?;
        if let Some(&(id, _)) = params.logit_bias.iter().find(|(id, _)| *id as usize >= vocab_size) {
            return Err(SamplingError::UnknownToken { place: "logit bias", id, vocab_size });
        }
        Ok(Sampler {
            rng: Rng::new(params.seed),
            adjusted: vec![0.0; vocab_size],
            counts: vec![0; vocab_size],
            candidates: Vec::new(),
            largest: Vec::new(),
            params,
        })
    }

    /// Which of the model's own logits it looks at.
    pub fn wants(&self) -> Wants {
        let params = &self.params;
        if params.changes_logits() || params.logprobs.is_some() {
            return Wants::All;
        }
        match params.top_k {
            _ if params.temperature == 0.0 => Wants::Best,
            1..=MOST_TOP => Wants::Top(params.top_k + 1),
            _ => Wants::All,
        }
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses the next token. `logits`: `[vocab_size]`. `history` is all tokens so far, of which those from
    /// `generated_start` on are the answer. Uses one random number, or none if greedy.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], generated_start: usize) -> Result<Choice, SamplingError> {
        self.adjust(logits, history, generated_start)?;
        let id = if self.params.temperature == 0.0 {
            argmax(if self.params.changes_logits() { &self.adjusted } else { logits })?.0
        } else {
            self.filter(logits)?;
            self.draw()
        };
        let Some(n) = self.params.logprobs else { return Ok(Choice { id, logprob: None, top: Vec::new() }) };
        let norm = log_sum_exp(logits)?;
        let top = top_logprobs(logits, n, norm);
        Ok(Choice { id, logprob: Some((logits[id as usize] as f64 - norm) as f32), top })
    }

    /// [`Sampler::sample`], given only what [`Wants::Top`] asks for: the largest logits with their tokens, the largest first.
    /// The last of them is one more than top-k keeps: it says whether another logit equals the k-th, which top-k would keep
    /// too. Then the answer is `None`, no random number has been used, and all logits are needed.
    pub fn sample_top(&mut self, mut top: Vec<(u32, f32)>) -> Result<Option<Choice>, SamplingError> {
        let k = self.params.top_k;
        let &best = top.first().ok_or(SamplingError::LogitCount { found: 0, vocab_size: self.adjusted.len() })?;
        let (_, max) = check_best(best)?;
        if top.get(k).is_some_and(|next| next.1 == top[k - 1].1) {
            return Ok(None);
        }
        top.truncate(k);
        top.sort_unstable_by_key(|(id, _)| *id);
        self.narrow(max, |keep| top.iter().filter(|(_, logit)| *logit >= f32::MIN).for_each(|&(id, l)| keep(id, l)));
        Ok(Some(Choice { id: self.draw(), logprob: None, top: Vec::new() }))
    }

    /// What [`Sampler::sample`] would draw from: the tokens left after every step, by ascending id, with their
    /// probabilities as `weight`. Draws nothing.
    pub fn distribution(
        &mut self,
        logits: &[f32],
        history: &[u32],
        generated_start: usize,
    ) -> Result<Vec<Candidate>, SamplingError> {
        self.adjust(logits, history, generated_start)?;
        if self.params.temperature == 0.0 {
            let (id, logit) = argmax(if self.params.changes_logits() { &self.adjusted } else { logits })?;
            return Ok(vec![Candidate { id, logit, weight: 1.0 }]);
        }
        self.filter(logits)?;
        let total = total(&self.candidates);
        Ok(self.candidates.iter().map(|c| Candidate { weight: c.weight / total, ..*c }).collect())
    }

    /// Checks the input; logit bias and penalties, into `self.adjusted`, if there are any.
    fn adjust(&mut self, logits: &[f32], history: &[u32], generated_start: usize) -> Result<(), SamplingError> {
        let vocab_size = self.adjusted.len();
        if logits.len() != vocab_size {
            return Err(SamplingError::LogitCount { found: logits.len(), vocab_size });
        }
        if !self.params.changes_logits() {
            return Ok(());
        }
        self.adjusted.copy_from_slice(logits);
        for &(id, bias) in &self.params.logit_bias {
            self.adjusted[id as usize] += bias;
        }
        if !self.params.penalizes() {
            return Ok(());
        }
        if let Some(&id) = history.iter().find(|id| **id as usize >= vocab_size) {
            return Err(SamplingError::UnknownToken { place: "history", id, vocab_size });
        }
        let repetition = self.params.repetition_penalty;
        self.for_each_counted(history, |logit, _| {
            *logit = if *logit < 0.0 { *logit * repetition } else { *logit / repetition };
        });
        let (presence, frequency) = (self.params.presence_penalty, self.params.frequency_penalty);
        let answer = &history[generated_start.min(history.len())..];
        self.for_each_counted(answer, |logit, count| *logit -= presence + count as f32 * frequency);
        Ok(())
    }

    /// Calls `change` with the adjusted logit and the count of each distinct token in `ids`.
    fn for_each_counted(&mut self, ids: &[u32], change: impl Fn(&mut f32, u32)) {
        for &id in ids {
            self.counts[id as usize] += 1;
        }
        for &id in ids {
            let count = std::mem::take(&mut self.counts[id as usize]);
            if count > 0 {
                change(&mut self.adjusted[id as usize], count);
            }
        }
    }

    // ANCHOR: filter
    /// Top-k, and then temperature, top-p and min-p.
    fn filter(&mut self, logits: &[f32]) -> Result<(), SamplingError> {
        let adjusted = std::mem::take(&mut self.adjusted);
        let logits = if self.params.changes_logits() { &adjusted } else { logits };
        let best = argmax(logits);
        if let Ok((_, max)) = best {
            // Dividing by a temperature keeps the order of the logits, so top-k may look at them undivided.
            let floor = kth_largest(logits, self.params.top_k, &mut self.largest);
            // From f32::MIN: all but -infinity.
            self.narrow(max, |keep| at_least(logits, floor.max(f32::MIN), keep));
        }
        self.adjusted = adjusted;
        best.map(|_| ())
    }

    /// Temperature, top-p, min-p: leaves in `self.candidates` what may be drawn of the tokens that
    /// `kept` names, by ascending id, with their logits; `max` is the largest of these.
    fn narrow(&mut self, max: f32, kept: impl FnOnce(&mut dyn FnMut(u32, f32))) {
        let (max, temperature) = (max as f64, self.params.temperature as f64);
        self.candidates.clear();
        kept(&mut |id, logit| self.candidates.push(Candidate { id, logit, weight: weight(logit, max, temperature) }));
        if self.params.top_p < 1.0 {
            keep_top_p(&mut self.candidates, self.params.top_p as f64);
        }
        if self.params.min_p > 0.0 {
            keep_min_p(&mut self.candidates, self.params.min_p as f64);
        }
    }
    // ANCHOR_END: filter

    // ANCHOR: draw
    /// Draws from `self.candidates` in proportion to weight: the first whose running total passes a
    /// random share.
    fn draw(&mut self) -> u32 {
        let mut left = self.rng.uniform() * total(&self.candidates);
        let mut chosen = 0;
        for candidate in self.candidates.iter().filter(|c| c.weight > 0.0) {
            chosen = candidate.id;
            left -= candidate.weight;
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
    // ANCHOR_END: draw
}

/// A token's probability up to a common factor, [`Candidate::weight`]; `max` is the largest logit, `temperature` above 0.
fn weight(logit: f32, max: f64, temperature: f64) -> f64 {
    // EXERCISE: m3.temperature
    // Relative to the largest logit nothing overflows, however small the temperature.
    libm::exp((logit as f64 - max) / temperature)
    // EXERCISE_END
}

/// The token with the largest logit, the lowest id if several have it, and that logit.
pub fn argmax(logits: &[f32]) -> Result<(u32, f32), SamplingError> {
    check_best(plain::argmax(logits))
}

/// Refuses a largest logit that nothing can be said about.
pub(super) fn check_best((id, value): (u32, f32)) -> Result<(u32, f32), SamplingError> {
    match value {
        f32::NEG_INFINITY => Err(SamplingError::NothingLeft),
        value if value.is_finite() => Ok((id, value)),
        value => Err(SamplingError::NotFinite { id, value }),
    }
}

/// The `n` most likely tokens, most likely first (of equals, the lowest id), with log-probabilities; fewer if fewer
/// have a logit above -infinity.
pub fn log_softmax_top(logits: &[f32], n: usize) -> Result<Vec<TokenLogprob>, SamplingError> {
    Ok(top_logprobs(logits, n, log_sum_exp(logits)?))
}

fn top_logprobs(logits: &[f32], n: usize, norm: f64) -> Vec<TokenLogprob> {
    if n == 0 {
        return Vec::new();
    }
    let floor = kth_largest(logits, n, &mut Vec::new());
    let mut top = Vec::new();
    at_least(logits, floor.max(f32::MIN), |id, logit| top.push((id, logit)));
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    top.truncate(n);
    top.into_iter().map(|(id, logit)| TokenLogprob { id, logit, logprob: (logit as f64 - norm) as f32 }).collect()
}

/// `ln(sum(exp(logits)))`, what turns a logit into a log-probability.
fn log_sum_exp(logits: &[f32]) -> Result<f64, SamplingError> {
    let max = argmax(logits)?.1 as f64;
    let sum: f64 = logits.iter().map(|&logit| libm::exp(logit as f64 - max)).sum();
    Ok(max + libm::log(sum))
}

/// Calls `found` for the tokens with logits from `floor` up, by id. Most blocks hold none, and their maximum is found
/// with vector instructions.
fn at_least(logits: &[f32], floor: f32, mut found: impl FnMut(u32, f32)) {
    for (block, start) in logits.chunks(64).zip((0..).step_by(64)) {
        if max_and_nan(block).0 >= floor {
            for (id, &logit) in (start..).zip(block).filter(|(_, logit)| **logit >= floor) {
                found(id, logit);
            }
        }
    }
}

/// The k-th largest value, by one pass that keeps a buffer of a few times k; -infinity if `k` is 0 or there are fewer.
fn kth_largest(values: &[f32], k: usize, buffer: &mut Vec<f32>) -> f32 {
    buffer.clear();
    if k == 0 || k >= values.len() {
        return f32::NEG_INFINITY;
    }
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let full = 2 * k + 64;
    let mut floor = f32::NEG_INFINITY;
    for block in values.chunks(64) {
        if max_and_nan(block).0 <= floor {
            continue;
        }
        // What only equals the floor cannot raise it, and would fill the buffer again and again.
        buffer.extend(block.iter().filter(|value| **value > floor));
        if buffer.len() >= full {
            floor = *buffer.select_nth_unstable_by(k - 1, descending).1;
            buffer.truncate(k);
        }
    }
    if buffer.len() < k {
        return f32::NEG_INFINITY;
    }
    *buffer.select_nth_unstable_by(k - 1, descending).1
}

/// Keeps the fewest candidates, by [`Candidate::rank`], whose weights reach `p` of the total; at least one. They stay in
/// the order of their ids.
///
/// Sorting a whole vocabulary is slow, and only those near the border must be ranked: one pass adds up the weights in
/// buckets, by powers of two in eighths, and only the bucket in which the sum reaches `p` is sorted.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64) {
    // EXERCISE: m3.top_p
    const BUCKETS: usize = 1024;
    // A positive f64's bits, as an integer, grow with it: the exponent, and the first 3 bits of the fraction.
    let bucket =
        |c: &Candidate| ((1.0f64.to_bits().saturating_sub(c.weight.to_bits()) >> 49) as usize).min(BUCKETS - 1);
    let mut masses = [0.0; BUCKETS];
    for candidate in candidates.iter() {
        masses[bucket(candidate)] += candidate.weight;
    }
    let target = p * masses.iter().sum::<f64>();
    let mut above = 0.0;
    let Some(border) = masses.iter().position(|mass| {
        let reached = above + mass >= target && *mass > 0.0;
        above += if reached { 0.0 } else { *mass };
        reached
    }) else {
        return; // rounding: all the buckets together fall a hair short of the target
    };
    let mut near: Vec<Candidate> = candidates.iter().filter(|c| bucket(c) == border).copied().collect();
    near.sort_unstable_by(Candidate::rank);
    let last = near.iter().find(|c| {
        above += c.weight;
        above >= target
    });
    let last = *last.unwrap_or(&near[near.len() - 1]);
    candidates.retain(|c| c.rank(&last).is_le());
    // EXERCISE_END
}

/// Keeps the candidates that are at least `min_p` times as likely as the most likely one.
fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f64) {
    // The most likely one has weight 1.
    candidates.retain(|c| c.weight >= min_p);
}

/// The sum of the weights, in the order of ids.
fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| c.weight).sum()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter whose every value is scrambled. Any seed is a good one.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts at `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    // ANCHOR: rng
    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 (included) to 1 (excluded), all 2^53 of them equally likely.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
    // ANCHOR_END: rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn temperature_by_hand() {
        let weights = |temperature| [3.0f32, 2.0, 1.0].map(|logit| weight(logit, 3.0, temperature) as f32);
        // One below the largest: e^-1, at half the temperature e^-2, at twice the temperature e^-0.5.
        expect::close("weights at temperature 1", &weights(1.0), &[1.0, 0.367879, 0.135335], 1e-6);
        expect::close("weights at temperature 0.5", &weights(0.5), &[1.0, 0.135335, 0.018316], 1e-6);
        expect::close("weights at temperature 2", &weights(2.0), &[1.0, 0.606531, 0.367879], 1e-6);
        // Almost greedy: nothing is infinite, and the largest keeps weight 1.
        expect::close("weights at temperature 0.0001", &weights(1e-4), &[1.0, 0.0, 0.0], 0.0);
    }

    #[test]
    fn the_kth_largest_by_hand() {
        let kth = |values: &[f32], k| kth_largest(values, k, &mut Vec::new());
        let found: Vec<f32> = (1..4).map(|k| kth(&[4.0, 1.0, 3.0, 2.0], k)).collect();
        expect::close("k-th largest of [4, 1, 3, 2], k from 1", &found, &[4.0, 3.0, 2.0], 0.0);
        let found: Vec<f32> = (0..=5).map(|k| kth(&[1.0, 3.0, 2.0, 3.0], k)).collect();
        // Equal values count each; 0 is off, and there is no fourth one to leave out.
        let off = f32::NEG_INFINITY;
        expect::close("k-th largest of [1, 3, 2, 3], k from 0", &found, &[off, 3.0, 3.0, 2.0, off, off], 0.0);
    }

    /// Tokens 0, 1, 2, … with these weights, as if the temperature were 1.
    fn candidates(weights: &[f64]) -> Vec<Candidate> {
        (0..).zip(weights).map(|(id, &weight)| Candidate { id, logit: weight.ln() as f32, weight }).collect()
    }

    #[test]
    fn top_p_by_hand() {
        let kept = |weights: &[f64], p| -> Vec<u32> {
            let mut left = candidates(weights);
            keep_top_p(&mut left, p);
            left.iter().map(|c| c.id).collect()
        };
        // Probabilities 0.125, 0.5, 0.25, 0.125: a sum of 0.5, then 0.75, 0.875, 1.
        let weights = [0.25, 1.0, 0.5, 0.25];
        expect::same("top-p 0", &kept(&weights, 0.0), &[1]);
        expect::same("top-p 0.7", &kept(&weights, 0.7), &[1, 2]);
        expect::same("top-p 0.75, reached exactly", &kept(&weights, 0.75), &[1, 2]);
        // Of two equal ones the lower id is ranked first; what is left stays in the order of ids.
        expect::same("top-p 0.8", &kept(&weights, 0.8), &[0, 1, 2]);
        expect::same("top-p 0.99", &kept(&weights, 0.99), &[0, 1, 2, 3]);
    }

    #[test]
    fn min_p_by_hand() {
        let kept = |min_p| -> Vec<u32> {
            let mut left = candidates(&[0.25, 1.0, 0.5, 0.0625]);
            keep_min_p(&mut left, min_p);
            left.iter().map(|c| c.id).collect()
        };
        expect::same("min-p 0.3", &kept(0.3), &[1, 2]);
        expect::same("min-p 0.25", &kept(0.25), &[0, 1, 2]);
        expect::same("min-p 0.05", &kept(0.05), &[0, 1, 2, 3]);
        expect::same("min-p 1", &kept(1.0), &[1]);
    }

    #[test]
    fn rng_is_splitmix64() {
        // The first outputs for this seed in the author's C code.
        let mut rng = Rng::new(1234567);
        let found: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(found, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn kth_largest_agrees_with_sorting() {
        let mut rng = Rng::new(7);
        for n in [1usize, 2, 63, 64, 65, 1000] {
            // Few distinct values, so that ties meet the floor.
            let values: Vec<f32> = (0..n).map(|_| (rng.next_u64() % 97) as f32 - 40.0).collect();
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for k in 1..n {
                assert_eq!(kth_largest(&values, k, &mut Vec::new()), sorted[k - 1], "n {n} k {k}");
            }
        }
    }
}
