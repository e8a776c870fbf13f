//! `MTLComputeCommandEncoder`: bindings and dispatches, and the rules that Apple's validation layer checks.
//!
//! A serial encoder orders its dispatches: each sees what those before it wrote, so a barrier goes between any two. A
//! concurrent one orders nothing: only `memoryBarrierWithScope:` does, and a barrier forgotten is a race.

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard};

use super::Size;
use super::buffer::{Buffer, name_of};
use super::device::{THREADGROUP_MEMORY, THREADS_PER_THREADGROUP};
use super::library::PipelineState;
use super::queue::CommandBuffer;
use crate::compiler::ArgumentKind;
use crate::executor::{Binding, Command, Dispatch};
use crate::objc::class::{This, class};
use crate::objc::failure::fail;
use crate::objc::object::{Body, Id, Object, Retained};

/// Binding indices: 0 to 30.
const INDICES: usize = 31;
/// What `setBytes:` takes at most.
const BYTES: usize = 4096;

/// What both kinds of encoder have: a command buffer, until `endEncoding`.
pub(crate) struct Encoding {
    pub buffer: Retained<CommandBuffer>,
    class: &'static str,
    ended: Mutex<bool>,
    groups: Mutex<usize>,
}

impl Encoding {
    pub fn new(buffer: Retained<CommandBuffer>, class: &'static str) -> Self {
        Self { buffer, class, ended: Mutex::new(false), groups: Mutex::new(0) }
    }

    /// Every message but a few is refused after `endEncoding`.
    pub fn check_open(&self, method: impl FnOnce() -> String) {
        if *self.ended.lock().unwrap() {
            fail!("{}: after endEncoding", method());
        }
    }

    pub fn end(&self, method: String) {
        self.check_open(|| method.clone());
        let groups = *self.groups.lock().unwrap();
        if groups > 0 {
            fail!("{method}: {groups} debug groups were pushed and not popped");
        }
        *self.ended.lock().unwrap() = true;
        self.buffer.recording().open = None;
    }

    pub fn push_group(&self, method: String) {
        self.check_open(|| method);
        *self.groups.lock().unwrap() += 1;
    }

    pub fn pop_group(&self, method: String) {
        self.check_open(|| method.clone());
        let mut groups = self.groups.lock().unwrap();
        match groups.checked_sub(1) {
            Some(fewer) => *groups = fewer,
            None => fail!("{method}: no debug group is open"),
        }
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        // Not while a panic unwinds: its message is the one to read.
        if !*self.ended.lock().unwrap() && !std::thread::panicking() {
            fail!("{}: freed before endEncoding", self.class);
        }
    }
}

/// The body of a compute encoder.
pub(crate) struct ComputeEncoder {
    encoding: Encoding,
    concurrent: bool,
    bound: Mutex<Bound>,
}

impl Body for ComputeEncoder {
    const CLASS: &'static str = "MTLComputeCommandEncoder";
}

/// What the next dispatch gets. It stays for those after.
#[derive(Default)]
struct Bound {
    pipeline: Option<Retained<PipelineState>>,
    buffers: [Option<Binding>; INDICES],
    threadgroup: [u32; INDICES],
}

/// What a grid is counted in.
#[derive(Clone, Copy)]
enum Grid {
    Threads,
    Threadgroups,
}

impl ComputeEncoder {
    pub fn new(buffer: Retained<CommandBuffer>, concurrent: bool) -> Self {
        Self { encoding: Encoding::new(buffer, Self::CLASS), concurrent, bound: Mutex::default() }
    }
}

impl This<'_, ComputeEncoder> {
    /// The bindings, while the encoder is open.
    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.encoding.check_open(|| self.method());
        self.bound.lock().unwrap()
    }

    fn check_index(&self, index: usize) {
        if index >= INDICES {
            fail!(self, "index {index}; there are {INDICES} (0 to {})", INDICES - 1);
        }
    }

    fn set_buffer(&self, buffer: Option<&Object>, offset: usize, index: usize) {
        self.check_index(index);
        let mut bound = self.bound();
        bound.buffers[index] = buffer.map(|object| {
            let allocation = object.body::<Buffer>().allocation;
            if offset >= allocation.length {
                let (name, length) = (name_of(object), allocation.length);
                fail!(self, "offset {offset} at index {index} is beyond the {length} bytes of {name}");
            }
            self.encoding.buffer.keep(object);
            Binding::Buffer { allocation, offset, label: object.label.lock().unwrap().clone() }
        });
    }

    fn barrier(&self) {
        self.encoding.check_open(|| self.method());
        self.encoding.buffer.recording().barrier();
    }

    /// Checks what the kernel needs, and adds a dispatch of it.
    fn dispatch(&self, grid: Size, kind: Grid, group: Size) {
        let bound = self.bound();
        let Some(pipeline) = &bound.pipeline else { fail!(self, "no pipeline was set (setComputePipelineState:)") };
        let kernel = &pipeline.0.kernel;
        let name = &kernel.name;
        let (grid, group) = ([grid.width, grid.height, grid.depth], [group.width, group.height, group.depth]);
        if grid.contains(&0) || group.contains(&0) {
            fail!(self, "{name}: the grid {grid:?} or the threadgroup {group:?} is empty along an axis");
        }
        let threads = group.iter().fold(1usize, |product, &count| product.saturating_mul(count));
        let maximum = THREADS_PER_THREADGROUP.min(kernel.max_threads as usize);
        if threads > maximum {
            fail!(
                self,
                "{name}: {threads} threads in a threadgroup {group:?}, and {maximum} are the most for this pipeline"
            );
        }
        let per_group = match kind {
            Grid::Threads => [1; 3],
            Grid::Threadgroups => group,
        };
        let total = [0, 1, 2].map(|axis| match u32::try_from(grid[axis].saturating_mul(per_group[axis])) {
            Ok(total) => total,
            Err(_) => fail!(self, "{name}: the grid {grid:?} does not fit 32 bits along an axis"),
        });
        self.check_threadgroup_memory(&bound, name, kernel.static_threadgroup_bytes as usize);
        let mut buffers = vec![None; INDICES];
        for argument in &kernel.arguments {
            let index = argument.index as usize;
            match argument.kind {
                ArgumentKind::Threadgroup if bound.threadgroup[index] == 0 => {
                    fail!(self, "{name}: no threadgroup memory is set at index {index} for {}", argument.name)
                }
                ArgumentKind::Threadgroup => {}
                ArgumentKind::Device | ArgumentKind::Constant => match &bound.buffers[index] {
                    Some(binding) => buffers[index] = Some(binding.clone()),
                    None => fail!(self, "{name}: no buffer is bound at index {index} for {}", argument.name),
                },
            }
        }
        let mut recording = self.encoding.buffer.recording();
        if !self.concurrent {
            recording.barrier();
        }
        recording.commands.push(Command::Dispatch(Dispatch {
            pipeline: pipeline.0.clone(),
            buffers,
            threadgroup: bound.threadgroup.to_vec(),
            threads: total,
            threads_per_threadgroup: group.map(|count| count as u32),
        }));
    }

    fn check_threadgroup_memory(&self, bound: &Bound, name: &str, own: usize) {
        let set: usize = bound.threadgroup.iter().map(|&bytes| bytes as usize).sum();
        if own + set > THREADGROUP_MEMORY {
            fail!(
                self,
                "{name}: {} bytes of threadgroup memory ({own} of the kernel and {set} set); there are {THREADGROUP_MEMORY}",
                own + set
            );
        }
    }
}

class! { mtl_compute_command_encoder, ComputeEncoder, "MTLComputeCommandEncoder": "MTLObject";
    - c"setComputePipelineState:" (this, pipeline: Option<&Object>) {
        let pipeline = this.required(pipeline, "the pipeline");
        let mut bound = this.bound();
        bound.pipeline = Some(Retained::of(pipeline));
        this.encoding.buffer.keep(pipeline);
    }
    - c"setBuffer:offset:atIndex:" (this, buffer: Option<&Object>, offset: usize, index: usize) {
        this.set_buffer(buffer, offset, index);
    }
    - c"setBuffers:offsets:withRange:" (this, buffers: *const Id, offsets: *const usize, range: super::Range) {
        for element in 0..range.length {
            // SAFETY: the sender says that so many buffers and offsets lie there.
            let (buffer, offset) = unsafe { (buffers.add(element).read().as_ref(), offsets.add(element).read()) };
            this.set_buffer(buffer, offset, range.location.saturating_add(element));
        }
    }
    - c"setBufferOffset:atIndex:" (this, new: usize, index: usize) {
        this.check_index(index);
        match &mut this.bound().buffers[index] {
            Some(Binding::Buffer { allocation, offset, .. }) if new < allocation.length => *offset = new,
            Some(binding @ Binding::Buffer { .. }) => {
                fail!(this, "offset {new} at index {index} is beyond the end of {}", binding.name())
            }
            _ => fail!(this, "no buffer is bound at index {index}"),
        }
    }
    - c"setBytes:length:atIndex:" (this, bytes: *const c_void, length: usize, index: usize) {
        this.check_index(index);
        if length == 0 || length > BYTES {
            fail!(this, "{length} bytes at index {index}; 1 to {BYTES} can be set, more go into a buffer");
        }
        if bytes.is_null() {
            fail!(this, "{length} bytes at NULL");
        }
        // SAFETY: the sender says that so many bytes lie there.
        let copy = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) }.to_vec();
        this.bound().buffers[index] = Some(Binding::Bytes(copy));
    }
    - c"setThreadgroupMemoryLength:atIndex:" (this, length: usize, index: usize) {
        this.check_index(index);
        if !length.is_multiple_of(16) {
            fail!(this, "{length} bytes at index {index} are not a multiple of 16");
        }
        if length > THREADGROUP_MEMORY {
            fail!(this, "{length} bytes at index {index}; there are {THREADGROUP_MEMORY}");
        }
        this.bound().threadgroup[index] = length as u32;
    }
    - c"dispatchThreadgroups:threadsPerThreadgroup:" (this, grid: Size, group: Size) {
        this.dispatch(grid, Grid::Threadgroups, group);
    }
    - c"dispatchThreads:threadsPerThreadgroup:" (this, grid: Size, group: Size) {
        this.dispatch(grid, Grid::Threads, group);
    }
    - c"memoryBarrierWithScope:" (this, scope: usize) {
        if scope & 1 == 0 || scope > 7 {
            fail!(this, "scope {scope}; kernels here only have buffers (MTLBarrierScopeBuffers, 1)");
        }
        this.barrier();
    }
    - c"memoryBarrierWithResources:count:" (this, resources: *const Id, count: usize) {
        for element in 0..count {
            // SAFETY: the sender says that so many resources lie there.
            let resource = unsafe { resources.add(element).read().as_ref() };
            this.required(resource, "a resource").body::<Buffer>();
        }
        this.barrier();
    }
    - c"dispatchType" (this) -> usize { usize::from(this.concurrent) }
    - c"useResource:usage:" (this, resource: Option<&Object>, usage: usize) {
        this.encoding.check_open(|| this.method());
        this.encoding.buffer.keep(this.required(resource, "the resource"));
    }
    - c"pushDebugGroup:" (this, name: Option<&Object>) {
        this.required(name, "the name");
        this.encoding.push_group(this.method());
    }
    - c"popDebugGroup" (this) { this.encoding.pop_group(this.method()) }
    - c"insertDebugSignpost:" (this, name: Option<&Object>) { this.required(name, "the name"); }
    - c"endEncoding" (this) { this.encoding.end(this.method()) }
}
