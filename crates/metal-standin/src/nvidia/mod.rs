//! Runs kernels on an NVIDIA GPU, through its driver.
//!
//! Command buffers run one after the other on one stream. Each is one copy of everything that `setBytes` gave, on a stream of
//! its own while the one before still runs, and then launches: a graph, where the same kernels come again (`graph.rs`). Two events
//! around them measure it. The first wild access of a kernel ends the process's use of the GPU: the driver answers every
//! later call with the same error.

mod driver;
mod early;
mod graph;
mod parameters;

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::compiler::{ArgumentKind, Kernel, Target};
use crate::executor::{Allocation, Binding, Command, Dispatch, Executor, Pipeline, Storage, Ticket, Timing};
use driver::{Driver, Handle};
use early::Ptx;
use graph::{Launch, Pointee, Program};
use parameters::parameters;

/// Threadgroup memory that Metal allows. NVIDIA gives 48 KiB without asking.
const THREADGROUP_BYTES: u32 = 32 << 10;
/// Pages of a no-copy buffer go to the device in pieces of this size: copies from memory that is not pinned are staged by
/// the driver, and reading a mapped file in order lets the system read ahead.
const CHUNK: usize = 64 << 20;

/// The driver with this process's context and streams.
struct Gpu {
    driver: Driver,
    device: c_int,
    context: Handle,
    /// Kernels.
    stream: Handle,
    /// Copies to the device that kernels wait for.
    copies: Handle,
}

// SAFETY: driver handles may be used from any thread that made the context current; `enter` does.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// The driver, with the context current in this system thread.
    fn enter(&self) -> Result<&Driver, String> {
        thread_local! {
            static CURRENT: Cell<Handle> = const { Cell::new(std::ptr::null_mut()) };
        }
        if CURRENT.get() != self.context {
            // SAFETY: the context is retained until `drop`.
            unsafe { self.driver.set_current(self.context)? };
            CURRENT.set(self.context);
        }
        Ok(&self.driver)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: nothing else holds the stream or the context. A broken context may refuse: nothing to be done then.
        unsafe {
            let _ = self.driver.set_current(self.context);
            let _ = self.driver.destroy_stream(self.stream);
            let _ = self.driver.destroy_stream(self.copies);
            let _ = self.driver.release_context(self.device);
        }
    }
}

/// An event, given back when dropped.
struct Event {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Event {}

impl Event {
    /// One that remembers when it was passed, or only that it was.
    fn new(gpu: &Arc<Gpu>, timed: bool) -> Result<Event, String> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for the handle.
        unsafe { gpu.enter()?.create_event(&mut handle, if timed { 0 } else { driver::EVENT_WITHOUT_TIME })? };
        Ok(Event { gpu: gpu.clone(), handle })
    }

    fn record(&self, stream: Handle) -> Result<(), String> {
        // SAFETY: the event and the stream are alive.
        unsafe { self.gpu.enter()?.record_event(self.handle, stream) }
    }

    /// Waits until the stream has come to where this was recorded (at once if it never was).
    fn wait(&self) -> Result<(), String> {
        // SAFETY: the event is alive.
        unsafe { self.gpu.enter()?.wait_for_event(self.handle) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.enter() {
            // SAFETY: made by `new`, destroyed once. A broken context may refuse.
            let _ = unsafe { driver.destroy_event(self.handle) };
        }
    }
}

/// A place for what `setBytes` gave: pinned on the host, and its copy on the device.
struct Staging {
    gpu: Arc<Gpu>,
    host: *mut c_void,
    device: u64,
    capacity: usize,
}

// SAFETY: owned memory.
unsafe impl Send for Staging {}

impl Staging {
    fn new(gpu: &Arc<Gpu>, capacity: usize) -> Result<Staging, String> {
        let mut staging = Staging { gpu: gpu.clone(), host: std::ptr::null_mut(), device: 0, capacity };
        let driver = gpu.enter()?;
        // SAFETY: places for the addresses. If the second fails, `drop` frees the first.
        unsafe {
            driver.allocate_host(&mut staging.host, capacity, 0)?;
            driver.allocate(&mut staging.device, capacity)?;
        }
        Ok(staging)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.enter() {
            // SAFETY: made by `new`, freed once, when the stream is past their use. Null and 0 are ignored.
            unsafe {
                let _ = driver.synchronize_stream(self.gpu.stream);
                let _ = driver.free_host(self.host);
                let _ = driver.free(self.device);
            }
        }
    }
}

/// A kernel, loaded.
struct Loaded {
    gpu: Arc<Gpu>,
    /// Its PTX and the name in there.
    text: String,
    entry: CString,
    /// Bit `i`: memory that parameter `i` points to may be written.
    written: u64,
    /// As it is.
    function: Handle,
    /// That, and those that start early: by the parameters whose memory they may read at once.
    modules: Mutex<Vec<Handle>>,
    waiting: Mutex<HashMap<u64, Handle>>,
}

impl Loaded {
    fn new(gpu: &Arc<Gpu>, text: String, entry: CString) -> Result<Loaded, String> {
        let lines: Vec<&str> = text.lines().collect();
        let written = Ptx::new(&lines).map_or(u64::MAX, |ptx| ptx.written());
        let (function, modules, waiting) = (std::ptr::null_mut(), Mutex::default(), Mutex::default());
        let mut loaded = Loaded { gpu: gpu.clone(), text, entry, written, function, modules, waiting };
        loaded.function = loaded.load(&loaded.text)?;
        Ok(loaded)
    }

    fn load(&self, text: &str) -> Result<Handle, String> {
        let text = CString::new(text).map_err(|why| why.to_string())?;
        let driver = self.gpu.enter()?;
        let mut log = vec![0_u8; 16 << 10];
        let values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: PTX that ends in a zero; as many options as values, the log with its length.
        let loading = unsafe {
            driver.load_module(&mut module, text.as_ptr(), 2, driver::JIT_ERROR_LOG.as_ptr(), values.as_ptr())
        };
        loading.map_err(|why| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            format!("{why}\n{}", String::from_utf8_lossy(&log[..end]))
        })?;
        lock(&self.modules).push(module);
        // SAFETY: a module that is loaded, a C string.
        unsafe { driver.function(&mut function, module, self.entry.as_ptr())? };
        Ok(function)
    }

    /// The kernel that may start early, if its PTX says enough: of the parameters in `constant`, it reads the memory before it
    /// waits.
    fn waiting(&self, constant: u64) -> Result<Option<Handle>, String> {
        if let Some(&function) = lock(&self.waiting).get(&constant) {
            return Ok(Some(function));
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let Some(ptx) = Ptx::new(&lines) else { return Ok(None) };
        let function = self.load(&ptx.with_early_start(constant))?;
        lock(&self.waiting).insert(constant, function);
        Ok(Some(function))
    }
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Loaded {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Ok(driver) = self.gpu.enter() {
            // SAFETY: loaded once, unloaded once, when no kernel runs (a command buffer may have been dropped unwaited).
            unsafe {
                let _ = driver.synchronize_stream(self.gpu.stream);
                for &module in lock(&self.modules).iter() {
                    let _ = driver.unload_module(module);
                }
            }
        }
    }
}

/// What is used again from one command buffer to the next; programs in the order of their last use.
#[derive(Default)]
struct Spare {
    events: Vec<Event>,
    programs: Vec<Program>,
}

/// Programs that are kept.
const PROGRAMS: usize = 16;

/// A command buffer on its way.
struct Running {
    start: Event,
    end: Event,
    program: Program,
}

/// The executor on the first NVIDIA GPU.
pub struct NvidiaExecutor {
    gpu: Arc<Gpu>,
    name: String,
    clock: Instant,
    next_id: AtomicU64,
    /// Pinned allocations by id: their host address, to free them by.
    pinned: Mutex<HashMap<u64, usize>>,
    /// Held while a command buffer is launched: they do not mix.
    spare: Mutex<Spare>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NvidiaExecutor {
    /// Opens the driver and the first GPU.
    pub fn new() -> Result<NvidiaExecutor, String> {
        let driver = Driver::load()?;
        let (mut device, mut context) = (0, std::ptr::null_mut());
        let (mut stream, mut copies) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut name, mut capability) = ([0 as c_char; 256], [0; 2]);
        // SAFETY: places for the results, the name's with its length.
        unsafe {
            driver.init(0)?;
            driver.device(&mut device, 0)?;
            driver.device_name(name.as_mut_ptr(), name.len() as c_int, device)?;
            for (value, attribute) in capability.iter_mut().zip(driver::COMPUTE_CAPABILITY) {
                driver.device_attribute(value, attribute, device)?;
            }
            driver.retain_context(&mut context, device)?;
            driver.set_current(context)?;
            driver.create_stream(&mut stream, driver::STREAM_NON_BLOCKING)?;
            driver.create_stream(&mut copies, driver::STREAM_NON_BLOCKING)?;
        }
        let name: String = name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8 as char).collect();
        if capability < [9, 0] {
            let [major, minor] = capability;
            return Err(format!("{name} has compute capability {major}.{minor}; kernels are compiled for 9.0"));
        }
        Ok(NvidiaExecutor {
            gpu: Arc::new(Gpu { driver, device, context, stream, copies }),
            name: format!("Metal stand-in ({name})"),
            clock: Instant::now(),
            next_id: AtomicU64::new(1),
            pinned: Mutex::default(),
            spare: Mutex::default(),
        })
    }

    /// Puts a command buffer on the stream.
    fn launch_all(&self, commands: &[Command]) -> Result<Running, String> {
        let driver = self.gpu.enter()?;
        // Each dispatch with the barriers before it.
        let mut dispatches = Vec::with_capacity(commands.len());
        let (mut barriers, mut functions, mut bytes) = (0, Vec::new(), 0);
        for command in commands {
            match command {
                Command::Barrier => barriers += 1,
                Command::Dispatch(dispatch) if dispatch.threads.contains(&0) => {}
                Command::Dispatch(dispatch) => {
                    let loaded = dispatch.pipeline.prepared.downcast_ref::<Loaded>();
                    functions.push((loaded.ok_or("a pipeline of another executor")?.function, barriers));
                    bytes += dispatch.buffers.iter().flatten().map(size_of_bytes).sum::<usize>();
                    dispatches.push(dispatch);
                }
            }
        }

        let mut spare = lock(&self.spare);
        let known =
            spare.programs.iter().position(|program| program.fits(&functions) && program.staging.capacity >= bytes);
        let mut program = match known {
            Some(index) => spare.programs.remove(index),
            None => {
                if spare.programs.len() >= PROGRAMS {
                    spare.programs.remove(0);
                }
                Program::new(&self.gpu, bytes)?
            }
        };
        let mut event = || spare.events.pop().map_or_else(|| Event::new(&self.gpu, true), Ok);
        let (start, end) = (event()?, event()?);

        let mut at = 0;
        let mut launches = Vec::with_capacity(dispatches.len());
        for (dispatch, (function, stage)) in dispatches.into_iter().zip(functions) {
            let kernel = &dispatch.pipeline.kernel.name;
            let launch = prepared(dispatch, function, stage, &program.staging, &mut at);
            launches.push(launch.map_err(|why| format!("kernel `{kernel}`: {why}"))?);
        }
        if at > 0 {
            let Staging { host, device, .. } = program.staging;
            // SAFETY: both are at least `at` bytes long, and kept until the stream is past this.
            unsafe { driver.copy_to_device_behind(device, host, at, self.gpu.copies)? };
            program.copied.record(self.gpu.copies)?;
            // SAFETY: the stream and the event are alive.
            unsafe { driver.wait_in_stream(self.gpu.stream, program.copied.handle, 0)? };
        }
        start.record(self.gpu.stream)?;
        program.run(launches)?;
        end.record(self.gpu.stream)?;
        Ok(Running { start, end, program })
    }
}

/// Bytes that a binding takes in a program's staging place: aligned to 16, the widest of Metal's types.
fn size_of_bytes(binding: &Binding) -> usize {
    match binding {
        Binding::Bytes(bytes) => bytes.len().next_multiple_of(16),
        Binding::Buffer { .. } => 0,
    }
}

/// A dispatch as the driver wants it; what `setBytes` gave is put into the staging place from `at` on.
fn prepared(
    dispatch: &Dispatch,
    function: Handle,
    stage: u32,
    staging: &Staging,
    at: &mut usize,
) -> Result<Launch, String> {
    let kernel = &dispatch.pipeline.kernel;
    let address_of = |index: u32| match dispatch.buffers.get(index as usize) {
        Some(Some(Binding::Buffer { allocation, offset, .. })) => Ok(allocation.device + *offset as u64),
        Some(Some(binding @ Binding::Bytes(bytes))) => {
            let here = *at;
            *at += size_of_bytes(binding);
            assert!(*at <= staging.capacity, "the place was made for all of them");
            // SAFETY: inside the place, as was just checked; no copy from it is running.
            unsafe { staging.host.cast::<u8>().add(here).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            Ok(staging.device + here as u64)
        }
        _ => Err(format!("buffer {index} is not bound")),
    };
    let parameters = parameters(&kernel.arguments, address_of, &dispatch.threadgroup, dispatch.threads)?;
    let memory = parameters.shared.saturating_add(kernel.static_threadgroup_bytes);
    if memory > THREADGROUP_BYTES {
        return Err(format!("{memory} bytes of threadgroup memory; {THREADGROUP_BYTES} is the most"));
    }
    let block = dispatch.threads_per_threadgroup;
    if block.contains(&0) || block.iter().map(|&extent| u64::from(extent)).product::<u64>() > 1024 {
        return Err(format!("a threadgroup of {block:?} threads"));
    }
    let grid: [u32; 3] = std::array::from_fn(|axis| dispatch.threads[axis].div_ceil(block[axis]));
    if grid[1] > 65_535 || grid[2] > 65_535 {
        return Err(format!("{} x {} threadgroups along y and z; 65535 is CUDA's most", grid[1], grid[2]));
    }
    let memory = kernel.arguments.iter().map(|argument| {
        match dispatch.buffers.get(argument.index as usize).filter(|_| argument.kind != ArgumentKind::Threadgroup) {
            Some(Some(Binding::Buffer { allocation, .. })) => Pointee::Allocation(allocation.id),
            Some(Some(Binding::Bytes(_))) => Pointee::Bytes,
            _ => Pointee::None,
        }
    });
    let memory = memory.collect();
    Ok(Launch { pipeline: dispatch.pipeline.clone(), function, grid, block, parameters, stage, memory })
}

impl Executor for NvidiaExecutor {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn target(&self) -> Target {
        Target::Nvidia
    }

    /// Private memory is the device's; shared memory is pinned on the host, and kernels reach it over the bus; pages of the
    /// program are copied to the device, once, now.
    fn allocate(&self, length: usize, storage: Storage) -> Result<Allocation, String> {
        let driver = self.gpu.enter()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (bytes, mut host, mut device) = (length.max(1), std::ptr::null_mut(), 0);
        let no_memory = |why| format!("a buffer of {length} bytes: {why}");
        // SAFETY: places for the addresses; what is filled or copied has this length; the program promises that its pages
        // are readable.
        unsafe {
            match storage {
                Storage::Shared => {
                    driver.allocate_host(&mut host, bytes, driver::HOST_MAPPED).map_err(no_memory)?;
                    lock(&self.pinned).insert(id, host as usize);
                    driver.device_pointer(&mut device, host, 0)?;
                    host.cast::<u8>().write_bytes(0, bytes);
                }
                Storage::Private => {
                    driver.allocate(&mut device, bytes).map_err(no_memory)?;
                    driver.fill(device, 0, bytes)?;
                }
                Storage::NoCopy(pages) => {
                    host = pages;
                    driver.allocate(&mut device, bytes).map_err(no_memory)?;
                    for at in (0..length).step_by(CHUNK) {
                        driver.copy_to_device(device + at as u64, pages.add(at), CHUNK.min(length - at))?;
                    }
                }
            }
            // Fills and copies above run on another stream than kernels.
            driver.synchronize_stream(std::ptr::null_mut())?;
        }
        Ok(Allocation { host, device, length, id })
    }

    fn release(&self, allocation: Allocation) {
        let Ok(driver) = self.gpu.enter() else { return };
        let pinned = lock(&self.pinned).remove(&allocation.id);
        let _ = match pinned {
            // SAFETY: made by `allocate`, released once, unused. A broken context may refuse.
            Some(host) => unsafe { driver.free_host(host as *mut c_void) },
            // SAFETY: as above.
            None => unsafe { driver.free(allocation.device) },
        };
    }

    fn prepare(&self, kernel: Kernel) -> Result<Pipeline, String> {
        let failed = |why: String| format!("kernel `{}`: {}: {why}", kernel.name, kernel.code.display());
        let text = std::fs::read(kernel.code.as_ref()).map_err(|why| failed(why.to_string()))?;
        let text = String::from_utf8(text).map_err(|why| failed(why.to_string()))?;
        let entry = CString::new(kernel.entry.clone()).map_err(|why| failed(why.to_string()))?;
        let loaded = Loaded::new(&self.gpu, text, entry).map_err(failed)?;
        Ok(Pipeline { kernel, prepared: Box::new(loaded) })
    }

    fn submit(&self, commands: Vec<Command>) -> Ticket {
        Ticket(Box::new(self.launch_all(&commands)))
    }

    fn wait(&self, ticket: Ticket) -> Result<Timing, String> {
        let running = ticket.0.downcast::<Result<Running, String>>();
        let running = (*running.map_err(|_| "a ticket of another executor".to_string())?)?;
        running.end.wait()?;
        let end = self.clock.elapsed().as_secs_f64();
        let mut milliseconds = 0.0;
        // SAFETY: both events are recorded and passed.
        unsafe { self.gpu.enter()?.elapsed(&mut milliseconds, running.start.handle, running.end.handle)? };
        let mut spare = lock(&self.spare);
        spare.programs.push(running.program);
        spare.events.extend([running.start, running.end]);
        Ok(Timing { start: end - f64::from(milliseconds) / 1e3, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_named_where_there_is_none() {
        match NvidiaExecutor::new() {
            Ok(executor) => assert!(executor.name().starts_with("Metal stand-in (")),
            Err(why) => {
                assert!(why.contains("libcuda.so.1") || why.contains("cu") || why.contains("capability"), "{why}")
            }
        }
    }

    #[test]
    fn functions_with_a_second_version_are_asked_for_by_it() {
        // cuda.h maps these names to `_v2`; the plain symbol takes 32-bit sizes or other arguments.
        for name in ["cuMemAlloc", "cuMemFree", "cuMemcpyHtoD", "cuMemcpyHtoDAsync", "cuMemsetD8", "cuEventDestroy"] {
            assert!(!Driver::SYMBOLS.contains(&name) && Driver::SYMBOLS.contains(&&*format!("{name}_v2")), "{name}");
        }
    }
}
