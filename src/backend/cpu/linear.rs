//! Linear layers: where nearly all the time goes.
//!
//! The plain idea is [`crate::backend::reference::linear`]: every output is a dot product. For one input row (decode)
//! each weight is read once and used once, so the time is the time to read the weights; for many (prefill) each
//! weight read is used for every row, so the time is the arithmetic's.
//!
//! Outputs are cut into blocks of weight rows; a thread streams a block's rows, which lie one after the other.

use super::Cpu;
use super::simd::{Element, Linear};
use super::threads::Block;
use crate::backend::matrix::{Elements, Matrix};

/// Bytes of weights in a block: small enough to stay in a core's L2 cache while every input row passes over it, large
/// enough that taking a block costs nothing beside it.
const BLOCK_BYTES: usize = 128 << 10;

/// `out[r][o] = x[r] · weight[o]`; see [`crate::backend::Backend::linear`].
pub fn linear(cpu: &Cpu, out: &mut [f32], x: &[f32], weight: &Matrix, rows: usize) {
    let (outputs, columns) = (weight.rows(), weight.columns());
    // At least four blocks a thread where there is enough work, so that a slow thread holds nobody up.
    let by_cache = BLOCK_BYTES / (columns * 2);
    let by_threads = outputs.div_ceil(4 * cpu.pool.threads());
    let block = by_cache.min(by_threads).max(8).next_multiple_of(4);
    cpu.pool.run_blocks(&mut out[..rows * outputs], outputs, (rows, block), |out| {
        match weight.elements(out.columns()) {
            Elements::F32(weights) => run(cpu, weights, x, columns, out),
            Elements::F16(weights) => run(cpu, weights, x, columns, out),
            Elements::BF16(weights) => run(cpu, weights, x, columns, out),
        }
    });
}

fn run<E: Element>(cpu: &Cpu, weights: &[E], x: &[f32], columns: usize, out: &mut Block<'_>) {
    cpu.level.run(Linear { weights, x, columns, out });
}
