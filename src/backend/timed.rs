//! An [`Observer`] with a clock: where the time of a forward pass goes.
//!
//! Fused operations stay fused, so what is timed is what runs.

use super::observed::{Call, Observer};
use super::{Backend, BackendError};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Adds up the time of each operation.
#[derive(Default)]
pub struct Timed {
    times: Mutex<BTreeMap<Key, OperationTime>>,
}

/// An operation, and the shape of its matrices: a backend may be fast at one shape and slow at another.
type Key = (&'static str, Option<[usize; 2]>);

/// All calls of one operation on matrices of one shape.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OperationTime {
    /// The operation's name in [`Backend`].
    pub operation: &'static str,
    /// The shape of its matrix, `[out, in]`; of fused projections, all rows together.
    pub weights: Option<[usize; 2]>,
    /// How often it ran.
    pub calls: u64,
    /// How long it took in all.
    pub seconds: f64,
    /// Bytes of weights and KV cache that it had to read; 0 where it reads activations alone.
    pub bytes: u64,
    /// Multiplications and additions of its dot products; 0 where there are none.
    pub flop: u64,
    /// Kernels that a device ran for it; `None` on a backend that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatches: Option<u64>,
}

impl Timed {
    /// What has been added up since the last call, the longest first.
    pub fn take_times(&self) -> Vec<OperationTime> {
        let times = std::mem::take(&mut *self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let mut times: Vec<OperationTime> = times.into_values().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        times
    }
}

impl<B: Backend> Observer<B> for Timed {
    const PLAIN: bool = false;

    fn ran(&self, _backend: &B, call: Call<'_, B>) -> Result<(), BackendError> {
        let Call { operation, cost, work, .. } = call;
        let matrices = call.tensors.iter().filter(|tensor| tensor.shape.len() == 2).map(|tensor| tensor.matrix());
        let weights = matrices.reduce(|[rows, columns], [more, _]| [rows + more, columns]);
        let mut times = self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dispatches = cost.dispatches.map(|_| 0);
        let new = OperationTime { operation, weights, calls: 0, seconds: 0.0, bytes: 0, flop: 0, dispatches };
        let total = times.entry((operation, weights)).or_insert(new);
        total.calls += 1;
        total.seconds += cost.seconds;
        total.dispatches = total.dispatches.zip(cost.dispatches).map(|(sum, more)| sum + more);
        total.bytes += (work.weight_bytes + work.kv_read) as u64;
        total.flop += work.flop as u64;
        Ok(())
    }
}
