//! Bytes that live as long as anyone holds them: mapped from a file, embedded in the binary, or owned.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// A cheap-to-clone window of immutable bytes. Tensors hold one each, so a mapped file stays mapped
/// exactly as long as some tensor of it is alive.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<memmap2::Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
    /// Made at run time, at an address that is a multiple of 8; the range leaves out the last word's padding.
    Words(Arc<Vec<u64>>),
}

impl SharedBytes {
    /// The whole of a mapped file.
    pub fn from_mmap(map: memmap2::Mmap) -> Self {
        let range = 0..map.len();
        Self { owner: Owner::Mapped(Arc::new(map)), range }
    }

    /// Bytes embedded in the binary.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { owner: Owner::Static(bytes), range: 0..bytes.len() }
    }

    /// Bytes made at run time.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Owner::Owned(Arc::new(bytes)), range }
    }

    /// These bytes at an address that is a multiple of 8, so that a tensor at an aligned offset is aligned in
    /// memory: themselves if they lie so already (a mapped file always does), otherwise a copy.
    pub fn aligned(self) -> Self {
        if (self.as_ptr() as usize).is_multiple_of(8) {
            return self;
        }
        let mut words = vec![0u64; self.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..self.len()].copy_from_slice(&self);
        Self { range: 0..self.len(), owner: Owner::Words(Arc::new(words)) }
    }

    /// Tells the operating system that these bytes of a mapped file, and the pages that they share with their neighbours, will
    /// not be needed soon, so that they need not stay in memory; they can still be read. Without effect on other bytes.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &self.owner {
            // All pages that the range touches, since a model has hundreds of tensors; 64 KiB is a multiple of every page size
            // in use.
            const PAGE: usize = 64 << 10;
            let start = self.range.start / PAGE * PAGE;
            let end = self.range.end.next_multiple_of(PAGE).min(map.len());
            if start < end {
                // SAFETY: the map is of a file and read-only: a page that is dropped is read again from the file when it
                // is touched next, with the same bytes. What may happen if another program changes the file is said at
                // the call that maps it.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
    }

    /// The addresses of the whole memory pages of a mapped file that this window lies in; `None` for other bytes. The last
    /// page of a file is there in full, with zeros behind the file's end.
    pub fn mapped_pages(&self) -> Option<Range<usize>> {
        /// What pages measure on the systems whose GPUs take them as they are.
        const PAGE: usize = if cfg!(target_os = "macos") { 16 << 10 } else { 4 << 10 };
        let Owner::Mapped(_) = &self.owner else { return None };
        let start = self.as_ptr().expose_provenance();
        Some(start / PAGE * PAGE..(start + self.len()).next_multiple_of(PAGE))
    }

    /// The window `range` of this window, sharing the same owner; `None` if it does not fit inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: self.owner.clone(), range: start..start + range.len() })
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Mapped(map) => map,
            Owner::Static(bytes) => bytes,
            Owner::Owned(bytes) => bytes,
            Owner::Words(words) => bytemuck::cast_slice(words),
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.range.len())
    }
}
