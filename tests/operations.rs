//! Every operation of the CPU backend against the reference, at every SIMD level of this machine, on both sides of every
//! block edge, with outputs poisoned beforehand.

use failed_star::backend::compare::Record;
use failed_star::backend::cpu::Cpu;
use failed_star::backend::cpu::simd::Level;
use failed_star::backend::reference::Reference;
use failed_star::backend::{Backend, CachePosition, Heads};
use failed_star::model::kv_cache::{KvDType, KvLayout};
use failed_star::session::verify::contract;
use failed_star::weights::{DType, SharedBytes, Tensor};
use half::{bf16, f16};

/// Vector widths (4, 8, 16), register tiles (4), threads and cache blocks (64) all have an edge among these.
const SIZES: [usize; 10] = [1, 31, 32, 33, 127, 128, 129, 255, 256, 257];
const ROWS: [usize; 7] = [1, 2, 3, 4, 5, 8, 33];

/// Numbers between -1 and 1 that are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let values = self.values(shape.iter().product());
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            quantized => return self.quantized(quantized, shape),
        };
        let data = SharedBytes::from_vec(bytes).aligned();
        Tensor { name: "test".into(), dtype, shape: shape.to_vec(), data, file: "test".into(), offset: 0 }
    }
}

impl Random {
    /// Any bytes are valid codes; the f16 scales among them are made numbers of the size that they have in a model.
    fn quantized(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let (block, scales): (_, &[usize]) = match dtype {
            DType::Q8_0 | DType::Q4_0 => (dtype.layout().block_bytes, &[0]),
            DType::Q4K | DType::Q5K => (dtype.layout().block_bytes, &[0, 2]),
            _ => (dtype.layout().block_bytes, &[208]),
        };
        let len = dtype.bytes(shape.iter().product()).unwrap();
        let mut bytes: Vec<u8> = (0..len).map(|_| (self.next() * 128.0) as i8 as u8).collect();
        for block in bytes.chunks_exact_mut(block) {
            for &at in scales {
                block[at..at + 2].copy_from_slice(&f16::from_f32(0.01 * self.next()).to_le_bytes());
            }
        }
        let data = SharedBytes::from_vec(bytes).aligned();
        Tensor { name: "test".into(), dtype, shape: shape.to_vec(), data, file: "test".into(), offset: 0 }
    }
}

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
    check_to(contract(name), name, what, len, cpu, on_reference, on_cpu);
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

#[test]
fn linear() {
    let mut random = Random(1);
    for cpu in levels() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (i, &columns) in SIZES.iter().enumerate() {
                for (j, &rows) in ROWS.iter().enumerate() {
                    let outputs = SIZES[(i * 3 + j) % SIZES.len()];
                    let tensor = random.tensor(dtype, &[outputs, columns]);
                    let x = random.values(rows * columns);
                    let (a, b) = (Reference.load(&tensor).unwrap(), cpu.load(&tensor).unwrap());
                    check(
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

#[test]
fn linear_quantized() {
    let mut random = Random(7);
    for cpu in levels() {
        for row in DType::TABLE.iter().filter(|row| row.block > 1) {
            for (i, &blocks) in [1, 2, 5].iter().enumerate() {
                for (j, &rows) in [1, 2, 5, 6, 7, 13].iter().enumerate() {
                    let outputs = [1, 15, 16, 17, 31, 32, 33, 65, 130][(3 * j + i) % 9];
                    let columns = blocks * row.block;
                    let tensor = random.tensor(row.dtype, &[outputs, columns]);
                    let x = random.values(rows * columns);
                    let (a, b) = (Reference.load(&tensor).unwrap(), cpu.load(&tensor).unwrap());
                    // The error is relative to the outputs' energy: of a handful, all may happen to be near zero.
                    let tolerance = if rows * outputs < 32 { 5e-3 } else { 5e-4 };
                    check_to(
                        tolerance,
                        "linear",
                        &format!("{rows}x{columns}->{outputs} {}", row.name),
                        rows * outputs,
                        &cpu,
                        |out| Reference.linear(out, &x, &a, rows),
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

/// Rows computed together give exactly what each gives alone: a prompt's length does not change its values.
#[test]
fn linear_quantized_does_not_depend_on_the_number_of_rows() {
    let mut random = Random(8);
    for cpu in levels() {
        for row in DType::TABLE.iter().filter(|row| row.block > 1) {
            let (columns, outputs, rows) = (512, 40, 8);
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

#[test]
fn attention() {
    let mut random = Random(5);
    for cpu in levels() {
        for dtype in [KvDType::F16, KvDType::F32] {
            for (heads, kv_heads, head_dim) in [(1, 1, 1), (2, 2, 6), (6, 2, 32), (5, 1, 33), (4, 2, 128)] {
                // Where the rows begin and how many there are: block edges of 16 tokens and 64 positions.
                for (start, tokens) in [
                    (0, 1),
                    (0, 2),
                    (0, 17),
                    (0, 65),
                    (31, 1),
                    (62, 3),
                    (63, 1),
                    (64, 1),
                    (127, 16),
                    (128, 1),
                    (255, 2),
                ] {
                    let shape = Heads { heads, kv_heads, head_dim };
                    let layout = KvLayout { layers: 2, kv_heads, head_dim, dtype };
                    let positions = start + tokens;
                    let k = random.values(positions * kv_heads * head_dim);
                    let v = random.values(positions * kv_heads * head_dim);
                    // Sharp scores, so that a wrong position shows.
                    let q: Vec<f32> = random.values(tokens * heads * head_dim).iter().map(|v| v * 8.0).collect();
                    let all = CachePosition { layer: 1, start: 0, tokens: positions };
                    let at = CachePosition { layer: 1, start, tokens };
                    let (mut a, mut b) = (Reference.kv_cache(layout), cpu.kv_cache(layout));
                    Reference.reserve_kv(&mut a, positions);
                    cpu.reserve_kv(&mut b, positions);
                    Reference.store_kv(&mut a, &k, &v, all);
                    cpu.store_kv(&mut b, &k, &v, all);
                    check(
                        "attention",
                        &format!("{shape:?} {at:?} {dtype:?}"),
                        tokens * heads * head_dim,
                        &cpu,
                        |out| Reference.attention(out, &q, &a, shape, at),
                        |out| cpu.attention(out, &q, &b, shape, at),
                    );
                }
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
        k[70 * head_dim..].fill(1e6);
        cpu.store_kv(&mut cache, &k, &v, at(0, 100));
        let mut after = vec![0.0; 40 * head_dim];
        cpu.attention(&mut after, &q, &cache, heads, at(30, 40));
        assert_eq!(before, after);
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
