//! Every operation of the CPU backend against the reference, at every SIMD level of this machine, on both sides of every
//! block edge, with outputs poisoned beforehand.

#[path = "support/random.rs"]
mod random;

use failed_star::backend::compare::Record;
use failed_star::backend::cpu::Cpu;
use failed_star::backend::cpu::simd::Level;
use failed_star::backend::reference::Reference;
use failed_star::backend::{Backend, CachePosition, Heads};
use failed_star::model::kv_cache::{HostKvCache, KvDType, KvLayout};
use failed_star::session::verify::{Rounding, contract};
use failed_star::weights::formats::Activations;
use failed_star::weights::{DType, Tensor};
use random::Random;

/// Vector widths (4, 8, 16), register tiles (4), threads and cache blocks (64) all have an edge among these.
const SIZES: [usize; 10] = [1, 31, 32, 33, 127, 128, 129, 255, 256, 257];
const ROWS: [usize; 7] = [1, 2, 3, 4, 5, 8, 33];

fn levels() -> Vec<Cpu> {
    Level::available().into_iter().flat_map(|level| [1, 3].map(|n| Cpu::with_level(Some(n), level))).collect()
}

/// Runs the same operation on both backends, on outputs full of NaN with a guard behind them, and compares.
fn check(
    name: &'static str,
    what: &str,
    len: usize,
    cpu: &Cpu,
    on_reference: impl Fn(&mut Vec<f32>),
    on_cpu: impl Fn(&mut Vec<f32>),
) {
    check_to(contract(name, Rounding::None), name, what, len, cpu, on_reference, on_cpu);
}

/// [`check`] to another tolerance than the operation's own.
fn check_to(
    tolerance: f64,
    name: &'static str,
    what: &str,
    len: usize,
    cpu: &Cpu,
    on_reference: impl Fn(&mut Vec<f32>),
    on_cpu: impl Fn(&mut Vec<f32>),
) {
    let (mut expected, mut found) = (vec![f32::NAN; len + 1], vec![f32::NAN; len + 1]);
    on_reference(&mut expected);
    on_cpu(&mut found);
    let record = Record::new(name, None, &expected[..len], &found[..len]);
    let info = cpu.info();
    assert!(found[len].is_nan(), "{name} {what} on {info:?}: wrote behind its output");
    assert!(found[..len].iter().all(|v| v.is_finite()), "{name} {what} on {info:?}: left a value unwritten");
    assert!(record.nmse <= tolerance, "{name} {what} on {info:?}: {record:?}");
}

/// Overwrites the front of a poisoned buffer, for operations that work in place.
fn filled(buffer: &mut [f32], values: &[f32]) {
    buffer[..values.len()].copy_from_slice(values);
}

/// What cannot be tested here is said, on a channel that the test runner does not hold back.
#[test]
fn levels_that_this_machine_lacks_are_named() {
    use std::io::Write;
    let here: Vec<&str> = Level::available().iter().map(|level| level.name()).collect();
    let mut message = format!("SIMD levels tested: {}", here.join(", "));
    let missing = Level::missing();
    if !missing.is_empty() {
        message += &format!("; skipped, because this machine lacks them: {}", missing.join(", "));
    }
    writeln!(std::io::stderr(), "{message}").unwrap();
    assert!(here.contains(&"scalar") && missing.iter().all(|name| !here.contains(name)));
}

#[test]
fn linear() {
    let mut random = Random(1);
    for cpu in levels() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // Prefill goes through 512 columns at a time.
            for (i, &columns) in SIZES.iter().chain(&[511, 512, 513, 1030]).enumerate() {
                for (j, &rows) in ROWS.iter().enumerate().skip(if columns > 257 { 5 } else { 0 }) {
                    let outputs = SIZES[(i * 3 + j) % SIZES.len()];
                    let tensor = random.tensor(dtype, &[outputs, columns]);
                    let x = random.values(rows * columns);
                    let (a, b) = (Reference.load(&tensor).unwrap(), cpu.load(&tensor).unwrap());
                    let pairs = dtype == DType::BF16 && cpu.rounds_to_bf16();
                    check_to(
                        contract("linear", if pairs { Rounding::Bf16 } else { Rounding::None }),
                        "linear",
                        &format!("{rows}x{columns}->{outputs} {dtype}"),
                        rows * outputs,
                        &cpu,
                        |out| Reference.linear(out, &x, &a, rows),
                        |out| cpu.linear(out, &x, &b, rows),
                    );
                }
            }
        }
    }
}

/// The formats that have kernels of their own in blocks.
fn packed() -> impl Iterator<Item = DType> {
    DType::TABLE.iter().map(|row| row.dtype).filter(|&dtype| dtype.is_quantized() && dtype != DType::Q4_1)
}

/// Q4_1 has no kernels: it is kept in f16, which rounds a weight by less than a part in two thousand.
#[test]
fn a_format_without_kernels_is_kept_in_f16() {
    let mut random = Random(17);
    for cpu in levels() {
        for (outputs, columns) in [(1, 32), (17, 96), (40, 768)] {
            let tensor = random.tensor(DType::Q4_1, &[outputs, columns]);
            let wider = tensor.to_f16();
            assert_eq!(
                (wider.dtype, &wider.shape, wider.data.len()),
                (DType::F16, &tensor.shape, 2 * outputs * columns)
            );
            for (stored, rounded) in tensor.to_f32().into_iter().zip(wider.to_f32()) {
                assert!((stored - rounded).abs() <= (stored.abs() / 2048.0).max(3e-8), "{stored} became {rounded}");
            }
            let (a, b) = (Reference.load(&wider).unwrap(), cpu.load(&tensor).unwrap());
            let x = random.values(3 * columns);
            check(
                "linear",
                &format!("3x{columns}->{outputs} Q4_1"),
                3 * outputs,
                &cpu,
                |out| Reference.linear(out, &x, &a, 3),
                |out| cpu.linear(out, &x, &b, 3),
            );
        }
    }
}

#[test]
fn linear_quantized() {
    let mut random = Random(7);
    for cpu in levels() {
        for row in packed().map(DType::layout) {
            // Prefill goes through 16 blocks of 32 columns at a time.
            for (i, &blocks) in [1, 2, 5, 17].iter().enumerate() {
                for (j, &rows) in [1, 2, 5, 6, 7, 13].iter().enumerate() {
                    let outputs = [1, 15, 16, 17, 31, 32, 33, 65, 130][(3 * j + i) % 9];
                    let columns = blocks * row.block;
                    let tensor = random.tensor(row.dtype, &[outputs, columns]);
                    let x = random.values(rows * columns);
                    let (a, b) = (Reference.load(&tensor).unwrap(), cpu.load(&tensor).unwrap());
                    // The error is relative to the outputs' energy: of a handful, all may happen to be near zero, so that the
                    // energy of what was summed up says better what could be lost.
                    let mut weights = vec![0.0; outputs * columns];
                    Reference.embed(&mut weights, &a, &(0..outputs as u32).collect::<Vec<_>>());
                    let terms =
                        x.chunks_exact(columns).flat_map(|x| weights.chunks_exact(columns).map(move |w| (x, w)));
                    let terms: f64 =
                        terms.flat_map(|(x, w)| x.iter().zip(w).map(|(x, w)| f64::from(x * w).powi(2))).sum();
                    let mut expected = vec![f32::NAN; rows * outputs];
                    Reference.linear(&mut expected, &x, &a, rows);
                    let energy: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
                    check_to(
                        contract("linear", Rounding::Int8) * (terms / energy).max(1.0),
                        "linear",
                        &format!("{rows}x{columns}->{outputs} {}", row.name),
                        rows * outputs,
                        &cpu,
                        |out| out[..rows * outputs].copy_from_slice(&expected),
                        |out| cpu.linear(out, &x, &b, rows),
                    );
                    // Packing loses nothing: an embedding read back is the file's.
                    let ids = [outputs as u32 - 1, 0];
                    let (mut expected, mut found) = (vec![0.0; 2 * columns], vec![f32::NAN; 2 * columns]);
                    Reference.embed(&mut expected, &a, &ids);
                    cpu.embed(&mut found, &b, &ids);
                    assert_eq!(expected, found, "{} {outputs}x{columns}", row.name);
                }
            }
        }
    }
}

/// At every level the kernels compute what each format's own dot product says: the same whole numbers, scaled in f32.
#[test]
fn linear_quantized_is_the_formats_dot_product() {
    let mut random = Random(10);
    for cpu in levels() {
        for row in packed().map(DType::layout) {
            for rows in [1, 7] {
                let (columns, outputs) = (768, 40);
                let tensor = random.tensor(row.dtype, &[outputs, columns]);
                let (x, weight) = (random.values(rows * columns), cpu.load(&tensor).unwrap());
                let mut found = vec![f32::NAN; rows * outputs];
                cpu.linear(&mut found, &x, &weight, rows);
                let weights = tensor.data.chunks_exact(row.dtype.bytes(columns).unwrap());
                let weights: Vec<_> = weights.collect();
                let expected: Vec<f32> = x
                    .chunks_exact(columns)
                    .flat_map(|x| {
                        let x: Vec<_> = x.chunks_exact(32).map(Activations::quantize).collect();
                        weights.iter().map(move |weights| row.dtype.dot(weights, &x).expect("blocks"))
                    })
                    .collect();
                let record = Record::new("linear", None, &expected, &found);
                assert!(record.nmse <= 1e-10, "{} {rows} on {:?}: {record:?}", row.name, cpu.info());
            }
        }
    }
}

/// Rows computed together give exactly what each gives alone: a prompt's length does not change its values.
#[test]
fn linear_quantized_does_not_depend_on_the_number_of_rows() {
    let mut random = Random(8);
    for cpu in levels() {
        for row in packed().map(DType::layout) {
            let (columns, outputs, rows) = (768, 40, 33);
            let weight = cpu.load(&random.tensor(row.dtype, &[outputs, columns])).unwrap();
            let x = random.values(rows * columns);
            let (mut all, mut one) = (vec![0.0; rows * outputs], vec![0.0; outputs]);
            cpu.linear(&mut all, &x, &weight, rows);
            for r in 0..rows {
                cpu.linear(&mut one, &x[r * columns..(r + 1) * columns].to_vec(), &weight, 1);
                assert_eq!(one, all[r * outputs..(r + 1) * outputs], "{} row {r} on {:?}", row.name, cpu.info());
            }
        }
    }
}

/// Layers of one input are one job, whatever mixture their weights are: each must give what it gives alone.
#[test]
fn layers_of_one_input_are_what_each_is_alone() {
    let mut random = Random(9);
    let mixtures = [
        [DType::Q4K, DType::Q4K, DType::Q6K],
        [DType::Q8_0, DType::F16, DType::BF16],
        [DType::F32, DType::BF16, DType::Q5K],
    ];
    for cpu in levels() {
        for (dtypes, rows) in mixtures.iter().flat_map(|mixture| [1, 2, 9, 33].map(|rows| (mixture, rows))) {
            let (columns, outputs) = (256, [64, 33, 17]);
            let weights: Vec<_> = dtypes
                .iter()
                .zip(outputs)
                .map(|(dtype, n)| cpu.load(&random.tensor(*dtype, &[n, columns])).unwrap())
                .collect();
            let x = random.values(rows * columns);
            let mut together = outputs.map(|n| vec![f32::NAN; rows * n]);
            let [q, k, v] = &mut together;
            cpu.linear_qkv([q, k, v], &x, [&weights[0], &weights[1], &weights[2]], rows);
            for ((weight, n), together) in weights.iter().zip(outputs).zip(&together) {
                let mut alone = vec![f32::NAN; rows * n];
                cpu.linear(&mut alone, &x, weight, rows);
                assert_eq!(&alone, together, "{dtypes:?}, {rows} rows on {:?}", cpu.info());
            }
        }
    }
}

#[test]
fn norms() {
    let mut random = Random(2);
    for cpu in levels() {
        for n in SIZES {
            for rows in ROWS {
                let tensor = random.tensor(DType::BF16, &[n]);
                let (a, b) = (Reference.load(&tensor).unwrap(), cpu.load(&tensor).unwrap());
                let x = random.values(rows * n);
                let what = format!("{rows}x{n}");
                check(
                    "rms_norm",
                    &what,
                    rows * n,
                    &cpu,
                    |out| Reference.rms_norm(out, &x, &a, 1e-6, rows),
                    |out| cpu.rms_norm(out, &x, &b, 1e-6, rows),
                );
                check(
                    "head_norm",
                    &what,
                    rows * n,
                    &cpu,
                    |out| {
                        filled(out, &x);
                        Reference.head_norm(out, &a, 1e-6, rows);
                    },
                    |out| {
                        filled(out, &x);
                        cpu.head_norm(out, &b, 1e-6, rows);
                    },
                );
            }
        }
    }
}

#[test]
fn swiglu_add_and_bias() {
    let mut random = Random(3);
    for cpu in levels() {
        for n in SIZES.into_iter().chain([16 << 10, (16 << 10) + 1]) {
            // Far beyond where exp overflows, and close to where silu is nearly zero.
            let gate: Vec<f32> = random.values(n).iter().map(|v| v * v * v * 200.0).collect();
            let up = random.values(n);
            for (name, subject) in [("swiglu", true), ("add", false)] {
                let run = |backend: &dyn Fn(&mut Vec<f32>), out: &mut Vec<f32>| {
                    filled(out, &gate);
                    backend(out);
                };
                let on_reference = |out: &mut Vec<f32>| match subject {
                    true => Reference.swiglu(out, &up, n),
                    false => Reference.add(out, &up, n),
                };
                let on_cpu = |out: &mut Vec<f32>| match subject {
                    true => cpu.swiglu(out, &up, n),
                    false => cpu.add(out, &up, n),
                };
                check(name, &format!("{n}"), n, &cpu, |out| run(&on_reference, out), |out| run(&on_cpu, out));
            }
            let tensor = random.tensor(DType::F16, &[n]);
            let (a, b) = (Reference.load(&tensor).unwrap(), cpu.load(&tensor).unwrap());
            let x = random.values(3 * n);
            check(
                "add_bias",
                &format!("3x{n}"),
                3 * n,
                &cpu,
                |out| {
                    filled(out, &x);
                    Reference.add_bias(out, &a, 3);
                },
                |out| {
                    filled(out, &x);
                    cpu.add_bias(out, &b, 3);
                },
            );
        }
    }
}

#[test]
fn rope_and_embed() {
    let mut random = Random(4);
    for cpu in levels() {
        for head_dim in [2, 6, 32, 64, 128, 256] {
            for (tokens, heads) in [(1, 1), (1, 16), (33, 3), (129, 2)] {
                let x = random.values(tokens * heads * head_dim);
                let cos_sin = random.values(tokens * head_dim);
                check(
                    "rope",
                    &format!("{tokens}x{heads}x{head_dim}"),
                    x.len(),
                    &cpu,
                    |out| {
                        filled(out, &x);
                        Reference.rope(out, &cos_sin, tokens, heads, head_dim);
                    },
                    |out| {
                        filled(out, &x);
                        cpu.rope(out, &cos_sin, tokens, heads, head_dim);
                    },
                );
            }
        }
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let table = random.tensor(dtype, &[7, 33]);
            let (a, b) = (Reference.load(&table).unwrap(), cpu.load(&table).unwrap());
            let ids = [6, 0, 3, 3];
            check(
                "embed",
                &format!("{dtype}"),
                4 * 33,
                &cpu,
                |out| Reference.embed(out, &a, &ids),
                |out| cpu.embed(out, &b, &ids),
            );
        }
    }
}

/// A cache of two layers on `backend`, filled with rows that differ, and the rows.
fn filled_cache<B: Backend<Buffer = Vec<f32>>>(
    backend: &B,
    layout: KvLayout,
    [k, v]: [&Vec<f32>; 2],
    positions: usize,
) -> B::KvCache {
    let mut cache = backend.kv_cache(layout);
    backend.reserve_kv(&mut cache, positions);
    backend.store_kv(&mut cache, k, v, CachePosition { layer: 1, start: 0, tokens: positions });
    cache
}

/// Every level with one, two and three threads; results may not depend on the number of threads in any bit.
fn check_attention(random: &mut Random, shape: Heads, dtype: KvDType, start: usize, tokens: usize) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let layout = KvLayout { layers: 2, kv_heads, head_dim, dtype };
    let positions = start + tokens;
    let (k, v) = (random.values(positions * kv_heads * head_dim), random.values(positions * kv_heads * head_dim));
    // Sharp scores, so that a wrong position shows.
    let q: Vec<f32> = random.values(tokens * heads * head_dim).iter().map(|v| v * 8.0).collect();
    let at = CachePosition { layer: 1, start, tokens };
    let len = tokens * heads * head_dim;
    let mut expected = vec![0.0; len];
    Reference.attention(&mut expected, &q, &filled_cache(&Reference, layout, [&k, &v], positions), shape, at);
    for level in Level::available() {
        let mut with_one_thread = None;
        for threads in [1, 2, 3] {
            let cpu = Cpu::with_level(Some(threads), level);
            let cache = filled_cache(&cpu, layout, [&k, &v], positions);
            let what = format!("{shape:?} {at:?} {dtype:?}");
            let mut found = Vec::new();
            let found_cell = std::cell::RefCell::new(&mut found);
            check(
                "attention",
                &what,
                len,
                &cpu,
                |out| out[..len].copy_from_slice(&expected),
                |out| {
                    cpu.attention(out, &q, &cache, shape, at);
                    **found_cell.borrow_mut() = out[..len].to_vec();
                },
            );
            assert_eq!(with_one_thread.get_or_insert_with(|| found.clone()), &found, "{what}: {threads} threads");
        }
    }
}

const KV_DTYPES: [KvDType; 3] = [KvDType::F16, KvDType::F32, KvDType::Q8];

/// Positions on both sides of the edges of tiles (32), of pieces (128) and of vectors (4, 8, 16).
#[test]
fn attention_of_one_token_at_every_edge() {
    let mut random = Random(5);
    let depths =
        [0, 1, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 383, 384, 385, 513, 1025];
    for (i, start) in depths.into_iter().enumerate() {
        // Groups of 1, 2, 4, 8, and of 3, 5, 7, which no register tile fits.
        for (j, group) in [1, 2, 3, 4, 5, 7, 8].into_iter().enumerate() {
            let head_dim = [128, 64, 32, 16, 80, 6, 33][(i + j) % 7];
            let shape = Heads { heads: 2 * group, kv_heads: 2, head_dim };
            check_attention(&mut random, shape, KV_DTYPES[(i + j) % 3], start, 1);
        }
    }
}

/// As many tokens as fill register tiles (4, 6, 8 rows) and blocks (64 rows), one more and one less.
#[test]
fn attention_of_many_tokens_at_every_edge() {
    let mut random = Random(15);
    let tokens = [2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129];
    let depths = [0, 1, 31, 32, 33, 63, 65, 96, 127, 128, 129, 257];
    for (i, tokens) in tokens.into_iter().enumerate() {
        for (j, group) in [1, 2, 3, 4, 8].into_iter().enumerate() {
            let start = if tokens > 64 { [0, 97][j % 2] } else { depths[(5 * i + j) % 12] };
            let head_dim = [128, 64, 32, 16, 80, 6, 33][(i + j) % 7];
            let shape = Heads { heads: group, kv_heads: 1, head_dim };
            check_attention(&mut random, shape, KV_DTYPES[(i + j) % 3], start, tokens);
        }
    }
    check_attention(&mut random, Heads { heads: 4, kv_heads: 2, head_dim: 128 }, KvDType::F16, 1025, 33);
}

/// What a q8 cache costs: half a step of a block's largest value for each key and value. Attention averages values, and
/// errors of single positions cancel; 1e-4 of the energy is what is left with scores as sharp as these.
#[test]
fn attention_with_q8_keys_and_values_is_close_to_f32() {
    let mut random = Random(16);
    let cpu = Cpu::new(Some(1));
    let shape = Heads { heads: 4, kv_heads: 2, head_dim: 128 };
    for (start, tokens) in [(511, 1), (480, 32)] {
        let positions = start + tokens;
        let (k, v) = (random.values(positions * 256), random.values(positions * 256));
        let q = random.values(tokens * 512);
        let at = CachePosition { layer: 1, start, tokens };
        let [exact, q8] = [KvDType::F32, KvDType::Q8].map(|dtype| {
            let layout = KvLayout { layers: 2, kv_heads: 2, head_dim: 128, dtype };
            let mut out = vec![0.0; tokens * 512];
            cpu.attention(&mut out, &q, &filled_cache(&cpu, layout, [&k, &v], positions), shape, at);
            out
        });
        let record = Record::new("attention", None, &exact, &q8);
        assert!(record.nmse <= 1e-4, "{record:?}");
        assert!(record.nmse > 1e-8, "q8 was not used: {record:?}");
    }
}

/// The fused operation on tokens that threads share and on one that they do not, at positions that begin within a tile.
#[test]
fn norm_rope_store_agrees_with_the_plain_operations() {
    let mut random = Random(17);
    for cpu in levels() {
        for (head_dim, tokens, start) in [(128, 1, 33), (128, 100, 7), (64, 33, 31), (6, 3, 0), (33, 2, 30)] {
            let shape = Heads { heads: 4, kv_heads: 2, head_dim };
            for dtype in KV_DTYPES {
                let layout = KvLayout { layers: 2, kv_heads: 2, head_dim, dtype };
                let weights = [random.tensor(DType::BF16, &[head_dim]), random.tensor(DType::BF16, &[head_dim])];
                let cos_sin = random.values(tokens * head_dim);
                let at = CachePosition { layer: 1, start, tokens };
                let [q, k, v] = [4, 2, 2].map(|heads| random.values(tokens * heads * head_dim));
                // Queries, and then the keys and values as the cache gives them back.
                fn run<B: Backend<Buffer = Vec<f32>, KvCache = HostKvCache>>(
                    backend: &B,
                    weights: &[Tensor; 2],
                    [q, k, v]: [&Vec<f32>; 3],
                    cos_sin: &Vec<f32>,
                    (shape, layout, at): (Heads, KvLayout, CachePosition),
                ) -> Vec<f32> {
                    let [a, b] = weights.each_ref().map(|tensor| backend.load(tensor).unwrap());
                    let (mut q, mut k, mut v) = (q.clone(), k.clone(), v.clone());
                    let mut cache = backend.kv_cache(layout);
                    backend.reserve_kv(&mut cache, at.start + at.tokens);
                    backend.norm_rope_store([&mut q, &mut k, &mut v], [&a, &b], 1e-6, cos_sin, &mut cache, shape, at);
                    for position in 0..at.start + at.tokens {
                        for head in 0..shape.kv_heads {
                            let mut row = vec![0.0; shape.head_dim];
                            cache.read_key(at.layer, head, position, &mut row);
                            q.extend(&row);
                            cache.read_value(at.layer, head, position, &mut row);
                            q.extend(&row);
                        }
                    }
                    q
                }
                let shapes = (shape, layout, at);
                let expected = run(&Reference, &weights, [&q, &k, &v], &cos_sin, shapes);
                let found = run(&cpu, &weights, [&q, &k, &v], &cos_sin, shapes);
                let (queries, stored) = (tokens * 4 * head_dim, 1e-5);
                let record = Record::new("norm_rope_store", None, &expected[..queries], &found[..queries]);
                assert!(
                    record.nmse <= contract("norm_rope_store", Rounding::None),
                    "{shape:?} {at:?} {:?}: {record:?}",
                    cpu.info()
                );
                // A last bit's difference can become one of rounding to the cache's dtype.
                let record = Record::new("stored", None, &expected[queries..], &found[queries..]);
                assert!(record.nmse <= stored, "{shape:?} {at:?} {dtype:?} {:?}: {record:?}", cpu.info());
            }
        }
    }
}

#[test]
fn attention_reads_no_position_after_its_own() {
    for cpu in levels() {
        let (kv_heads, head_dim) = (1, 8);
        let layout = KvLayout { layers: 1, kv_heads, head_dim, dtype: KvDType::F32 };
        let mut cache = cpu.kv_cache(layout);
        cpu.reserve_kv(&mut cache, 100);
        let mut random = Random(6);
        let (mut k, v) = (random.values(100 * head_dim), random.values(100 * head_dim));
        let at = |start, tokens| CachePosition { layer: 0, start, tokens };
        let q = random.values(40 * head_dim);
        let heads = Heads { heads: 1, kv_heads, head_dim };
        cpu.store_kv(&mut cache, &k, &v, at(0, 100));
        let mut before = vec![0.0; 40 * head_dim];
        cpu.attention(&mut before, &q, &cache, heads, at(30, 40));
        // Position 69 is the last token's own; what follows must not matter.
        k[70 * head_dim..].fill(f32::NAN);
        let v = [&v[..70 * head_dim], &vec![f32::INFINITY; 30 * head_dim]].concat();
        cpu.store_kv(&mut cache, &k, &v, at(0, 100));
        let mut after = vec![0.0; 40 * head_dim];
        cpu.attention(&mut after, &q, &cache, heads, at(30, 40));
        assert_eq!(before, after);
        // Within a prompt too: token 20 of 40 cannot know that the value of token 21 is infinite.
        let v = [&v[..51 * head_dim], &vec![f32::INFINITY; 19 * head_dim]].concat();
        cpu.store_kv(&mut cache, &k[..70 * head_dim].to_vec(), &v, at(0, 70));
        cpu.attention(&mut after, &q, &cache, heads, at(30, 40));
        assert_eq!(before[..21 * head_dim], after[..21 * head_dim]);
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    for cpu in levels() {
        let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: 8, dtype: KvDType::F32 };
        let mut cache = cpu.kv_cache(layout);
        cpu.reserve_kv(&mut cache, 3);
        let at = CachePosition { layer: 0, start: 0, tokens: 3 };
        let mut k = vec![0.5; 24];
        k[12] = f32::NAN;
        cpu.store_kv(&mut cache, &k, &vec![1.0; 24], at);
        let mut out = vec![0.0; 24];
        cpu.attention(&mut out, &vec![1.0; 24], &cache, Heads { heads: 1, kv_heads: 1, head_dim: 8 }, at);
        assert!(out[..8].iter().all(|v| v.is_finite()), "position 0 does not see position 1");
        assert!(out[8..].iter().all(|v| v.is_nan()), "{:?}: {out:?}", cpu.info());
        let mut gate = vec![f32::NAN; 33];
        cpu.swiglu(&mut gate, &vec![1.0; 33], 33);
        assert!(gate.iter().all(|v| v.is_nan()), "{:?}", cpu.info());
    }
}
