//! How fast this machine computes on registers alone: what prefill can reach at most, since each weight that is read
//! serves every token of the prompt.

use super::Cpu;
use super::simd::FmaPeak;
use crate::backend::Peak;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Passes; the best one counts, because anything else on the machine only slows a pass down.
const PASSES: usize = 5;

/// Every kind of instruction that the linear layers are made of, at the level of `cpu`, on all its threads.
pub fn peak_ops(cpu: &Cpu) -> Vec<Peak> {
    let f32_fma = ops_per_second(cpu, || cpu.level.run(FmaPeak { steps: 1 << 18 }));
    vec![Peak { instruction: "f32 FMA", is_integer: false, ops_per_second: f32_fma }]
}

/// Operations a second, over all threads, of `kernel`, which returns how many operations it did and a value that
/// depends on all of them.
fn ops_per_second(cpu: &Cpu, kernel: impl Fn() -> (u64, f32) + Sync) -> f64 {
    let tasks = 4 * cpu.pool.threads();
    // The values are used, so that the compiler keeps the arithmetic.
    let sink = AtomicU32::new(0);
    let pass = || {
        let started = Instant::now();
        cpu.pool.run(tasks, |_| {
            let (_, value) = kernel();
            sink.fetch_xor(value.to_bits(), Ordering::Relaxed);
        });
        started.elapsed().as_secs_f64()
    };
    let (ops, _) = kernel();
    let best = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    std::hint::black_box(sink.into_inner());
    (tasks as u64 * ops) as f64 / best
}
