//! How fast this machine reads memory: what decoding can reach at most, since each token reads all weights.

use super::Cpu;
use super::huge::HugeBytes;
use super::simd::Sum;
use crate::clock::Instant;
use std::sync::atomic::{AtomicU32, Ordering};

/// Larger than any cache that one program has to itself.
const BYTES: usize = 128 << 20;

/// Read passes; the best one counts, because anything else on the machine only slows a pass down.
const PASSES: usize = 4;

// ANCHOR: read_bandwidth
/// Bytes read a second by all threads of `cpu` together, each streaming its own part.
pub fn read_bandwidth(cpu: &Cpu) -> f64 {
    let mut bytes = HugeBytes::zeroed(BYTES);
    let values: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
    // Written once: pages that were never written are all the same page of zeros.
    values.fill(1.0);
    let values = &*values;
    let part = values.len().div_ceil(8 * cpu.pool.threads());
    // The sums are used, so that the compiler keeps the reads.
    let sink = AtomicU32::new(0);
    let pass = || {
        let started = Instant::now();
        cpu.pool.run(values.len().div_ceil(part), |task| {
            let end = values.len().min((task + 1) * part);
            let sum = cpu.level.run(Sum(&values[task * part..end]));
            sink.fetch_xor(sum.to_bits(), Ordering::Relaxed);
        });
        started.elapsed().as_secs_f64()
    };
    let best = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    std::hint::black_box(sink.into_inner());
    BYTES as f64 / best
}
// ANCHOR_END: read_bandwidth
