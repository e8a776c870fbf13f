//! From a program in MSL through the compiler to the CPU executor.

#![cfg(not(target_os = "macos"))]

mod common;

use common::{Bench, Kernel};
use metal_standin::compiler::{Library, Source, Target};
use metal_standin::cpu::Options;

fn kernel(bench: &Bench, name: &str, text: &str, threadgroup: &[u32]) -> Kernel {
    let source = Source { text: text.into(), language_version: 0x3_0001, macros: Vec::new(), fast_math: true };
    let library = Library::compile(&source).unwrap();
    Kernel::compiled(bench, library.build(name, &[], Target::Cpu).unwrap(), threadgroup).unwrap()
}

const NORM: &str = "#include <metal_stdlib>
using namespace metal;
kernel void norm(device const float *x [[buffer(0)]], device float *y [[buffer(1)]], constant uint &n [[buffer(2)]],
                 uint row [[threadgroup_position_in_grid]], uint lid [[thread_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]], uint group [[simdgroup_index_in_threadgroup]]) {
    threadgroup float part[4];
    float sum = 0;
    for (uint i = lid; i < n; i += 128) {
        sum += x[row * n + i] * x[row * n + i];
    }
    sum = simd_sum(sum);
    if (lane == 0) part[group] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float scale = n / (part[0] + part[1] + part[2] + part[3]);
    for (uint i = lid; i < n; i += 128) {
        y[row * n + i] = x[row * n + i] * scale;
    }
}";

fn norm(options: Options, text: &str) -> Result<Vec<f32>, String> {
    let bench = Bench::new(options);
    let kernel = kernel(&bench, "norm", text, &[]);
    let x: Vec<f32> = (0..600).map(|i| (i % 17) as f32 - 8.0).collect();
    let (x, y) = (bench.shared(&x).label("x"), bench.shared(&[0_f32; 600]).label("y"));
    let n = bench.shared(&[300_u32]).label("n");
    bench.run(vec![kernel.dispatch(&[&x, &y, &n], [256, 1, 1], [128, 1, 1])])?;
    Ok(y.read())
}

#[test]
fn a_norm_is_the_same_in_any_order() {
    let x: Vec<f32> = (0..600).map(|i| (i % 17) as f32 - 8.0).collect();
    let plain = norm(Options::default(), NORM).unwrap();
    for (row, x) in plain.chunks(300).zip(x.chunks(300)) {
        let scale = 300.0 / x.iter().map(|x| x * x).sum::<f32>();
        assert!(row.iter().zip(x).all(|(y, x)| (y - x * scale).abs() < 1e-5));
    }
    for seed in 0..20 {
        assert_eq!(norm(Options { check: true, shuffle: Some(seed) }, NORM).unwrap(), plain, "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_reported_with_their_lines() {
    for (right, wrong, parts) in [
        ("threadgroup_barrier(mem_flags::mem_threadgroup);", "", &["reads 4 bytes", "line 14", "has written yet"][..]),
        (
            "part[group] = sum",
            "part[group + 1] = sum",
            &["writes 4 bytes at offset 16 of threadgroup variable `part`", "line 12"],
        ),
        ("y[row * n + i] =", "y[row * n + i + 1] =", &["offset 2400 of buffer 1 `y` (line 16), which has 2400 bytes"]),
        ("sum += x[row * n + i] *", "sum += x[row * n + i + 1] *", &["of buffer 0 `x` (line 9)"]),
        ("if (lane == 0) part[group] = sum;", "part[group] = sum;", &["writes 4 bytes", "line 12", "no barrier"]),
        (
            "    threadgroup_barrier(mem_flags::mem_threadgroup);",
            "if (lid < 64) threadgroup_barrier(mem_flags::mem_threadgroup);\nelse threadgroup_barrier(mem_flags::mem_none);",
            &[
                "divergent barrier",
                "threads 0-63 wait at the threadgroup_barrier of line 13",
                "threads 64-127",
                "line 14",
            ],
        ),
    ] {
        assert!(NORM.contains(right));
        let error = norm(Options { check: true, shuffle: None }, &NORM.replace(right, wrong)).expect_err(wrong);
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}
