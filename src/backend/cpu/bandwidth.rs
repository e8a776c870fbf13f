//! How fast this machine reads memory: what decoding can reach at most, since each token reads all weights.

use super::huge::read;
use super::simd::Sum;
use super::{Cpu, CpuWeight, Form};
use crate::backend::huge_bytes::HugeBytes;
use crate::clock::Instant;
use bytemuck::cast_slice;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes that are read. Twelve times the largest cache seen: an L3 cache of 32 MiB kept enough of 96 MiB that memory seemed up
/// to twice as fast.
const BYTES: usize = 384 << 20;

/// The fewest bytes of weights that say something about memory.
const FEWEST: usize = BYTES / 2;

/// Read passes; the best one counts, because anything else on the machine only slows a pass down.
const PASSES: usize = 4;

/// Bytes read a second by all threads of `cpu` together, each streaming its own part: of `weights`, if they are enough to say
/// something, else `None`; of new memory, if there are no weights, and `None` if there is not so much memory.
pub fn read_bandwidth(cpu: &Cpu, weights: &[&CpuWeight]) -> Option<f64> {
    if weights.is_empty() {
        let mut bytes = HugeBytes::mapped(BYTES)?;
        // Written once: pages that were never written are all the same page of zeros.
        bytes.fill(1);
        return Some(best_pass(cpu, &[cast_slice(&bytes)]));
    }
    let chunks = cpu.arena.chunks();
    let chunks: Vec<_> = chunks.iter().map(|(chunk, taken)| (read(chunk), *taken)).collect();
    let in_place = weights.iter().filter_map(|weight| match &weight.form {
        Form::InPlace(matrix) => Some(matrix.bytes(0..matrix.rows())),
        Form::Packed(_) => None,
    });
    let mut left = BYTES;
    let parts = chunks.iter().map(|(chunk, taken)| &chunk[..*taken]).chain(in_place).map(|bytes| {
        // Matrices in a file lie where its format puts them.
        let (_, floats, _) = bytemuck::pod_align_to::<u8, f32>(bytes);
        let some = &floats[..floats.len().min(left / size_of::<f32>())];
        left -= size_of_val(some);
        some
    });
    let parts: Vec<&[f32]> = parts.filter(|part| !part.is_empty()).collect();
    (BYTES - left >= FEWEST).then(|| best_pass(cpu, &parts))
}

// ANCHOR: read_bandwidth
/// Bytes of `parts` read a second. They are read as floats, whatever they are: adding is as fast as
/// memory at least, and the sums are used for nothing but that the compiler keeps the reads.
fn best_pass(cpu: &Cpu, parts: &[&[f32]]) -> f64 {
    let sink = AtomicU32::new(0);
    let pass = || {
        let started = Instant::now();
        for part in parts {
            let share = part.len().div_ceil(8 * cpu.pool.threads()).next_multiple_of(1024);
            cpu.pool.run(part.len().div_ceil(share), |task| {
                let end = part.len().min((task + 1) * share);
                let sum = cpu.level.run(Sum(&part[task * share..end]));
                sink.fetch_xor(sum.to_bits(), Ordering::Relaxed);
            });
        }
        started.elapsed().as_secs_f64()
    };
    let best = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    std::hint::black_box(sink.into_inner());
    parts.iter().map(|part| size_of_val(*part)).sum::<usize>() as f64 / best
}
// ANCHOR_END: read_bandwidth

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of packed weights are any floats, and their lengths any: no part is read beyond its end, and none is too short to cut.
    #[test]
    fn parts_of_any_size_and_content_are_read() {
        let bits = [f32::NAN, f32::from_bits(1), f32::INFINITY, 0.5];
        let values: Vec<f32> = bits.into_iter().cycle().take(100_003).collect();
        for threads in [1, 3] {
            let rate = best_pass(&Cpu::new(Some(threads)), &[&values, &values[..1], &values[..1025]]);
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
