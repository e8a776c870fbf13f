//! `MTLCommandQueue` and `MTLCommandBuffer`: in what order things run, and who waits for whom.
//!
//! Encoders write commands into a command buffer. `commit` puts it in the queue's line (`enqueue` reserves a place
//! before that), and the front of the line goes to the executor as soon as it is committed. Nothing watches the executor:
//! a command buffer completes when somebody asks about it (`waitUntilCompleted`, `status`, …), and with it those before it.
//! Until then it keeps what it uses alive, and the line keeps it alive, as at Apple's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::blit::BlitEncoder;
use super::buffer::{Buffer, Use};
use super::encoder::ComputeEncoder;
use super::event::SharedEvent;
use super::fault;
use super::foundation::error;
use super::residency::ResidencySet;
use crate::executor::{Command, Executor, Ticket, Timing};
use crate::objc::class::class;
use crate::objc::failure::fail;
use crate::objc::object::{Body, Handle, Id, Object, Retained};

/// The line of a queue's command buffers.
pub(crate) struct Line {
    executor: &'static dyn Executor,
    /// Command buffers that may exist and not have completed.
    maximum: usize,
    state: Mutex<LineState>,
    /// Held by who completes command buffers, so that they complete in order.
    turn: Mutex<()>,
}

#[derive(Default)]
struct LineState {
    /// Enqueued or committed, oldest first.
    waiting: VecDeque<Retained<CommandBuffer>>,
    /// Made and not completed.
    unfinished: usize,
    /// The queue is gone: nobody else will ask about what is committed now.
    closed: bool,
}

impl Line {
    fn enqueue(&self, buffer: &Object) {
        self.state.lock().unwrap().waiting.push_back(Retained::of(buffer));
    }

    /// Hands over what is committed and has only committed ones before it.
    fn submit(&self) {
        let line = self.state.lock().unwrap();
        for buffer in &line.waiting {
            let mut recording = buffer.recording.lock().unwrap();
            match recording.stage {
                Stage::Committed => {
                    let mut commands = std::mem::take(&mut recording.commands);
                    recording.is_faulty = recording.computes && fault::is_due();
                    if recording.is_faulty {
                        commands.clear();
                    }
                    recording.stage = Stage::Submitted(Some(self.executor.submit(commands)));
                }
                Stage::NotEnqueued | Stage::Enqueued => break,
                Stage::Submitted(_) | Stage::Completed(_) | Stage::Failed(..) => {}
            }
        }
        let closed = line.closed;
        drop(line);
        if closed {
            while self.finish_one() {}
        }
    }

    /// Waits for the front of the line; false when there is none that runs.
    pub fn finish_one(&self) -> bool {
        let turn = self.turn.lock().unwrap();
        let Some(front) = self.state.lock().unwrap().waiting.front().cloned() else { return false };
        let ticket = match &mut front.recording().stage {
            Stage::Submitted(ticket) => ticket.take(),
            _ => None,
        };
        let Some(ticket) = ticket else { return false };
        let outcome = self.executor.wait(ticket).map_err(|message| (1, message)); // MTLCommandBufferErrorInternal
        let outcome = if front.recording().is_faulty { Err((fault::ERROR.0, fault::ERROR.1.into())) } else { outcome };
        let kept = front.finish(outcome);
        let mut line = self.state.lock().unwrap();
        let popped = line.waiting.pop_front();
        line.unfinished -= 1;
        drop((line, turn));
        drop((popped, kept)); // outside the locks: the last count of something may be among them
        true
    }
}

/// The body of a queue.
pub(crate) struct Queue(Arc<Line>);

impl Body for Queue {
    const CLASS: &'static str = "MTLCommandQueue";
}

impl Queue {
    pub fn new(executor: &'static dyn Executor, maximum: usize) -> Self {
        Self(Arc::new(Line { executor, maximum, state: Mutex::default(), turn: Mutex::default() }))
    }

    /// A command buffer, once there is room for one.
    fn command_buffer(&self, method: String, retains: bool) -> Id {
        let line = &self.0;
        while line.state.lock().unwrap().unfinished >= line.maximum {
            if !line.finish_one() {
                let maximum = line.maximum;
                fail!("{method}: {maximum} command buffers of this queue exist and none runs: it would wait for ever");
            }
        }
        line.state.lock().unwrap().unfinished += 1;
        let recording = Recording::default();
        Retained::new(CommandBuffer { line: line.clone(), retains, recording: Mutex::new(recording) }).autorelease()
    }
}

impl Drop for Queue {
    /// What was committed still completes, although nobody asks any more.
    fn drop(&mut self) {
        while self.0.finish_one() {}
        let mut line = self.0.state.lock().unwrap();
        line.closed = true;
        let reserved = std::mem::take(&mut line.waiting);
        drop(line);
        drop(reserved);
    }
}

class! { mtl_command_queue, Queue, "MTLCommandQueue": "MTLObject";
    - c"commandBuffer" (this) -> Id { this.command_buffer(this.method(), true) }
    - c"commandBufferWithUnretainedReferences" (this) -> Id { this.command_buffer(this.method(), false) }
    - c"addResidencySet:" (this, set: Option<&Object>) { this.required(set, "the set").body::<ResidencySet>(); }
    - c"removeResidencySet:" (this, set: Option<&Object>) { this.required(set, "the set").body::<ResidencySet>(); }
}

/// The body of a command buffer.
pub(crate) struct CommandBuffer {
    pub line: Arc<Line>,
    retains: bool,
    recording: Mutex<Recording>,
}

impl Body for CommandBuffer {
    const CLASS: &'static str = "MTLCommandBuffer";
}

/// What has been encoded, and how far it has come.
#[derive(Default)]
pub(crate) struct Recording {
    stage: Stage,
    pub commands: Vec<Command>,
    /// Whether it has, or had, a compute encoder.
    computes: bool,
    /// Whether it is made to fail.
    is_faulty: bool,
    kept: Vec<Kept>,
    signals: Vec<(Retained<SharedEvent>, u64)>,
    /// The class of the encoder that is open.
    pub open: Option<&'static str>,
}

/// What a command buffer needs until it has completed.
#[expect(dead_code, reason = "kept, never read")]
enum Kept {
    Object(Handle),
    Unretained(Use),
}

#[derive(Default)]
enum Stage {
    #[default]
    NotEnqueued,
    Enqueued,
    Committed,
    /// The ticket is there until somebody waits with it.
    Submitted(Option<Ticket>),
    Completed(Timing),
    /// `MTLCommandBufferError`, and a sentence.
    Failed(isize, String),
}

impl Stage {
    /// `MTLCommandBufferStatus`.
    fn status(&self) -> usize {
        match self {
            Stage::NotEnqueued => 0,
            Stage::Enqueued => 1,
            Stage::Committed => 2,
            Stage::Submitted(_) => 3,
            Stage::Completed(_) => 4,
            Stage::Failed(..) => 5,
        }
    }
}

impl Recording {
    /// Separates what comes now from what has been encoded.
    pub fn barrier(&mut self) {
        if matches!(self.commands.last(), Some(Command::Dispatch(_))) {
            self.commands.push(Command::Barrier);
        }
    }
}

impl CommandBuffer {
    pub fn executor(&self) -> &'static dyn Executor {
        self.line.executor
    }

    pub fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap()
    }

    /// Begins an encoder.
    fn open(&self, method: String, class: &'static str) {
        let mut recording = self.recording();
        if let Some(other) = recording.open {
            fail!("{method}: an {other} of this command buffer is open: send it endEncoding first");
        }
        if recording.stage.status() >= 2 {
            fail!("{method}: the command buffer was committed");
        }
        recording.barrier();
        recording.open = Some(class);
        recording.computes |= class == ComputeEncoder::CLASS;
    }

    /// Notes that a buffer, a pipeline, … is used.
    pub fn keep(&self, object: &Object) {
        let kept = match (self.retains, object.body_if::<Buffer>()) {
            (true, _) => Kept::Object(Handle::of(object)),
            (false, Some(buffer)) => Kept::Unretained(buffer.used()),
            (false, None) => return, // a pipeline: the command itself holds what runs
        };
        self.recording().kept.push(kept);
    }

    /// Called once, in order. What was kept is the caller's to drop.
    fn finish(&self, outcome: Result<Timing, (isize, String)>) -> Vec<Kept> {
        let mut recording = self.recording();
        let failed = outcome.is_err();
        recording.stage = outcome.map_or_else(|(code, message)| Stage::Failed(code, message), Stage::Completed);
        for (event, value) in recording.signals.drain(..).filter(|_| !failed) {
            event.signal(value);
        }
        std::mem::take(&mut recording.kept)
    }

    /// Waits, if it runs. True when it is over.
    fn is_over(&self) -> bool {
        loop {
            match self.recording().stage {
                Stage::Completed(_) | Stage::Failed(..) => return true,
                Stage::NotEnqueued | Stage::Enqueued => return false,
                Stage::Committed | Stage::Submitted(_) => {}
            }
            if !self.line.finish_one() {
                // Another thread may just have finished it; otherwise it is behind one that is not committed.
                return matches!(self.recording().stage, Stage::Completed(_) | Stage::Failed(..));
            }
        }
    }

    fn timing(&self) -> Timing {
        self.is_over();
        match self.recording().stage {
            Stage::Completed(timing) => timing,
            _ => Timing { start: 0.0, end: 0.0 },
        }
    }
}

impl Drop for CommandBuffer {
    fn drop(&mut self) {
        if self.recording().stage.status() < 4 {
            self.line.state.lock().unwrap().unfinished -= 1;
        }
    }
}

class! { mtl_command_buffer, CommandBuffer, "MTLCommandBuffer": "MTLObject";
    - c"computeCommandEncoder" (this) -> Id {
        this.open(this.method(), "MTLComputeCommandEncoder");
        Retained::new(ComputeEncoder::new(Retained::of(this.object), false)).autorelease()
    }
    - c"computeCommandEncoderWithDispatchType:" (this, kind: usize) -> Id {
        if kind > 1 {
            fail!(this, "{kind} is not a dispatch type: serial 0, concurrent 1");
        }
        this.open(this.method(), "MTLComputeCommandEncoder");
        Retained::new(ComputeEncoder::new(Retained::of(this.object), kind == 1)).autorelease()
    }
    - c"blitCommandEncoder" (this) -> Id {
        this.open(this.method(), "MTLBlitCommandEncoder");
        Retained::new(BlitEncoder::new(Retained::of(this.object))).autorelease()
    }
    - c"encodeSignalEvent:value:" (this, event: Option<&Object>, value: u64) {
        let event = Retained::<SharedEvent>::of(this.required(event, "the event"));
        if this.recording().open.is_some() || this.recording().stage.status() >= 2 {
            fail!(this, "events are encoded between encoders, before commit");
        }
        event.promised_by(&this.line);
        this.recording().signals.push((event, value));
    }
    - c"enqueue" (this) {
        let mut recording = this.recording();
        match recording.stage {
            Stage::NotEnqueued => recording.stage = Stage::Enqueued,
            _ => fail!(this, "the command buffer was enqueued or committed before"),
        }
        drop(recording);
        this.line.enqueue(this.object);
    }
    - c"commit" (this) {
        let mut recording = this.recording();
        if let Some(open) = recording.open {
            fail!(this, "an {open} of this command buffer is open: send it endEncoding first");
        }
        let enqueued = match std::mem::replace(&mut recording.stage, Stage::Committed) {
            Stage::NotEnqueued => false,
            Stage::Enqueued => true,
            _ => fail!(this, "the command buffer was committed before; it runs once"),
        };
        drop(recording);
        if !enqueued {
            this.line.enqueue(this.object);
        }
        this.line.submit();
    }
    - c"waitUntilScheduled" (this) {
        if this.recording().stage.status() < 2 {
            fail!(this, "the command buffer was not committed: it would wait for ever");
        }
    }
    - c"waitUntilCompleted" (this) {
        if this.recording().stage.status() < 2 {
            fail!(this, "the command buffer was not committed: it would wait for ever");
        }
        if !this.is_over() {
            fail!(this, "a command buffer enqueued before this one was not committed: it would wait for ever");
        }
    }
    // Asking is waiting: nothing else makes time pass here, and a program may ask until it is over.
    - c"status" (this) -> usize {
        this.is_over();
        this.recording().stage.status()
    }
    - c"error" (this) -> Id {
        this.is_over();
        match &this.recording().stage {
            Stage::Failed(code, message) => error("MTLCommandBufferErrorDomain", *code, message).autorelease(),
            _ => std::ptr::null(),
        }
    }
    - c"retainedReferences" (this) -> bool { this.retains }
    - c"GPUStartTime" (this) -> f64 { this.timing().start }
    - c"GPUEndTime" (this) -> f64 { this.timing().end }
    - c"kernelStartTime" (this) -> f64 { this.timing().start }
    - c"kernelEndTime" (this) -> f64 { this.timing().end }
    - c"pushDebugGroup:" (this, name: Option<&Object>) { this.required(name, "the name"); }
    - c"popDebugGroup" (this) {}
}
