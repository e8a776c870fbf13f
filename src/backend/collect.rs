//! An [`Observer`] of matrices: for each of them, the squares of what goes into it, summed by column.
//!
//! This is how `fs imatrix` learns which columns of a matrix matter.

use super::observed::{Call, Observer};
use super::{Backend, BackendError};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Sums up the inputs of linear layers.
#[derive(Default)]
pub struct Collect {
    sums: Mutex<BTreeMap<String, Sums>>,
}

/// What went into a matrix.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// `[columns]`: sums of squares.
    pub squares: Vec<f64>,
    /// Rows that were summed.
    pub rows: u64,
}

impl Collect {
    /// What has been summed up since the last call, by the tensor's name.
    pub fn take_sums(&self) -> BTreeMap<String, Sums> {
        std::mem::take(&mut self.sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl<B: Backend> Observer<B> for Collect {
    /// Then all matrices are `linear`'s.
    const PLAIN: bool = true;

    fn ran(&self, backend: &B, call: Call<'_, B>) -> Result<(), BackendError> {
        if let ("linear", [tensor], [input]) = (call.operation, call.tensors, call.inputs) {
            let [rows, columns] = input.1;
            let inputs = input.read(backend)?;
            let mut all = self.sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let sums = all.entry(tensor.name.clone()).or_default();
            sums.squares.resize(columns, 0.0);
            sums.rows += rows as u64;
            for row in inputs.chunks_exact(columns) {
                for (sum, x) in sums.squares.iter_mut().zip(row) {
                    *sum += f64::from(*x).powi(2);
                }
            }
        }
        Ok(())
    }
}
