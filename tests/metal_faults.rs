//! A fault in every kernel, and in every file that kernels include: each must be found, by the checks or by the numbers. What
//! nothing finds when it is wrong is not tested. The other Metal tests plant more, where barriers and edges are many.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

#[path = "support/metal.rs"]
mod metal;
#[path = "support/random.rs"]
mod random;

use failed_star::backend::compare::Record;
use failed_star::backend::metal::Metal;
use failed_star::backend::reference::Reference;
use failed_star::backend::{Backend, BackendError, CachePosition, Heads};
use failed_star::model::kv_cache::{KvDType, KvLayout};
use failed_star::weights::DType;
use metal::{checked, metal, planted};
use random::Random;

/// What a fault is planted into.
struct Fault {
    /// The kernel that has it, or one that includes it.
    kernel: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    /// What runs the kernel, and whether it is one of the plain ones.
    program: Program,
    plain: bool,
}

use Program::*;

#[derive(Clone, Copy)]
enum Program {
    Add,
    AddBias,
    Argmax,
    Attention { dtype: KvDType, start: usize, tokens: usize },
    Copy,
    CopyRows,
    Embed(DType),
    Linear { dtype: DType, rows: usize },
    LinearMany,
    NormLinearSwiglu,
    NormQkv,
    NormRopeStore,
    Qkv,
    Rope,
    RmsNorm,
    Store,
    Swiglu,
    LinearSwiglu,
    TopK,
    Write,
}

const fn fast(
    kernel: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    program: Program,
) -> Fault {
    Fault { kernel, file, right, wrong, program, plain: false }
}

const fn plain(
    kernel: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    program: Program,
) -> Fault {
    Fault { kernel, file, right, wrong, program, plain: true }
}

const fn decode(start: usize) -> Program {
    Attention { dtype: KvDType::F16, start, tokens: 1 }
}

const FAULTS: &[Fault] = &[
    fast("add", "add.metal", "x[i] += y[i];", "x[i] += y[i + 1];", Add),
    fast("add_bias", "add.metal", "bias[i % shape.columns]", "bias[i / shape.columns]", AddBias),
    fast("argmax_blocks", "argmax.metal", "min((block + 1) * 4096, shape.len)", "(block + 1) * 4096", Argmax),
    fast("argmax_rest", "argmax.metal", "i < shape.blocks;", "i + 1 < shape.blocks;", Argmax),
    plain("attention", "attention.metal", "shape.start + token + 1", "shape.start + token", decode(5)),
    fast(
        "attention_decode",
        "attention_decode.metal",
        "mine < positions ? score[h]",
        "mine <= positions ? score[h]",
        decode(40),
    ),
    fast(
        "attention_reduce",
        "attention_decode.metal",
        "p < count; p += slices",
        "p + 1 < count; p += slices",
        decode(300),
    ),
    fast(
        "attention_prefill",
        "attention_prefill.metal",
        "column + e < my_end",
        "column + e <= my_end",
        Attention { dtype: KvDType::F16, start: 0, tokens: 33 },
    ),
    fast("copy", "copy.metal", "if (first + i * 256 < len) {\n            to", "if (true) {\n            to", Copy),
    fast(
        "copy_rows",
        "copy_rows.metal",
        "shape.from_start) + ulong(at.y)",
        "shape.from_start) + ulong(1 - at.y)",
        CopyRows,
    ),
    fast("copy_bytes", "copy_rows.metal", "out[at.x] = x[at.x];", "out[at.x] = x[at.x ^ 1];", Write),
    fast("embed", "embed.metal", "ulong(shape.first + at.y)", "ulong(at.y ^ 1)", Embed(DType::BF16)),
    fast("embed_packed", "embed.metal", "(row, at.x, shape.columns);", "(row, at.x, at.x);", Embed(DType::Q4K)),
    plain(
        "linear",
        "linear.metal",
        "if (feature >= shape.features) {",
        "if (feature > shape.features) {",
        Linear { dtype: DType::F32, rows: 2 },
    ),
    fast(
        "linear_row",
        "linear_row.metal",
        "* 32 + lane, last)",
        "* 32 + lane + 1, last)",
        Linear { dtype: DType::Q8_0, rows: 1 },
    ),
    fast(
        "linear_row_many",
        "linear_row_many.metal",
        "uint to = from + BATCH < 8 ? from + BATCH : 0",
        "uint to = 0",
        LinearMany,
    ),
    fast("linear_row_swiglu", "linear_row.metal", "exp(-sums[0])) * sums[1]", "exp(-sums[1])) * sums[1]", LinearSwiglu),
    fast("linear_row_qkv", "linear_row.metal", "v[row - v_start]", "v[row - k_start]", Qkv),
    // Both of them norm their input.
    fast(
        "linear_row_swiglu",
        "linear_row.metal",
        "[index / 32] = square.x",
        "[index / 32] = square.y",
        NormLinearSwiglu,
    ),
    fast("linear_row_qkv", "linear_row.metal", "values[n] = v * weights[n]", "values[n] = v", NormQkv),
    fast(
        "linear_rows",
        "linear_rows.metal",
        "simd_shuffle_xor(sum, 4)",
        "simd_shuffle_xor(sum, 8)",
        Linear { dtype: DType::Q8_0, rows: 7 },
    ),
    fast(
        "linear_tiles",
        "linear_tiles.metal",
        "min(first_feature + feature, shape.features - 1)",
        "(first_feature + feature)",
        Linear { dtype: DType::Q8_0, rows: 33 },
    ),
    fast("norm_rope_store", "norm_rope_store.metal", "norm[i + pairs]", "norm[i]", NormRopeStore),
    fast("rms_norm", "rms_norm.metal", "i < 8; i++", "i < 7; i++", RmsNorm),
    plain("rope", "rope.metal", "token = head / shape.heads", "token = head % shape.heads", Rope),
    plain("store_kv", "store_kv.metal", "shape.start + token, rows", "shape.start, rows", Store),
    fast("swiglu", "swiglu.metal", "1.0f + exp(-x)", "1.0f + exp(x)", Swiglu),
    fast("top_k", "top_k.metal", "i >= shape.len ? ABSENT", "i > shape.len ? ABSENT", TopK),
    fast("top_k", "top_k.metal", "? ~places[n] : 0", "? places[n] : 0", TopK),
    fast(
        "top_k",
        "top_k.metal",
        "threadgroup_barrier(mem_flags::mem_threadgroup);\n    uint first = 1;",
        "uint first = 1;",
        TopK,
    ),
    fast("top_k", "order.h", "? ~bits : bits", "? bits : bits", TopK),
    // Each format as the plain kernels read it, and as the fast ones do.
    plain("linear", "formats.h", "[i]) << 16)", "[i]) << 15)", Linear { dtype: DType::BF16, rows: 1 }),
    plain("linear", "formats.h", "block[2 + i % 32]", "block[1 + i % 32]", Linear { dtype: DType::Q8_0, rows: 1 }),
    plain("linear", "formats.h", "block[2 + l % 16]", "block[2 + l % 8]", Linear { dtype: DType::Q4_0, rows: 1 }),
    plain(
        "linear",
        "formats.h",
        "((bytes[s - 4] >> 6) << 4)",
        "((bytes[s - 4] >> 6) << 3)",
        Linear { dtype: DType::Q4K, rows: 1 },
    ),
    plain(
        "linear",
        "formats.h",
        "((block[16 + l] >> s) & 1)",
        "((block[16 + l] >> (s ^ 1)) & 1)",
        Linear { dtype: DType::Q5K, rows: 1 },
    ),
    plain(
        "linear",
        "formats.h",
        "block[192 + i % 256 / 16]",
        "block[192 + i % 256 / 32]",
        Linear { dtype: DType::Q6K, rows: 1 },
    ),
    fast(
        "linear_row",
        "packed.h",
        "pairs.x << 16, pairs.x & 0xffff0000u",
        "pairs.x & 0xffff0000u, pairs.x << 16",
        Linear { dtype: DType::BF16, rows: 1 },
    ),
    fast(
        "linear_row",
        "packed.h",
        "bytes(chunk.codes[j], 128.0f)",
        "bytes(chunk.codes[j], 127.0f)",
        Linear { dtype: DType::Q8_0, rows: 1 },
    ),
    fast(
        "linear_row",
        "packed.h",
        "(16 * (j % 2)), 8.0f)",
        "(16 * (j % 2)), 7.0f)",
        Linear { dtype: DType::Q4_0, rows: 1 },
    ),
    fast(
        "linear_row",
        "packed.h",
        "(header.high >> (4 * header.sub_block)) & 15",
        "(header.high >> (4 * header.sub_block)) & 7",
        Linear { dtype: DType::Q4K, rows: 1 },
    ),
    fast(
        "linear_row",
        "packed.h",
        "t < 4 ? chunk.high << (4 - t)",
        "t < 4 ? chunk.high << (3 - t)",
        Linear { dtype: DType::Q5K, rows: 1 },
    ),
    fast(
        "linear_row",
        "packed.h",
        "high << (4 - 2 * (t % 4)) : high >> 2",
        "high << (4 - 2 * (t % 4)) : high",
        Linear { dtype: DType::Q6K, rows: 1 },
    ),
    // Each type of the cache.
    plain(
        "attention",
        "kv_cache.h",
        "((device const half *)cache)[ulong(row) * stride + i]",
        "((device const half *)cache)[ulong(row + 1) * stride + i]",
        decode(5),
    ),
    plain(
        "attention",
        "kv_cache.h",
        "((device float *)cache)[ulong(row) * stride + i] = value",
        "((device float *)cache)[ulong(row) * stride + i] = -value",
        Attention { dtype: KvDType::F32, start: 5, tokens: 1 },
    ),
    plain(
        "attention",
        "kv_cache.h",
        "largest / 127.0f",
        "largest / 64.0f",
        Attention { dtype: KvDType::Q8, start: 5, tokens: 1 },
    ),
];

const HEADS: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
/// Neither a multiple of a threadgroup's threads nor of a SIMD-group's.
const LEN: usize = 2 * 257;
const COLUMNS: usize = 1024;
const FEATURES: usize = 13;

/// The program's results; every output is poisoned before, and has a guard behind it.
fn run<B: Backend>(b: &B, program: Program) -> Result<Vec<f32>, BackendError> {
    let mut random = Random(1);
    let filled = |values: &[f32]| {
        let mut buffer = b.buffer(values.len() + 1);
        b.write(&mut buffer, &[values, &[f32::NAN]].concat());
        buffer
    };
    let read = |buffer: &B::Buffer, len: usize| {
        let mut values = b.read(buffer, len + 1)?;
        // A guard that was written to is a difference.
        let guard = values.pop().expect("it was read");
        values.push(if guard.is_nan() { 0.0 } else { f32::INFINITY });
        Ok(values)
    };
    let poisoned = |len: usize| filled(&vec![f32::NAN; len]);
    let Heads { heads, kv_heads, head_dim } = HEADS;
    let layout = |dtype| KvLayout { layers: 1, kv_heads, head_dim, dtype };
    match program {
        Add | Swiglu => {
            let (mut x, y) = (filled(&random.values(LEN)), filled(&random.values(LEN)));
            match program {
                Add => b.add(&mut x, &y, LEN),
                _ => b.swiglu(&mut x, &y, LEN),
            }
            read(&x, LEN)
        }
        AddBias => {
            let (mut x, bias) = (filled(&random.values(LEN)), b.load(&random.tensor(DType::F32, &[LEN / 2]))?);
            b.add_bias(&mut x, &bias, 2);
            read(&x, LEN)
        }
        Argmax => {
            // The largest is in the last block, which is not full.
            let mut x = random.values(9000);
            x[8999] = 9.0;
            b.argmax(&filled(&x), x.len()).map(|(at, value)| vec![at as f32, value])
        }
        Attention { dtype, start, tokens } => {
            let all = start + tokens;
            let [k, v] = [(); 2].map(|()| filled(&random.values(all * kv_heads * head_dim)));
            let mut cache = b.kv_cache(layout(dtype));
            b.reserve_kv(&mut cache, all);
            b.store_kv(&mut cache, &k, &v, CachePosition { layer: 0, start: 0, tokens: all });
            let len = tokens * heads * head_dim;
            let (mut out, q) = (poisoned(len), filled(&random.values(len)));
            b.attention(&mut out, &q, &cache, HEADS, CachePosition { layer: 0, start, tokens });
            read(&out, len)
        }
        // Only a benchmark uses it, and only on the Metal backend.
        Copy => Ok(Vec::new()),
        CopyRows => {
            let (x, mut out) = (filled(&random.values(3 * LEN)), poisoned(2 * LEN));
            b.copy_rows(&mut out, &x, 1, 2, LEN);
            read(&out, 2 * LEN)
        }
        Embed(dtype) => {
            let (table, mut out) = (b.load(&random.tensor(dtype, &[5, 768]))?, poisoned(2 * 768));
            b.embed(&mut out, &table, &[4, 2]);
            read(&out, 2 * 768)
        }
        Linear { dtype, rows } => {
            let weight = b.load(&random.tensor(dtype, &[FEATURES, COLUMNS]))?;
            let (x, mut out) = (filled(&random.values(rows * COLUMNS)), poisoned(rows * FEATURES));
            b.linear(&mut out, &x, &weight, rows);
            read(&out, rows * FEATURES)
        }
        LinearMany => {
            // As many rows as a vocabulary has at least, and not a multiple of a threadgroup's.
            let (rows, columns) = (8192 + 13, 256);
            let weight = b.load(&random.tensor(DType::Q8_0, &[rows, columns]))?;
            let (x, mut out) = (filled(&random.values(columns)), poisoned(rows));
            b.linear(&mut out, &x, &weight, 1);
            read(&out, rows)
        }
        LinearSwiglu | NormLinearSwiglu => {
            let weights = [(); 2].map(|()| random.tensor(DType::BF16, &[FEATURES, COLUMNS]));
            let [gate_weight, up_weight] = [b.load(&weights[0])?, b.load(&weights[1])?];
            let weights = [&gate_weight, &up_weight];
            let (x, mut h) = (filled(&random.values(COLUMNS)), b.buffer(COLUMNS));
            let norm = b.load(&random.tensor(DType::F32, &[COLUMNS]))?;
            let (mut gate, mut up) = (poisoned(FEATURES), poisoned(FEATURES));
            match program {
                LinearSwiglu => b.linear_swiglu(&mut gate, &mut up, &x, weights, 1, FEATURES),
                _ => b.norm_linear_swiglu([&mut gate, &mut up], &mut h, &x, &norm, 1e-6, weights, 1, FEATURES),
            }
            read(&gate, FEATURES)
        }
        Qkv | NormQkv => {
            let weights = [FEATURES, 5, 4].map(|features| random.tensor(DType::BF16, &[features, COLUMNS]));
            let [q_weight, k_weight, v_weight] = [b.load(&weights[0])?, b.load(&weights[1])?, b.load(&weights[2])?];
            let weights = [&q_weight, &k_weight, &v_weight];
            let (x, mut h) = (filled(&random.values(COLUMNS)), b.buffer(COLUMNS));
            let norm = b.load(&random.tensor(DType::F32, &[COLUMNS]))?;
            let [mut q, mut k, mut v] = [FEATURES, 5, 4].map(poisoned);
            let out = [&mut q, &mut k, &mut v];
            match program {
                Qkv => b.linear_qkv(out, &x, weights, 1),
                _ => b.norm_linear_qkv(out, &mut h, &x, &norm, 1e-6, weights, 1),
            }
            Ok([read(&q, FEATURES)?, read(&k, 5)?, read(&v, 4)?].concat())
        }
        NormRopeStore => {
            let tokens = 3;
            let [mut q, mut k, mut v] =
                [heads, kv_heads, kv_heads].map(|heads| filled(&random.values(tokens * heads * head_dim)));
            let norms = [(); 2].map(|()| random.tensor(DType::F32, &[head_dim]));
            let norms = [b.load(&norms[0])?, b.load(&norms[1])?];
            let cos_sin = filled(&random.values(tokens * head_dim));
            let mut cache = b.kv_cache(layout(KvDType::F32));
            b.reserve_kv(&mut cache, tokens);
            let (qkv, at) = ([&mut q, &mut k, &mut v], CachePosition { layer: 0, start: 0, tokens });
            b.norm_rope_store(qkv, [&norms[0], &norms[1]], 1e-6, &cos_sin, &mut cache, HEADS, at);
            read(&q, tokens * heads * head_dim)
        }
        RmsNorm => {
            // More columns than a threadgroup takes at a time.
            let weight = b.load(&random.tensor(DType::F32, &[2 * LEN]))?;
            let (x, mut out) = (filled(&random.values(4 * LEN)), poisoned(4 * LEN));
            b.rms_norm(&mut out, &x, &weight, 1e-6, 2);
            read(&out, 4 * LEN)
        }
        Rope => {
            let len = 3 * heads * head_dim;
            let (mut x, cos_sin) = (filled(&random.values(len)), filled(&random.values(3 * head_dim)));
            b.rope(&mut x, &cos_sin, 3, heads, head_dim);
            read(&x, len)
        }
        Store => run(b, Attention { dtype: KvDType::F32, start: 2, tokens: 2 }),
        TopK => {
            // Negative ones, of which some equal the last that is wanted.
            let mut x: Vec<f32> = random.values(9000).iter().map(|value| -1.0 - value.abs()).collect();
            x[100..105].fill(-0.5);
            x[4200..4205].fill(-0.5);
            let found = b.top_k(&filled(&x), x.len(), 7)?;
            // More than are wanted have the largest number there is: that of NaN.
            x.iter_mut().step_by(40).for_each(|x| *x = f32::NAN);
            let same = b.top_k(&filled(&x), x.len(), 7)?;
            Ok(found
                .into_iter()
                .flat_map(|(at, value)| [at as f32, value])
                .chain(same.iter().map(|pair| pair.0 as f32))
                .collect())
        }
        Write => {
            let mut x = poisoned(LEN);
            b.write(&mut x, &random.values(LEN));
            read(&x, LEN)
        }
    }
}

/// Whether the backend does what the reference does.
fn agrees(metal: &Metal, program: Program) -> Result<(), String> {
    if matches!(program, Copy) {
        return metal.copy_bandwidth(16 * 1500).map(drop).map_err(|error| error.to_string());
    }
    let expected = run(&Reference, program).expect("the reference works");
    let found = run(metal, program).map_err(|error| error.to_string())?;
    if let Some(at) = found.iter().position(|value| !value.is_finite()) {
        return Err(format!("value {at} is {}", found[at]));
    }
    let record = Record::new("program", None, &expected, &found);
    if record.nmse <= 1e-6 { Ok(()) } else { Err(format!("{record:?}")) }
}

#[test]
fn a_fault_in_each_kernel_is_found() {
    if !checked() {
        return eprintln!("skipped: this device checks no accesses, and may not outlive a wild one");
    }
    let right = [false, true].map(metal);
    let mut unseen = Vec::new();
    for Fault { kernel, file, right: text, wrong, program, plain } in FAULTS {
        let what = format!("{kernel}, {file}: `{wrong}` in place of `{text}`");
        agrees(&right[usize::from(*plain)], *program).unwrap_or_else(|error| panic!("{what}, before: {error}"));
        let (_directory, metal) = planted(file, text, wrong, *plain);
        match agrees(&metal, *program) {
            Err(error) => assert!(!error.contains("error:"), "{what} does not compile: {error}"),
            Ok(()) => unseen.push(what),
        }
    }
    assert!(unseen.is_empty(), "nobody sees {unseen:#?}");
}

/// A new kernel comes with a fault above, which the tests find.
#[test]
fn every_kernel_has_a_fault() {
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/metal")).unwrap() {
        let path = entry.unwrap().path();
        let (file, text) = (path.file_name().unwrap().to_str().unwrap(), std::fs::read_to_string(&path).unwrap());
        let kernels = text.lines().filter_map(|line| line.strip_prefix("kernel void ")?.split('(').next());
        missing.extend(kernels.filter(|k| !FAULTS.iter().any(|f| f.kernel == *k && f.file == file)).map(String::from));
        if file.ends_with(".h") && !FAULTS.iter().any(|fault| fault.file == file) {
            missing.push(file.into());
        }
    }
    assert!(missing.is_empty(), "without a planted fault: {missing:?}");
}
