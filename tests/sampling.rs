//! Sampling against transformers' own logits processors, against the distribution it promises, and at its edges; and
//! stop strings against a search of the whole text. Fixtures: scripts/oracle/make_sampling_fixtures.py.

use std::collections::HashMap;

use failed_star::backend::plain::top_k;
use failed_star::session::sampling::{Rng, Sampler, SamplingError, SamplingParams, Wants, log_softmax_top};
use failed_star::session::stop::StopMatcher;
use failed_star::weights::GenerationConfig;
use proptest::prelude::*;
use serde_json::Value;

const CASES: &str = include_str!("golden/sampling/cases.json");
const VALUES: &[u8] = include_bytes!("golden/sampling/values.safetensors");

/// The fixture's f32 tensors by name. Read here by hand: a test of sampling should not rest on the weights room.
fn tensors() -> HashMap<String, Vec<f32>> {
    let (length, rest) = VALUES.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header: HashMap<String, Value> = serde_json::from_slice(header).unwrap();
    let read = |v: &Value| {
        let [from, to] = [0, 1].map(|i| v["data_offsets"][i].as_u64().unwrap() as usize);
        data[from..to].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, v)| (name.clone(), read(v))).collect()
}

/// Parameters of a fixture's case: the names of transformers, temperature 1 if it says none.
fn params_of(case: &Value) -> SamplingParams {
    let number = |name: &str, default: f64| case[name].as_f64().unwrap_or(default) as f32;
    let bias = case["sequence_bias"].as_array().into_iter().flatten();
    SamplingParams {
        temperature: number("temperature", 1.0),
        top_k: number("top_k", 0.0) as usize,
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        logit_bias: bias.map(|b| (b[0][0].as_u64().unwrap() as u32, b[1].as_f64().unwrap() as f32)).collect(),
        ..SamplingParams::default()
    }
}

/// From the k + 1 largest logits, what all logits give; where the k-th has an equal outside, nothing, and no random number
/// is used.
#[test]
fn a_few_logits_give_the_same_tokens() {
    let mut rng = Rng::new(3);
    let mut ties = 0;
    for round in 0..300 {
        let len = 50 + round;
        // Few distinct values make ties; -infinity is among them.
        let steps = if round % 2 == 0 { 1 << 20 } else { 40 };
        let logits: Vec<f32> = (0..len)
            .map(|_| match rng.next_u64() % steps {
                0 => f32::NEG_INFINITY,
                n => (n as f32 / steps as f32 - 0.5) * 20.0,
            })
            .collect();
        let k = 1 + round % 40;
        let params = SamplingParams {
            temperature: 0.7,
            top_k: k,
            top_p: [1.0, 0.9][round % 2],
            min_p: [0.0, 0.05][round / 2 % 2],
            seed: round as u64,
            ..SamplingParams::default()
        };
        let mut all = Sampler::new(params.clone(), len).unwrap();
        let mut few = Sampler::new(params, len).unwrap();
        assert_eq!(few.wants(), Wants::Top(k + 1));
        for _ in 0..4 {
            let expected = all.sample(&logits, &[], 0).unwrap();
            let found = few.sample_top(top_k(&logits, k + 1)).unwrap();
            ties += usize::from(found.is_none());
            let found = found.unwrap_or_else(|| few.sample(&logits, &[], 0).unwrap());
            assert_eq!(found, expected, "round {round}");
        }
    }
    assert!(ties > 100, "{ties}");
    let not_a_number = [1.0, f32::NAN, 2.0];
    let mut sampler =
        Sampler::new(SamplingParams { temperature: 1.0, top_k: 1, ..SamplingParams::default() }, 3).unwrap();
    let error = sampler.sample_top(top_k(&not_a_number, 2)).unwrap_err();
    assert!(matches!(error, SamplingError::NotFinite { id: 1, .. }), "{error}");
}

#[test]
fn every_step_agrees_with_transformers() {
    let (tensors, cases): (_, Value) = (tensors(), serde_json::from_str(CASES).unwrap());
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for (i, case) in cases.iter().enumerate() {
        let logits = &tensors[case["logits"].as_str().unwrap()];
        let expected = &tensors[&format!("case_{i}")];
        let history: Vec<u32> =
            case["history"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let mut sampler = Sampler::new(params_of(&case["params"]), logits.len()).unwrap();
        let found = sampler.distribution(logits, &history, 0).unwrap();
        let kept: Vec<u32> = found.iter().map(|c| c.id).collect();
        let expected_kept: Vec<u32> = (0..).zip(expected).filter(|(_, p)| **p > 0.0).map(|(id, _)| id).collect();
        assert_eq!(kept, expected_kept, "case {i}: {}", case["params"]);
        for c in found {
            let p = expected[c.id as usize] as f64;
            assert!((c.weight - p).abs() <= 1e-5 * p + 1e-9, "case {i} token {}: {} != {p}", c.id, c.weight);
        }
    }
}

// ANCHOR: draws
#[test]
fn draws_follow_the_distribution() {
    // 200,000 draws, 20 tokens. With 19 degrees of freedom (one fewer than the tokens) the statistic
    // exceeds 50.8 with probability 1e-4; the seeds are fixed, so that a pass stays a pass.
    let logits: Vec<f32> = (0..500).map(|i| -((i * 37 % 500) as f32) / 8.0).collect();
    for seed in [1, 2, 3] {
        let params = SamplingParams { temperature: 1.1, top_k: 20, seed, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params, logits.len()).unwrap();
        let expected = sampler.distribution(&logits, &[], 0).unwrap();
        assert_eq!(expected.len(), 20);
        let draws = 200_000;
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for _ in 0..draws {
            *counts.entry(sampler.sample(&logits, &[], 0).unwrap().id).or_default() += 1;
        }
        assert!(counts.keys().all(|id| expected.iter().any(|c| c.id == *id)), "drew a token that was dropped");
        let statistic: f64 = expected
            .iter()
            .map(|c| (c.weight * draws as f64, *counts.get(&c.id).unwrap_or(&0) as f64))
            .map(|(expected, found)| (found - expected).powi(2) / expected)
            .sum();
        assert!(statistic < 50.8, "seed {seed}: chi-square {statistic:.1}");
        assert!(statistic > 3.0, "seed {seed}: chi-square {statistic:.1} is too good to be random");
    }
}
// ANCHOR_END: draws

/// Logits that need no file: the same on every machine.
fn wide_logits(n: usize) -> Vec<f32> {
    let mut rng = Rng::new(99);
    (0..n).map(|_| (rng.next_u64() >> 40) as f32 / (1 << 20) as f32 - 8.0).collect()
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let logits = wide_logits(5000);
    let draw = |seed, top_p| {
        let params = SamplingParams { temperature: 0.8, top_p, seed, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params, logits.len()).unwrap();
        (0..8).map(|_| sampler.sample(&logits, &[], 0).unwrap().id).collect::<Vec<_>>()
    };
    // Computed apart, in Python. Other tokens here mean that every seed says something else: a break, not a refactoring.
    assert_eq!(draw(42, 1.0), [3710, 749, 1328, 1661, 163, 4315, 997, 4047]);
    assert_eq!(draw(42, 0.9), [3730, 752, 1317, 1661, 166, 4305, 997, 4047]);
    assert_eq!(draw(43, 1.0), [3674, 3050, 2079, 4168, 24, 403, 1521, 4384]);
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_first() {
    // Wide enough for several of the blocks in which the search goes.
    let mut sampler = Sampler::new(SamplingParams::default(), 2500).unwrap();
    for at in (0..2500).step_by(17) {
        let mut logits = vec![-3.0; 2500];
        logits[at..].iter_mut().step_by(300).for_each(|logit| *logit = -1.0);
        assert_eq!(sampler.sample(&logits, &[], 0).unwrap().id, at as u32);
    }
}

#[test]
fn presence_and_frequency_count_the_answer_only() {
    let params = SamplingParams {
        temperature: 1.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, 4).unwrap();
    let history = [0, 0, 1, 2, 1, 1]; // the answer: 1, 2, 1, 1
    let found = sampler.distribution(&[1.0, 1.0, 1.0, 1.0], &history, 2).unwrap();
    let ratio = |id: usize| (found[id].weight / found[3].weight).ln();
    assert!(ratio(0).abs() < 1e-6);
    assert!((ratio(1) + 0.5 + 3.0 * 0.25).abs() < 1e-6);
    assert!((ratio(2) + 0.5 + 0.25).abs() < 1e-6);
    // A second call starts from the same counts.
    assert_eq!(sampler.distribution(&[1.0, 1.0, 1.0, 1.0], &history, 2).unwrap(), found);
}

#[test]
fn bias_and_penalties_change_greedy_too() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        logit_bias: vec![(0, f32::NEG_INFINITY), (1, 1.5), (1, 1.5)],
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, 3).unwrap();
    assert_eq!(sampler.sample(&[9.0, 1.0, 5.0], &[], 0).unwrap().id, 2); // 1 + 1.5 + 1.5 < 5
    assert_eq!(sampler.sample(&[9.0, 1.0, 5.0], &[2], 1).unwrap().id, 1); // 4 > 5 / 2
}

#[test]
fn logprobs_are_the_models_whatever_the_settings() {
    let logits = [1.0f32, 3.0, 2.0, f32::NEG_INFINITY, 3.0];
    let sum: f64 = logits.iter().map(|&l| (l as f64).exp()).sum();
    let params = SamplingParams {
        temperature: 0.1,
        logit_bias: vec![(0, 100.0)],
        logprobs: Some(3),
        ..SamplingParams::default()
    };
    let choice = Sampler::new(params, 5).unwrap().sample(&logits, &[], 0).unwrap();
    assert_eq!(choice.id, 0);
    assert!((choice.logprob.unwrap() as f64 - (1.0 - sum.ln())).abs() < 1e-6);
    assert_eq!(choice.top.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 4, 2]);
    assert!((choice.top[2].logprob as f64 - (2.0 - sum.ln())).abs() < 1e-6);
    assert_eq!(choice.top, log_softmax_top(&logits, 3).unwrap());
    assert_eq!(log_softmax_top(&logits, 0).unwrap(), []);
    assert_eq!(log_softmax_top(&logits, 99).unwrap().len(), 4); // one has no probability
}

#[test]
fn extreme_temperatures_neither_overflow_nor_lose_the_winner() {
    let logits = wide_logits(3000);
    let winner = Sampler::new(SamplingParams::default(), 3000).unwrap().sample(&logits, &[], 0).unwrap().id;
    for temperature in [f32::from_bits(1), 1e-30, 1e-6] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        assert_eq!(Sampler::new(params, 3000).unwrap().sample(&logits, &[], 0).unwrap().id, winner);
    }
    let params = SamplingParams { temperature: f32::MAX, ..SamplingParams::default() };
    let even = Sampler::new(params, 3000).unwrap().distribution(&logits, &[], 0).unwrap();
    assert!(even.iter().all(|c| (c.weight * 3000.0 - 1.0).abs() < 1e-6));
}

#[test]
fn parameters_out_of_range_are_named() {
    let base = SamplingParams::default;
    for (name, params) in [
        ("temperature", SamplingParams { temperature: -0.1, ..base() }),
        ("temperature", SamplingParams { temperature: f32::NAN, ..base() }),
        ("temperature", SamplingParams { temperature: f32::INFINITY, ..base() }),
        ("top_p", SamplingParams { top_p: 1.1, ..base() }),
        ("top_p", SamplingParams { top_p: f32::NAN, ..base() }),
        ("min_p", SamplingParams { min_p: -0.1, ..base() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..base() }),
        ("presence_penalty", SamplingParams { presence_penalty: f32::NAN, ..base() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: f32::INFINITY, ..base() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(0, 1.0), (1, f32::NAN)], ..base() }),
    ] {
        match Sampler::new(params, 10).map(|_| ()) {
            Err(SamplingError::Parameter { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn wrong_logits_and_ids_are_errors() {
    let sample = |params: SamplingParams, logits: &[f32], history: &[u32]| {
        Sampler::new(params, 20).and_then(|mut s| s.sample(logits, history, 0)).unwrap_err()
    };
    let (ok, greedy) = (vec![1.0; 20], SamplingParams::default());
    let warm = SamplingParams { temperature: 1.0, top_k: 3, top_p: 0.5, ..greedy.clone() };
    let biased = SamplingParams { logit_bias: vec![(20, 1.0)], ..greedy.clone() };
    let penalty = SamplingParams { repetition_penalty: 1.1, ..greedy.clone() };
    let overflow = SamplingParams { logit_bias: vec![(7, f32::MAX), (7, f32::MAX)], ..greedy.clone() };
    let unknown = |place| SamplingError::UnknownToken { place, id: 20, vocab_size: 20 };
    assert_eq!(sample(biased, &ok, &[]), unknown("logit bias"));
    assert_eq!(sample(penalty, &ok, &[4, 20]), unknown("history"));
    assert_eq!(sample(overflow, &ok, &[]), SamplingError::NotFinite { id: 7, value: f32::INFINITY });
    assert_eq!(sample(greedy.clone(), &ok[..19], &[]), SamplingError::LogitCount { found: 19, vocab_size: 20 });
    for params in [greedy, warm] {
        for at in [0, 15, 16, 19] {
            let mut nan = ok.clone();
            nan[at] = f32::NAN;
            assert!(
                matches!(sample(params.clone(), &nan, &[]), SamplingError::NotFinite { id, .. } if id == at as u32)
            );
        }
        assert_eq!(sample(params.clone(), &[f32::NEG_INFINITY; 20], &[]), SamplingError::NothingLeft);
    }
    let empty = Sampler::new(SamplingParams::default(), 0).unwrap().sample(&[], &[], 0);
    assert_eq!(empty, Err(SamplingError::NothingLeft));
}

#[test]
fn generation_config_gives_the_defaults() {
    let qwen = GenerationConfig {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        ..GenerationConfig::default()
    };
    let expected = SamplingParams { temperature: 0.6, top_k: 20, top_p: 0.95, ..SamplingParams::default() };
    assert_eq!(SamplingParams::from_generation_config(&qwen), expected);
    let greedy = GenerationConfig { do_sample: Some(false), ..qwen };
    assert_eq!(SamplingParams::from_generation_config(&greedy), SamplingParams::default());
    assert_eq!(SamplingParams::from_generation_config(&GenerationConfig::default()), SamplingParams::default());
}

proptest! {
    /// Top-p by partial ranking keeps what a full sort keeps, whatever the shape of the distribution.
    #[test]
    fn top_p_agrees_with_a_full_sort(seed: u64, n in 1usize..3000, spread in 0.01f32..20.0, p in 0.0f32..1.0) {
        let mut rng = Rng::new(seed);
        let logits: Vec<f32> = (0..n).map(|_| (rng.uniform() as f32 * 64.0).round() / 64.0 * spread).collect();
        let params = SamplingParams { temperature: 1.0, top_p: p, ..SamplingParams::default() };
        let kept = Sampler::new(params, n).unwrap().distribution(&logits, &[], 0).unwrap();
        let weight = |l: f32| (l as f64).exp();
        let total: f64 = logits.iter().map(|&l| weight(l)).sum();
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let mass = |count: usize| order[..count].iter().map(|&id| weight(logits[id as usize])).sum::<f64>() / total;
        // The fewest that reach p: they do, and without the last one they do not (a hair apart: sums are rounded).
        prop_assert!(mass(kept.len()) >= p as f64 - 1e-12);
        prop_assert!(kept.len() == 1 || mass(kept.len() - 1) < p as f64 + 1e-12);
        let mut expected = order[..kept.len()].to_vec();
        expected.sort();
        prop_assert_eq!(kept.iter().map(|c| c.id).collect::<Vec<_>>(), expected);
    }

    /// However the text is cut into pieces: what is shown is the text before the first complete stop string, and what
    /// is held back on the way could be the beginning of one.
    #[test]
    fn stop_strings_are_found_in_every_split(
        text in "[abé]{0,24}",
        stops in proptest::collection::vec("[abé]{0,4}", 0..4),
        cuts in proptest::collection::vec(0usize..4, 30),
    ) {
        // The naive search: at each end of the text, from the front, the stop string that began first.
        let ends = |end: usize| stops.iter().enumerate()
            .filter(|(_, s)| !s.is_empty() && text.as_bytes()[..end].ends_with(s.as_bytes()))
            .map(|(i, s)| (end - s.len(), i)).min();
        let expected = (0..=text.len()).find_map(ends);

        let mut matcher = StopMatcher::new(stops.clone());
        let (mut shown, mut given, mut found) = (String::new(), String::new(), None);
        let (mut rest, mut cuts) = (text.chars().collect::<Vec<_>>(), cuts.into_iter());
        while !rest.is_empty() && found.is_none() {
            let piece: String = rest.drain(..cuts.next().unwrap_or(1).min(rest.len())).collect();
            let (emit, stopped) = matcher.push(&piece);
            given += &piece;
            shown += &emit;
            found = stopped;
            let held = &given[shown.len()..];
            prop_assert!(given.starts_with(&shown));
            prop_assert!(found.is_some() || held.is_empty() || stops.iter().any(|s| s.starts_with(held) && s != held));
        }
        if found.is_some() {
            prop_assert_eq!(matcher.push("more"), (String::new(), None));
        }
        shown += &matcher.finish();
        prop_assert_eq!(found, expected.map(|e| e.1));
        prop_assert_eq!(shown, &text[..expected.map_or(text.len(), |e| e.0)]);
    }
}
