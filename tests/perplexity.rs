//! Perplexity and KL divergence: by hand, by brute force, against transformers (`scripts/oracle/perplexity.py`), and the
//! windows that a text is cut into.

use failed_star::backend::BackendKind;
use failed_star::backend::cpu::simd::Level;
use failed_star::model::kv_cache::KvDType;
use failed_star::session::perplexity::{
    Estimate, PerplexityError, PerplexityOptions, Progress, Report, Scores, Window, score, tokenize, windows,
};
use failed_star::session::{Engine, EngineOptions, SessionOptions};
use failed_star::weights::ModelSource;
use half::bf16;
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn load(directory: &Path, backend: BackendKind) -> Engine {
    let source = ModelSource::resolve(directory.to_str()).unwrap();
    Engine::load(
        &source,
        &EngineOptions { backend, threads: Some(2), simd: Some(Level::detect_exact()), ..EngineOptions::default() },
    )
    .unwrap()
}

fn fixture(name: &str) -> PathBuf {
    path("tests/golden/forward").join(name).join("model")
}

/// A copy of a bf16 model whose weights are what `edit` makes of them, written as f32: where a processor multiplies bf16 in
/// hardware, the cpu backend rounds activations to it, and comparing digits would compare that.
fn edited(directory: &Path, edit: impl Fn(&str, &mut [bf16])) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let file = std::fs::read(directory.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let changed = tensors.iter().map(|(name, view)| {
        let mut values: Vec<bf16> =
            view.data().as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes)).collect();
        edit(name, &mut values);
        let bytes: Vec<u8> = values.into_iter().flat_map(|value| value.to_f32().to_le_bytes()).collect();
        (name.to_owned(), Dtype::F32, view.shape().to_vec(), bytes)
    });
    let changed: Vec<_> = changed.collect();
    let views = changed
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(copy.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    copy
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn exact(context: usize, stride: Option<usize>) -> PerplexityOptions {
    PerplexityOptions { context, stride, kv_dtype: KvDType::F32, against_kv_dtype: KvDType::F32 }
}

fn some_ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + i * i * 11) % 131).collect()
}

#[track_caller]
fn close(found: f64, expected: f64, relative: f64, what: &str) {
    let off = (found - expected).abs();
    assert!(off <= relative * expected.abs(), "{what}: found {found}, expected {expected}, off by {off:e}");
}

#[track_caller]
fn close_estimate(found: Estimate, expected: &Value, relative: f64, what: &str) {
    let error = found.standard_error.expect("more than one token");
    let number = |field: &str| expected[field].as_f64().expect("a number");
    // A mean that is a difference is as exact as what it is a difference of: a share of its error.
    let allowed = relative * number("mean").abs().max(number("standard_error"));
    assert!((found.mean - number("mean")).abs() <= allowed, "{what}: found {found:?}, expected {expected}");
    close(error, number("standard_error"), 10.0 * relative, what);
}

#[test]
fn transformers_finds_the_same() {
    let golden: Value = serde_json::from_str(include_str!("golden/perplexity.json")).unwrap();
    let packed = std::fs::read(path(golden["provenance"]["text"]["file"].as_str().unwrap())).unwrap();
    let mut text = vec![0; golden["provenance"]["text"]["first_bytes"].as_u64().unwrap() as usize];
    lzma_rust2::XzReader::new(&packed[..], false).read_exact(&mut text).unwrap();
    let published = load(&path("models/stories"), BackendKind::Cpu);
    let exactly = edited(&path("models/stories"), |_, _| {});
    let engine = load(exactly.path(), BackendKind::Cpu);
    let coarse = edited(&path("models/stories"), |_, weights| {
        weights.iter_mut().for_each(|weight| *weight = bf16::from_bits(weight.to_bits() & !0xf));
    });
    let rival = load(coarse.path(), BackendKind::Cpu);
    let all = tokenize(&rival, Some(&engine), std::str::from_utf8(&text).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let number = |field: &str| case[field].as_f64().unwrap();
        let size = |field: &str| case[field].as_u64().unwrap() as usize;
        let (ids, stride) = (&all[..size("text_tokens")], case["stride"].as_u64().map(|n| n as usize));
        let check = |engine: &Engine, options: &PerplexityOptions, relative: f64| {
            let scores = score(engine, None, ids, options, &mut go_on).unwrap();
            let cut: Vec<Value> = scores
                .windows
                .iter()
                .map(|window| serde_json::json!([window.tokens.start, window.tokens.end, window.scored_from]))
                .collect();
            assert_eq!(Value::from(cut), case["windows"]);
            for (window, expected) in scores.windows.iter().zip(case["nll_by_window"].as_array().unwrap()) {
                let inside = scores
                    .tokens
                    .iter()
                    .filter(|token| (window.scored_from..window.tokens.end).contains(&token.position));
                close(
                    inside.map(|token| token.nll).sum(),
                    expected.as_f64().unwrap(),
                    relative,
                    &format!("{window:?}"),
                );
            }
            let report = Report::new(engine, ids, &scores).unwrap();
            assert_eq!((report.tokens, report.bytes), (size("tokens"), size("bytes")));
            close_estimate(report.nll, &case["nll"], relative, "nll");
            close_estimate(report.perplexity, &case["perplexity"], relative, "perplexity");
            close(report.bits_per_byte.unwrap(), number("bits_per_byte"), relative, "bits per byte");
        };
        check(&engine, &exact(size("context"), stride), 1e-6);
        if case["rival"].is_null() {
            continue;
        }
        // As `fs` runs it: the cache rounds keys and values to f16, and the backend what it likes.
        check(&published, &PerplexityOptions { kv_dtype: KvDType::F16, ..exact(size("context"), stride) }, 1e-3);
        let scores = score(&rival, Some(&engine), ids, &exact(size("context"), stride), &mut go_on).unwrap();
        let report = Report::new(&rival, ids, &scores).unwrap();
        let (expected, against) = (&case["rival"], report.against.unwrap());
        close_estimate(against.nll, &case["nll"], 1e-6, "the reference's nll");
        close_estimate(report.nll, &expected["nll"], 1e-6, "the rival's nll");
        close_estimate(report.perplexity, &expected["perplexity"], 1e-6, "the rival's perplexity");
        close_estimate(against.perplexity_ratio, &expected["perplexity_ratio"], 1e-6, "ratio");
        close_estimate(against.kl, &expected["kl"], 1e-5, "KL divergence");
        close(against.kl_median, expected["kl_median"].as_f64().unwrap(), 1e-3, "median");
        close(against.kl_p99, expected["kl_p99"].as_f64().unwrap(), 1e-3, "p99");
        close(against.kl_max, expected["kl_max"].as_f64().unwrap(), 1e-3, "largest");
        close_estimate(against.same_top, &expected["same_top"], 1e-9, "top-1 agreement");
        close_estimate(against.probability_change, &expected["probability_change"], 1e-5, "change of p");
    }
}

/// A model that predicts the same after every token: its hidden state is always (8, 0, 0, …), normalized to (1, 0, …), so
/// its logits are the first column of the head. Token 0 has `logit`, token 1 has 0, the others -100.
fn constant(logit: f32) -> TempDir {
    edited(&fixture("yarn-untied-bf16"), |name, weights| {
        weights.fill(bf16::ZERO);
        match name {
            // Far above epsilon, so the norm is exact.
            "model.embed_tokens.weight" => weights.iter_mut().step_by(64).for_each(|w| *w = bf16::from_f32(512.0)),
            "model.norm.weight" => weights[0] = bf16::from_f32(0.125),
            "lm_head.weight" => {
                for (token, row) in weights.chunks_exact_mut(64).enumerate() {
                    row[0] = bf16::from_f32([logit, 0.0, -100.0][token.min(2)]);
                }
            }
            _ => {}
        }
    })
}

#[test]
fn two_words_by_hand() {
    let (q, p) = (constant(0.0), constant(1.0));
    let (candidate, reference) = (load(q.path(), BackendKind::Cpu), load(p.path(), BackendKind::Reference));
    // The second half of 8 tokens is tokens 5, 6 and 7.
    let ids = [1, 1, 1, 1, 1, 0, 0, 1];
    let scores = score(&candidate, Some(&reference), &ids, &exact(8, None), &mut go_on).unwrap();
    let report = Report::new(&candidate, &ids, &scores).unwrap();
    let ln2 = 2f64.ln();
    // P(0) = e / (1 + e), P(1) = 1 / (1 + e).
    let (p0, p1) = (0.731058578630005f64, 0.268941421369995f64);
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-7, "{found}, expected {expected}");
    assert_eq!(scores.tokens.iter().map(|token| token.position).collect::<Vec<_>>(), [5, 6, 7]);
    near(report.nll.mean, ln2);
    near(report.nll.standard_error.unwrap(), 0.0);
    near(report.perplexity.mean, 2.0);
    assert_eq!(
        (report.tokens, report.bytes, report.bits_per_byte),
        (3, 0, None),
        "tokens of no tokenizer have no bytes"
    );
    let against = report.against.unwrap();
    // -ln P is 0.3132617 twice and 1.3132617 once: mean 0.6465951, deviation 1/√3, error 1/3.
    near(against.nll.mean, 0.313261687518223 + 1.0 / 3.0);
    near(against.nll.standard_error.unwrap(), 1.0 / 3.0);
    near(against.perplexity.mean, 0.646595020851556f64.exp());
    near(against.perplexity_ratio.mean, (ln2 - 0.646595020851556).exp());
    near(against.kl.mean, p0 * (2.0 * p0).ln() + p1 * (2.0 * p1).ln());
    near(against.kl_median, against.kl_max);
    near(against.probability_change.mean, 0.5 - (2.0 * p0 + p1) / 3.0);
    assert_eq!(against.same_top.mean, 1.0, "of equal logits the lowest id counts");
}

#[test]
fn a_model_is_no_way_from_itself() {
    let engine = load(&fixture("tied-bf16"), BackendKind::Cpu);
    let ids = some_ids(200);
    let scores = score(&engine, Some(&engine), &ids, &exact(64, Some(16)), &mut go_on).unwrap();
    let against = Report::new(&engine, &ids, &scores).unwrap().against.unwrap();
    let none = Estimate { mean: 0.0, standard_error: Some(0.0) };
    let one = Estimate { mean: 1.0, standard_error: Some(0.0) };
    assert_eq!((against.kl, against.kl_max, against.probability_change), (none, 0.0, none));
    assert_eq!((against.same_top, against.perplexity_ratio), (one, one));
}

/// Every scored token once more, alone: the window up to it evaluated from nothing, and sums as the definition says them.
#[test]
fn brute_force_finds_the_same() {
    let coarse = edited(&fixture("tied-bf16"), |_, weights| {
        weights.iter_mut().for_each(|weight| *weight = bf16::from_bits(weight.to_bits() & !0x1f));
    });
    let fine = edited(&fixture("tied-bf16"), |_, _| {});
    let directories = [coarse.path(), fine.path()];
    let [q, p] = directories.map(|directory| load(directory, BackendKind::Reference));
    let [fast_q, fast_p] = directories.map(|directory| load(directory, BackendKind::Cpu));
    let ids = some_ids(70);
    for (context, stride) in [(16, None), (17, None), (16, Some(5)), (100, None)] {
        let scores = score(&fast_q, Some(&fast_p), &ids, &exact(context, stride), &mut go_on).unwrap();
        let mut found = scores.tokens.iter();
        for window in &scores.windows {
            for position in window.scored_from..window.tokens.end {
                let [ln_q, ln_p] = [&q, &p].map(|engine| {
                    let options = SessionOptions { kv_dtype: KvDType::F32, ..SessionOptions::default() };
                    let mut session = engine.session(options).unwrap();
                    let logits = session.evaluate(&ids[window.tokens.start..position]).unwrap();
                    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                    logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect::<Vec<_>>()
                });
                let kl: f64 = ln_p.iter().zip(&ln_q).map(|(p, q)| p.exp() * (p - q)).sum();
                let token = found.next().unwrap();
                assert_eq!(token.position, position);
                let (target, against) = (ids[position] as usize, token.against.unwrap());
                assert!((token.nll + ln_q[target]).abs() < 1e-4, "{token:?}, expected {}", -ln_q[target]);
                assert!((against.nll + ln_p[target]).abs() < 1e-4, "{token:?}, expected {}", -ln_p[target]);
                assert!((against.kl - kl).abs() < 1e-5 + 1e-4 * kl, "{token:?}, expected {kl}");
            }
        }
        assert!(found.next().is_none());
    }
}

#[test]
fn windows_of_llama_cpp_and_of_transformers() {
    let window = |tokens, scored_from| Window { tokens, scored_from };
    // 512 tokens: the logits at 256 to 510 score 255 tokens, 257 to 511.
    assert_eq!(windows(1200, 512, None).unwrap(), [window(0..512, 257), window(512..1024, 769)]);
    assert_eq!(windows(7, 7, None).unwrap(), [window(0..7, 4)]);
    let sliding = [window(0..512, 1), window(256..768, 512), window(512..1000, 768)];
    assert_eq!(windows(1000, 512, Some(256)).unwrap(), sliding);
    assert_eq!(windows(512, 512, Some(511)).unwrap(), [window(0..512, 1)]);
    assert_eq!(windows(513, 512, Some(511)).unwrap(), [window(0..512, 1), window(511..513, 512)]);
    for stride in [None, Some(7)] {
        assert_eq!(windows(100, 512, stride).unwrap(), [window(0..100, 1)]);
        assert_eq!(windows(2, 512, stride).unwrap(), [window(0..2, 1)]);
        assert!(matches!(windows(1, 512, stride), Err(PerplexityError::TooShort { tokens: 1 })));
        assert!(matches!(windows(9, 2, stride), Err(PerplexityError::ContextTooShort { context: 2 })));
    }
    for stride in [0, 512, usize::MAX] {
        assert!(matches!(windows(1000, 512, Some(stride)), Err(PerplexityError::Stride { context: 512, .. })));
    }
}

proptest! {
    #[test]
    fn no_token_is_scored_twice_and_strides_leave_none_out(
        tokens in 2usize..3000, context in 3usize..300, share in 0.0..1.0, strided: bool,
    ) {
        let stride = strided.then(|| 1 + (share * (context - 2) as f64) as usize);
        let windows = windows(tokens, context, stride).unwrap();
        let mut scored = Vec::new();
        for window in &windows {
            prop_assert!(window.tokens.end <= tokens && window.tokens.len() <= context);
            prop_assert!(window.tokens.start < window.scored_from && window.scored_from < window.tokens.end);
            let before = window.scored_from - window.tokens.start;
            if tokens >= context {
                let context_only = match stride {
                    None => context / 2 + 1,
                    Some(_) if window.tokens.start == 0 => 1,
                    Some(stride) => context - stride,
                };
                prop_assert_eq!(before, context_only);
                prop_assert!(stride.is_some() || window.tokens.len() == context);
            }
            scored.extend(window.scored_from..window.tokens.end);
        }
        prop_assert!(scored.is_sorted_by(|a, b| a < b), "in order, none twice");
        if stride.is_some() || tokens < context {
            prop_assert!(scored.into_iter().eq(1..tokens));
        } else {
            prop_assert_eq!(windows.len(), tokens / context);
        }
    }
}

#[test]
fn breaking_off_keeps_what_is_scored() {
    let engine = load(&fixture("tied-bf16"), BackendKind::Cpu);
    let ids = some_ids(250);
    let run = |until: usize| {
        let stop = |p: Progress| if p.scored >= until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        score(&engine, None, &ids, &exact(50, None), &mut { stop }).unwrap()
    };
    let (whole, part, nothing) = (run(usize::MAX), run(40), run(0));
    assert_eq!((whole.tokens.len(), part.tokens.len(), nothing.tokens.len()), (5 * 24, 2 * 24, 0));
    assert_eq!((whole.interrupted, part.interrupted, nothing.interrupted), (false, true, true));
    assert_eq!(part.tokens, whole.tokens[..48]);
    assert!(Report::new(&engine, &ids, &nothing).is_none());
    let one = Scores { tokens: whole.tokens[..1].to_vec(), ..whole };
    assert_eq!(Report::new(&engine, &ids, &one).unwrap().nll.standard_error, None, "one token has no deviation");
}

#[test]
fn nan_is_found_where_it_begins() {
    let broken = edited(&fixture("yarn-untied-bf16"), |name, weights| {
        if name == "model.embed_tokens.weight" {
            weights[150 * 64] = bf16::NAN;
        }
    });
    let good = load(&fixture("yarn-untied-bf16"), BackendKind::Cpu);
    let bad = load(broken.path(), BackendKind::Cpu);
    let mut ids = some_ids(96);
    ids[57] = 150;
    for (candidate, reference) in [(&bad, None), (&bad, Some(&good)), (&good, Some(&bad))] {
        let error = score(candidate, reference, &ids, &exact(32, None), &mut go_on).unwrap_err();
        assert!(matches!(error, PerplexityError::Logits { position: 57, .. }), "{error}");
        let cause = std::error::Error::source(&error).expect("what is wrong with them").to_string();
        assert!(
            error.to_string().contains("at token 57 of the text") && cause.contains("token 0 is NaN"),
            "{error}: {cause}"
        );
        assert!(error.to_string().contains(bad.name()), "{error}");
    }
}

#[test]
fn a_token_that_the_model_does_not_have_is_refused_wherever_it_stands() {
    let engine = load(&fixture("tied-bf16"), BackendKind::Cpu);
    for index in 0..16 {
        let mut ids = some_ids(16);
        ids[index] = 256;
        let error = score(&engine, None, &ids, &exact(8, None), &mut go_on).unwrap_err();
        assert!(error.to_string().contains(&format!("token id 256 (at index {index} ")), "{error}");
    }
}

#[test]
fn vocabularies_must_be_equal() {
    let stories = load(&path("models/stories"), BackendKind::Cpu);
    let [small, smaller] = ["tied-bf16", "mqa-odd-sizes-bf16"].map(|name| load(&fixture(name), BackendKind::Cpu));
    let error = score(&small, Some(&smaller), &some_ids(20), &exact(8, None), &mut go_on).unwrap_err();
    assert!(
        matches!(&error, PerplexityError::Vocabulary { difference, .. } if difference == "256 and 131 tokens"),
        "{error}"
    );

    let tokenizer: Value =
        serde_json::from_slice(&std::fs::read(path("models/stories/tokenizer.json")).unwrap()).unwrap();
    let with = |tokenizer: &Value| {
        let copy = edited(&path("models/stories"), |_, _| {});
        std::fs::write(copy.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        load(copy.path(), BackendKind::Cpu)
    };
    // Two tokens have changed places.
    let mut swapped = tokenizer.clone();
    let vocab = swapped["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocab["A"].clone(), vocab["B"].clone());
    (vocab["A"], vocab["B"]) = (b, a.clone());
    let error = tokenize(&with(&swapped), Some(&stories), "no such letters").unwrap_err();
    assert!(error.to_string().contains(&format!("token {a} is \"B\" and \"A\"")), "{error}");

    // The same tokens, made in another way: the last merge is missing.
    let mut unmerged = tokenizer.clone();
    let last = unmerged["model"]["merges"].as_array_mut().unwrap().pop().unwrap();
    let word = last
        .as_str()
        .map_or_else(|| [&last[0], &last[1]].map(|part| part.as_str().unwrap()).concat(), |pair| pair.replace(' ', ""));
    let error = tokenize(&with(&unmerged), Some(&stories), &word.replace('Ġ', " ")).unwrap_err();
    assert!(error.to_string().contains("cut this text differently, from token 0 on"), "{error}");
}
