//! Sessions on the Metal backend: tokens that are encoded before the one in front of them is known, and sampling from the
//! few logits that the GPU picks, give what reading every logit gives.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

#[path = "support/metal.rs"]
mod metal;

use failed_star::backend::BackendKind;
use failed_star::session::sampling::{Sampler, SamplingParams};
use failed_star::session::{Engine, EngineOptions, Event, GenerateOptions, Session, SessionOptions, StopReason};
use failed_star::weights::ModelSource;
use std::ops::ControlFlow;
use std::path::Path;

fn engine() -> Engine {
    metal::choose();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/forward/tied-bf16/model");
    let source = ModelSource::resolve(model.to_str()).unwrap();
    Engine::load(&source, &EngineOptions { backend: BackendKind::Metal, ..EngineOptions::default() }).unwrap()
}

fn session(engine: &Engine) -> Session {
    engine.session(SessionOptions::default()).unwrap()
}

/// What comes of choosing every token from all of its logits.
fn by_hand(session: &mut Session, prompt: &[u32], params: &SamplingParams, count: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(params.clone(), session.engine().config().vocab_size).unwrap();
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let choice = sampler.sample(session.evaluate(&tokens).unwrap(), &tokens, prompt.len()).unwrap();
        tokens.push(choice.id);
    }
    tokens.split_off(prompt.len())
}

fn generate(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> (Vec<u32>, StopReason) {
    let done = session.generate(prompt, options, &mut |_| ControlFlow::Continue(())).unwrap();
    (done.ids, done.stop_reason)
}

#[test]
fn running_ahead_gives_the_same_tokens_and_leaves_no_trace() {
    let engine = engine();
    let prompt = [3, 141, 59, 26];
    let greedy = SamplingParams::default();
    let expected = by_hand(&mut session(&engine), &prompt, &greedy, 12);
    let mut ahead = session(&engine);
    let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::default() };
    assert_eq!(generate(&mut ahead, &prompt, &options), (expected.clone(), StopReason::MaxTokens));

    // A token that stops leaves a pass behind it that nobody wants: the session holds what it would without.
    let stop = expected[5];
    let end = expected.iter().position(|id| *id == stop).unwrap();
    let options = GenerateOptions { stop_tokens: vec![stop], ..options };
    let mut stopped = session(&engine);
    assert_eq!(generate(&mut stopped, &prompt, &options), (expected[..end].to_vec(), StopReason::StopToken));
    let so_far = [&prompt[..], &expected[..end]].concat();
    assert_eq!(stopped.tokens(), so_far);
    let mut other = so_far.clone();
    other.push((stop + 1) % 256);
    let found = stopped.evaluate(&other).unwrap().to_vec();
    assert_eq!(found, session_after(&engine, &prompt, &other));

    // Cancelled at its third token.
    let (mut cancelled, mut count) = (session(&engine), 0);
    let done = cancelled.generate(&prompt, &GenerateOptions::default(), &mut |event| {
        count += usize::from(matches!(event, Event::Token(_)));
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let done = done.unwrap();
    assert_eq!((&done.ids[..], done.stop_reason), (&expected[..3], StopReason::Interrupted));
    assert_eq!(cancelled.tokens(), [&prompt[..], &expected[..2]].concat());
    let other = [&prompt[..], &expected[..2], &[(expected[2] + 1) % 256]].concat();
    let found = cancelled.evaluate(&other).unwrap().to_vec();
    assert_eq!(found, session_after(&engine, &prompt, &other));

    // Asked by hand, and then for another token than the one that is under way.
    let mut broken = session(&engine);
    let (best, _) = broken.evaluate_best_ahead(&so_far, true).unwrap();
    let other = [&so_far[..], &[(best + 1) % 256]].concat();
    let found = broken.evaluate_best_ahead(&other, true).unwrap();
    let expected = session(&engine).evaluate_best(&other).unwrap();
    assert_eq!(found.0, expected.0);
    broken.rewind(2);
    assert_eq!(broken.tokens(), &so_far[..2]);
    assert_eq!(broken.evaluate_best(&so_far).unwrap().0, best);
}

/// The logits after `tokens`, of which the first `prompt` come at once and the others one by one.
fn session_after(engine: &Engine, prompt: &[u32], tokens: &[u32]) -> Vec<f32> {
    let mut session = session(engine);
    for end in prompt.len()..tokens.len() {
        session.evaluate(&tokens[..end]).unwrap();
    }
    session.evaluate(tokens).unwrap().to_vec()
}

/// The context's last place is used, and nothing runs beyond it.
#[test]
fn running_ahead_ends_with_the_context() {
    let engine = engine();
    let mut small = engine.session(SessionOptions { context: Some(9), ..SessionOptions::default() }).unwrap();
    let (ids, reason) = generate(&mut small, &[3, 141, 59, 26], &GenerateOptions::default());
    assert_eq!((ids.len(), reason), (5, StopReason::ContextFull));
    assert_eq!(ids, by_hand(&mut session(&engine), &[3, 141, 59, 26], &SamplingParams::default(), 5));
}

#[test]
fn the_k_largest_logits_give_the_same_tokens() {
    let engine = engine();
    let prompt = [3, 141, 59, 26];
    for (top_k, top_p, min_p) in [(1, 1.0, 0.0), (20, 0.95, 0.0), (40, 1.0, 0.1), (120, 0.9, 0.02)] {
        let params = SamplingParams { temperature: 0.9, top_k, top_p, min_p, seed: 7, ..SamplingParams::default() };
        let expected = by_hand(&mut session(&engine), &prompt, &params, 10);
        let options = GenerateOptions { sampling: params, max_tokens: Some(10), ..GenerateOptions::default() };
        assert_eq!(generate(&mut session(&engine), &prompt, &options).0, expected, "top-k {top_k}");
    }
}
