//! Three kernels on numbers that can be worked out by hand, and against the reference where a SIMD-group, a threadgroup and a
//! block begin and end: what a first own kernel is tried on.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

#[allow(dead_code)]
#[path = "../src/expect.rs"]
mod expect;
#[path = "support/metal.rs"]
mod metal;
#[path = "support/random.rs"]
mod random;

use failed_star::backend::metal::Metal;
use failed_star::backend::reference::Reference;
use failed_star::backend::{Backend, BackendError};
use failed_star::weights::{DType, SharedBytes, Tensor};
use random::Random;

/// On both sides of the edges of SIMD-groups (32) and threadgroups (256).
const SIZES: [usize; 8] = [1, 31, 32, 33, 255, 256, 257, 1000];

/// A device's buffer with these values and a guard behind them.
fn buffer<B: Backend>(backend: &B, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.buffer(values.len() + 1);
    backend.write(&mut buffer, &[values, &[-77.0]].concat());
    buffer
}

/// The result of a kernel; where the device refused it, its own words.
#[track_caller]
fn ran<T>(result: Result<T, BackendError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// What is in a buffer of `len` values, whose guard is as it was.
fn values<B: Backend>(backend: &B, buffer: &B::Buffer, len: usize) -> Vec<f32> {
    let mut values = ran(backend.read(buffer, len + 1));
    assert_eq!(values.pop(), Some(-77.0), "the value behind the end of the buffer");
    values
}

fn rms_norm<B: Backend>(backend: &B, x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let data = SharedBytes::from_vec(weight.iter().flat_map(|v| v.to_le_bytes()).collect()).aligned();
    let (dtype, shape) = (DType::F32, vec![weight.len()]);
    let tensor = Tensor { name: "w".into(), dtype, shape, data, file: "f".into(), offset: 0 };
    let (weight, input) = (backend.load(&tensor).expect("a weight"), buffer(backend, x));
    let mut out = buffer(backend, &vec![f32::NAN; x.len()]);
    backend.rms_norm(&mut out, &input, &weight, eps, x.len() / tensor.shape[0]);
    values(backend, &out, x.len())
}

#[test]
fn rms_norm_by_hand() {
    let metal = metal::metal(true);
    // The mean square of 3 and 4 is 12.5, its root 3.535534; the second row is twice the first and gives the same.
    let out = rms_norm(&metal, &[3.0, 4.0, 6.0, 8.0], &[1.0, 10.0], 0.0);
    expect::close("rms_norm", &out, &[0.848528, 11.31371, 0.848528, 11.31371], 1e-5);
    let out = rms_norm(&metal, &[0.001, 0.001], &[1.0, 1.0], 1e-6);
    expect::close("rms_norm of a row of almost zeros", &out, &[std::f32::consts::FRAC_1_SQRT_2; 2], 1e-5);
}

#[test]
fn rms_norm_of_all_widths() {
    let (metal, mut random) = (metal::metal(true), Random(1));
    for columns in SIZES {
        let (x, weight) = (random.values(3 * columns), random.values(columns));
        let (found, expected) = (rms_norm(&metal, &x, &weight, 1e-6), rms_norm(&Reference, &x, &weight, 1e-6));
        expect::close(&format!("rms_norm of 3 rows of {columns}"), &found, &expected, 2e-5);
    }
}

fn swiglu<B: Backend>(backend: &B, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let (mut gate_buffer, up) = (buffer(backend, gate), buffer(backend, up));
    backend.swiglu(&mut gate_buffer, &up, gate.len());
    values(backend, &gate_buffer, gate.len())
}

#[test]
fn swiglu_by_hand() {
    // silu(1) = 1 / (1 + e^-1) = 0.731059, twice that is 1.462117.
    let out = swiglu(&metal::metal(true), &[1.0, 0.0, -1.0, 1000.0, -1000.0], &[2.0, 5.0, 3.0, 1.0, 1.0]);
    expect::close("swiglu", &out, &[1.462117, 0.0, -0.806824, 1000.0, 0.0], 1e-5);
}

#[test]
fn swiglu_of_all_lengths() {
    let (metal, mut random) = (metal::metal(true), Random(2));
    for len in SIZES {
        let (gate, up) = (random.values(len), random.values(len));
        let (found, expected) = (swiglu(&metal, &gate, &up), swiglu(&Reference, &gate, &up));
        expect::close(&format!("swiglu of {len} values"), &found, &expected, 1e-5);
    }
}

/// Index and value of the largest, as two numbers.
fn argmax(metal: &Metal, x: &[f32]) -> [f32; 2] {
    let (index, value) = ran(metal.argmax(&buffer(metal, x), x.len()));
    [index as f32, value]
}

#[test]
fn argmax_by_hand() {
    let metal = metal::metal(true);
    expect::close("argmax: index and value", &argmax(&metal, &[-3.0, -1.0, -2.0]), &[1.0, -1.0], 0.0);
    expect::close("argmax of equal values", &argmax(&metal, &[2.0, 7.0, 7.0, 7.0]), &[1.0, 7.0], 0.0);
    // The guard behind the values is -77: it must not win.
    expect::close("argmax of very negative values", &argmax(&metal, &[-99.0, -98.0]), &[1.0, -98.0], 0.0);
}

#[test]
fn argmax_of_all_lengths() {
    let (metal, mut random) = (metal::metal(true), Random(3));
    for len in SIZES.into_iter().chain([4095, 4096, 4097, 9000]) {
        let mut x = random.values(len);
        for at in [len - 1, len / 2, len / 3] {
            x[at] += 3.0;
            let (index, value) = Reference.argmax(&x.clone(), len).expect("the reference");
            let expected = [index as f32, value];
            expect::close(&format!("argmax of {len} values: index and value"), &argmax(&metal, &x), &expected, 0.0);
        }
    }
}
