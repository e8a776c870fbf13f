//! Linear layers of Qwen3-0.6B's shapes: decoding (one input row, GB/s of weights) and prefill (512 rows, GFLOP/s), in every
//! weight format. `cargo bench --bench linear`; `FS_SIMD` chooses the level.
//!
//! Weights are made once a layer of the model, so that decoding reads memory and not a cache.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use failed_star::backend::Backend;
use failed_star::backend::cpu::Cpu;
use failed_star::backend::cpu::simd::Level;
use failed_star::weights::{DType, SharedBytes, Tensor};

fn main() {
    divan::main();
}

const FORMATS: [DType; 6] = [DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q5K, DType::Q6K];

fn cpu() -> Cpu {
    let level = std::env::var("FS_SIMD").ok().map(|name| name.parse::<Level>().expect("FS_SIMD"));
    Cpu::with_level(None, level.unwrap_or_else(Level::detect))
}

/// Codes do not change the time; scales are 0x3c3c (about 1), so that no number is subnormal.
fn tensor(dtype: DType, outputs: usize, columns: usize) -> Tensor {
    let bytes = vec![0x3c; dtype.bytes(outputs * columns).expect("whole blocks")];
    let data = SharedBytes::from_vec(bytes).aligned();
    Tensor { name: "bench".into(), dtype, shape: vec![outputs, columns], data, file: "bench".into(), offset: 0 }
}

/// 300 million weights: beyond every cache.
#[divan::bench(args = FORMATS, sample_count = 7, sample_size = 1)]
fn decode(bencher: Bencher, dtype: DType) {
    let cpu = cpu();
    let layers: Vec<_> = (0..32).map(|_| cpu.load(&tensor(dtype, 9216, 1024)).unwrap()).collect();
    let (x, mut out) = (vec![0.5; 1024], vec![0.0; 9216]);
    let bytes = layers.len() * dtype.bytes(9216 * 1024).unwrap();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        for weight in &layers {
            cpu.linear(&mut out, &x, weight, 1);
        }
    });
}

#[divan::bench(args = FORMATS, sample_count = 5, sample_size = 1)]
fn prefill_512(bencher: Bencher, dtype: DType) {
    let cpu = cpu();
    let weight = cpu.load(&tensor(dtype, 3072, 1024)).unwrap();
    let (x, mut out) = (vec![0.5; 512 * 1024], vec![0.0; 512 * 3072]);
    let operations = 2usize * 512 * 3072 * 1024;
    bencher.counter(ItemsCount::new(operations)).bench_local(|| cpu.linear(&mut out, &x, &weight, 512));
}
