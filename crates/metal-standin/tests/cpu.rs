//! The CPU executor, on kernels written in C++ with clang's address spaces, as the compiler's output would be. Each
//! planted bug differs from a right kernel in one place, and must be named in the command buffer's error.

#![cfg(not(target_os = "macos"))]

mod common;

use common::{Bench, Kernel};
use metal_standin::cpu::Options;
use metal_standin::executor::Command;

/// Sums each threadgroup's elements through threadgroup memory, with a tree.
const TREE: &str = "
KERNEL(tree) {
    const device float *in = BUFFER(device float, 0);
    device float *out = BUFFER(device float, 1);
    static threadgroup float part[128];
    uint lid = t->index;
    part[lid] = in[t->grid[0]];
    barrier();
    for (uint n = 64; n > 0; n /= 2) {
        if (lid < n) part[lid] += part[lid + n];
        barrier();
    }
    if (lid == 0) out[t->group[0]] = part[0];
}";

fn tree_input() -> Vec<f32> {
    (0..512).map(|i| (i % 37) as f32).collect()
}

/// Runs a variant of `TREE` over four threadgroups.
fn tree(options: Options, source: &str) -> Result<Vec<f32>, String> {
    let bench = Bench::new(options);
    let kernel = Kernel::new(&bench, "tree", source);
    let input = bench.shared(&tree_input()).label("in");
    let output = bench.shared(&[0_f32; 4]).label("out");
    bench.run(vec![kernel.dispatch(&[&input, &output], [512, 1, 1], [128, 1, 1])])?;
    Ok(output.read())
}

const CHECK: Options = Options { check: true, shuffle: None };

/// The error of a variant of `TREE` in which `right` is replaced by `wrong`.
fn planted(right: &str, wrong: &str) -> String {
    assert!(TREE.contains(right));
    tree(CHECK, &TREE.replacen(right, wrong, 1)).expect_err("a planted bug was not found")
}

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn fibers_meet_at_barriers_in_any_order() {
    let expected: Vec<f32> = tree_input().chunks(128).map(|part| part.iter().sum()).collect();
    assert_eq!(tree(Options::default(), TREE).unwrap(), expected);
    for seed in 0..20 {
        let options = Options { check: true, shuffle: Some(seed) };
        assert_eq!(tree(options, TREE).unwrap(), expected, "seed {seed}");
    }
}

#[test]
fn a_removed_barrier_is_a_race() {
    let error = planted("[t->grid[0]];\n    barrier();", "[t->grid[0]];\n");
    // In the order of the threads the first one finds no value yet; in another one it can find what was written.
    assert_says(&error, &["kernel `tree`", "reads 4 bytes at offset 256", "part", "(line 9)", "has written yet"]);
    let source = TREE.replacen("[t->grid[0]];\n    barrier();", "[t->grid[0]];\n", 1);
    let races = (0..20).filter(|&seed| {
        let error = tree(Options { check: true, shuffle: Some(seed) }, &source).expect_err("a race");
        error.contains("no barrier with mem_threadgroup")
    });
    assert!(races.count() > 0);
    // The barrier in the loop: the race is between the steps.
    let error = planted("lid + n];\n        barrier();", "lid + n];\n");
    assert_says(&error, &["part", "no barrier with mem_threadgroup", "line 9"]);
}

#[test]
fn a_barrier_orders_only_the_memory_that_it_names() {
    let error = planted("barrier();", "barrier(1);");
    assert_says(&error, &["part", "no barrier with mem_threadgroup"]);
}

#[test]
fn indices_one_too_far_are_reported() {
    let error = planted("in[t->grid[0]]", "in[t->grid[0] + 1]");
    assert_says(
        &error,
        &["[511, 0, 0]", "reads 4 bytes at offset 2048 of buffer 0 `in` (line 6), which has 2048 bytes"],
    );
    let error = planted("out[t->group[0]]", "out[(int)t->group[0] - 1]");
    assert_says(&error, &["writes 4 bytes at offset -4 of buffer 1 `out` (line 12)"]);
    let error = planted("out[t->group[0]]", "out[t->group[0] + 1]");
    assert_says(&error, &["writes 4 bytes at offset 16 of buffer 1 `out` (line 12), which has 16 bytes"]);
    let error = planted("part[lid] =", "part[lid + 1] =");
    assert_says(
        &error,
        &["[127, 0, 0]", "writes 4 bytes at offset 512 of threadgroup variable", "which has 512 bytes"],
    );
}

#[test]
fn threadgroup_memory_without_a_value_is_reported() {
    let error = planted("part[lid] = in", "if (lid < 100) part[lid] = in");
    assert_says(&error, &["reads 4 bytes", "part", "to which no thread of this threadgroup has written yet"]);
    // Unchecked, it shows as NaN.
    let sums = tree(Options::default(), &TREE.replacen("part[lid] = in", "if (lid < 100) part[lid] = in", 1)).unwrap();
    assert!(sums.iter().all(|sum| sum.is_nan()), "{sums:?}");
}

#[test]
fn divergent_barriers_are_reported() {
    let wrong = "if (lid < 40) { barrier(); out[0] = 1; } else barrier(2);";
    for options in [CHECK, Options::default()] {
        let error = tree(options, &TREE.replacen("barrier();", wrong, 1)).expect_err("divergent");
        assert_says(
            &error,
            &["kernel `tree`: divergent barrier in threadgroup [0, 0, 0]", "threads 0-39", "threads 40-127"],
        );
        if options.check {
            assert_says(&error, &["threads 0-39 wait at the threadgroup_barrier of line 7"]);
        }
    }
    let error = planted("barrier();", "if (lid % 32 < 7) simd_barrier(); else barrier();");
    assert_says(&error, &["threads 0-6 wait at the simdgroup_barrier of line 7", "threads 7-31"]);
}

#[test]
fn threads_that_have_returned_do_not_count() {
    // Only the first 64 threads go on, over half of the array.
    let source =
        TREE.replace("barrier();\n    for (uint n = 64", "barrier(); if (lid >= 64) return;\n    for (uint n = 32");
    let expected: Vec<f32> = tree_input().chunks(128).map(|part| part[..64].iter().sum()).collect();
    assert_eq!(tree(CHECK, &source).unwrap(), expected);
}

/// A value a thread, handed to the neighbour by way of device memory; `STEP` is where it goes.
const DEVICE: &str = "
KERNEL(device_memory) {
    device float *x = BUFFER(device float, 0);
    x[t->grid[0]] = t->grid[0];
    barrier(1);
    uint other = t->grid[0] ^ STEP;
    float y = x[other];
    barrier(1);
    x[other] = y + 1;
}";

#[test]
fn races_in_device_memory_are_reported() {
    let run = |step: u32, shape: u32, source: &str| {
        let bench = Bench::checked();
        let kernel = Kernel::new(&bench, "device_memory", &source.replace("STEP", &step.to_string()));
        let x = bench.shared(&[0_f32; 128]).label("x");
        bench.run(vec![kernel.dispatch(&[&x], [128, 1, 1], [shape, 1, 1])]).map(|_| x.read::<f32>())
    };
    let expected: Vec<f32> = (0..128).map(|i| i as f32 + 1.0).collect();
    assert_eq!(run(1, 64, DEVICE).unwrap(), expected);
    let error = run(64, 64, DEVICE).unwrap_err();
    assert_says(&error, &["buffer 0 `x`", "of threadgroup [0, 0, 0]", "threadgroups of a dispatch run in any order"]);
    let error = run(1, 64, &DEVICE.replacen("barrier(1)", "barrier(2)", 1)).unwrap_err();
    assert_says(&error, &["buffer 0 `x`", "no barrier with mem_device"]);
}

#[test]
fn lanes_are_ordered_by_their_simdgroups_barrier_alone() {
    let run = |step: u32, second: &str| {
        let bench = Bench::checked();
        let source = DEVICE.replacen("barrier(1)", "simd_barrier(1)", 1).replacen(" barrier(1)", second, 1);
        let kernel = Kernel::new(&bench, "device_memory", &source.replace("STEP", &step.to_string()));
        let x = bench.shared(&[0_f32; 64]).label("x");
        bench.run(vec![kernel.dispatch(&[&x], [64, 1, 1], [64, 1, 1])])
    };
    run(31, " simd_barrier(1)").unwrap();
    run(31, " simd_sum(y)").unwrap();
    assert_says(&run(32, " barrier(1)").unwrap_err(), &["buffer 0 `x`", "no barrier with mem_device"]);
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let source = "
KERNEL(count) {
    device _Atomic(int) *x = BUFFER(device _Atomic(int), 0);
    __c11_atomic_fetch_add(x, 1, __ATOMIC_RELAXED);
    PLANT
}";
    let run = |plant: &str| {
        let bench = Bench::checked();
        let kernel = Kernel::new(&bench, "count", &source.replace("PLANT", plant));
        let x = bench.shared(&[0_i32]).label("x");
        bench.run(vec![kernel.dispatch(&[&x], [1000, 1, 1], [64, 1, 1])]).map(|_| x.read::<i32>())
    };
    assert_eq!(run("").unwrap(), [1000]);
    assert_says(
        &run("*(device int *)x = 5;").unwrap_err(),
        &["updates", "`x` (line 3), which thread 0 wrote (line 4)"],
    );
}

#[test]
fn dispatches_that_want_a_barrier_are_named() {
    let produce = "KERNEL(produce) { BUFFER(device float, 0)[t->grid[0]] = 1; }";
    let consume =
        "KERNEL(consume) { BUFFER(device float, 1)[t->grid[0]] = BUFFER(const device float, 0)[t->grid[0]]; }";
    let bench = Bench::checked();
    let (produce, consume) = (Kernel::new(&bench, "produce", produce), Kernel::new(&bench, "consume", consume));
    let (x, y) = (bench.shared(&[0_f32; 64]).label("x"), bench.shared(&[0_f32; 64]).label("y"));
    let dispatches = || {
        let first = produce.dispatch(&[&x], [64, 1, 1], [64, 1, 1]);
        (Command::Dispatch(first), Command::Dispatch(consume.dispatch(&[&x, &y], [64, 1, 1], [64, 1, 1])))
    };
    let (first, second) = dispatches();
    let error = bench.submit(vec![first, second]).unwrap_err();
    let parts = [
        "kernel `consume`",
        "offset 0 of buffer 0 `x`",
        "kernel `produce` wrote",
        "no barrier between the two dispatches",
    ];
    assert_says(&error, &parts);
    // The other way round, a read before a write.
    let (first, second) = dispatches();
    assert_says(&bench.submit(vec![second, first]).unwrap_err(), &["kernel `produce`", "kernel `consume` read"]);
    // The executor is as before, and with a barrier all is well.
    let (first, second) = dispatches();
    bench.submit(vec![first, Command::Barrier, second]).unwrap();
    assert_eq!(y.read::<f32>(), [1.0; 64]);
}

#[test]
fn simd_sums_take_the_lanes_that_are_there() {
    let source = "
KERNEL(sums) {
    device float *out = BUFFER(device float, 0);
    float x = t->grid[0];
    float sum = t->lane < 8 ? simd_sum(x) : simd_sum(-x);
    out[t->grid[0]] = sum + 1000 * simd_sum(1);
}";
    let expected = |i: u32| {
        let lanes = i / 32 * 32..(i / 32 * 32 + 32).min(40);
        let branch: u32 = lanes.clone().filter(|j| (j % 32 < 8) == (i % 32 < 8)).sum();
        (if i % 32 < 8 { branch as f32 } else { -(branch as f32) }) + 1000.0 * lanes.len() as f32
    };
    for options in [Options::default(), CHECK, Options { check: true, shuffle: Some(3) }] {
        let bench = Bench::new(options);
        let kernel = Kernel::new(&bench, "sums", source);
        let out = bench.shared(&[0_f32; 40]);
        bench.run(vec![kernel.dispatch(&[&out], [40, 1, 1], [64, 1, 1])]).unwrap();
        assert_eq!(out.read::<f32>(), (0..40).map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn accesses_of_all_widths_are_checked_at_their_addresses() {
    let source = "
template <class To, class From> INLINE void copy(To to, From from) {
    for (uint k = 0; k < 3; k++) { to->a[k] = from->a[k]; to->b[k] = from->b[k]; }
}
KERNEL(widths) {
    uint i = t->grid[0];
    device uchar *bytes = BUFFER(device uchar, 0);
    device half4 *halves = BUFFER(device half4, 1);
    device float3 *threes = BUFFER(device float3, 2);
    device bfloat *brains = BUFFER(device bfloat, 3);
    static threadgroup half tile[64];
    tile[t->index] = (half)bytes[i];
    barrier();
    halves[i] = halves[i] * tile[t->index ^ 1];
    threes[i] = threes[i].zyx + (float)brains[i];
    brains[i] = (bfloat)(threes[i].x * 1.01f);
    struct Block { uchar a[3]; float b[3]; };
    device Block *blocks = BUFFER(device Block, 4);
    Block block;
    copy(&block, blocks + i);
    block.b[1] += bytes[i];
    copy(blocks + i, &block);
    static constant float table[4] = {1, 2, 3, 4};
    BUFFER(device float, 5)[i] = table[i % 4];
}";
    // Sizes in bytes for 64 threads; the last thread's access crosses the end when one byte is missing.
    let sizes = [64, 512, 64 * 16 - 4, 128, 64 * 16, 256];
    for short in 0..=sizes.len() {
        let bench = Bench::checked();
        let kernel = Kernel::new(&bench, "widths", source);
        let memory: Vec<_> =
            sizes.iter().enumerate().map(|(i, &size)| vec![1_u8; size - usize::from(i == short)]).collect();
        let buffers: Vec<_> = memory.iter().map(|bytes| bench.shared(bytes)).collect();
        let buffers: Vec<_> = buffers.iter().collect();
        let result = bench.run(vec![kernel.dispatch(&buffers, [64, 1, 1], [64, 1, 1])]);
        match short {
            6 => assert_eq!(result.map(|_| ()), Ok(())),
            _ => assert_says(&result.unwrap_err(), &["[63, 0, 0]", &format!("of buffer {short} "), "which has"]),
        }
    }
}

#[test]
fn threadgroup_arguments_have_the_size_that_was_set() {
    let source = "
KERNEL(arguments) {
    threadgroup float *a = SHARED(float, 0);
    threadgroup float *c = SHARED(float, 1);
    uint i = t->index;
    a[i] = i; c[i] = 2 * i;
    barrier();
    BUFFER(device float, 0)[t->grid[0]] = a[i ^ 1] + c[i ^ 1];
}";
    let bench = Bench::checked();
    let out = bench.shared(&[0_f32; 64]);
    let kernel = Kernel::with_threadgroup(&bench, "arguments", source, &[256, 256]).unwrap();
    bench.run(vec![kernel.dispatch(&[&out], [64, 1, 1], [64, 1, 1])]).unwrap();
    assert_eq!(out.read::<f32>()[..4], [3.0, 0.0, 9.0, 6.0]);
    let kernel = Kernel::with_threadgroup(&bench, "arguments", source, &[240, 256]).unwrap();
    let error = bench.run(vec![kernel.dispatch(&[&out], [64, 1, 1], [64, 1, 1])]).unwrap_err();
    assert_says(&error, &["[60, 0, 0]", "offset 240 of threadgroup memory 0 `shared0` (line 5), which has 240 bytes"]);
}

#[test]
fn pages_that_were_not_copied_are_read_only() {
    use metal_standin::executor::{Binding, Executor, Storage};
    let bench = Bench::checked();
    let kernel = Kernel::new(&bench, "write", "KERNEL(write) { BUFFER(device float, 0)[t->grid[0]] = 1; }");
    let mut pages = vec![0_f32; 64];
    let allocation = bench.executor.allocate(256, Storage::NoCopy(pages.as_mut_ptr().cast())).unwrap();
    let mut dispatch = kernel.dispatch(&[], [64, 1, 1], [64, 1, 1]);
    dispatch.buffers[0] = Some(Binding::Buffer { allocation, offset: 0, label: "weights".into() });
    assert_says(&bench.run(vec![dispatch.clone()]).unwrap_err(), &["`weights`", "which kernels must not write to"]);
    dispatch.buffers[0] = Some(Binding::Bytes(vec![0; 256]));
    assert_says(&bench.run(vec![dispatch]).unwrap_err(), &["(setBytes)", "which kernels must not write to"]);
    bench.executor.release(allocation);
}

#[test]
fn a_stack_that_is_too_large_is_refused_and_a_large_one_is_made() {
    let source = |count: u32| {
        format!(
            "KERNEL(stack) {{ volatile float x[{count}]; for (uint i = 0; i < {count}; i++) x[i] = t->grid[0];
             barrier(); BUFFER(device float, 0)[t->grid[0]] = x[{count} - 1] + x[0]; }}"
        )
    };
    let bench = Bench::new(Options::default());
    let out = bench.shared(&[0_f32; 256]);
    let kernel = Kernel::new(&bench, "stack", &source(40_000));
    bench.run(vec![kernel.dispatch(&[&out], [256, 1, 1], [256, 1, 1])]).unwrap();
    assert_eq!(out.read::<f32>(), (0..256).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
    let error = Kernel::with_threadgroup(&bench, "stack", &source(100_000), &[]).err().unwrap();
    assert_says(&error, &["kernel `stack` needs 400", "bytes of stack for each thread"]);
}
