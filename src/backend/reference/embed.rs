//! A token's id selects a row of the embedding table.

use crate::backend::matrix::Matrix;

// ANCHOR: embed
/// `out[t] = table[ids[t]]`, with `table: [vocab, hidden]` and `out: [tokens, hidden]`.
pub fn embed(out: &mut [f32], table: &Matrix, ids: &[u32]) {
    for (row, &id) in out.chunks_exact_mut(table.columns()).zip(ids) {
        table.read_row(id as usize, row);
    }
}
// ANCHOR_END: embed
