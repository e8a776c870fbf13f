//! `fs trace`: what it says agrees with the configuration, with recorded outputs of transformers, and with what the session computes.

use failed_star::backend::BackendKind;
use failed_star::backend::cpu::simd::Level;
use failed_star::model::expected;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::sampling::log_softmax_top;
use failed_star::session::{Engine, EngineOptions, SessionError, SessionOptions};
use failed_star::trace::{Operation, Rows, Trace, TraceOptions, trace};
use failed_star::weights::{Checkpoint, ModelSource};
use std::path::PathBuf;
use std::process::{Command, Output};

const GOLDEN: &str = "tests/golden/forward/tied-bf16";

fn options(backend: BackendKind) -> EngineOptions {
    // Recorded outputs were computed in f32.
    EngineOptions { backend, threads: Some(1), simd: Some(Level::detect_exact()), ..EngineOptions::default() }
}

fn engine(path: &str) -> Engine {
    let source = ModelSource::resolve(Some(path)).expect("a model");
    Engine::load(&source, &options(BackendKind::Reference)).expect("it loads")
}

fn traced(path: &str, backend: BackendKind, ids: &[u32], what: TraceOptions) -> Trace {
    trace(&engine(path), &options(backend), ids, &what).expect("it runs")
}

fn ids_of(trace: &Trace) -> Vec<u32> {
    trace.tokens.iter().map(|token| token.id).collect()
}

fn golden_model() -> String {
    format!("{GOLDEN}/model")
}

#[test]
fn sums_are_what_the_configuration_costs() {
    let engine = engine(&golden_model());
    for backend in [BackendKind::Reference, BackendKind::Cpu] {
        for kv_dtype in [KvDType::F16, KvDType::F32, KvDType::Q8] {
            let what = TraceOptions { kv_dtype, generate: 2, ..TraceOptions::default() };
            let t = traced(&golden_model(), backend, &[1, 2, 3, 4, 5], what);
            assert_eq!((t.prompt_tokens, t.tokens.len(), t.passes.len()), (5, 7, 3));
            for pass in &t.passes {
                assert_eq!(pass.flop as f64, expected::flop(&t.config, pass.start, pass.tokens), "{}", pass.phase);
                assert_eq!(pass.bytes.kv_written, (pass.tokens * t.kv_bytes_per_token) as u64);
                assert_eq!(pass.bytes.kv_read, ((pass.start + pass.tokens) * t.kv_bytes_per_token) as u64);
                // What `fs bench` counts, and by hand: one row of the embedding a token, and everything else once.
                assert_eq!(pass.bytes.weights, engine.weight_bytes(pass.tokens) as u64);
                let rows = (2 * t.config.hidden_size * (pass.tokens - 1)) as u64;
                assert_eq!(pass.bytes.weights, t.weight_bytes_per_token as u64 + rows);
                let all =
                    traced(&golden_model(), backend, &ids_of(&t)[..pass.start + pass.tokens], TraceOptions::default());
                assert_eq!(pass.flop_without_cache, all.passes[0].flop);
                assert_eq!(pass.operation_count, pass.operations.len());
                assert_eq!(pass.flop, pass.operations.iter().map(|o| o.flop).sum::<u64>());
            }
        }
    }
}

#[test]
fn every_tensor_is_used_once_and_in_its_shape() {
    let t = traced(&golden_model(), BackendKind::Cpu, &[1, 2, 3], TraceOptions::default());
    let operations = &t.passes[0].operations;
    let mut used: Vec<_> = operations.iter().filter_map(|o| Some((o.tensor.clone()?, o.weights.clone()))).collect();
    let mut expected = expected::expected_tensors(&t.config);
    // The head is the embedding again.
    expected.push(expected[0].clone());
    used.sort();
    expected.sort();
    assert_eq!(used, expected);
    for o in operations.iter().filter(|o| o.operation == "linear") {
        let rows = if o.layer.is_some() { 3 } else { 1 };
        assert_eq!((&o.inputs[..], &o.outputs[..]), (&[[rows, o.weights[1]]][..], &[[rows, o.weights[0]]][..]));
        assert_eq!(o.flop, 2 * (rows * o.weights[0] * o.weights[1]) as u64);
    }
    let layers: Vec<_> = operations.iter().map(|o| o.layer).collect();
    let (first, last) = (operations.first().unwrap(), operations.last().unwrap());
    assert_eq!((first.operation, last.operation), ("embed", "linear"));
    for layer in 0..t.config.num_hidden_layers {
        // Norm, q, k, v, two head norms, two rotations, store, attention, o, add; norm, gate, up, swiglu, down, add.
        assert_eq!(layers.iter().filter(|l| **l == Some(layer)).count(), 18, "layer {layer}");
    }
    assert_eq!(layers.iter().filter(|l| l.is_none()).count(), 4, "embed; copy_rows, rms_norm, linear");
}

#[test]
fn values_are_those_that_transformers_recorded() {
    let recorded = Checkpoint::open(&PathBuf::from(format!("{GOLDEN}/case_1.safetensors"))).expect("a fixture");
    let manifest = std::fs::read_to_string(format!("{GOLDEN}/manifest.json")).expect("a fixture");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let ids: Vec<u32> = serde_json::from_value(manifest["cases"][1]["ids"].clone()).expect("ids");
    let what = TraceOptions { kv_dtype: KvDType::F32, rows: Rows::All, values: usize::MAX, ..TraceOptions::default() };
    for backend in [BackendKind::Reference, BackendKind::Cpu] {
        let t = traced(&golden_model(), backend, &ids, what);
        let operations = &t.passes[0].operations;
        // The residual stream after a block is what its second `add` leaves.
        let after = |layer: usize| operations.iter().rfind(|o| o.operation == "add" && o.layer == Some(layer)).unwrap();
        let mut stages: Vec<(String, &Operation)> = vec![("embedding".into(), &operations[0])];
        stages.extend((0..t.config.num_hidden_layers).map(|layer| (format!("block_{layer}"), after(layer))));
        for (stage, operation) in stages {
            let expected = recorded.get(&stage).expect("it was recorded").to_f32();
            let found = operation.values.as_ref().expect("it was asked for");
            let values: Vec<f32> = found.rows.concat();
            assert_eq!(values.len(), expected.len(), "{stage}");
            for (found, expected) in values.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-4 + 1e-4 * expected.abs(), "{stage}: {found}, {expected}");
            }
            let largest = expected.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!((found.max - largest).abs() <= 1e-4 + 1e-4 * largest.abs(), "{stage}: {}", found.max);
            let rms = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
            assert!((found.rms - rms).abs() <= 1e-9 * rms, "{stage}: {}", found.rms);
        }
    }
}

#[test]
fn attention_is_causal_and_each_row_sums_to_one() {
    let ids: Vec<u32> = (1..=40).collect();
    let what = TraceOptions { rows: Rows::All, generate: 1, ..TraceOptions::default() };
    let t = traced(&golden_model(), BackendKind::Cpu, &ids, what);
    for pass in &t.passes {
        let attention: Vec<_> = pass.operations.iter().filter(|o| o.operation == "attention").collect();
        assert_eq!(attention.len(), t.config.num_hidden_layers);
        for operation in attention {
            assert_eq!(operation.attention.len(), pass.tokens);
            for (token, heads) in operation.attention.iter().enumerate() {
                assert_eq!(heads.len(), t.config.num_attention_heads);
                for weights in heads {
                    assert_eq!(weights.len(), pass.start + token + 1, "a token sees what was before it, and itself");
                    assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)));
                    assert!((weights.iter().map(|&w| f64::from(w)).sum::<f64>() - 1.0).abs() < 1e-5);
                }
            }
        }
    }
}

/// The weights that are shown must be those that were used: with them and the values, attention's output comes out.
#[test]
fn attention_weights_give_attentions_output() {
    let what = TraceOptions { kv_dtype: KvDType::F32, rows: Rows::All, values: usize::MAX, ..TraceOptions::default() };
    let t = traced(&golden_model(), BackendKind::Cpu, &[7, 3, 9, 3, 1], what);
    let (c, operations) = (&t.config, &t.passes[0].operations);
    for layer in 0..c.num_hidden_layers {
        let of = |wanted: &dyn Fn(&&Operation) -> bool| {
            let found = operations.iter().filter(|o| o.layer == Some(layer)).find(wanted).expect("every layer has it");
            (found, found.values.as_ref().expect("asked for").rows.clone())
        };
        let (_, v) = of(&|o| o.tensor.as_deref().is_some_and(|name| name.ends_with("v_proj.weight")));
        let (attention, mixed) = of(&|o| o.operation == "attention");
        for (token, heads) in attention.attention.iter().enumerate() {
            for (head, weights) in heads.iter().enumerate() {
                let kv_head = head / (c.num_attention_heads / c.num_key_value_heads);
                for i in 0..c.head_dim {
                    let sum: f32 = weights.iter().zip(&v).map(|(w, v)| w * v[kv_head * c.head_dim + i]).sum();
                    let found = mixed[token][head * c.head_dim + i];
                    assert!((sum - found).abs() < 1e-5, "layer {layer} token {token} head {head}: {sum}, {found}");
                }
            }
        }
    }
}

#[test]
fn the_lens_after_the_last_block_shows_the_models_logits() {
    let ids = [1, 2, 3, 4, 5, 6];
    let what = TraceOptions { kv_dtype: KvDType::F32, rows: Rows::All, ..TraceOptions::default() };
    let t = traced(&golden_model(), BackendKind::Cpu, &ids, what);
    let stages: Vec<_> = t.passes[0].lens.iter().map(|lens| lens.stage.as_str()).collect();
    assert_eq!(stages.len(), 1 + t.config.num_hidden_layers);
    assert_eq!(stages[..2], ["embedding", "block_0"]);
    let engine = engine(&golden_model());
    let mut session = engine.session(SessionOptions { kv_dtype: KvDType::F32, ..SessionOptions::default() }).unwrap();
    for (row, top) in t.passes[0].lens.last().unwrap().rows.iter().enumerate() {
        let expected = log_softmax_top(session.evaluate(&ids[..=row]).unwrap(), 5).unwrap();
        assert_eq!(top.len(), 5);
        for (found, expected) in top.iter().zip(expected) {
            assert!((found.logit - expected.logit).abs() < 1e-4, "row {row}: {found:?}, {expected:?}");
            assert!((found.probability - expected.logprob.exp()).abs() < 1e-4);
        }
    }
    assert_eq!(t.passes[0].next.id, t.passes[0].lens.last().unwrap().rows.last().unwrap()[0].id);
}

#[test]
fn what_is_not_asked_for_is_left_out_and_bad_input_is_refused() {
    let bare = TraceOptions { operations: false, top: 0, ..TraceOptions::default() };
    let t = traced(&golden_model(), BackendKind::Cpu, &[1, 2], bare);
    assert!(t.passes[0].operations.is_empty() && t.passes[0].lens.is_empty());
    assert!(t.passes[0].flop > 0 && t.passes[0].operation_count > 0);
    let none =
        traced(&golden_model(), BackendKind::Cpu, &[1, 2], TraceOptions { values: 0, ..TraceOptions::default() });
    assert!(none.passes[0].operations.iter().all(|o| o.values.is_none() && o.attention.is_empty()));

    let engine = engine(&golden_model());
    let refused = |ids: &[u32], generate| {
        let what = TraceOptions { generate, ..TraceOptions::default() };
        trace(&engine, &options(BackendKind::Cpu), ids, &what).expect_err("refused")
    };
    assert!(matches!(refused(&[], 0), SessionError::EmptyPrompt));
    assert!(matches!(refused(&[1, 1 << 20], 0), SessionError::TokenOutOfRange { index: 1, .. }));
    let context = engine.config().max_context();
    assert!(matches!(refused(&[1], context), SessionError::ContextTooLong { .. }));
    assert!(matches!(refused(&[1], usize::MAX), SessionError::ContextTooLong { .. }));
}

fn fs(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fs"));
    command.args(["trace", "--quiet", "--model", &golden_model()]).args(args).output().expect("fs runs")
}

#[test]
fn the_command_prints_a_table_or_one_json_object() {
    let output = fs(&["--ids", "1,2,3", "--json", "-n", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((json["format"].as_str(), json["version"].as_u64()), (Some("failed-star.trace"), Some(1)));
    assert_eq!(json["passes"][1]["phase"], "decode");
    assert_eq!(json["passes"][0]["operations"][0]["operation"], "embed");

    let output = fs(&["--ids", "1,2,3", "--layer", "1"]);
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    for part in
        ["prefill of positions 0 to 2", "layer 0: the same operations", "self_attn.q_proj", "looks most", "block_1"]
    {
        assert!(table.contains(part), "{part} is missing in {table}");
    }
    for (args, code, word) in [
        (&["--ids", "1", "--layer", "99"][..], 1, "no layer 99"),
        (&["--ids", "1", "--rows", "some"], 2, "neither"),
        (&["--ids", "1", "--values", "x"], 2, "neither"),
        (&["--ids", "1", "-n", "18446744073709551615"], 1, "context"),
        (&["--ids", ""], 1, "empty"),
    ] {
        let output = fs(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(word) && !error.contains("panicked"), "{args:?}: {error}");
    }
}
