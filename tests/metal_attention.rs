//! The fast attention kernels of the Metal backend against the reference, on both sides of every edge of theirs, and whether
//! the tests would see it if a kernel were wrong: faults are planted into the sources, and each must be caught.
//!
//! On Linux the stand-in runs them with every access checked; see `support/metal.rs`.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

#[path = "support/metal.rs"]
mod metal;
#[path = "support/random.rs"]
mod random;

use failed_star::backend::compare::Record;
use failed_star::backend::metal::Metal;
use failed_star::backend::reference::Reference;
use failed_star::backend::{Backend, CachePosition, Heads};
use failed_star::model::kv_cache::{KvDType, KvLayout};
use failed_star::session::verify::{Rounding, contract};
use failed_star::weights::{DType, SharedBytes, Tensor};
use metal::{checked, metal, planted};
use random::Random;

/// What attention is asked for.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: KvDType,
    head_dim: usize,
    kv_heads: usize,
    /// Query heads to a KV head.
    group: usize,
    start: usize,
    tokens: usize,
}

/// Attention's inputs: queries that make sharp scores, so that a wrong position shows; keys; values.
fn inputs(case: Case) -> [Vec<f32>; 3] {
    let Case { head_dim, kv_heads, group, start, tokens, .. } = case;
    let mut random = Random(7);
    let stored = (start + tokens) * kv_heads * head_dim;
    let [k, v] = [random.values(stored), random.values(stored)];
    let q = random.values(tokens * kv_heads * group * head_dim).iter().map(|x| x * 8.0).collect();
    [q, k, v]
}

/// Attention of one layer of two, into an output full of NaN with a guard behind it.
fn run<B: Backend>(backend: &B, case: Case, [q, k, v]: &[Vec<f32>; 3]) -> Result<Vec<f32>, String> {
    let Case { dtype, head_dim, kv_heads, group, start, tokens } = case;
    let buffer = |values: &[f32]| {
        let mut buffer = backend.buffer(values.len());
        backend.write(&mut buffer, values);
        buffer
    };
    let mut cache = backend.kv_cache(KvLayout { layers: 2, kv_heads, head_dim, dtype });
    backend.reserve_kv(&mut cache, start + tokens);
    let all = CachePosition { layer: 1, start: 0, tokens: start + tokens };
    backend.store_kv(&mut cache, &buffer(k), &buffer(v), all);
    let mut out = buffer(&vec![f32::NAN; q.len() + 1]);
    let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
    backend.attention(&mut out, &buffer(q), &cache, heads, CachePosition { layer: 1, start, tokens });
    let mut found = backend.read(&out, q.len() + 1).map_err(|error| error.to_string())?;
    match found.pop() {
        Some(guard) if guard.is_nan() => Ok(found),
        _ => Err("wrote behind its output".into()),
    }
}

/// Whether a backend does what the reference does.
fn agrees(metal: &Metal, case: Case) -> Result<(), String> {
    let inputs = inputs(case);
    let expected = run(&Reference, case, &inputs)?;
    let found = run(metal, case, &inputs)?;
    if !found.iter().all(|value| value.is_finite()) {
        return Err("left a value unwritten".into());
    }
    let record = Record::new("attention", None, &expected, &found);
    match record.nmse <= contract("attention", Rounding::None) {
        true => Ok(()),
        false => Err(format!("{record:?}")),
    }
}

fn check(metal: &Metal, case: Case) {
    if let Err(message) = agrees(metal, case) {
        panic!("{case:?}: {message}");
    }
}

use KvDType::{F16, F32, Q8};

/// Cache types, widths of heads and groups; what can be one kernel is one, since each is compiled.
const SHAPES: [(KvDType, usize, usize, usize); 9] = [
    (F16, 128, 2, 2),
    (F16, 128, 1, 8),
    (F32, 128, 2, 1),
    (Q8, 128, 1, 4),
    (F16, 64, 2, 5),
    (Q8, 96, 2, 2),
    (F32, 80, 1, 3),
    (F16, 256, 1, 2),
    (F32, 8, 2, 2),
];

/// Positions on both sides of the edges of a SIMD-group's part (32), of a piece (256), and of four pieces.
#[test]
fn one_token_at_every_edge() {
    let metal = metal(false);
    for (dtype, head_dim, kv_heads, group) in SHAPES {
        for positions in [1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1025] {
            check(&metal, Case { dtype, head_dim, kv_heads, group, start: positions - 1, tokens: 1 });
        }
    }
}

/// Reduction of more pieces than a SIMD-group has lanes.
#[test]
fn one_token_at_a_great_depth() {
    let metal = metal(false);
    check(&metal, Case { dtype: F16, head_dim: 64, kv_heads: 1, group: 1, start: 33 * 256, tokens: 1 });
}

/// As many tokens as are decoded one by one, and more, which fill tiles of 32 rows; at starts within a tile and within a piece.
#[test]
fn many_tokens_at_every_edge() {
    let metal = metal(false);
    for (i, (dtype, head_dim, kv_heads, group)) in SHAPES.into_iter().enumerate() {
        for (j, tokens) in [2, 7, 8, 9, 16, 33].into_iter().enumerate() {
            let starts = [0, 1, 31, 32, 33, 100, 250, 255, 256, 257];
            for start in [starts[(i + j) % 10], starts[(i + 3 * j + 5) % 10]] {
                check(&metal, Case { dtype, head_dim, kv_heads, group, start, tokens });
            }
        }
    }
    check(&metal, Case { dtype: F16, head_dim: 128, kv_heads: 2, group: 2, start: 0, tokens: 129 });
    check(&metal, Case { dtype: F16, head_dim: 128, kv_heads: 2, group: 2, start: 1025, tokens: 7 });
}

/// A score of NaN is seen by the positions that attend to it, and by no others; scores of -infinity weigh nothing.
#[test]
fn infinity_and_nan() {
    let backends = [metal(false), metal(true)];
    for ((start, tokens), metal) in
        [(40, 1), (300, 1), (30, 20)].into_iter().flat_map(|case| backends.iter().map(move |b| (case, b)))
    {
        let case = Case { dtype: F32, head_dim: 128, kv_heads: 1, group: 2, start, tokens };
        for (key, position) in [(f32::NEG_INFINITY, 0), (f32::NEG_INFINITY, 33), (f32::NAN, 35)] {
            let mut inputs = inputs(case);
            inputs[0].iter_mut().for_each(|x| *x = x.abs() + 0.1);
            inputs[1][position * 128..][..128].fill(key);
            let [expected, found] = [run(&Reference, case, &inputs), run(metal, case, &inputs)].map(Result::unwrap);
            for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
                let same = expected.is_nan() == found.is_nan() && (found.is_nan() || (expected - found).abs() < 1e-4);
                assert!(same, "{case:?}, {key} at {position}, value {i}: {found}, expected {expected}");
            }
        }
    }
}

const BARRIER: &str = "threadgroup_barrier(mem_flags::mem_threadgroup);";

/// Faults in `attention_decode.metal`: what was right, what takes its place.
#[test]
fn faults_in_decode_are_caught() {
    if !checked() {
        return eprintln!("skipped: this device checks no accesses, and may not outlive a wild one");
    }
    let before = |line: &str| (format!("{BARRIER}\n        {line}"), line.to_owned());
    let faults = [
        // Without its barriers.
        ("if (from > 0) {".into(), "if (false) {".into()),
        before("uint h = from + index / stride"),
        (format!("sums[index] = sum;\n    {BARRIER}"), "sums[index] = sum;".into()),
        // A position too many, and one too few.
        ("mine < positions ? score[h]".into(), "mine <= positions ? score[h]".into()),
        // Positions that nobody has written.
        ("uint last = positions - 1;".into(), "uint last = positions + 100000;".into()),
        ("positions = shape.start + token + 1;".into(), "positions = shape.start + token + (token == 0);".into()),
        // Pieces that are lost, and such as are not brought to one scale.
        ("p < count; p += slices".into(), "p + 1 < count; p += slices".into()),
        ("float4(exp(scores[p].x - most))".into(), "float4(1.0f)".into()),
        // A weight that goes to the wrong row.
        ("sub * lanes + j * (lanes / 4) + t".into(), "sub * lanes + (j + 1) % 4 * (lanes / 4) + t".into()),
    ];
    caught("attention_decode.metal", &faults, &[(300, 1), (4, 2)]);
}

/// Faults in `attention_prefill.metal`.
#[test]
fn faults_in_prefill_are_caught() {
    if !checked() {
        return eprintln!("skipped: this device checks no accesses, and may not outlive a wild one");
    }
    let after = |line: &str| (format!("{line}\n        {BARRIER}"), line.to_owned());
    let faults = [
        // Without its barriers, in order.
        (format!("before have been read.\n        {BARRIER}"), "before have been read.".into()),
        after("load_tile<Kv>(memory, keys, row, all_rows, first, end, index);"),
        (format!("have read the keys.\n        {BARRIER}"), "have read the keys.".into()),
        after("load_tile<Kv>(memory, values, row, all_rows, first, end, index);"),
        // A position beyond the diagonal, a SIMD-group that ends early, a row that is not its own.
        ("column + e < my_end".into(), "column + e <= my_end".into()),
        ("(of_simd + 7, shape.rows - 1) / share + 1 : 0".into(), "(of_simd + 7, shape.rows - 1) / share : 0".into()),
        ("first + position < end &&".into(), "first + position + 1 < end &&".into()),
        // What was added up before a larger score came.
        ("sum[d].thread_elements()[0] *= shrink;".into(), "".into()),
    ];
    caught("attention_prefill.metal", &faults, &[(0, 33), (60, 20)]);
}

/// The fused norm, rotation and store, seen in the queries and in what attention makes of the cache.
fn norm_rope_store<B: Backend>(backend: &B, case: Case) -> Result<Vec<f32>, String> {
    let Case { dtype, head_dim, kv_heads, group, start, tokens } = case;
    let mut random = Random(9);
    let mut buffer = |len: usize| {
        let mut buffer = backend.buffer(len);
        backend.write(&mut buffer, &random.values(len));
        buffer
    };
    let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
    let [before, at] = [(0, start), (start, tokens)].map(|(start, tokens)| CachePosition { layer: 0, start, tokens });
    let mut cache = backend.kv_cache(KvLayout { layers: 1, kv_heads, head_dim, dtype });
    backend.reserve_kv(&mut cache, start + tokens);
    let values = kv_heads * head_dim;
    backend.store_kv(&mut cache, &buffer(start * values), &buffer(start * values), before);
    let [mut q, mut k, mut v] = [group, 1, 1].map(|n| buffer(tokens * values * n));
    let weight = |values: &[f32]| {
        let data = SharedBytes::from_vec(values.iter().flat_map(|v| v.to_le_bytes()).collect()).aligned();
        let (name, file) = ("test".to_owned(), "test".into());
        backend.load(&Tensor { name, dtype: DType::F32, shape: vec![values.len()], data, file, offset: 0 })
    };
    let norms = [3, 4].map(|seed| weight(&Random(seed).values(head_dim)).expect("a weight"));
    let cos_sin = buffer(tokens * head_dim);
    backend.norm_rope_store([&mut q, &mut k, &mut v], [&norms[0], &norms[1]], 1e-6, &cos_sin, &mut cache, heads, at);
    let mut out = buffer(tokens * values * group);
    backend.attention(&mut out, &q, &cache, heads, at);
    let mut found = backend.read(&q, tokens * values * group).map_err(|error| error.to_string())?;
    found.extend(backend.read(&out, tokens * values * group).map_err(|error| error.to_string())?);
    Ok(found)
}

#[test]
fn faults_in_norm_rope_store_are_caught() {
    if !checked() {
        return eprintln!("skipped: this device checks no accesses, and may not outlive a wild one");
    }
    // f32, since a last bit's difference can become one of rounding.
    let case = |head_dim, start, tokens| Case { dtype: F32, head_dim, kv_heads: 2, group: 2, start, tokens };
    let cases = [case(128, 33, 2), case(80, 3, 1), case(6, 0, 3)];
    let agrees = |metal: &Metal, case| {
        let (expected, found) = (norm_rope_store(&Reference, case)?, norm_rope_store(metal, case)?);
        let record = Record::new("attention", None, &expected, &found);
        match record.nmse <= contract("attention", Rounding::None) {
            true => Ok(()),
            false => Err(format!("{case:?}: {record:?}")),
        }
    };
    let metal = metal(false);
    for case in cases {
        agrees(&metal, case).unwrap_or_else(|message| panic!("{message}"));
    }
    let faults = [
        // The next position's row, the other half's weight and angle, a sum without its second half, a lane beyond the end.
        ("uint row = kv_head * shape.capacity + shape.start + token", "uint row = kv_head * shape.capacity + token"),
        ("norm[i + pairs]", "norm[i]"),
        ("x.x * angle[step].y", "x.x * angle[step].x"),
        ("fma(x.x, x.x, fma(x.y, x.y, sum))", "fma(x.x, x.x, sum)"),
        ("step * 32 + lane < pairs ? pair[step] : float2(0.0f)", "pair[step]"),
    ];
    for (from, to) in faults {
        let (_directory, metal) = planted("norm_rope_store.metal", from, to, false);
        let found = cases.iter().find_map(|&case| agrees(&metal, case).err());
        assert!(found.is_some(), "nobody sees `{to}` in place of `{from}`");
    }
}

/// Each fault must make one of the cases fail, and none fails without one.
fn caught(file: &str, faults: &[(String, String)], cases: &[(usize, usize)]) {
    let cases: Vec<Case> = cases
        .iter()
        .map(|&(start, tokens)| Case { dtype: F16, head_dim: 128, kv_heads: 1, group: 4, start, tokens })
        .collect();
    let metal = metal(false);
    cases.iter().for_each(|&case| check(&metal, case));
    for (from, to) in faults {
        let (_directory, metal) = planted(file, from, to, false);
        // Some faults depend on the order in which threads run; the checks do not.
        let found = cases.iter().find_map(|&case| agrees(&metal, case).err());
        assert!(found.is_some(), "{file}: nobody sees `{to}` in place of `{from}`");
    }
}
