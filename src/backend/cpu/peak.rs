//! How fast this machine computes on registers alone: what prefill can reach at most, since each weight that is read
//! serves every token of the prompt.

use super::Cpu;
use super::simd::{Bf16Peak, FmaPeak, Int8Peak};
use crate::backend::{Operands, Peak};
use crate::clock::Instant;
use std::sync::atomic::{AtomicU32, Ordering};

/// Passes; the best one counts, because anything else on the machine only slows a pass down.
const PASSES: usize = 5;

/// Rounds of a loop: about a millisecond.
const STEPS: u32 = 1 << 18;

/// Every kind of instruction that the linear layers are made of, at the level of `cpu`, on all its threads.
pub fn peak_ops(cpu: &Cpu) -> Vec<Peak> {
    let level = cpu.level;
    let mut peaks = vec![
        peak(cpu, "f32 FMA", Operands::F32, || level.run(FmaPeak { steps: STEPS })),
        peak(cpu, "int8 dot", Operands::Int8, || level.run(Int8Peak { steps: STEPS })),
    ];
    if level.has_bf16_dot() {
        peaks.push(peak(cpu, "bf16 dot", Operands::Bf16, || level.run(Bf16Peak { steps: STEPS })));
    }
    peaks
}

/// Operations a second of `kernel` on all threads together.
fn peak(cpu: &Cpu, instruction: &'static str, operands: Operands, kernel: impl Fn() -> (u64, f32) + Sync) -> Peak {
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
    Peak { instruction, operands, ops_per_second: (tasks as u64 * ops) as f64 / best }
}
