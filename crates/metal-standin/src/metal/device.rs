//! `MTLDevice`: where everything else comes from.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::buffer::{self, ALLOCATED, Buffer};
use super::event::SharedEvent;
use super::foundation::{Array, error, string, text};
use super::library::{CompileOptions, Function, Library, PipelineState};
use super::queue::Queue;
use super::residency::{ResidencySet, ResidencySetDescriptor};
use crate::executor::{Executor, Storage};
use crate::machine::executor;
use crate::objc::class::{Block, class};
use crate::objc::failure::{check_leaks_at_exit, fail, report};
use crate::objc::object::{Body, Handle, Id, Object, Retained};
use crate::objc::set_error;

const NIL: Id = std::ptr::null();

/// Bytes of threadgroup memory that a kernel may have, its own arrays and what is set at encoding together.
pub(crate) const THREADGROUP_MEMORY: usize = 32 << 10;
/// Threads in a threadgroup, at most.
pub(crate) const THREADS_PER_THREADGROUP: usize = 1024;

/// The body of the device.
pub(crate) struct Device {
    pub executor: &'static dyn Executor,
}

impl Body for Device {
    const CLASS: &'static str = "MTLDevice";
}

/// The device, owned by whoever asks; nil without an executor, as on a computer without Metal.
#[unsafe(no_mangle)]
pub extern "C" fn MTLCreateSystemDefaultDevice() -> Id {
    the_device().map_or(NIL, Handle::into_id)
}

/// An array of all devices: one, or none.
#[unsafe(no_mangle)]
pub extern "C" fn MTLCopyAllDevices() -> Id {
    Retained::new(Array(the_device().into_iter().collect())).into_id()
}

/// There is one device in a process, as there is one GPU. It lives for ever and is not counted among the live objects.
fn the_device() -> Option<Handle> {
    static DEVICE: OnceLock<Option<Handle>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        check_leaks_at_exit();
        let executor = executor().inspect_err(|why| report(format_args!("no Metal device: {why}"))).ok()?;
        let device = Retained::new(Device { executor }).handle();
        device.class()?.live.fetch_sub(1, Ordering::Relaxed);
        Some(device)
    });
    device.clone()
}

/// Bytes that buffers may have together: three quarters of the memory, about what Apple's devices answer, or
/// `METAL_STANDIN_MEMORY` to try what a program does when there is less.
fn working_set(device: &Device) -> usize {
    let limit = std::env::var("METAL_STANDIN_MEMORY").ok().and_then(|bytes| bytes.parse().ok());
    limit.unwrap_or_else(|| device.executor.memory() / 4 * 3)
}

/// `MTLGPUFamily` of an M1: Apple1 to Apple7, Mac2, Common1 to Common3, Metal3. Not Apple8 and 9 (M2, M3), not Metal4:
/// a program that asks must not count on what has not been tried.
fn supports(family: isize) -> bool {
    matches!(family, 1001..=1007 | 2002 | 3001..=3003 | 5001)
}

/// A new buffer's memory, or none when there is not so much.
fn allocate(device: &Device, method: String, length: usize, storage: Storage) -> Option<Buffer> {
    if length == 0 {
        fail!("{method}: a buffer must have at least one byte");
    }
    let copied = !matches!(storage, Storage::NoCopy(_));
    if copied && length.saturating_add(ALLOCATED.load(Ordering::Relaxed)) > working_set(device) {
        return None;
    }
    let allocation = device.executor.allocate(length, storage).ok()?;
    Some(Buffer::new(device.executor, allocation, storage))
}

class! { mtl_device, Device, "MTLDevice": "MTLObject";
    - c"name" (this) -> Id { string(&this.executor.name()).autorelease() }
    - c"registryID" (this) -> u64 { 1 }
    - c"hasUnifiedMemory" (this) -> bool { true }
    - c"isLowPower" (this) -> bool { false }
    - c"isHeadless" (this) -> bool { true }
    - c"isRemovable" (this) -> bool { false }
    - c"supportsFamily:" (this, family: isize) -> bool { supports(family) }
    - c"maxBufferLength" (this) -> usize { working_set(&this) }
    - c"maxThreadgroupMemoryLength" (this) -> usize { THREADGROUP_MEMORY }
    - c"recommendedMaxWorkingSetSize" (this) -> u64 { working_set(&this) as u64 }
    - c"currentAllocatedSize" (this) -> usize { ALLOCATED.load(Ordering::Relaxed) }
    - c"newCommandQueue" (this) -> Id { Retained::new(Queue::new(this.executor, 64)).into_id() }
    - c"newCommandQueueWithMaxCommandBufferCount:" (this, count: usize) -> Id {
        if count == 0 {
            fail!(this, "a queue without command buffers");
        }
        Retained::new(Queue::new(this.executor, count)).into_id()
    }
    - c"newBufferWithLength:options:" (this, length: usize, options: usize) -> Id {
        let storage = buffer::storage(&this.method(), options);
        allocate(&this, this.method(), length, storage).map_or(NIL, |buffer| Retained::new(buffer).into_id())
    }
    - c"newBufferWithBytes:length:options:" (this, bytes: *const c_void, length: usize, options: usize) -> Id {
        let Storage::Shared = buffer::storage(&this.method(), options) else {
            fail!(this, "only a shared buffer can be filled by the CPU");
        };
        if bytes.is_null() {
            fail!(this, "{length} bytes at NULL");
        }
        let Some(buffer) = allocate(&this, this.method(), length, Storage::Shared) else { return NIL };
        // SAFETY: the sender says that so many bytes lie there, and the new memory has as many.
        unsafe { std::ptr::copy_nonoverlapping(bytes.cast::<u8>(), buffer.allocation.host.cast(), length) };
        Retained::new(buffer).into_id()
    }
    - c"newBufferWithBytesNoCopy:length:options:deallocator:" (this, bytes: *mut c_void, length: usize, options: usize, deallocator: Block) -> Id {
        let Storage::Shared = buffer::storage(&this.method(), options) else {
            fail!(this, "memory of the CPU makes a shared buffer, not a private one");
        };
        let page = buffer::page_size();
        if bytes.is_null() || !bytes.addr().is_multiple_of(page) {
            fail!(this, "the pointer {bytes:p} is not aligned to a page ({page} bytes)");
        }
        if !length.is_multiple_of(page) {
            fail!(this, "the length {length} is not a multiple of a page ({page} bytes)");
        }
        if !deallocator.0.is_null() {
            fail!(this, "the stand-in calls no blocks: give a nil deallocator");
        }
        allocate(&this, this.method(), length, Storage::NoCopy(bytes)).map_or(NIL, |new| Retained::new(new).into_id())
    }
    - c"newLibraryWithSource:options:error:" (this, source: Option<&Object>, options: Option<&Object>, out: *mut Id) -> Id {
        let source = text(this.required(source, "the source"));
        let options = options.map(|options| options.body::<CompileOptions>());
        match Library::compile(this.executor, source, options) {
            Ok(library) => Retained::new(library).into_id(),
            Err(diagnostics) => {
                set_error(out, error("MTLLibraryErrorDomain", 3, &diagnostics.0)); // MTLLibraryErrorCompileFailure
                NIL
            }
        }
    }
    - c"newComputePipelineStateWithFunction:error:" (this, function: Option<&Object>, out: *mut Id) -> Id {
        let function = this.required(function, "the function").body::<Function>();
        match PipelineState::new(this.executor, function) {
            Ok(pipeline) => Retained::new(pipeline).into_id(),
            Err(message) => {
                set_error(out, error("MTLPipelineErrorDomain", 3, &message));
                NIL
            }
        }
    }
    - c"newResidencySetWithDescriptor:error:" (this, descriptor: Option<&Object>, out: *mut Id) -> Id {
        this.required(descriptor, "the descriptor").body::<ResidencySetDescriptor>();
        Retained::new(ResidencySet::default()).into_id()
    }
    - c"newSharedEvent" (this) -> Id { Retained::new(SharedEvent::default()).into_id() }
}
