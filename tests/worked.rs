//! The worked examples of the course: small enough to follow on paper, and true of the reference operations.

use failed_star::backend::reference::{attention, linear, rms_norm, rope, softmax, swiglu};
use failed_star::backend::{CachePosition, Heads};
use failed_star::model::kv_cache::{HostKvCache, KvDType, KvLayout};
use failed_star::session::sampling::{Rng, Sampler, SamplingParams};
use failed_star::session::stop::StopMatcher;
use failed_star::weights::Checkpoint;
use failed_star::weights::formats::{BlockFormat, Q4_0, Q8_0};
use serde_json::Value;

/// The numbers that pages show.
fn example(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("golden/worked.json")).unwrap();
    all[name].clone()
}

/// A list, or a list of lists, row-major.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

/// f32 has 7 digits, and these examples are a handful of operations.
fn assert_close(found: &[f32], expected: &Value) {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found} is not {expected}");
    }
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let e = example("rms_norm");
    let (x, weight) = (numbers(&e["x"]), numbers(&e["weight"]));
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    assert_eq!((mean, mean.sqrt()), (numbers(&e["mean_of_squares"])[0], numbers(&e["rms"])[0]));
    let mut out = vec![0.0; 4];
    rms_norm::rms_norm(&mut out, &x, &weight, 0.0, 1);
    assert_close(&out, &e["out"]);
}

#[test]
fn every_head_is_brought_to_the_same_size() {
    let e = example("head_norm");
    let x: Vec<f32> = e["x"].as_array().unwrap().iter().flat_map(numbers).collect();
    let weight = numbers(&e["weight"]);
    let rms: Vec<f32> = x.chunks(4).map(|head| (head.iter().map(|v| v * v).sum::<f32>() / 4.0).sqrt()).collect();
    assert_eq!(rms, numbers(&e["rms"]));
    let mut out = vec![0.0; 8];
    rms_norm::rms_norm(&mut out, &x, &weight, 0.0, 2);
    assert_close(&out[..4], &e["out"][0]);
    assert_close(&out[4..], &e["out"][1]);
    let whole = (x.iter().map(|v| v * v).sum::<f32>() / 8.0).sqrt();
    assert_close(&[whole], &Value::Array(vec![e["rms_of_the_whole_row"].clone()]));
    rms_norm::rms_norm(&mut out, &x, &[&weight[..], &weight].concat(), 0.0, 1);
    assert_close(&out, &e["out_if_one_row"]);
}

#[test]
fn a_linear_layer_is_a_dot_product_for_each_output() {
    let e = example("linear");
    let (x, weight) = (numbers(&e["x"]), numbers(&e["weight"]));
    let out: Vec<f32> = weight.chunks(3).map(|row| linear::dot(&x, row)).collect();
    assert_close(&out, &e["out"]);
}

#[test]
fn softmax_makes_shares() {
    let e = example("softmax");
    let mut x = numbers(&e["x"]);
    softmax::softmax(&mut x);
    assert_close(&x, &e["out"]);
}

#[test]
fn rope_turns_each_pair_by_its_own_angle() {
    let e = example("rope");
    let angles = numbers(&e["angles"]);
    let [theta, head_dim, position] = ["theta", "head_dim", "position"].map(|name| numbers(&e[name])[0]);
    let turns = [0.0, 2.0].map(|pair: f32| position * theta.powf(-pair / head_dim));
    assert_close(&turns, &e["angles"]);
    let cos_sin: Vec<f32> = angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect();
    let mut x = numbers(&e["x"]);
    rope::rope(&mut x, &cos_sin, 1, 1, 4);
    assert_close(&x, &e["out"]);
    // The other pairing moves the same numbers to other places.
    let (mut turned, mut other) = (x, numbers(&e["out_if_neighbours_were_pairs"]));
    assert!((turned[1] - other[1]).abs() > 0.5);
    turned.sort_by(f32::total_cmp);
    other.sort_by(f32::total_cmp);
    assert_close(&turned, &serde_json::json!(other));
}

// ANCHOR: attention
#[test]
fn two_query_heads_share_one_head_of_keys_and_values() {
    let e = example("attention");
    let shape = Heads { heads: 2, kv_heads: 1, head_dim: 4 };
    let mut cache = HostKvCache::new(KvLayout { layers: 1, kv_heads: 1, head_dim: 4, dtype: KvDType::F32 });
    cache.reserve(2);
    cache.store(0, 0, 2, &numbers(&e["k"]), &numbers(&e["v"]));

    // The second token's queries, one row a head: both positions are in its past.
    let mut out = vec![0.0; 8];
    let at = CachePosition { layer: 0, start: 1, tokens: 1 };
    attention::attention(&mut out, &numbers(&e["q"]), &cache, shape, at);
    assert_close(&out, &e["out"]);
}
// ANCHOR_END: attention

/// The steps that the page shows between queries and output.
#[test]
fn scores_become_weights_and_weights_an_output() {
    let e = example("attention");
    let size = |name: &str| e[name].as_u64().unwrap() as usize;
    let (q, k, v, head_dim) = (numbers(&e["q"]), numbers(&e["k"]), numbers(&e["v"]), size("head_dim"));
    assert_eq!((q.len(), k.len(), size("kv_heads")), (size("heads") * head_dim, 2 * head_dim, 1));
    assert_close(&[1.0 / (head_dim as f32).sqrt()], &serde_json::json!([e["scale"]]));
    let scale = numbers(&e["scale"])[0];
    let (mut scores, mut weights, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for query in q.chunks(head_dim) {
        let mut row: Vec<f32> = k.chunks(head_dim).map(|key| scale * linear::dot(query, key)).collect();
        scores.extend(row.clone());
        softmax::softmax(&mut row);
        out.extend((0..head_dim).map(|i| row[0] * v[i] + row[1] * v[head_dim + i]));
        weights.extend(row);
    }
    assert_close(&scores, &e["scores"]);
    assert_close(&weights, &e["weights"]);
    assert_close(&out, &e["out"]);
}

#[test]
fn the_first_token_sees_itself_alone() {
    let e = example("attention");
    let shape = Heads { heads: 2, kv_heads: 1, head_dim: 4 };
    let mut cache = HostKvCache::new(KvLayout { layers: 1, kv_heads: 1, head_dim: 4, dtype: KvDType::F32 });
    cache.reserve(2);
    cache.store(0, 0, 2, &numbers(&e["k"]), &numbers(&e["v"]));
    let mut out = vec![0.0; 8];
    attention::attention(&mut out, &numbers(&e["q"]), &cache, shape, CachePosition { layer: 0, start: 0, tokens: 1 });
    let first = e["v"][0].clone();
    assert_close(&out, &serde_json::json!([first, first]));
}

#[test]
fn swiglu_lets_through_what_the_gate_says() {
    let e = example("swiglu");
    let mut gate = numbers(&e["gate"]);
    swiglu::swiglu(&mut gate, &numbers(&e["up"]));
    assert_close(&gate, &e["out"]);
    let mut silu = numbers(&e["gate"]);
    swiglu::swiglu(&mut silu, &[1.0; 3]);
    assert_close(&silu, &e["silu"]);
    let curve = &e["curve"];
    let mut silu = numbers(&curve["gate"]);
    let ones = vec![1.0; silu.len()];
    swiglu::swiglu(&mut silu, &ones);
    assert_close(&silu, &curve["silu"]);
}

/// What one query reads of these positions: a head of one value, so that the score is the key.
fn attend(scores: &[f32], values: &[f32]) -> f32 {
    let mut cache = HostKvCache::new(KvLayout { layers: 1, kv_heads: 1, head_dim: 1, dtype: KvDType::F32 });
    cache.reserve(scores.len());
    cache.store(0, 0, scores.len(), scores, values);
    let (mut out, shape) = ([0.0], Heads { heads: 1, kv_heads: 1, head_dim: 1 });
    let at = CachePosition { layer: 0, start: scores.len() - 1, tokens: 1 };
    attention::attention(&mut out, &[1.0], &cache, shape, at);
    out[0]
}

// ANCHOR: pieces
#[test]
fn attention_of_two_pieces_is_that_of_the_whole() {
    let e = example("pieces");
    let [scores, values, largest, totals, sums, shrink] =
        ["scores", "values", "largest", "totals", "sums", "shrink"].map(|name| numbers(&e[name]));

    assert_close(&scores.iter().map(|score| score.exp()).collect::<Vec<_>>(), &e["weights"]);
    // Each piece for itself: its sum over its total is attention over its own positions.
    for (piece, at) in [0..2, 2..4].into_iter().enumerate() {
        let (scores, values) = (&scores[at.clone()], &values[at]);
        assert_eq!(largest[piece], scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        assert_close(&[attend(scores, values)], &serde_json::json!(sums[piece] / totals[piece]));
    }
    // Brought to the larger of the two scores, sums and totals may be added.
    let most = largest[0].max(largest[1]);
    assert_close(&[(largest[0] - most).exp(), (largest[1] - most).exp()], &e["shrink"]);
    let total = shrink[0] * totals[0] + shrink[1] * totals[1];
    let sum = shrink[0] * sums[0] + shrink[1] * sums[1];
    assert_eq!((total, sum), (numbers(&e["total"])[0], numbers(&e["sum"])[0]));
    assert_close(&[sum / total, attend(&scores, &values)], &serde_json::json!([e["out"], e["out"]]));
}
// ANCHOR_END: pieces

#[test]
fn a_sum_depends_on_its_order() {
    let e = example("order");
    let x = numbers(&e["x"]);
    assert_eq!([linear::dot(&x, &[1.0; 4])][..], numbers(&e["left_to_right"]));
    // Lanes two apart first, then neighbours: the last two steps of a SIMD-group's sum.
    assert_eq!([(x[0] + x[2]) + (x[1] + x[3])][..], numbers(&e["butterfly"]));
}

/// Probabilities by id, 0 for tokens that are out.
fn distribution(params: SamplingParams, logits: &[f32]) -> Vec<f32> {
    let left = Sampler::new(params, logits.len()).unwrap().distribution(logits, &[], 0).unwrap();
    let mut all = vec![0.0; logits.len()];
    left.iter().for_each(|token| all[token.id as usize] = token.weight as f32);
    all
}

#[test]
fn each_step_of_sampling_leaves_what_the_page_says() {
    let e = example("sampling");
    let logits = numbers(&e["logits"]);
    assert_eq!(e["tokens"].as_array().map(Vec::len), Some(logits.len()), "a name for each");
    let setting = |name: &str| numbers(&e["settings"][name])[0];
    let mut params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    assert_close(&distribution(params.clone(), &logits), &e["softmax"]);

    // The same cut before the temperature would leave one more token.
    let early = SamplingParams { top_k: setting("top_k") as usize, top_p: setting("top_p"), ..params.clone() };
    let early: Vec<f32> = distribution(early, &logits).into_iter().filter(|p| *p > 0.0).collect();
    assert_close(&early, &e["top_p_before_temperature"]);

    params.temperature = setting("temperature");
    assert_close(&distribution(params.clone(), &logits), &e["temperature"]);
    params.top_k = setting("top_k") as usize;
    assert_close(&distribution(params.clone(), &logits), &e["top_k"]);
    params.top_p = setting("top_p");
    assert_close(&distribution(params.clone(), &logits), &e["top_p"]);
    params.min_p = setting("min_p");
    assert_close(&distribution(params.clone(), &logits), &e["min_p"]);

    params.seed = e["seed"].as_u64().unwrap();
    let mut rng = Rng::new(params.seed);
    assert_close(&[rng.uniform() as f32, rng.uniform() as f32], &e["uniform"]);
    let mut sampler = Sampler::new(params, logits.len()).unwrap();
    let drawn: Vec<u32> = (0..2).map(|_| sampler.sample(&logits, &[], 0).unwrap().id).collect();
    assert_eq!(serde_json::json!(drawn), e["drawn"]);
}

#[test]
fn what_may_begin_a_stop_string_is_held_back() {
    let e = example("stop_strings");
    let mut matcher = StopMatcher::new(vec![e["stop"].as_str().unwrap().to_owned()]);
    let pieces = e["pieces"].as_array().unwrap().iter();
    let shown: Vec<String> = pieces.map(|piece| matcher.push(piece.as_str().unwrap()).0).collect();
    assert_eq!(serde_json::json!(shown), e["shown"]);
}

/// A block of the story model, in 8 and in 4 bits.
#[test]
fn a_block_of_weights_becomes_codes() {
    let e = example("quantized");
    let file = Checkpoint::open("models/stories/model.safetensors".as_ref()).unwrap();
    let weights = file.get(e["tensor"].as_str().unwrap()).unwrap();
    let (row, columns) = (e["row"].as_u64().unwrap() as usize, weights.shape[1]);
    let values = &weights.to_f32()[row * columns + 32 * e["block"].as_u64().unwrap() as usize..][..32];
    assert_eq!(values, numbers(&e["values"]));
    let largest = values.iter().copied().fold(0.0, |max: f32, x| if x.abs() > max.abs() { x } else { max });
    assert_eq!([largest][..], numbers(&e["largest"]));
    let rmse = |back: &[f32]| {
        let squares: f64 = values.iter().zip(back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (squares / 32.0).sqrt() as f32
    };

    let eight = Q8_0::quantize(values, None);
    assert_eq!(
        (eight.d.to_f32(), serde_json::json!(eight.codes)),
        (numbers(&e["q8_0"]["d"])[0], e["q8_0"]["codes"].clone())
    );
    let mut back = [0.0; 32];
    eight.dequantize(&mut back);
    assert_close(&[rmse(&back)], &e["q8_0"]["rmse"]);

    let four = Q4_0::quantize(values, None);
    let codes: Vec<i32> = (0..32).map(|i| i32::from(four.code(i)) - 8).collect();
    assert_eq!((four.d.to_f32(), serde_json::json!(codes)), (numbers(&e["q4_0"]["d"])[0], e["q4_0"]["codes"].clone()));
    four.dequantize(&mut back);
    assert_close(&[rmse(&back)], &e["q4_0"]["rmse"]);

    // The scale that just covers the largest value is worse.
    let (d, codes) = (numbers(&e["q4_0_covering"]["d"])[0], numbers(&e["q4_0_covering"]["codes"]));
    let covering: Vec<f32> = codes.iter().map(|code| d * code).collect();
    assert!(values.iter().zip(&covering).all(|(x, y)| (x - y).abs() <= 0.501 * d), "its codes are the nearest");
    assert_close(&[rmse(&covering)], &e["q4_0_covering"]["rmse"]);
    assert!(rmse(&back) < rmse(&covering));
}
