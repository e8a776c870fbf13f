//! Sessions: what is computed and what is reused, and that the two cannot be told apart.

use failed_star::backend::BackendKind;
use failed_star::backend::cpu::simd::Level;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::verify::{Rounding, contract};
use failed_star::session::{Engine, EngineOptions, Session, SessionError, SessionOptions};
use failed_star::weights::ModelSource;
use std::ops::ControlFlow;
use std::path::Path;

const LAYERS: u64 = 2;

fn engine(backend: BackendKind) -> Engine {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/forward/tied-bf16/model");
    let source = ModelSource::resolve(model.to_str()).unwrap();
    Engine::load(
        &source,
        &EngineOptions { backend, threads: Some(2), simd: Some(Level::detect_exact()), ..EngineOptions::default() },
    )
    .unwrap()
}

fn session(backend: BackendKind, options: SessionOptions) -> Session {
    engine(backend).session(options).unwrap()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + i * i * 11) % 256).collect()
}

fn fresh(backend: BackendKind, kv_dtype: KvDType, tokens: &[u32]) -> Vec<f32> {
    session(backend, SessionOptions { kv_dtype, ..SessionOptions::default() }).evaluate(tokens).unwrap().to_vec()
}

/// A token that comes alone is added up in another order than one of many; the difference of a last bit can become one
/// of rounding to the cache's dtype: 2^-12 of a key or value in f16, 2^-8 in q8, of which logits see a small part. Linear layers and
/// attention each have two orders; in f32 they have been seen to differ by 1.1e-5, in f16 by 1.03e-4.
fn assert_close(found: &[f32], expected: &[f32], kv_dtype: KvDType, what: &str) {
    let tolerance = match kv_dtype {
        KvDType::F32 => 4e-5,
        KvDType::F16 => 4e-4,
        KvDType::Q8 => 1e-2,
    };
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}: logit {i} is {a}, expected {b}");
    }
}

fn each_kind(test: impl Fn(BackendKind, KvDType)) {
    for backend in [BackendKind::Cpu, BackendKind::Reference] {
        for kv_dtype in [KvDType::F16, KvDType::F32, KvDType::Q8] {
            test(backend, kv_dtype);
        }
    }
}

#[test]
fn one_token_at_a_time_equals_one_prefill_and_costs_one_token_each() {
    each_kind(|backend, kv_dtype| {
        let tokens = tokens(70);
        let mut session = session(backend, SessionOptions { kv_dtype, ..SessionOptions::default() });
        for n in 1..=tokens.len() {
            let logits = session.evaluate(&tokens[..n]).unwrap().to_vec();
            assert_eq!(session.token_layers(), n as u64 * LAYERS, "every token is computed once");
            if n % 23 == 1 {
                assert_close(&logits, &fresh(backend, kv_dtype, &tokens[..n]), kv_dtype, &format!("{n} tokens"));
            }
        }
    });
}

#[test]
fn any_split_into_chunks_equals_one_prefill() {
    each_kind(|backend, kv_dtype| {
        let tokens = tokens(70);
        let expected = fresh(backend, kv_dtype, &tokens);
        for chunk in [1, 2, 15, 16, 17, 31, 64, 69, 70, 71] {
            let mut session = session(backend, SessionOptions { kv_dtype, chunk, ..SessionOptions::default() });
            assert_close(session.evaluate(&tokens).unwrap(), &expected, kv_dtype, &format!("chunks of {chunk}"));
            assert_eq!(session.token_layers(), 70 * LAYERS);
        }
    });
}

#[test]
fn a_changed_ending_costs_only_the_ending() {
    each_kind(|backend, kv_dtype| {
        let mut tokens = tokens(50);
        let mut session = session(backend, SessionOptions { kv_dtype, ..SessionOptions::default() });
        session.evaluate(&tokens).unwrap();
        tokens.truncate(40);
        tokens.extend([9, 8, 7]);
        let before = session.token_layers();
        let logits = session.evaluate(&tokens).unwrap().to_vec();
        assert_eq!(session.token_layers() - before, 3 * LAYERS, "40 of 43 tokens are in the cache");
        assert_close(&logits, &fresh(backend, kv_dtype, &tokens), kv_dtype, "after a rewind");
        assert_eq!(session.tokens(), tokens);
    });
}

#[test]
fn a_prefix_costs_its_last_token_and_the_same_again_nothing() {
    let mut session = session(BackendKind::Cpu, SessionOptions::default());
    let tokens = tokens(50);
    let full = session.evaluate(&tokens).unwrap().to_vec();
    let before = session.token_layers();
    assert_eq!(session.evaluate(&tokens).unwrap(), full);
    assert_eq!(session.token_layers(), before, "nothing changed, nothing to do");
    session.evaluate(&tokens[..20]).unwrap();
    assert_eq!(session.token_layers() - before, LAYERS, "logits of token 20 are not kept, its predecessors' cache is");
    session.reset();
    let before = session.token_layers();
    session.evaluate(&tokens[..20]).unwrap();
    assert_eq!(session.token_layers() - before, 20 * LAYERS, "a reset forgets all");
}

#[test]
fn rows_of_logits_are_those_of_each_prefix_and_cost_each_token_once() {
    each_kind(|backend, kv_dtype| {
        let tokens = tokens(50);
        let mut session = session(backend, SessionOptions { kv_dtype, chunk: 16, ..SessionOptions::default() });
        // Context in chunks of 16, then rows; more rows upon the cache; and rows of what is in the cache already.
        for (end, first, computed) in [(40, 35, 40), (50, 40, 10), (50, 48, 2), (50, 50, 0), (20, 19, 1)] {
            let before = session.token_layers();
            let rows = session.evaluate_rows(&tokens[..end], first).unwrap();
            assert_eq!(session.token_layers() - before, computed * LAYERS, "{first}..{end}");
            assert_eq!((session.tokens(), rows.len()), (&tokens[..end], (end - first) * 256));
            for (row, n) in rows.chunks_exact(256).zip(first + 1..) {
                assert_close(
                    row,
                    &fresh(backend, kv_dtype, &tokens[..n]),
                    kv_dtype,
                    &format!("row {n} of {first}..{end}"),
                );
            }
        }
        let before = session.token_layers();
        assert_close(
            session.evaluate(&tokens[..20]).unwrap(),
            &fresh(backend, kv_dtype, &tokens[..20]),
            kv_dtype,
            "afterwards",
        );
        assert_eq!(session.token_layers() - before, LAYERS, "rows are handed out, not kept");
        assert!(matches!(session.evaluate_rows(&[1, 256], 0), Err(SessionError::TokenOutOfRange { .. })));
    });
}

#[test]
fn growing_past_every_capacity_keeps_what_is_stored() {
    // The cache grows by doubling from 64 positions: 1 token, then past 64, then past 128.
    let tokens = tokens(200);
    let mut session = session(BackendKind::Cpu, SessionOptions::default());
    for n in [1, 64, 65, 128, 129, 200] {
        session.evaluate(&tokens[..n]).unwrap();
    }
    let expected = fresh(BackendKind::Cpu, KvDType::F16, &tokens);
    assert_close(session.evaluate(&tokens).unwrap(), &expected, KvDType::F16, "200 tokens");
}

#[test]
fn the_context_limit_is_checked_before_any_work() {
    let mut session = session(BackendKind::Cpu, SessionOptions { context: Some(32), ..SessionOptions::default() });
    session.evaluate(&tokens(32)).unwrap();
    let before = session.token_layers();
    let error = session.evaluate(&tokens(33)).unwrap_err();
    assert!(matches!(error, SessionError::ContextTooLong { needed: 33, context: 32, model_context: 256 }), "{error}");
    assert_eq!(session.token_layers(), before);
    let longer = engine(BackendKind::Cpu).session(SessionOptions { context: Some(257), ..SessionOptions::default() });
    assert!(matches!(longer, Err(SessionError::ContextBeyondModel { context: 257, model_context: 256, .. })));
}

#[test]
fn bad_tokens_are_refused_and_the_session_stays_usable() {
    let mut session = session(BackendKind::Cpu, SessionOptions::default());
    assert!(matches!(session.evaluate(&[]), Err(SessionError::EmptyPrompt)));
    let error = session.evaluate(&[1, 2, 256]).unwrap_err();
    assert!(matches!(error, SessionError::TokenOutOfRange { id: 256, index: 2, vocab_size: 256 }), "{error}");
    let logits = session.evaluate(&[1, 2, 255]).unwrap().to_vec();
    assert_close(&logits, &fresh(BackendKind::Cpu, KvDType::F16, &[1, 2, 255]), KvDType::F16, "after errors");
}

#[test]
fn an_interrupted_prompt_keeps_what_is_done() {
    let tokens = tokens(64);
    let mut session = session(BackendKind::Cpu, SessionOptions { chunk: 16, ..SessionOptions::default() });
    let stop = |done: usize, _| if done >= 32 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let error = session.evaluate_with_progress(&tokens, &mut { stop }).unwrap_err();
    assert!(matches!(error, SessionError::Interrupted { done: 32, total: 64 }), "{error}");
    let logits = session.evaluate(&tokens).unwrap().to_vec();
    assert_eq!(session.token_layers(), 64 * LAYERS, "the 32 tokens before the interruption are not computed again");
    assert_close(&logits, &fresh(BackendKind::Cpu, KvDType::F16, &tokens), KvDType::F16, "after an interruption");
}

#[test]
fn backends_agree_operation_by_operation() {
    let records = engine(BackendKind::Cpu)
        .compare_with_reference(
            &EngineOptions {
                backend: BackendKind::Cpu,
                threads: Some(2),
                simd: Some(Level::detect_exact()),
                ..EngineOptions::default()
            },
            &tokens(40),
        )
        .unwrap();
    // Embedding; per layer q, k and v with their norm, heads, attention, o with add, mlp with its norm, down with add; norm, logits.
    // The prompt's last row is copied out of the others.
    assert_eq!(records.len(), 2 * (1 + 2 * 8 + 2) + 1, "every operation of both calls is compared");
    for record in records {
        assert!(record.nmse <= contract(record.operation, Rounding::None), "{record:?}");
    }
}
