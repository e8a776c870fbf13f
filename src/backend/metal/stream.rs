//! Commands on their way to the GPU.
//!
//! Operations are not run but *encoded*: written into a command buffer, which runs when somebody wants to see a result. A
//! token is one command buffer. Within it the GPU may run dispatches at the same time or in any order, except across a
//! **barrier**. The rule that places them: a dispatch needs one before it if, since the last barrier, something wrote what it
//! reads or writes, or something read what it writes. Dispatches that touch nothing of each other overlap: the projections of
//! one input, the keys and the values.
//!
//! Each thread that encodes has a stream of its own. A forward pass encodes on one thread and ends by sending its command buffer
//! off, so two sessions never share one, and a failure belongs to the one whose work it was. What was [`Sent`] is waited for at
//! once, or, where the next token does not depend on what the processor would do with this one, after that was sent too:
//! then the GPU always has work. Metal runs command buffers in the order in which they were sent, each after what those
//! before it have written can be seen.

use super::library::{Kernel, Library};
use super::objc::{
    BARRIER_BUFFERS, DISPATCH_CONCURRENT, MTLBuffer, MTLCommandBuffer, MTLCommandQueue, MTLComputeCommandEncoder,
    Object, STATUS_COMPLETED, Size, pool,
};
use crate::backend::Counters;

/// GPU memory with a number, by which the barrier rule knows it.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) buffer: Object<MTLBuffer>,
    pub(super) id: u64,
}

/// An argument of a kernel, in the order of its buffer indices.
pub(super) enum Arg<'a> {
    /// Small values, copied into the command buffer: at most 4 KiB.
    Bytes(&'a [u8]),
    /// Memory that no kernel writes, from a byte on.
    Constant(&'a Object<MTLBuffer>, u64),
    /// Memory that is read.
    In(&'a Memory),
    /// Memory that is written, and perhaps read.
    Out(&'a Memory),
}

/// How many threads: threadgroups along x, y, z, and the threads of each, along x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) groups: [usize; 3],
    pub(super) threads: usize,
}

impl Grid {
    // ANCHOR: threads
    /// At least `threads` threads, in threadgroups of 256; the kernel leaves out those that are too many.
    pub(super) fn threads(threads: usize) -> Self {
        Self { groups: [threads.div_ceil(256), 1, 1], threads: 256 }
    }
    // ANCHOR_END: threads

    /// This many threadgroups of so many threads.
    pub(super) fn groups(x: usize, y: usize, threads: usize) -> Self {
        Self { groups: [x, y, 1], threads }
    }
}

/// One thread's commands.
#[derive(Default)]
pub(super) struct Stream {
    open: Option<Open>,
    /// Why nothing more is encoded, until somebody waits and is told.
    failure: Option<String>,
    pub(super) counters: Counters,
}

/// A command buffer that is being written.
struct Open {
    commands: Object<MTLCommandBuffer>,
    encoder: Object<MTLComputeCommandEncoder>,
    /// Numbers of the memory that has been read and written since the last barrier.
    read: Vec<u64>,
    written: Vec<u64>,
}

impl Stream {
    /// Encodes a kernel; what goes wrong is said by [`send`](Self::send).
    pub(super) fn dispatch(
        &mut self,
        queue: &Object<MTLCommandQueue>,
        library: &Library,
        kernel: &Kernel,
        arguments: &[Arg<'_>],
        grid: Grid,
    ) {
        if self.failure.is_none()
            && grid.groups.iter().all(|&n| n > 0)
            && let Err(message) = pool(|| self.encode(queue, library, kernel, arguments, grid))
        {
            self.failure = Some(message);
        }
    }

    /// Makes [`send`](Self::send) fail, unless it already will.
    pub(super) fn fail(&mut self, message: String) {
        self.failure.get_or_insert(message);
    }

    fn encode(
        &mut self,
        queue: &Object<MTLCommandQueue>,
        library: &Library,
        kernel: &Kernel,
        arguments: &[Arg<'_>],
        Grid { groups, threads }: Grid,
    ) -> Result<(), String> {
        let pipeline = library.pipeline(kernel)?;
        if threads as u64 > pipeline.max_threads {
            let most = pipeline.max_threads;
            return Err(format!("kernel {}: {threads} threads in a threadgroup, this device runs {most}", kernel.name));
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::new(queue)?),
        };
        if open.needs_barrier(arguments) {
            open.encoder.memory_barrier(BARRIER_BUFFERS);
            open.read.clear();
            open.written.clear();
            self.counters.barriers += 1;
        }
        // ANCHOR: dispatch
        open.encoder.set_pipeline(&pipeline.state);
        for (index, argument) in (0..).zip(arguments) {
            match argument {
                Arg::Bytes(bytes) => open.encoder.set_bytes(bytes, index),
                Arg::Constant(buffer, offset) => open.encoder.set_buffer(buffer, *offset, index),
                Arg::In(memory) => {
                    open.encoder.set_buffer(&memory.buffer, 0, index);
                    open.read.push(memory.id);
                }
                Arg::Out(memory) => {
                    open.encoder.set_buffer(&memory.buffer, 0, index);
                    open.written.push(memory.id);
                }
            }
        }
        let [width, height, depth] = groups.map(|n| n as u64);
        let threads = Size { width: threads as u64, height: 1, depth: 1 };
        open.encoder.dispatch_threadgroups(Size { width, height, depth }, threads);
        // ANCHOR_END: dispatch
        self.counters.dispatches += 1;
        Ok(())
    }

    /// Sends off what has been encoded, if there is anything.
    pub(super) fn send(&mut self) -> Result<Option<Sent>, String> {
        let Some(open) = self.open.take() else { return self.failure.take().map_or(Ok(None), Err) };
        pool(|| {
            open.encoder.end_encoding();
            if let Some(message) = self.failure.take() {
                // Half a forward pass helps nobody: the command buffer is dropped as it is.
                return Err(message);
            }
            open.commands.commit();
            Ok(Some(Sent(open.commands)))
        })
    }
}

/// Commands that the GPU has been given. They are waited for in any case, at last by dropping this: a command buffer keeps
/// Metal's buffers alive, but not the mapped file behind one.
pub(super) struct Sent(Object<MTLCommandBuffer>);

impl Sent {
    /// Waits until all has run; how long the GPU was at work, in seconds.
    pub(super) fn wait(self) -> Result<f64, String> {
        let commands = &self.0;
        pool(|| {
            commands.wait_until_completed();
            let status = commands.status();
            if status != STATUS_COMPLETED {
                let reason = commands.error().map(|error| error.message());
                let reason = reason.unwrap_or_else(|| format!("it ended with status {status}"));
                return Err(format!("the GPU did not run the command buffer: {reason}"));
            }
            Ok(commands.gpu_end_time() - commands.gpu_start_time())
        })
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        pool(|| self.0.wait_until_completed());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Metal wants every encoder ended, also that of a command buffer which will never run.
        if let Some(open) = &self.open {
            open.encoder.end_encoding();
        }
    }
}

impl Open {
    fn new(queue: &Object<MTLCommandQueue>) -> Result<Self, String> {
        let commands = queue.command_buffer().ok_or("Metal gave no command buffer")?;
        let encoder = commands.compute_command_encoder(DISPATCH_CONCURRENT).ok_or("Metal gave no command encoder")?;
        Ok(Self { commands, encoder, read: Vec::new(), written: Vec::new() })
    }

    // ANCHOR: needs_barrier
    fn needs_barrier(&self, arguments: &[Arg<'_>]) -> bool {
        arguments.iter().any(|argument| match argument {
            Arg::Bytes(_) | Arg::Constant(..) => false,
            Arg::In(memory) => self.written.contains(&memory.id),
            Arg::Out(memory) => self.written.contains(&memory.id) || self.read.contains(&memory.id),
        })
    }
    // ANCHOR_END: needs_barrier
}
