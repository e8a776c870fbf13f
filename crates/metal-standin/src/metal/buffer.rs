//! `MTLBuffer`.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Range;
use crate::executor::{Allocation, Executor, Storage};
use crate::objc::class::class;
use crate::objc::failure::fail;
use crate::objc::object::{Body, Object};

/// Bytes of all buffers that are alive, those of no-copy buffers too: what `currentAllocatedSize` answers.
pub(crate) static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// The body of a buffer.
pub(crate) struct Buffer {
    executor: &'static dyn Executor,
    pub allocation: Allocation,
    is_private: bool,
    /// Command buffers that use this buffer without retaining it and have not completed.
    uses: Arc<AtomicUsize>,
}

impl Body for Buffer {
    const CLASS: &'static str = "MTLBuffer";
}

impl Buffer {
    pub fn new(executor: &'static dyn Executor, allocation: Allocation, storage: Storage) -> Self {
        ALLOCATED.fetch_add(allocation.length, Ordering::Relaxed);
        let is_private = matches!(storage, Storage::Private);
        Self { executor, allocation, is_private, uses: Arc::default() }
    }

    /// Marks the buffer as used until the result is dropped.
    pub fn used(&self) -> Use {
        self.uses.fetch_add(1, Ordering::AcqRel);
        Use(self.uses.clone())
    }
}

/// A command buffer's mark on a buffer that it does not retain.
pub(crate) struct Use(Arc<AtomicUsize>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Allocation { id, length, .. } = self.allocation;
        if self.uses.load(Ordering::Acquire) > 0 && !std::thread::panicking() {
            fail!(
                "MTLBuffer {id} ({length} bytes) was freed while a command buffer with unretained references that uses it \
                 has not completed"
            );
        }
        ALLOCATED.fetch_sub(length, Ordering::Relaxed);
        self.executor.release(self.allocation);
    }
}

/// What a message calls a buffer: its label, or its number.
pub(crate) fn name_of(object: &Object) -> String {
    let label = object.label.lock().unwrap();
    if label.is_empty() { format!("buffer {}", object.body::<Buffer>().allocation.id) } else { label.clone() }
}

/// The system's page: 16 KiB on Apple Silicon, mostly 4 KiB here. Apple asks for whole pages because it maps them for the GPU; a
/// program that asks the system for the size (as `mmap` users must) is right on both, and one that has 4,096 written down
/// is wrong at Apple's but would need 16 KiB alignment from Linux, whose `mmap` does not give it, to be caught here.
pub(crate) fn page_size() -> usize {
    // SAFETY: asks for a constant.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// The storage mode in `MTLResourceOptions`: bits 4 to 7. The CPU's cache mode (bit 0) and hazard tracking (bits 8 and 9)
/// change nothing here: encoders always wait for those before them.
pub(crate) fn storage(method: &str, options: usize) -> Storage {
    if options & !0x3f1 != 0 {
        fail!("{method}: options {options:#x} has bits that MTLResourceOptions does not");
    }
    match options >> 4 & 15 {
        0 => Storage::Shared,
        2 => Storage::Private,
        1 => {
            fail!("{method}: managed storage (0x10) is for Macs with a GPU that has memory of its own; use shared (0)")
        }
        mode => fail!("{method}: a buffer cannot have storage mode {mode}"),
    }
}

class! { mtl_buffer, Buffer, "MTLBuffer": "MTLObject";
    - c"contents" (this) -> *mut c_void {
        if this.is_private { std::ptr::null_mut() } else { this.allocation.host }
    }
    - c"length" (this) -> usize { this.allocation.length }
    - c"allocatedSize" (this) -> usize { this.allocation.length }
    - c"storageMode" (this) -> usize { if this.is_private { 2 } else { 0 } }
    - c"gpuAddress" (this) -> u64 { this.allocation.device }
    - c"didModifyRange:" (this, range: Range) { fail!(this, "only for managed storage: bytes {range:?} need no notice") }
}
