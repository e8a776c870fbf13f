//! Operations that work on rows or elements alone: RMSNorm, QK-norm, RoPE, SwiGLU. They are a small share of the time,
//! but not for a long prompt if one thread did them all.

use super::Cpu;
use super::simd::{RmsNorm, SwiGlu};
use crate::backend::reference;

/// Values that are worth a task of their own: about 10 microseconds.
const VALUES: usize = 16 << 10;

/// See [`crate::backend::Backend::rms_norm`].
pub fn rms_norm(cpu: &Cpu, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, rows: usize) {
    let n = weight.len();
    cpu.pool.run_blocks(&mut out[..rows * n], n, ((VALUES / n).max(1), n), |block| {
        for r in block.rows() {
            let row = block.row_mut(r);
            row.copy_from_slice(&x[r * n..(r + 1) * n]);
            cpu.level.run(RmsNorm { row, weight, eps });
        }
    });
}

/// See [`crate::backend::Backend::head_norm`].
pub fn head_norm(cpu: &Cpu, x: &mut [f32], weight: &[f32], eps: f32, rows: usize) {
    let n = weight.len();
    cpu.pool.run_blocks(&mut x[..rows * n], n, ((VALUES / n).max(1), n), |block| {
        for r in block.rows() {
            cpu.level.run(RmsNorm { row: block.row_mut(r), weight, eps });
        }
    });
}

/// See [`crate::backend::Backend::rope`].
pub fn rope(cpu: &Cpu, x: &mut [f32], cos_sin: &[f32], tokens: usize, heads: usize, head_dim: usize) {
    let n = heads * head_dim;
    cpu.pool.run_blocks(&mut x[..tokens * n], n, ((VALUES / n).max(1), n), |block| {
        for t in block.rows() {
            let cos_sin = &cos_sin[t * head_dim..(t + 1) * head_dim];
            reference::rope::rope(block.row_mut(t), cos_sin, 1, heads, head_dim);
        }
    });
}

/// See [`crate::backend::Backend::swiglu`].
pub fn swiglu(cpu: &Cpu, gate: &mut [f32], up: &[f32]) {
    let len = gate.len();
    cpu.pool.run_blocks(gate, len, (1, VALUES), |block| {
        let up = &up[block.columns()];
        cpu.level.run(SwiGlu { gate: block.row_mut(0), up });
    });
}
