//! Memory in huge pages, for what decoding streams.
//!
//! A token reads every weight once, in 4 KiB pages several hundred thousand of them: more than the table of recent
//! translations (TLB) holds, so each page costs a walk through the page tables, and on a virtual machine a walk through
//! two sets of them. Pages of 2 MiB are 512 times fewer. The kernel gives them where it is asked to (`madvise`), and only
//! to memory that holds whole ones: a model's matrices are smaller, so many of them share a [`Chunk`].

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes of a chunk: many huge pages, of which only the last is not filled. What is not written takes no memory, but on wasm,
/// which has no huge pages either.
const CHUNK: usize = if cfg!(target_family = "wasm") { 1 << 20 } else { 64 << 20 };

/// Memory that several weights share: written when a weight is loaded, read from then on. A backend loads all its weights before it
/// computes, so no reader ever waits for a writer (and may hold several guards of one chunk).
pub type Chunk = Arc<RwLock<HugeBytes>>;

/// Hands out parts of chunks.
#[derive(Default)]
pub struct Arena {
    /// The chunk that is being filled, and how much of it is taken.
    open: Mutex<Option<(Chunk, usize)>>,
}

/// A part of a chunk.
pub struct Part {
    chunk: Chunk,
    range: Range<usize>,
}

impl Arena {
    /// `len` zeros at an address that is a multiple of 64.
    pub fn take(&self, len: usize) -> Part {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, taken) = match open.take() {
            Some((chunk, taken)) if taken + len <= CHUNK => (chunk, taken),
            _ => (Arc::new(RwLock::new(HugeBytes::zeroed(len.max(CHUNK)))), 0),
        };
        let range = taken..taken + len;
        *open = Some((chunk.clone(), range.end.next_multiple_of(64)));
        Part { chunk, range }
    }
}

impl Part {
    /// The chunk, to read; this part of it is [`range`](Self::range).
    pub fn read(&self) -> RwLockReadGuard<'_, HugeBytes> {
        self.chunk.read().unwrap_or_else(PoisonError::into_inner)
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
