//! Keys and values in GPU memory.
//!
//! Each layer has one buffer for keys and one for values, laid out alike:
//!
//! ```text
//! f16, f32: [kv_heads, capacity, stride] elements
//! q8:       [kv_heads, capacity, stride] signed bytes, then [kv_heads, capacity, stride / 32] f16 scales
//! ```
//!
//! `stride` is `head_dim` rounded up to 32; what is behind `head_dim` is never read. A position is one row, so that a
//! SIMD-group reads it with neighbouring lanes on neighbouring elements. `metal/kv_cache.h` reads and writes them.

use super::stream::Memory;
use crate::model::kv_cache::{KvDType, KvLayout, TILE};
use std::sync::{Mutex, PoisonError};

/// A KV cache in GPU memory.
pub struct MetalKvCache {
    pub(super) layout: KvLayout,
    /// Positions there is room for.
    pub(super) capacity: usize,
    /// Keys and values of each layer; empty while `capacity` is 0.
    pub(super) layers: Vec<[Memory; 2]>,
    /// Where attention's pieces lie until they are brought together.
    pieces: Mutex<Option<Memory>>,
}

impl MetalKvCache {
    pub(super) fn new(layout: KvLayout) -> Self {
        Self { layout, capacity: 0, layers: Vec::new(), pieces: Mutex::default() }
    }

    /// Elements of a row.
    pub(super) fn stride(&self) -> usize {
        self.layout.head_dim.next_multiple_of(TILE)
    }

    /// Memory for attention's pieces, of at least `bytes` bytes; all layers use the same.
    pub(super) fn pieces(
        &self,
        bytes: usize,
        allocate: impl FnOnce(usize) -> Result<Memory, String>,
    ) -> Result<Memory, String> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pieces {
            Some(memory) if memory.buffer.length() >= bytes as u64 => Ok(memory.clone()),
            // Twice as much, so that growing contexts ask rarely. What was encoded keeps the old one.
            _ => Ok(pieces.insert(allocate(2 * bytes)?).clone()),
        }
    }

    /// Bytes of one buffer with room for `capacity` positions.
    pub(super) fn bytes(&self, capacity: usize) -> usize {
        self.layout.kv_heads * capacity * self.stride() / TILE * self.layout.dtype.bytes_per_tile_row()
    }

    /// The planes of a buffer with room for `capacity` positions: where each begins, and the bytes of one of its rows.
    pub(super) fn planes(&self, capacity: usize) -> Vec<(usize, usize)> {
        let (stride, rows) = (self.stride(), self.layout.kv_heads * capacity);
        match self.layout.dtype {
            KvDType::F16 => vec![(0, 2 * stride)],
            KvDType::F32 => vec![(0, 4 * stride)],
            KvDType::Q8 => vec![(0, stride), (rows * stride, stride / TILE * 2)],
        }
    }
}
