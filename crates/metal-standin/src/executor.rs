//! What runs the commands of a command buffer, seen from the Metal classes.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

use crate::compiler::{Kernel, Target};

/// Where a buffer lives.
#[derive(Clone, Copy, Debug)]
pub enum Storage {
    /// `MTLResourceStorageModeShared`: the CPU has a pointer to it.
    Shared,
    /// `MTLResourceStorageModePrivate`: only kernels reach it.
    Private,
    /// `newBufferWithBytesNoCopy`: the program's own pages. An executor with memory of its own may copy them when the
    /// buffer is made; kernels then must not write to them.
    NoCopy(*mut c_void),
}

/// Memory of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Allocation {
    /// What `contents` answers; null for private storage.
    pub host: *mut c_void,
    /// The address that kernels use.
    pub device: u64,
    /// In bytes.
    pub length: usize,
    /// Unique in the process; never used again.
    pub id: u64,
}

// SAFETY: an allocation is an address and a length; who dereferences it answers for it.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

/// What is bound to an index.
#[derive(Clone, Debug)]
pub enum Binding {
    /// `setBuffer:offset:atIndex:`; the whole allocation is what may be accessed.
    Buffer {
        /// The buffer's memory.
        allocation: Allocation,
        /// In bytes.
        offset: usize,
        /// The buffer's label; empty if it has none.
        label: String,
    },
    /// `setBytes:length:atIndex:`: a copy taken when it was encoded.
    Bytes(Vec<u8>),
}

impl Binding {
    /// What a message calls it: the buffer's label, or its number.
    pub fn name(&self) -> String {
        match self {
            Binding::Buffer { allocation, label, .. } if label.is_empty() => format!("buffer {}", allocation.id),
            Binding::Buffer { label, .. } => label.clone(),
            Binding::Bytes(_) => "setBytes".into(),
        }
    }
}

/// A kernel made ready by an executor.
pub struct Pipeline {
    /// What was compiled.
    pub kernel: Kernel,
    /// The executor's own: a loaded library, a CUDA function.
    pub prepared: Box<dyn Any + Send + Sync>,
}

/// One entry of a command buffer, in order.
#[derive(Clone)]
pub enum Command {
    /// A kernel over a grid.
    Dispatch(Dispatch),
    /// Everything encoded before is finished and visible before anything after it starts: between the dispatches of a
    /// serial encoder, at `memoryBarrierWithScope:`, and between encoders.
    Barrier,
}

/// A kernel, its arguments and its grid.
#[derive(Clone)]
pub struct Dispatch {
    /// What runs.
    pub pipeline: Arc<Pipeline>,
    /// By index, 31 of them; every argument of the kernel is bound (checked when it was encoded).
    pub buffers: Vec<Option<Binding>>,
    /// Bytes of threadgroup memory by index, 31 of them; 0 where none was set.
    pub threadgroup: Vec<u32>,
    /// Threads in the grid along x, y, z. A multiple of `threads_per_threadgroup` for `dispatchThreadgroups:`; edge
    /// threadgroups are smaller otherwise.
    pub threads: [u32; 3],
    /// Threads in a threadgroup along x, y, z.
    pub threads_per_threadgroup: [u32; 3],
}

/// Seconds on the executor's clock: `GPUStartTime`, `GPUEndTime`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When the first dispatch began.
    pub start: f64,
    /// When the last one ended.
    pub end: f64,
}

/// A submitted command buffer, to wait for once.
pub struct Ticket(pub Box<dyn Any + Send>);

/// Runs compiled kernels. Errors are sentences for `NSError localizedDescription`.
pub trait Executor: Send + Sync {
    /// What `MTLDevice name` answers.
    fn name(&self) -> String;

    /// What kernels are compiled for.
    fn target(&self) -> Target;

    /// Bytes of memory that there are for buffers; `recommendedMaxWorkingSetSize` is three quarters of it.
    fn memory(&self) -> usize {
        // SAFETY: asks for two numbers.
        let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        pages as usize * page as usize
    }

    /// Memory for a buffer: zeroed, unless it is `NoCopy`, or private and accesses are checked: then it is full of NaN.
    fn allocate(&self, length: usize, storage: Storage) -> Result<Allocation, String>;

    /// Gives it back. Only called when no command buffer that uses it is still running.
    fn release(&self, allocation: Allocation);

    /// Loads compiled code.
    fn prepare(&self, kernel: Kernel) -> Result<Pipeline, String>;

    /// Starts a command buffer. An executor may run it here, or behind.
    fn submit(&self, commands: Vec<Command>) -> Ticket;

    /// Waits until it is done. `Err` is what the command buffer's `error` says.
    fn wait(&self, ticket: Ticket) -> Result<Timing, String>;
}
