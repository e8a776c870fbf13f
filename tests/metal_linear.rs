//! Linear layers and the embedding of the Metal backend against the reference: every format, on both sides of every edge of
//! rows, chunks, steps and segments, with outputs poisoned; and planted bugs, each of which must be found.
//!
//! On Linux the stand-in runs them with every access checked; see `support/metal.rs`.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

#[path = "support/metal.rs"]
mod metal;
#[path = "support/random.rs"]
mod random;

use failed_star::backend::Backend;
use failed_star::backend::compare::Record;
use failed_star::backend::metal::Metal;
use failed_star::backend::reference::Reference;
use failed_star::session::verify::{Rounding, contract};
use failed_star::weights::{DType, SharedBytes, Tensor};
use metal::{checked, metal, planted};
use random::{Random, tensor};
use std::io::{Seek, Write};

const BATCHES: [usize; 7] = [1, 2, 3, 7, 8, 9, 33];
const FORMATS: [DType; 8] =
    [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q5K, DType::Q6K];

/// Runs an operation on outputs full of NaN with a guard behind them.
fn run(
    metal: &Metal,
    lens: &[usize],
    operation: impl FnOnce(&mut [<Metal as Backend>::Buffer]),
) -> Result<Vec<Vec<f32>>, String> {
    let mut outs: Vec<_> = lens
        .iter()
        .map(|len| {
            let mut out = metal.buffer(len + 1);
            metal.write(&mut out, &vec![f32::NAN; len + 1]);
            out
        })
        .collect();
    operation(&mut outs);
    let mut results = Vec::new();
    for (out, len) in outs.iter().zip(lens) {
        let mut values = metal.read(out, len + 1).map_err(|error| error.to_string())?;
        if !values.pop().unwrap().is_nan() {
            return Err("wrote behind its output".into());
        }
        results.push(values);
    }
    Ok(results)
}

/// Whether values agree to the operation's contract; every one must have been written.
fn agree(expected: &[f32], found: &[f32]) -> Result<(), String> {
    if let Some(at) = found.iter().position(|v| !v.is_finite()) {
        return Err(format!("value {at} is {}", found[at]));
    }
    let record = Record::new("linear", None, expected, found);
    if record.nmse <= contract("linear", Rounding::None) { Ok(()) } else { Err(format!("{record:?}")) }
}

fn input(metal: &Metal, values: &[f32]) -> <Metal as Backend>::Buffer {
    let mut buffer = metal.buffer(values.len());
    metal.write(&mut buffer, values);
    buffer
}

/// `linear` and `linear_add` of one shape.
fn check_linear(metal: &Metal, random: &mut Random, dtype: DType, features: usize, columns: usize, rows: usize) {
    let what = format!("{rows} x {columns} -> {features} {dtype}");
    let weight = random.tensor(dtype, &[features, columns]);
    let values = random.values(rows * columns);
    let mut expected = vec![0.0; rows * features];
    Reference.linear(&mut expected, &values, &Reference.load(&weight).unwrap(), rows);
    let (weight, x) = (metal.load(&weight).unwrap(), input(metal, &values));
    let found = run(metal, &[rows * features], |out| metal.linear(&mut out[0], &x, &weight, rows));
    found.and_then(|found| agree(&expected, &found[0])).unwrap_or_else(|error| panic!("linear {what}: {error}"));

    let residual = random.values(rows * features);
    let sum: Vec<f32> = residual.iter().zip(&expected).map(|(a, b)| a + b).collect();
    let found = run(metal, &[rows * features, rows * features], |out| {
        let [out, scratch] = out else { unreachable!() };
        metal.write(out, &residual);
        metal.linear_add(out, scratch, &x, &weight, rows, features);
        metal.write(scratch, &residual);
    });
    found.and_then(|found| agree(&sum, &found[0])).unwrap_or_else(|error| panic!("linear_add {what}: {error}"));
}

/// Columns on both sides of a lane's chunk, a SIMD-group's step, a batch of steps; of each format what it allows.
fn columns(dtype: DType) -> Vec<usize> {
    match dtype.layout().block {
        1 => vec![1, 8, 31, 32, 33, 40, 120, 127, 128, 129, 136, 248, 255, 256, 257, 264, 512, 520],
        32 => vec![32, 64, 96, 480, 512, 544, 1024, 1056],
        _ => vec![256, 512, 768, 1024, 1280],
    }
}

#[test]
fn linear() {
    const FEATURES: [usize; 12] = [1, 2, 7, 8, 9, 31, 33, 63, 64, 65, 127, 129];
    let metal = metal(false);
    let mut random = Random(1);
    for dtype in FORMATS {
        for (i, columns) in columns(dtype).into_iter().enumerate() {
            for (j, rows) in BATCHES.into_iter().enumerate() {
                check_linear(&metal, &mut random, dtype, FEATURES[(5 * i + 3 * j) % FEATURES.len()], columns, rows);
            }
        }
    }
}

/// Rows so long that activations come in segments, and rows that all SIMD-groups of a threadgroup share.
#[test]
fn linear_of_long_rows() {
    let metal = metal(false);
    let mut random = Random(2);
    for dtype in [DType::F32, DType::BF16, DType::Q8_0, DType::Q4K] {
        for columns in [4096, 4352, 9216] {
            check_linear(&metal, &mut random, dtype, 5, columns, 1);
        }
    }
}

/// So many rows that a SIMD-group takes four at a time, in turns.
#[test]
fn linear_of_many_rows() {
    let metal = metal(false);
    let mut random = Random(3);
    for dtype in [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q6K] {
        check_linear(&metal, &mut random, dtype, 32 * 1024 + 37, 256.max(dtype.layout().block), 1);
    }
}

#[test]
fn fused() {
    let metal = metal(false);
    let mut random = Random(4);
    for dtype in FORMATS {
        for (columns, features, rows) in [
            (256, [64, 32, 32], 1),
            (512, [33, 17, 9], 1),
            (1024, [5, 1, 2], 1),
            (256, [33, 9, 9], 7),
            (257, [4, 3, 2], 1),
        ] {
            if dtype.bytes(columns).is_none() {
                continue;
            }
            let what = format!("{rows} x {columns} -> {features:?} {dtype}");
            let tensors = features.map(|n| random.tensor(dtype, &[n, columns]));
            // The last one may be of another format, as in q4_k_m files.
            let other = random.tensor(DType::Q6K, &[features[2], 256]);
            let values = random.values(rows * columns);
            let x = input(&metal, &values);
            let reference = |tensor: &Tensor| {
                let mut out = vec![0.0; rows * tensor.shape[0]];
                Reference.linear(&mut out, &values, &Reference.load(tensor).unwrap(), rows);
                out
            };
            let mut sets = vec![[&tensors[0], &tensors[1], &tensors[2]]];
            if columns == 256 {
                sets.push([&tensors[0], &tensors[1], &other]);
            }
            for set in sets {
                let weights = set.map(|tensor| metal.load(tensor).unwrap());
                let lens = features.map(|n| rows * n);
                let found = run(&metal, &lens, |out| {
                    let [q, k, v] = out else { unreachable!() };
                    metal.linear_qkv([q, k, v], &x, [&weights[0], &weights[1], &weights[2]], rows);
                });
                let found = found.unwrap_or_else(|error| panic!("linear_qkv {what}: {error}"));
                for (tensor, found) in set.iter().zip(&found) {
                    agree(&reference(tensor), found).unwrap_or_else(|error| panic!("linear_qkv {what}: {error}"));
                }
            }
            let up = random.tensor(dtype, &[features[0], columns]);
            let silu = |x: f32| x / (1.0 + (-x).exp());
            let expected: Vec<f32> =
                reference(&tensors[0]).iter().zip(reference(&up)).map(|(g, u)| silu(*g) * u).collect();
            let weights = [&tensors[0], &up].map(|tensor| metal.load(tensor).unwrap());
            let len = rows * features[0];
            let found = run(&metal, &[len, len], |out| {
                let [gate, scratch] = out else { unreachable!() };
                metal.write(scratch, &vec![0.0; len]);
                metal.linear_swiglu(gate, scratch, &x, [&weights[0], &weights[1]], rows, features[0]);
            });
            found
                .and_then(|found| agree(&expected, &found[0]))
                .unwrap_or_else(|error| panic!("linear_swiglu {what}: {error}"));
        }
    }
}

/// Rows of a table come back as the file has them: sorting the bytes loses nothing.
#[test]
fn embed() {
    let mut random = Random(5);
    for plain in [false, true] {
        let metal = metal(plain);
        for dtype in FORMATS {
            let columns = 3 * 256;
            let tensor = random.tensor(dtype, &[5, columns]);
            let ids = [4, 0, 3];
            let mut expected = vec![0.0; 3 * columns];
            Reference.embed(&mut expected, &Reference.load(&tensor).unwrap(), &ids);
            let table = metal.load(&tensor).unwrap();
            let found = run(&metal, &[3 * columns], |out| metal.embed(&mut out[0], &table, &ids)).unwrap();
            let record = Record::new("embed", None, &expected, &found[0]);
            assert!(record.nmse < 1e-14, "embed {dtype}, plain {plain}: {record:?}");
        }
    }
}

/// A weight in the middle of a mapped file, at every alignment that a file can have: bound at an offset, or copied.
#[test]
fn weights_anywhere_in_a_file() {
    let metal = metal(false);
    let mut random = Random(6);
    for dtype in FORMATS {
        for start in [8, 16, 24, 4096 + 16] {
            let (features, columns) = (9, 256);
            let bytes = random.bytes(dtype, features * columns);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![0xff; start]).unwrap();
            file.write_all(&bytes).unwrap();
            file.write_all(&[0xff; 64]).unwrap();
            file.rewind().unwrap();
            let map = map(&file);
            let data = map.slice(start..start + bytes.len()).unwrap();
            let tensor = tensor(dtype, &[features, columns], data);
            for rows in [1, 2, 9] {
                let values = random.values(rows * columns);
                let mut expected = vec![0.0; rows * features];
                Reference.linear(&mut expected, &values, &Reference.load(&tensor).unwrap(), rows);
                let (weight, x) = (metal.load(&tensor).unwrap(), input(&metal, &values));
                let found = run(&metal, &[rows * features], |out| metal.linear(&mut out[0], &x, &weight, rows));
                found
                    .and_then(|found| agree(&expected, &found[0]))
                    .unwrap_or_else(|error| panic!("{dtype} at {start}, {rows} rows: {error}"));
            }
        }
    }
}

#[allow(unsafe_code)]
fn map(file: &std::fs::File) -> SharedBytes {
    // SAFETY: the file has no name; nobody else can change it.
    SharedBytes::from_mmap(unsafe { memmap2::Mmap::map(file) }.unwrap())
}

/// Each changes one place of a kernel's text; the checks or the numbers must say so.
#[test]
fn planted_bugs_are_found() {
    if !checked() {
        return eprintln!("skipped: this device checks no accesses, and may not outlive a wild one");
    }
    // File, what stands there, what is put there, rows of the input, columns.
    const BUGS: [(&str, &str, &str, usize, usize); 12] = [
        // x is not there yet.
        (
            "linear_row.metal",
            "            threadgroup_barrier(mem_flags::mem_threadgroup);\n        }\n        while",
            "        }\n        while",
            1,
            1024,
        ),
        // Other SIMD-groups' parts are not there yet.
        (
            "linear_row.metal",
            "        threadgroup_barrier(mem_flags::mem_threadgroup);\n        if (simd % split == 0) {",
            "        if (simd % split == 0) {",
            1,
            1024,
        ),
        // The second segment is staged while others read the first.
        (
            "linear_row.metal",
            "if (start > 0) {\n                threadgroup_barrier(mem_flags::mem_threadgroup);",
            "if (start > 0) {",
            1,
            9216,
        ),
        // A lane reads its neighbour's chunk.
        ("linear_row.metal", "* 32 + lane, last)", "* 32 + lane + 1, last)", 1, 1024),
        // The gap between 32 columns is forgotten.
        ("linear_row.metal", "staged[quad + j + (quad + j) / 8]", "staged[quad + j]", 1, 1024),
        // Rows behind the last feature are written.
        ("linear_row.metal", "if (feature + r < shape.features[0]) {", "{", 1, 1024),
        (
            "linear_rows.metal",
            "    threadgroup_barrier(mem_flags::mem_threadgroup);\n    uint feature",
            "    uint feature",
            7,
            1024,
        ),
        ("linear_rows.metal", "c += 64", "c += 65", 7, 2048),
        ("linear_rows.metal", "simd_shuffle_xor(sum, 4)", "simd_shuffle_xor(sum, 8)", 7, 1024),
        (
            "linear_tiles.metal",
            "        threadgroup_barrier(mem_flags::mem_threadgroup);\n#pragma unroll\n        for (uint k",
            "#pragma unroll\n        for (uint k",
            33,
            1024,
        ),
        (
            "linear_tiles.metal",
            "        threadgroup_barrier(mem_flags::mem_threadgroup);\n    }\n\n    // The weight",
            "    }\n\n    // The weight",
            33,
            1024,
        ),
        (
            "linear_tiles.metal",
            "min(first_feature + feature, shape.features - 1)",
            "(first_feature + feature)",
            33,
            1024,
        ),
    ];
    let mut random = Random(7);
    for (file, right, wrong, rows, columns) in BUGS {
        let (_directory, metal) = planted(file, right, wrong, false);
        let features = 13;
        let weight = random.tensor(DType::Q8_0, &[features, columns]);
        let values = random.values(rows * columns);
        let mut expected = vec![0.0; rows * features];
        Reference.linear(&mut expected, &values, &Reference.load(&weight).unwrap(), rows);
        let (weight, x) = (metal.load(&weight).unwrap(), input(&metal, &values));
        let found = run(&metal, &[rows * features], |out| metal.linear(&mut out[0], &x, &weight, rows));
        let found = found.and_then(|found| agree(&expected, &found[0]));
        assert!(found.is_err(), "{file}: `{wrong}` in place of `{right}` was not found");
    }
}
