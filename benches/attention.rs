//! Attention's speed, in the shape of Qwen3-0.6B: `cargo bench --bench attention`.
//!
//! Decode is given in bytes of keys and values a second, beside a plain read of memory; prefill in f32 operations a second
//! (4 for each pair of query and key that see each other, and each of the head's values), beside a loop of nothing but
//! multiply-adds. A layer's cache at depth 4,096 would stay in a large L3, so each call takes the next of 28 layers.
//! `FS_BENCH_SIMD=avx2` chooses a level, `FS_BENCH_THREADS` the number of threads.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use failed_star::backend::cpu::Cpu;
use failed_star::backend::cpu::simd::Level;
use failed_star::backend::{Backend, CachePosition, Heads};
use failed_star::model::kv_cache::{KvDType, KvLayout};

const SHAPE: Heads = Heads { heads: 16, kv_heads: 8, head_dim: 128 };
const KV: [&str; 2] = ["f16", "q8"];

fn main() {
    divan::main();
}

fn cpu() -> Cpu {
    let threads = std::env::var("FS_BENCH_THREADS").ok().map(|n| n.parse().expect("a number"));
    let name = std::env::var("FS_BENCH_SIMD").unwrap_or(Level::detect().name().into());
    let level = Level::available().into_iter().find(|level| level.name() == name).expect("a level of this machine");
    Cpu::with_level(threads, level)
}

/// Numbers around 0 that differ.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 2_654_435_761 % 1_000_003) as f32 / 500_001.5 - 1.0).collect()
}

fn bench(bencher: Bencher, kv: &str, layers: usize, start: usize, tokens: usize, count: impl FnOnce(&KvLayout) -> u64) {
    let (cpu, dtype) = (cpu(), kv.parse::<KvDType>().expect("a dtype"));
    let layout = KvLayout { layers, kv_heads: SHAPE.kv_heads, head_dim: SHAPE.head_dim, dtype };
    let mut cache = cpu.kv_cache(layout);
    let positions = start + tokens;
    cpu.reserve_kv(&mut cache, positions);
    let rows = values(positions * SHAPE.kv_heads * SHAPE.head_dim);
    for layer in 0..layers {
        cpu.store_kv(&mut cache, &rows, &rows, CachePosition { layer, start: 0, tokens: positions });
    }
    let q = values(tokens * SHAPE.heads * SHAPE.head_dim);
    let mut out = vec![0.0; q.len()];
    let mut layer = 0;
    let mut run = || {
        layer = (layer + 1) % layers;
        cpu.attention(&mut out, &q, &cache, SHAPE, CachePosition { layer, start, tokens });
    };
    let count = count(&layout);
    match tokens {
        1 => bencher.counter(BytesCount::new(count)).bench_local(&mut run),
        _ => bencher.counter(ItemsCount::new(count)).bench_local(&mut run),
    }
}

#[divan::bench(consts = [1, 512, 4096], args = KV)]
fn decode_at<const DEPTH: usize>(bencher: Bencher, kv: &str) {
    bench(bencher, kv, 28, DEPTH - 1, 1, |layout| (layout.bytes_per_token() / layout.layers * DEPTH) as u64);
}

#[divan::bench(consts = [0, 4096], args = KV, max_time = 3)]
fn prefill_512_at<const DEPTH: usize>(bencher: Bencher, kv: &str) {
    let pairs = 512 * DEPTH + 512 * 513 / 2;
    bench(bencher, kv, 1, DEPTH, 512, |_| (4 * pairs * SHAPE.heads * SHAPE.head_dim) as u64);
}

/// What decode can reach at most.
#[divan::bench(max_time = 2)]
fn memory_read(bencher: Bencher) {
    let cpu = cpu();
    let best = std::cell::Cell::new(0.0f64);
    bencher.bench_local(|| best.set(best.get().max(cpu.read_bandwidth(&[]).expect("a CPU"))));
    eprintln!("\nread bandwidth {:.1} GB/s", best.get() / 1e9);
}

/// The norm, the rotation and the store of one token: small work, once a layer.
#[divan::bench(args = KV)]
fn norm_rope_store(bencher: Bencher, kv: &str) {
    use failed_star::weights::{DType, SharedBytes, Tensor};
    let (cpu, dtype) = (cpu(), kv.parse::<KvDType>().expect("a dtype"));
    let Heads { heads, kv_heads, head_dim } = SHAPE;
    let mut cache = cpu.kv_cache(KvLayout { layers: 28, kv_heads, head_dim, dtype });
    cpu.reserve_kv(&mut cache, 1024);
    let data = SharedBytes::from_vec(values(head_dim).iter().flat_map(|v| v.to_le_bytes()).collect()).aligned();
    let shape = vec![head_dim];
    let tensor = Tensor { name: "norm".into(), dtype: DType::F32, shape, data, file: "bench".into(), offset: 0 };
    let norm = cpu.load(&tensor).expect("a weight");
    let (mut q, mut k, mut v) = (values(heads * head_dim), values(kv_heads * head_dim), values(kv_heads * head_dim));
    let cos_sin = values(head_dim);
    let mut i = 0;
    bencher.bench_local(|| {
        i += 1;
        let at = CachePosition { layer: i % 28, start: i / 28 % 1024, tokens: 1 };
        cpu.norm_rope_store([&mut q, &mut k, &mut v], [&norm, &norm], 1e-6, &cos_sin, &mut cache, SHAPE, at);
    });
}
