//! Every operation of the Metal backend against the reference, plain kernels and fused ones, on both sides of every block
//! edge, with outputs poisoned beforehand. On Linux the stand-in runs them, with bounds, races and barriers checked.

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
use failed_star::weights::DType;
use metal::metal;
use random::Random;

/// SIMD-groups (32), their four to eight in a threadgroup (128, 256) and threadgroups all have an edge among these.
const SIZES: [usize; 9] = [1, 31, 32, 33, 127, 128, 129, 255, 257];
const ROWS: [usize; 6] = [1, 2, 7, 8, 9, 33];

/// Fused and plain.
fn backends() -> [(&'static str, Metal); 2] {
    [("fused", metal(false)), ("plain", metal(true))]
}

/// A backend's buffer with these values in front and a guard behind them.
fn buffer<B: Backend>(backend: &B, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.buffer(values.len() + 1);
    backend.write(&mut buffer, &[values, &[f32::NAN]].concat());
    buffer
}

/// The values of a buffer made by [`buffer`], whose guard must be as it was.
fn values<B: Backend>(backend: &B, buffer: &B::Buffer, len: usize) -> Vec<f32> {
    let mut values = backend.read(buffer, len + 1).expect("the device runs it");
    assert!(values.pop().unwrap().is_nan(), "wrote behind its output");
    values
}

// ANCHOR: check
/// Runs the same program on a backend and on the reference, and compares what they return.
macro_rules! check {
    ($what:expr, $name:literal, |$b:ident| $body:expr) => {{
        let expected: Vec<f32> = {
            let $b = &Reference;
            $body
        };
        for (kind, metal) in &backends() {
            let $b = metal;
            let found: Vec<f32> = $body;
            let record = Record::new($name, None, &expected, &found);
            let what = format!("{} {} {kind}", $name, $what);
            assert_eq!(expected.len(), found.len(), "{what}");
            assert!(found.iter().all(|v| v.is_finite()), "{what}: left a value unwritten");
            assert!(record.nmse <= contract($name, Rounding::None), "{what}: {record:?}");
        }
    }};
}
// ANCHOR_END: check

#[test]
fn linear() {
    let (mut random, metal) = (Random(1), metal(false));
    for row in DType::TABLE {
        for (i, &rows) in ROWS.iter().enumerate() {
            let columns = if row.block == 1 { SIZES[(i * 4 + 1) % SIZES.len()] } else { row.block * (1 + 2 * (i % 2)) };
            let features = SIZES[(i * 5 + 3) % SIZES.len()];
            let mut tensor = random.tensor(row.dtype, &[features, columns]);
            if row.dtype == DType::Q4_1 {
                // Kept in f16: that of the tensor is what its weights are.
                let ids = [features as u32 - 1, 0];
                let [kept, wider] = [&tensor, &tensor.to_f16()].map(|tensor| {
                    let (table, mut out) = (metal.load(tensor).unwrap(), buffer(&metal, &vec![f32::NAN; 2 * columns]));
                    metal.embed(&mut out, &table, &ids);
                    metal.read(&out, 2 * columns).unwrap()
                });
                assert_eq!(kept, wider);
                tensor = tensor.to_f16();
            }
            let x = random.values(rows * columns);
            let residual = random.values(rows * features);
            let what = format!("{rows}x{columns}->{features} {}", row.name);
            let nan = vec![f32::NAN; rows * features];
            check!(what, "linear", |b| {
                let (weight, x, mut out) = (b.load(&tensor).unwrap(), buffer(b, &x), buffer(b, &nan));
                b.linear(&mut out, &x, &weight, rows);
                values(b, &out, nan.len())
            });
            check!(what, "linear_add", |b| {
                let (weight, y, mut out) = (b.load(&tensor).unwrap(), buffer(b, &x), buffer(b, &residual));
                b.linear_add(&mut out, &mut buffer(b, &nan), &y, &weight, rows, features);
                values(b, &out, nan.len())
            });
            let up_tensor = random.tensor(row.dtype, &[features, columns]);
            check!(what, "linear_swiglu", |b| {
                let (x, mut gate, mut up) = (buffer(b, &x), buffer(b, &nan), buffer(b, &nan));
                let weights = [b.load(&tensor).unwrap(), b.load(&up_tensor).unwrap()];
                b.linear_swiglu(&mut gate, &mut up, &x, [&weights[0], &weights[1]], rows, features);
                values(b, &gate, nan.len())
            });
            let k_tensor = random.tensor(row.dtype, &[33, columns]);
            let v_tensor = random.tensor(DType::F16, &[17, columns]);
            check!(what, "linear_qkv", |b| {
                let x = buffer(b, &x);
                let weights = [&tensor, &k_tensor, &v_tensor].map(|tensor| b.load(tensor).unwrap());
                let [mut q, mut k, mut v] = [features, 33, 17].map(|n| buffer(b, &vec![f32::NAN; rows * n]));
                b.linear_qkv([&mut q, &mut k, &mut v], &x, [&weights[0], &weights[1], &weights[2]], rows);
                let parts = [(q, features), (k, 33), (v, 17)];
                parts.iter().flat_map(|(out, n)| values(b, out, rows * n)).collect()
            });
            check!(what, "embed", |b| {
                let (table, mut out) = (b.load(&tensor).unwrap(), buffer(b, &vec![f32::NAN; 3 * columns]));
                b.embed(&mut out, &table, &[features as u32 - 1, 0, features as u32 / 2]);
                values(b, &out, 3 * columns)
            });
        }
    }
}

/// Ids are given to the kernel 1,024 at a time.
#[test]
fn embedding_of_a_long_prompt() {
    let mut random = Random(5);
    let tensor = random.tensor(DType::BF16, &[50, 7]);
    let ids: Vec<u32> = (0..2500).map(|i| i * 7 % 50).collect();
    check!("2500 ids", "embed", |b| {
        let (table, mut out) = (b.load(&tensor).unwrap(), buffer(b, &vec![f32::NAN; 2500 * 7]));
        b.embed(&mut out, &table, &ids);
        values(b, &out, 2500 * 7)
    });
}

#[test]
fn rows() {
    let mut random = Random(2);
    // A threadgroup takes 1,024 columns at a time.
    for n in SIZES.into_iter().chain([1023, 1025, 2050]) {
        for rows in [1, 2, 9] {
            let what = format!("{rows}x{n}");
            let tensor = random.tensor(DType::BF16, &[n]);
            let (x, y, nan) = (random.values(rows * n), random.values(rows * n), vec![f32::NAN; rows * n]);
            // Far beyond where exp overflows, and close to where silu is nearly zero.
            let wide: Vec<f32> = x.iter().map(|v| v * v * v * 200.0).collect();
            check!(what, "rms_norm", |b| {
                let (weight, x, mut out) = (b.load(&tensor).unwrap(), buffer(b, &x), buffer(b, &nan));
                b.rms_norm(&mut out, &x, &weight, 1e-6, rows);
                values(b, &out, rows * n)
            });
            check!(what, "head_norm", |b| {
                let (weight, mut x) = (b.load(&tensor).unwrap(), buffer(b, &x));
                b.head_norm(&mut x, &weight, 1e-6, rows);
                values(b, &x, rows * n)
            });
            check!(what, "add_bias", |b| {
                let (bias, mut x) = (b.load(&tensor).unwrap(), buffer(b, &x));
                b.add_bias(&mut x, &bias, rows);
                values(b, &x, rows * n)
            });
            check!(what, "add", |b| {
                let (mut x, y) = (buffer(b, &x), buffer(b, &y));
                b.add(&mut x, &y, rows * n);
                values(b, &x, rows * n)
            });
            check!(what, "swiglu", |b| {
                let (mut gate, up) = (buffer(b, &wide), buffer(b, &y));
                b.swiglu(&mut gate, &up, rows * n);
                values(b, &gate, rows * n)
            });
            check!(what, "copy_rows", |b| {
                let (x, mut out) = (buffer(b, &x), buffer(b, &vec![f32::NAN; n]));
                b.copy_rows(&mut out, &x, rows - 1, 1, n);
                values(b, &out, n)
            });
        }
    }
}

#[test]
fn heads() {
    let mut random = Random(3);
    for head_dim in [2, 6, 32, 64, 80, 128, 256] {
        for (dtype, (start, tokens)) in [KvDType::F16, KvDType::F32, KvDType::Q8]
            .into_iter()
            .flat_map(|d| [(0, 1), (0, 9), (61, 5)].map(|at| (d, at)))
        {
            let shape = Heads { heads: 4, kv_heads: 2, head_dim };
            let layout = KvLayout { layers: 2, kv_heads: 2, head_dim, dtype };
            let at = CachePosition { layer: 1, start, tokens };
            let norms = [random.tensor(DType::BF16, &[head_dim]), random.tensor(DType::BF16, &[head_dim])];
            let cos_sin = random.values(tokens * head_dim);
            let [q, k, v] = [4, 2, 2].map(|heads| random.values(tokens * heads * head_dim));
            let [before_k, before_v] = [2, 2].map(|heads| random.values(start * heads * head_dim));
            let what = format!("{head_dim} wide, {start}+{tokens}, {dtype:?}");
            check!(what, "rope", |b| {
                let (mut x, cos_sin) = (buffer(b, &q), buffer(b, &cos_sin));
                b.rope(&mut x, &cos_sin, tokens, 4, head_dim);
                values(b, &x, q.len())
            });
            // The cache grows between the two stores; what it holds is seen by attention. Rounding to the cache's type can
            // differ where norm and rotation differ in the last bit, so the second store is of plain values.
            check!(what, "attention", |b| {
                let mut cache = b.kv_cache(layout);
                if start > 0 {
                    b.reserve_kv(&mut cache, start);
                    let (k, v) = (buffer(b, &before_k), buffer(b, &before_v));
                    b.store_kv(&mut cache, &k, &v, CachePosition { layer: 1, start: 0, tokens: start });
                }
                b.reserve_kv(&mut cache, start + tokens);
                b.store_kv(&mut cache, &buffer(b, &k), &buffer(b, &v), at);
                let mut out = buffer(b, &vec![f32::NAN; q.len()]);
                b.attention(&mut out, &buffer(b, &q), &cache, shape, at);
                values(b, &out, q.len())
            });
            check!(what, "norm_rope_store", |b| {
                let mut cache = b.kv_cache(layout);
                b.reserve_kv(&mut cache, start + tokens);
                let [mut q, mut k, mut v] = [&q, &k, &v].map(|x| buffer(b, x));
                let norms = [b.load(&norms[0]).unwrap(), b.load(&norms[1]).unwrap()];
                let cos_sin = buffer(b, &cos_sin);
                b.norm_rope_store(
                    [&mut q, &mut k, &mut v],
                    [&norms[0], &norms[1]],
                    1e-6,
                    &cos_sin,
                    &mut cache,
                    shape,
                    at,
                );
                values(b, &q, tokens * 4 * head_dim)
            });
            if dtype == KvDType::F32 && start == 0 {
                check!(what, "attention", |b| {
                    let mut cache = b.kv_cache(layout);
                    b.reserve_kv(&mut cache, tokens);
                    let [mut q, mut k, mut v] = [&q, &k, &v].map(|x| buffer(b, x));
                    let weights = [b.load(&norms[0]).unwrap(), b.load(&norms[1]).unwrap()];
                    let cos_sin = buffer(b, &cos_sin);
                    let qkv = [&mut q, &mut k, &mut v];
                    b.norm_rope_store(qkv, [&weights[0], &weights[1]], 1e-6, &cos_sin, &mut cache, shape, at);
                    let mut out = buffer(b, &vec![f32::NAN; tokens * 4 * head_dim]);
                    b.attention(&mut out, &q, &cache, shape, at);
                    values(b, &out, tokens * 4 * head_dim)
                });
            }
        }
    }
}

#[test]
fn the_largest_of_many() {
    let mut random = Random(4);
    let metal = metal(false);
    let found = |x: &[f32]| metal.argmax(&buffer(&metal, x), x.len()).unwrap();
    for len in [1, 2, 255, 256, 257, 4095, 4096, 4097, 20_000] {
        let mut x = random.values(len);
        let expected = Reference.argmax(&x, len).unwrap();
        assert_eq!(found(&x), expected, "{len}");
        // Of equal ones, the first; also where they stand in different blocks.
        x[len - 1] = 2.0;
        x[len / 2] = 2.0;
        assert_eq!(found(&x), ((len / 2) as u32, 2.0), "{len}");
        x[len / 3] = f32::INFINITY;
        assert_eq!(found(&x), ((len / 3) as u32, f32::INFINITY), "{len}");
        x[len - 1] = f32::NAN;
        let (at, value) = found(&x);
        assert!(at as usize == len - 1 && value.is_nan(), "{len}: {at} {value}");
    }
    assert_eq!(found(&[-3.0, -1.0, -2.0]), (1, -1.0));
    assert_eq!(found(&[-0.0, 0.0]).0, 0);
    assert_eq!(found(&[f32::NEG_INFINITY; 5000]), (0, f32::NEG_INFINITY));
}

/// The k largest, with everything that makes an order hard: equal values in one block and across blocks, infinities, NaN, both
/// zeros; and as many blocks as make the kernel run once, twice and three times.
#[test]
fn the_k_largest_of_many() {
    let mut random = Random(6);
    let metal = metal(false);
    for (len, k) in [(2, 1), (300, 299), (4096, 21), (4097, 257), (20_000, 21), (40_000, 512), (151_936, 257)] {
        let mut x = random.values(len);
        let check = |x: &[f32], what: &str| {
            let found = metal.top_k(&buffer(&metal, x), len, k).unwrap();
            let expected = Reference.top_k(&x.to_vec(), len, k).unwrap();
            let bits = |pairs: &[(u32, f32)]| -> Vec<_> { pairs.iter().map(|(i, v)| (*i, v.to_bits())).collect() };
            assert_eq!(bits(&found), bits(&expected), "{k} of {len}, {what}");
        };
        check(&x, "all different");
        for (i, value) in x.iter_mut().enumerate() {
            *value = (*value * 4.0).round() + if i % 3 == 0 { -0.0 } else { 0.0 };
        }
        check(&x, "few different");
        x[len / 2] = f32::NAN;
        x[len - 1] = f32::INFINITY;
        x[0] = f32::NEG_INFINITY;
        check(&x, "with what is no number");
        x.iter_mut().step_by(3).for_each(|x| *x = f32::NAN);
        check(&x, "with more of these than are wanted");
    }
    let same = vec![1.5; 9000];
    let found = metal.top_k(&buffer(&metal, &same), same.len(), 5).unwrap();
    assert_eq!(found, (0..5).map(|i| (i, 1.5)).collect::<Vec<_>>());
    let lowest = vec![f32::NEG_INFINITY; 5000];
    assert_eq!(metal.top_k(&buffer(&metal, &lowest), 5000, 3).unwrap()[2], (2, f32::NEG_INFINITY));
}

/// A token is embedded before anybody has heard which it is, while the answer before is still owed.
#[test]
fn a_promise_is_kept() {
    let mut random = Random(7);
    let metal = metal(false);
    let tensor = random.tensor(DType::BF16, &[5000, 33]);
    let table = metal.load(&tensor).unwrap();
    let rows: Vec<Vec<f32>> = (0..3).map(|_| random.values(5000)).collect();
    let logits: Vec<_> = rows.iter().map(|row| buffer(&metal, row)).collect();
    let mut outs = [0; 3].map(|_| buffer(&metal, &[f32::NAN; 33]));
    let mut promises = Vec::new();
    for (logits, out) in logits.iter().zip(&mut outs) {
        let promise = metal.argmax_ahead(logits, 5000).unwrap();
        metal.embed_ahead(out, &table, &promise);
        promises.push(promise);
    }
    for ((promise, out), row) in promises.into_iter().zip(&outs).zip(&rows) {
        let best = Reference.argmax(row, 5000).unwrap();
        assert_eq!(metal.settle(promise).unwrap(), best);
        let mut expected = vec![0.0; 33];
        Reference.embed(&mut expected, &Reference.load(&tensor).unwrap(), &[best.0]);
        assert_eq!(values(&metal, out, 33), expected);
    }
}

/// Norms and activations of NaN stay NaN: a kernel compiled for speed alone would hide them.
#[test]
fn not_a_number_is_not_hidden() {
    let metal = metal(false);
    let mut gate = buffer(&metal, &[f32::NAN; 33]);
    metal.swiglu(&mut gate, &buffer(&metal, &[1.0; 33]), 33);
    assert!(metal.read(&gate, 33).unwrap().iter().all(|v| v.is_nan()));
    let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: 8, dtype: KvDType::F32 };
    let mut cache = metal.kv_cache(layout);
    metal.reserve_kv(&mut cache, 3);
    let at = CachePosition { layer: 0, start: 0, tokens: 3 };
    let mut k = vec![0.5; 24];
    k[12] = f32::NAN;
    metal.store_kv(&mut cache, &buffer(&metal, &k), &buffer(&metal, &[1.0; 24]), at);
    let mut out = metal.buffer(24);
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 8 };
    metal.attention(&mut out, &buffer(&metal, &[1.0; 24]), &cache, heads, at);
    let out = metal.read(&out, 24).unwrap();
    assert!(out[..8].iter().all(|v| v.is_finite()), "position 0 does not see position 1");
    assert!(out[8..].iter().all(|v| v.is_nan()), "{out:?}");
}

/// What the device refuses is an error of the next result, and the backend works on after it.
#[test]
fn a_failure_is_an_error_and_not_the_end() {
    let metal = metal(false);
    let too_long = metal.buffer(1 << 60);
    let error = metal.read(&too_long, 1).expect_err("no device has so much memory").to_string();
    assert!(error.contains("a buffer of"), "{error}");
    let mut x = buffer(&metal, &[1.0, 2.0]);
    metal.add(&mut x, &buffer(&metal, &[3.0, 4.0]), 2);
    assert_eq!(metal.read(&x, 2).unwrap(), [4.0, 6.0]);
    let error = metal.admit(u64::MAX, u64::MAX).expect_err("no device has so much memory").to_string();
    // No format makes it small enough, so none is advised.
    assert!(error.contains("--backend cpu") && !error.contains("quantize"), "{error}");
}
