//! A weight seen as a matrix, in place: what the backends in host memory work on.

use super::BackendError;
use crate::weights::{DType, Tensor};
use half::{bf16, f16};
use std::ops::Range;

/// A weight as it lies in its file, seen as a matrix; a vector is a matrix of one row.
#[derive(Clone, Debug)]
pub struct Matrix {
    tensor: Tensor,
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// Views a tensor of one or two dimensions as a matrix, without a copy.
    pub fn new(tensor: &Tensor, backend: &'static str) -> Result<Self, BackendError> {
        let (rows, columns) = match tensor.shape[..] {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => {
                let message = format!("{}: shape {:?} is neither a vector nor a matrix", tensor.name, tensor.shape);
                return Err(BackendError { backend, message });
            }
        };
        if rows == 0 || columns == 0 {
            let message = format!("{}: shape {:?} has no elements", tensor.name, tensor.shape);
            return Err(BackendError { backend, message });
        }
        if tensor.dtype.bytes(columns).is_none() {
            let (dtype, block) = (tensor.dtype, tensor.dtype.layout().block);
            let message = format!("{}: rows of {columns} values are not whole {dtype} blocks of {block}", tensor.name);
            return Err(BackendError { backend, message });
        }
        Ok(Self { tensor: tensor.clone(), rows, columns })
    }

    /// Number of rows: output features of a projection, tokens of an embedding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Says that the stored bytes will not be read again soon; see [`SharedBytes::release`](crate::weights::SharedBytes::release).
    pub fn release(&self) {
        self.tensor.data.release();
    }

    /// How the elements are stored.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    // ANCHOR: row
    /// The bytes of rows `rows`, as they are stored: the matrix is row-major, so they lie one after
    /// the other.
    pub fn bytes(&self, rows: Range<usize>) -> &[u8] {
        // EXERCISE: m1.row_major
        let bytes = self.tensor.data.len() / self.rows;
        &self.tensor.data[rows.start * bytes..rows.end * bytes]
        // EXERCISE_END
    }
    // ANCHOR_END: row

    /// The elements of rows `rows`, in the dtype they are stored in, which is not a quantized one.
    pub fn elements(&self, rows: Range<usize>) -> Elements<'_> {
        let data = self.bytes(rows);
        match self.tensor.dtype {
            DType::F32 => Elements::F32(bytemuck::cast_slice(data)),
            DType::F16 => Elements::F16(bytemuck::cast_slice(data)),
            DType::BF16 => Elements::BF16(bytemuck::cast_slice(data)),
            quantized => unreachable!("{quantized} has no elements that stand alone"),
        }
    }

    /// Copies row `row` into `out: [columns]` as f32.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        self.tensor.dtype.widen(self.bytes(row..row + 1), out);
    }

    /// All elements as f32, `[rows, columns]`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.tensor.to_f32()
    }
}

/// Some elements of a weight, as they are stored.
pub enum Elements<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// bfloat16.
    BF16(&'a [bf16]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;
    use crate::weights::SharedBytes;

    #[test]
    fn rows_lie_one_after_the_other() {
        let matrix = |dtype, shape: [usize; 2], data: Vec<u8>| {
            let data = SharedBytes::from_vec(data).aligned();
            let tensor = Tensor { name: "m".into(), dtype, shape: shape.to_vec(), data, file: "f".into(), offset: 0 };
            Matrix::new(&tensor, "test").unwrap()
        };
        // Two rows of three values of two bytes.
        let m = matrix(DType::BF16, [2, 3], (0..12).collect());
        expect::same("bytes of row 1 of [2, 3] bf16", m.bytes(1..2), &[6, 7, 8, 9, 10, 11]);
        expect::same("bytes of rows 0 and 1 of [2, 3] bf16", m.bytes(0..2), &(0..12).collect::<Vec<u8>>());
        // A row of Q8_0 is blocks of 34 bytes for 32 values.
        let m = matrix(DType::Q8_0, [3, 64], (0..204).collect());
        expect::same("bytes of row 2 of [3, 64] q8_0", m.bytes(2..3), &(136..204).collect::<Vec<u8>>());
    }
}
