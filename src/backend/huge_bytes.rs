//! Memory in huge pages, for what decoding streams.
//!
//! A token reads every weight once, in 4 KiB pages several hundred thousand of them: more than the table of recent
//! translations (TLB) holds, so each page costs a walk through the page tables, and on a virtual machine a walk through
//! two sets of them. Pages of 2 MiB are 512 times fewer. The kernel gives them where it is asked to (`madvise`), and only
//! to memory that holds whole ones. What is mapped goes back to the system when it is dropped; an allocator may keep it.

use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use std::ops::{Deref, DerefMut};

/// Bytes that start as zeros, at an address that is a multiple of 64.
pub struct HugeBytes {
    memory: Memory,
    len: usize,
}

enum Memory {
    Mapped(memmap2::MmapMut),
    /// Where memory cannot be mapped.
    Heap(Vec<Line>),
}

/// A cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

impl HugeBytes {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        /// Mapping less than this costs more than it is worth.
        const SMALL: usize = 128 << 10;
        let mapped = (len >= SMALL).then(|| Self::mapped(len)).flatten();
        mapped.unwrap_or_else(|| Self { memory: Memory::Heap(vec![Line([0; 8]); len.div_ceil(64)]), len })
    }

    /// `len` zeros; `None` where the system has no such memory.
    pub fn mapped(len: usize) -> Option<Self> {
        let map = memmap2::MmapMut::map_anon(len).ok()?;
        // A hint: where it is refused, pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Self { memory: Memory::Mapped(map), len })
    }
}

impl Default for HugeBytes {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl Clone for HugeBytes {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for HugeBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(map) => &map[..self.len],
            Memory::Heap(words) => &cast_slice(words)[..self.len],
        }
    }
}

impl DerefMut for HugeBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Mapped(map) => &mut map[..self.len],
            Memory::Heap(words) => &mut cast_slice_mut(words)[..self.len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles of 64 bytes are cut from it, and vector loads expect it, whether it is mapped or not.
    #[test]
    fn memory_of_any_size_begins_at_a_cache_line() {
        for len in [0, 1, 64, 1000, 128 << 10, (128 << 10) + 1, 5 << 20] {
            let mut bytes = HugeBytes::zeroed(len);
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % 64), (len, 0), "{len}");
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(7);
            assert!(bytes.clone().iter().all(|&byte| byte == 7));
        }
    }
}
