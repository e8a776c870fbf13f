//! What one threadgroup did, access by access: for drawings and for the curious. Recorded where the checks look.

use super::check::Access;
use super::group::LANES;
use super::ir::{UPDATE, WRITE};

/// What threads did, in the order in which they ran: a lane goes on until it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// What was accessed, as messages call it: `buffer 1 `x``.
    pub memory: Vec<String>,
    /// All that happened.
    pub events: Vec<Event>,
}

/// One thing that one thread did, or that several did together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread is about to read or write.
    Access {
        /// Its index in the threadgroup.
        thread: u32,
        /// The line of the source, 0 if unknown.
        line: u32,
        /// Which of [`Trace::memory`].
        memory: usize,
        /// From the beginning of that memory, in bytes.
        offset: usize,
        /// In bytes.
        size: usize,
        /// Whether it writes; an atomic update does both.
        write: bool,
    },
    /// Lanes of a SIMD-group gave each other values: one round of `simd_sum` and the like.
    Exchange {
        /// The SIMD-group's index in the threadgroup.
        simdgroup: u32,
        /// Bit `i` is lane `i`.
        lanes: u32,
        /// What each gave, in bytes.
        size: usize,
        /// The line of the source, 0 if unknown.
        line: u32,
    },
    /// The lanes of a SIMD-group passed a `simdgroup_barrier`.
    SimdgroupBarrier {
        /// The SIMD-group's index in the threadgroup.
        simdgroup: u32,
    },
    /// All threads passed a `threadgroup_barrier`.
    Barrier {
        /// The line of the source, 0 if unknown.
        line: u32,
    },
}

/// What is being recorded, if anything is.
#[derive(Default)]
pub struct Recorder {
    /// The threadgroup that is wanted, by its position in the grid.
    wanted: Option<[u32; 3]>,
    on: bool,
    trace: Trace,
}

impl Recorder {
    pub fn want(&mut self, position: [u32; 3]) {
        *self = Recorder { wanted: Some(position), ..Recorder::default() };
    }

    /// What was recorded; nothing is any more.
    pub fn take(&mut self) -> Trace {
        std::mem::take(self).trace
    }

    pub fn begin_threadgroup(&mut self, position: [u32; 3]) {
        self.on = self.wanted == Some(position);
    }

    pub fn access(&mut self, thread: usize, label: &str, start: usize, access: Access) {
        if !self.on {
            return;
        }
        let memory = self.trace.memory.iter().position(|known| known == label).unwrap_or_else(|| {
            self.trace.memory.push(label.to_string());
            self.trace.memory.len() - 1
        });
        let Access { at, size, kind, line } = access;
        let write = kind & (WRITE | UPDATE) != 0;
        self.trace.events.push(Event::Access { thread: thread as u32, line, memory, offset: at - start, size, write });
    }

    pub fn exchange(&mut self, simdgroup: usize, lanes: u32, size: usize, line: u32) {
        if self.on {
            self.trace.events.push(Event::Exchange { simdgroup: simdgroup as u32, lanes, size, line });
        }
    }

    pub fn simdgroup_barrier(&mut self, simdgroup: usize) {
        if self.on {
            self.trace.events.push(Event::SimdgroupBarrier { simdgroup: simdgroup as u32 });
        }
    }

    pub fn barrier(&mut self, line: u32) {
        if self.on {
            self.trace.events.push(Event::Barrier { line });
        }
    }
}

impl Event {
    /// The SIMD-group that this happened in; `None` if in all.
    pub fn simdgroup(&self) -> Option<u32> {
        match *self {
            Event::Access { thread, .. } => Some(thread / LANES as u32),
            Event::Exchange { simdgroup, .. } | Event::SimdgroupBarrier { simdgroup } => Some(simdgroup),
            Event::Barrier { .. } => None,
        }
    }
}
