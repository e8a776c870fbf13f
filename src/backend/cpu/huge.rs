//! Memory in huge pages, for what decoding streams.
//!
//! A token reads every weight once, in 4 KiB pages several hundred thousand of them: more than the table of recent
//! translations (TLB) holds, so each page costs a walk through the page tables, and on a virtual machine a walk through
//! two sets of them. Pages of 2 MiB are 512 times fewer. The kernel gives them where it is asked to (`madvise`), and only
//! to memory that holds whole ones: a model's matrices are smaller, so many of them share a [`Chunk`].

use std::ops::{Deref, DerefMut, Range};
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

/// Bytes that start as zeros, at an address that is a multiple of 64.
pub struct HugeBytes {
    memory: Memory,
    len: usize,
}

enum Memory {
    Mapped(memmap2::MmapMut),
    /// Where memory cannot be mapped.
    Heap(Vec<[u64; 8]>),
}

impl HugeBytes {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let memory = match memmap2::MmapMut::map_anon(len.max(1)) {
            Ok(map) => {
                // A hint: where it is refused, pages are small.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Memory::Mapped(map)
            }
            Err(_) => Memory::Heap(vec![[0; 8]; len.div_ceil(64)]),
        };
        Self { memory, len }
    }
}

impl Deref for HugeBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(map) => &map[..self.len],
            Memory::Heap(words) => &bytemuck::cast_slice(words)[..self.len],
        }
    }
}

impl DerefMut for HugeBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Mapped(map) => &mut map[..self.len],
            Memory::Heap(words) => &mut bytemuck::cast_slice_mut(words)[..self.len],
        }
    }
}
