//! The sampler for people: what each of its steps leaves of the logits.

use crate::LiveError;
use failed_star::session::Engine;
use failed_star::session::sampling::{Sampler, SamplingParams, log_softmax_top};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The most tokens that one request draws.
const MOST_DRAWS: usize = 100_000;

/// Parameters of the sampler; what is absent is what the model recommends.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingRequest {
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// Keeps the k largest logits; 0 is off.
    pub top_k: Option<usize>,
    /// Keeps the most likely tokens that together reach this probability; 1 is off.
    pub top_p: Option<f32>,
    /// Keeps tokens with at least this share of the most likely one's probability; 0 is off.
    pub min_p: Option<f32>,
    /// Where the random numbers start.
    pub seed: Option<u64>,
}

impl SamplingRequest {
    /// What the model recommends.
    pub fn recommended(engine: &Engine) -> Self {
        let params = SamplingParams::from_generation_config(engine.generation_config());
        Self {
            temperature: Some(params.temperature),
            top_k: Some(params.top_k),
            top_p: Some(params.top_p),
            min_p: Some(params.min_p),
            seed: Some(params.seed),
        }
    }

    /// As the sampler takes them.
    pub fn params(&self, engine: &Engine) -> SamplingParams {
        let params = SamplingParams::from_generation_config(engine.generation_config());
        SamplingParams {
            temperature: self.temperature.unwrap_or(params.temperature),
            top_k: self.top_k.unwrap_or(params.top_k),
            top_p: self.top_p.unwrap_or(params.top_p),
            min_p: self.min_p.unwrap_or(params.min_p),
            seed: self.seed.unwrap_or(params.seed),
            ..params
        }
    }
}

/// The most likely tokens, with their probability after each step of the sampler (0 where the step removed them), how many
/// tokens each step leaves, and how often each came up in some draws.
///
/// The steps are the sampler's own: each is what it makes of the logits when the steps behind it are off.
pub fn candidates(
    logits: &[f32],
    params: &SamplingParams,
    top: usize,
    draws: usize,
    text: impl Fn(u32) -> String,
) -> Result<Value, LiveError> {
    if draws > MOST_DRAWS {
        return Err(LiveError::Name(format!("{draws} draws are more than {MOST_DRAWS}")));
    }
    let model = SamplingParams { temperature: 1.0, seed: params.seed, ..SamplingParams::default() };
    let temperature = SamplingParams { temperature: params.temperature, ..model.clone() };
    let top_k = SamplingParams { top_k: params.top_k, ..temperature.clone() };
    let top_p = SamplingParams { top_p: params.top_p, ..top_k.clone() };
    let min_p = SamplingParams { min_p: params.min_p, ..top_p.clone() };
    let steps =
        [("softmax", &model), ("temperature", &temperature), ("top_k", &top_k), ("top_p", &top_p), ("min_p", &min_p)];
    let mut left = Vec::new();
    let mut probabilities: Vec<BTreeMap<u32, f64>> = Vec::new();
    for (name, params) in steps {
        let distribution = Sampler::new(params.clone(), logits.len())?.distribution(logits, &[], 0)?;
        left.push(json!({"step": name, "tokens": distribution.iter().filter(|c| c.weight > 0.0).count()}));
        probabilities.push(distribution.into_iter().map(|c| (c.id, c.weight)).collect());
    }
    let mut drawn: BTreeMap<u32, usize> = BTreeMap::new();
    let mut sampler = Sampler::new(params.clone(), logits.len())?;
    for _ in 0..draws {
        *drawn.entry(sampler.sample(logits, &[], 0)?.id).or_default() += 1;
    }
    let rows = log_softmax_top(logits, top)?.into_iter().map(|token| {
        let after = |step: &BTreeMap<u32, f64>| step.get(&token.id).copied().unwrap_or(0.0);
        json!({
            "id": token.id, "text": text(token.id), "logit": token.logit,
            "probabilities": probabilities.iter().map(after).collect::<Vec<_>>(),
            "drawn": drawn.get(&token.id).copied().unwrap_or(0),
        })
    });
    Ok(json!({"steps": left, "tokens": rows.collect::<Vec<_>>(), "draws": draws}))
}
