//! Runs kernels on the CPU, deterministically, and on request checks every access.
//!
//! Reading order: `fiber` (stacks and the switch), `group` (a threadgroup's threads, and where they wait), `ir` (what is
//! done to a kernel's code), `load` (code to a shared object), `check` (bounds, races, hazards),
//! `trace` (what one threadgroup did), `worker` (command buffers to threadgroups), and here the executor.

mod check;
mod fiber;
mod group;
mod ir;
mod load;
mod trace;
mod worker;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::compiler::{Kernel, Target};
use crate::executor::{Allocation, Command, Executor, Pipeline, Storage, Ticket, Timing};
pub use trace::{Event, Trace};
use worker::Worker;

/// How kernels are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bounds, races in threadgroup and device memory, uninitialised threadgroup memory, missing barriers between
    /// dispatches: each an error of the command buffer.
    pub check: bool,
    /// Threadgroups, SIMD-groups, lanes, and dispatches between two barriers run in an order made from this number.
    pub shuffle: Option<u64>,
}

impl Options {
    /// From `METAL_STANDIN_CHECK=1` and `METAL_STANDIN_SHUFFLE=SEED`.
    pub fn from_environment() -> Options {
        let check = std::env::var("METAL_STANDIN_CHECK").is_ok_and(|value| !value.is_empty() && value != "0");
        let shuffle = std::env::var("METAL_STANDIN_SHUFFLE").ok().and_then(|seed| seed.parse().ok());
        Options { check, shuffle }
    }
}

/// The executor on the CPU. Command buffers run when they are submitted, one at a time. A kernel that writes outside of
/// its buffers is caught only when checking: otherwise it is native code and may crash the process.
pub struct CpuExecutor {
    options: Options,
    /// Whether kernels are compiled for an NVIDIA GPU in another machine, and none runs: buffers keep what they hold.
    compile_only: bool,
    start: Instant,
    next_id: AtomicU64,
    worker: Mutex<Worker>,
}

/// Allocations lie on page boundaries, as Metal's do, and behind each is room that belongs to no one.
const PAGE: usize = 16384;

/// Threadgroup memory: what Apple's GPUs have.
const THREADGROUP_BYTES: usize = 32 << 10;

/// What threadgroup memory holds before a threadgroup starts: a NaN as f32 and as two f16.
const POISON: u32 = 0x7fc1_7fc1;

impl CpuExecutor {
    /// An executor with these options.
    pub fn new(options: Options) -> Result<CpuExecutor, String> {
        Ok(CpuExecutor {
            options,
            compile_only: false,
            start: Instant::now(),
            next_id: AtomicU64::new(1),
            worker: Mutex::new(Worker::new(options)?),
        })
    }

    /// One that fills the cache for an NVIDIA GPU in another machine, and runs nothing.
    pub fn compile_only() -> Result<CpuExecutor, String> {
        Ok(CpuExecutor { compile_only: true, ..Self::new(Options::default())? })
    }

    /// Records what the threadgroup at this position of the next dispatches does; only a checked executor sees it.
    pub fn record(&self, position: [u32; 3]) {
        if let Some(checks) = &mut self.worker().group.checks {
            checks.get_mut().recorder.want(position);
        }
    }

    /// What was recorded since [`record`](Self::record); nothing is any more.
    pub fn recorded(&self) -> Trace {
        let mut worker = self.worker();
        worker.group.checks.as_mut().map(|checks| checks.get_mut().recorder.take()).unwrap_or_default()
    }

    fn layout(length: usize) -> Result<Layout, String> {
        let padded = length.checked_add(2 * PAGE).map(|length| length / PAGE * PAGE);
        padded
            .and_then(|padded| Layout::from_size_align(padded, PAGE).ok())
            .ok_or_else(|| format!("a buffer of {length} bytes is too large"))
    }
}

impl Executor for CpuExecutor {
    fn name(&self) -> String {
        let mode = match (self.compile_only, self.options.check) {
            (true, _) => ", compiles only",
            (_, true) => ", checked",
            _ => "",
        };
        format!("Metal stand-in (CPU{mode})")
    }

    fn target(&self) -> Target {
        if self.compile_only { Target::Nvidia } else { Target::Cpu }
    }

    fn allocate(&self, length: usize, storage: Storage) -> Result<Allocation, String> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Storage::NoCopy(host) = storage {
            self.worker().read_only.push(id);
            return Ok(Allocation { host, device: host as u64, length, id });
        }
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(Self::layout(length)?) };
        if memory.is_null() {
            return Err(format!("no memory for a buffer of {length} bytes"));
        }
        if self.options.check && matches!(storage, Storage::Private) {
            // Metal promises nothing about what private memory holds: NaN in every format is what no sum can hide.
            // SAFETY: the allocation above is this long.
            unsafe { memory.write_bytes(0xff, length) };
        }
        let host = if matches!(storage, Storage::Private) { std::ptr::null_mut() } else { memory.cast() };
        Ok(Allocation { host, device: memory as u64, length, id })
    }

    fn release(&self, allocation: Allocation) {
        let mut worker = self.worker();
        if let Some(checks) = &mut worker.group.checks {
            checks.get_mut().forget(allocation.id);
        }
        let owned = !worker.read_only.contains(&allocation.id);
        worker.read_only.retain(|&id| id != allocation.id);
        if owned && let Ok(layout) = Self::layout(allocation.length) {
            // SAFETY: made by `allocate` with this layout; the caller promises that nothing uses it.
            unsafe { dealloc(allocation.device as *mut u8, layout) };
        }
    }

    fn prepare(&self, kernel: Kernel) -> Result<Pipeline, String> {
        if self.compile_only {
            return Ok(Pipeline { kernel, prepared: Box::new(()) });
        }
        let loaded = load::load(&kernel, self.options.check)?;
        Ok(Pipeline { kernel, prepared: Box::new(loaded) })
    }

    fn submit(&self, commands: Vec<Command>) -> Ticket {
        let now = || self.start.elapsed().as_secs_f64();
        let start = now();
        let ran = if self.compile_only { Ok(()) } else { self.worker().run(&commands) };
        let result = ran.map(|()| Timing { start, end: now() });
        Ticket(Box::new(result))
    }

    fn wait(&self, ticket: Ticket) -> Result<Timing, String> {
        let result = ticket.0.downcast::<Result<Timing, String>>();
        *result.map_err(|_| "a ticket of another executor".to_string())?
    }
}

impl CpuExecutor {
    fn worker(&self) -> std::sync::MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
