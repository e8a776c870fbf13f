//! Chunks of memory that packed weights share: huge pages ([`HugeBytes`]) are only given to memory that holds whole ones,
//! and a model's matrices are smaller.

use crate::backend::huge_bytes::HugeBytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

/// Bytes of a chunk: many huge pages, of which only the last is not filled. What is not written takes no memory, but on wasm,
/// which has no huge pages either.
const CHUNK: usize = if cfg!(target_family = "wasm") { 1 << 20 } else { 64 << 20 };

/// Memory that several weights share: written when a weight is loaded, read from then on. A backend loads all its weights before it
/// computes, so no reader ever waits for a writer (and may hold several guards of one chunk).
pub type Chunk = Arc<RwLock<HugeBytes>>;

/// Hands out parts of chunks.
#[derive(Default)]
pub struct Arena {
    /// Chunks and how much of each is taken; the last is being filled. Those whose parts are gone are gone.
    chunks: Mutex<Vec<(Weak<RwLock<HugeBytes>>, usize)>>,
}

/// A part of a chunk.
pub struct Part {
    chunk: Chunk,
    range: Range<usize>,
}

impl Arena {
    /// `len` zeros at an address that is a multiple of 64.
    pub fn take(&self, len: usize) -> Part {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((chunk, taken)) = chunks.last_mut()
            && taken.next_multiple_of(64) + len <= CHUNK
            && let Some(chunk) = chunk.upgrade()
        {
            let range = taken.next_multiple_of(64)..taken.next_multiple_of(64) + len;
            *taken = range.end;
            return Part { chunk, range };
        }
        let chunk = Arc::new(RwLock::new(HugeBytes::zeroed(len.max(CHUNK))));
        chunks.retain(|(chunk, _)| chunk.strong_count() > 0);
        chunks.push((Arc::downgrade(&chunk), len));
        Part { chunk, range: 0..len }
    }

    /// The chunks that there are, and how many bytes of each are taken.
    pub fn chunks(&self) -> Vec<(Chunk, usize)> {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.iter().filter_map(|(chunk, taken)| Some((chunk.upgrade()?, *taken))).collect()
    }
}

/// The chunk, to read.
pub fn read(chunk: &Chunk) -> RwLockReadGuard<'_, HugeBytes> {
    chunk.read().unwrap_or_else(PoisonError::into_inner)
}

impl Part {
    /// The chunk, to read; this part of it is [`range`](Self::range).
    pub fn read(&self) -> RwLockReadGuard<'_, HugeBytes> {
        read(&self.chunk)
    }

    /// The chunk, to write; nobody reads any part of it meanwhile.
    pub fn write(&self) -> RwLockWriteGuard<'_, HugeBytes> {
        self.chunk.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this part lies in its chunk.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is streamed to measure the machine is what weights fill, no byte beyond it, and nothing of a model that is gone.
    #[test]
    fn chunks_are_those_that_are_held() {
        let arena = Arena::default();
        let (first, second) = (arena.take(100), arena.take(100));
        assert_eq!((first.range(), second.range()), (0..100, 128..228));
        assert_eq!(arena.chunks().iter().map(|(_, taken)| *taken).collect::<Vec<_>>(), [228]);
        let large = arena.take(CHUNK);
        assert_eq!(arena.chunks().iter().map(|(_, taken)| *taken).collect::<Vec<_>>(), [228, CHUNK]);
        drop((first, second));
        assert_eq!(arena.chunks().len(), 1);
        drop(large);
        assert!(arena.chunks().is_empty());
        assert_eq!(arena.take(10).range(), 0..10);
    }
}
