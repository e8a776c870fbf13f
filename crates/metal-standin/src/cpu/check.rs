//! What is checked: bounds, memory without a value, races, and dispatches that want a barrier.
//!
//! For every word that kernels can write there is a [`Shadow`]: who wrote it last, who read it last, and at what time of
//! their threadgroup. Time is counted in barriers. Two accesses of different threads, one of them a write, must have a
//! barrier between them that orders this memory: `threadgroup_barrier` between threads of a threadgroup,
//! `simdgroup_barrier` or an exchange between lanes of a SIMD-group, and nothing at all between threadgroups: what one
//! writes, another may touch only after a barrier between dispatches. Threads run in some order here, but
//! the rule does not ask for it: a race is found even when the order that was run gives the right result.

use super::fiber::Pages;
use super::group::LANES;
use super::ir::{ATOMIC, COPY, SPACE, UPDATE, WRITE};
use super::trace::Recorder;

/// Memory that a dispatch may access.
pub struct Region {
    pub start: usize,
    pub size: usize,
    /// 1 device or constant buffer, 2 constant variable, 3 threadgroup.
    pub space: u32,
    /// For messages.
    pub label: String,
    pub writable: bool,
    /// The buffer's; its shadow lives as long.
    pub allocation: Option<u64>,
}

/// How far the threads are apart that share a [`Record`].
const ONE_THREAD: u32 = 0;
const ONE_SIMDGROUP: u32 = 1;
const ONE_THREADGROUP: u32 = 2;
const MANY_THREADGROUPS: u32 = 3;

/// An access, in 16 bytes. All zeros: none.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Record {
    /// The threadgroup: they are numbered from 1 through all dispatches.
    group: u32,
    /// Threadgroup barriers that this threadgroup had passed.
    barriers: u32,
    /// Low 24 bits: barriers and exchanges that the SIMD-group had passed; then [`ONE_THREAD`] to
    /// [`MANY_THREADGROUPS`] (2 bits), whether it is atomic (1 bit), which bytes of the word (4 bits).
    packed: u32,
    thread: u16,
    line: u16,
}

impl Record {
    fn steps(self) -> u32 {
        self.packed & 0xff_ffff
    }

    fn spread(self) -> u32 {
        self.packed >> 24 & 3
    }

    fn atomic(self) -> bool {
        self.packed >> 26 & 1 != 0
    }

    fn bytes(self) -> u32 {
        self.packed >> 28
    }

    fn simdgroup(self) -> u16 {
        self.thread / LANES as u16
    }

    // ANCHOR: concurrent
    /// Whether nothing orders this access before `now`. `first` is the first threadgroup after the
    /// last barrier between dispatches.
    fn concurrent(self, now: Record, first: u32) -> bool {
        if self.group < first {
            return false;
        }
        if self.group != now.group || self.spread() == MANY_THREADGROUPS {
            return true;
        }
        if self.barriers < now.barriers || (self.spread() == ONE_THREAD && self.thread == now.thread) {
            return false;
        }
        let same = self.spread() <= ONE_SIMDGROUP && self.simdgroup() == now.simdgroup();
        !(same && self.steps() < now.steps())
    }
    // ANCHOR_END: concurrent

    /// Whether the two may not be concurrent.
    fn clashes(self, now: Record) -> bool {
        self.bytes() & now.bytes() != 0 && !(self.atomic() && now.atomic())
    }

    /// `now`, and what it must remember of this earlier access of the same sort.
    fn then(self, now: Record, first: u32) -> Record {
        if !self.concurrent(now, first) {
            let same = self.group == now.group && self.barriers == now.barriers && self.thread == now.thread;
            let kept = if same && self.spread() == ONE_THREAD { self.packed & 0xf << 28 } else { 0 };
            return Record { packed: now.packed | kept, ..now };
        }
        if self.bytes() & now.bytes() == 0 {
            // Of two threads that read different bytes of a word only the last is remembered: better a race not found
            // than one that is none.
            return now;
        }
        let spread = match self {
            _ if self.group != now.group => MANY_THREADGROUPS,
            _ if self.simdgroup() != now.simdgroup() => ONE_THREADGROUP.max(self.spread()),
            _ => ONE_SIMDGROUP.max(self.spread()),
        };
        let bytes = (self.bytes() | now.bytes()) << 28;
        let atomic = u32::from(self.atomic() && now.atomic()) << 26;
        Record { packed: now.steps().max(self.steps()) | spread << 24 | atomic | bytes, ..self }
    }
}

/// What is known of one word.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Word {
    write: Record,
    read: Record,
}

/// The words of one buffer, or of one piece of threadgroup memory.
struct Shadow {
    allocation: Option<u64>,
    /// Zeroed, and made when touched.
    pages: Pages,
    /// For threadgroup memory, each byte: the threadgroup that gave it a value.
    values: Vec<u32>,
}

/// Bytes in a word of device memory.
const DEVICE_WORD: usize = 4;
/// Bytes in a word of threadgroup memory: neighbours in an array of `half` belong to different threads.
const THREADGROUP_WORD: usize = 2;

/// Counts of barriers, for device and for threadgroup memory: `mem_flags` says which a barrier orders.
type Clock = [u32; 2];

fn tick(clock: &mut Clock, flags: u32) {
    clock[0] += flags & 1;
    clock[1] += flags >> 1 & 1;
}

/// What a thread is about to do.
#[derive(Clone, Copy)]
pub struct Access {
    pub at: usize,
    pub size: usize,
    /// Bits of [`super::ir`].
    pub kind: u32,
    /// Of the source, 0 if unknown.
    pub line: u32,
}

/// All that the checks remember.
pub struct Checks {
    regions: Vec<Region>,
    /// The shadow of each region, if it has one.
    shadow_of: Vec<Option<usize>>,
    /// The region found last: the next access is likely there.
    recent: usize,
    shadows: Vec<Shadow>,
    /// The dispatches since the last barrier: first threadgroup and kernel.
    dispatches: Vec<(u32, String)>,
    /// Positions of the threadgroups since the last barrier.
    positions: Vec<[u32; 3]>,
    /// The first threadgroup since the last barrier between dispatches.
    first: u32,
    /// The threadgroup that runs.
    group: u32,
    barriers: Clock,
    steps: [Clock; 1024 / LANES],
    pub recorder: Recorder,
}

impl Checks {
    pub fn new() -> Checks {
        Checks {
            regions: Vec::new(),
            shadow_of: Vec::new(),
            recent: 0,
            shadows: Vec::new(),
            dispatches: Vec::new(),
            positions: Vec::new(),
            first: 1,
            group: 0,
            barriers: Clock::default(),
            steps: Default::default(),
            recorder: Recorder::default(),
        }
    }

    /// A barrier between dispatches: what was done before is in the past.
    pub fn begin_span(&mut self) {
        self.dispatches.clear();
        self.positions.clear();
        if self.group > u32::MAX / 2 {
            self.shadows.clear();
            self.group = 0;
        }
        self.first = self.group + 1;
    }

    pub fn begin_dispatch(&mut self, kernel: &str, regions: Vec<Region>) -> Result<(), String> {
        self.dispatches.push((self.group + 1, kernel.to_string()));
        // Threadgroup memory has a new place; no one remembers the old.
        self.shadows.retain(|shadow| shadow.allocation.is_some());
        self.shadow_of.clear();
        for region in &regions {
            let known = self.shadows.iter().position(|shadow| shadow.allocation == region.allocation);
            let shadow = match (region.allocation, known) {
                _ if !region.writable => None,
                (Some(_), Some(known)) => Some(known),
                (allocation, _) => {
                    let word = if region.space == 3 { THREADGROUP_WORD } else { DEVICE_WORD };
                    let pages = Pages::new(region.size.div_ceil(word) * size_of::<Word>())?;
                    let values = if region.space == 3 { vec![0; region.size] } else { Vec::new() };
                    self.shadows.push(Shadow { allocation, pages, values });
                    Some(self.shadows.len() - 1)
                }
            };
            self.shadow_of.push(shadow);
        }
        self.regions = regions;
        self.recent = 0;
        Ok(())
    }

    pub fn begin_threadgroup(&mut self, position: [u32; 3]) {
        self.group += 1;
        self.recorder.begin_threadgroup(position);
        self.positions.push(position);
        self.barriers = Clock::default();
        self.steps = Default::default();
    }

    /// The buffer is gone.
    pub fn forget(&mut self, allocation: u64) {
        self.shadows.retain(|shadow| shadow.allocation != Some(allocation));
    }

    pub fn threadgroup_barrier(&mut self, flags: u32) {
        tick(&mut self.barriers, flags);
    }

    pub fn simdgroup_barrier(&mut self, simdgroup: usize, flags: u32) {
        tick(&mut self.steps[simdgroup], flags);
    }

    /// Checks an access before it is made, by the thread with this index in the threadgroup. `Err` continues a sentence
    /// that starts with the thread.
    pub fn access(&mut self, thread: usize, access: Access) -> Result<(), String> {
        let Access { at, size, kind, line } = access;
        if size == 0 {
            return Ok(());
        }
        let inside =
            |region: &Region| at >= region.start && size <= region.size && at - region.start <= region.size - size;
        if !self.regions.get(self.recent).is_some_and(inside) {
            match self.regions.iter().position(inside) {
                Some(found) => self.recent = found,
                None => return Err(self.outside(access)),
            }
        }
        let region = &self.regions[self.recent];
        self.recorder.access(thread, &region.label, region.start, access);
        if kind & WRITE != 0 && !region.writable {
            let what = self.describe(self.recent, access);
            return Err(format!("{what}, which kernels must not write to"));
        }
        let Some(shadow) = self.shadow_of[self.recent] else { return Ok(()) };
        let (offset, local) = (at - region.start, region.space == 3);
        if local {
            self.value(shadow, offset, access)?;
        }
        let word = if local { THREADGROUP_WORD } else { DEVICE_WORD };
        // Each threadgroup has threadgroup memory of its own.
        let first = if local { self.group } else { self.first };
        let clock = usize::from(local);
        let steps = self.steps[thread / LANES][clock].min(0xff_ffff);
        let mut now = Record {
            group: self.group,
            barriers: self.barriers[clock],
            packed: 0,
            thread: thread as u16,
            line: line.min(u32::from(u16::MAX)) as u16,
        };
        let words = self.shadows[shadow].pages.start().cast::<Word>();
        let end = offset + size;
        for index in offset / word..end.div_ceil(word) {
            let (from, to) = (offset.saturating_sub(index * word), (end - index * word).min(word));
            let bytes = (1_u32 << to) - (1 << from);
            now.packed = steps | u32::from(kind & ATOMIC != 0) << 26 | bytes << 28;
            // SAFETY: the shadow has a word for every word of its region; zeros are a valid `Word`.
            let word = unsafe { &mut *words.add(index) };
            let clash = |record: Record| record.concurrent(now, first) && record.clashes(now);
            if clash(word.write) {
                return Err(self.race(word.write, "wrote", now, access));
            }
            if kind & WRITE != 0 {
                if clash(word.read) {
                    return Err(self.race(word.read, "read", now, access));
                }
                // Where the two are concurrent they wrote different bytes, or are atomic: the last is remembered.
                word.write = match word.write.concurrent(now, first) {
                    true => now,
                    false => word.write.then(now, first),
                };
            } else {
                word.read = word.read.then(now, first);
            }
        }
        Ok(())
    }

    /// Notes that threadgroup memory has a value, or finds that it has none.
    fn value(&mut self, shadow: usize, offset: usize, access: Access) -> Result<(), String> {
        let Access { size, kind, .. } = access;
        let values = &mut self.shadows[shadow].values[offset..offset + size];
        let missing = values.iter().filter(|&&value| value != self.group).count();
        let reads = kind & WRITE == 0 || kind & UPDATE != 0;
        // A copied structure may have padding that no one writes.
        if reads && (missing == size || (missing > 0 && kind & COPY == 0)) {
            let what = self.describe(self.recent, access);
            return Err(format!("{what}, to which no thread of this threadgroup has written yet"));
        }
        if kind & WRITE != 0 {
            values.fill(self.group);
        }
        Ok(())
    }

    /// `reads 4 bytes at offset 128 of buffer 0 `x` (line 7)`.
    fn describe(&self, region: usize, access: Access) -> String {
        let Access { at, size, kind, line } = access;
        let verb = match kind & (WRITE | UPDATE) {
            0 => "reads",
            WRITE => "writes",
            _ => "updates",
        };
        let region = &self.regions[region];
        let offset = at as i128 - region.start as i128;
        format!("{verb} {size} bytes at offset {offset} of {}{}", region.label, at_line(line))
    }

    #[cold]
    fn outside(&self, access: Access) -> String {
        let Access { at, size, kind, line } = access;
        // The nearest region of the same sort is the one that was meant.
        let local = kind >> SPACE == 3;
        let near = |region: &Region| {
            (at as i128 - region.start as i128).abs().min((at as i128 - (region.start + region.size) as i128).abs())
        };
        let candidates = (0..self.regions.len()).filter(|&index| (self.regions[index].space == 3) == local);
        match candidates.min_by_key(|&index| near(&self.regions[index])) {
            Some(index) => {
                let length = self.regions[index].size;
                format!("{}, which has {length} bytes", self.describe(index, access))
            }
            None => format!("accesses {size} bytes at {at:#x}{}, but nothing is bound", at_line(line)),
        }
    }

    #[cold]
    fn race(&self, other: Record, did: &str, now: Record, access: Access) -> String {
        let what = self.describe(self.recent, access);
        let there = at_line(u32::from(other.line));
        let dispatch = |group: u32| self.dispatches.partition_point(|&(first, _)| first <= group) - 1;
        let (theirs, ours) = (dispatch(other.group), dispatch(now.group));
        let thread = other.thread;
        if theirs != ours {
            let kernel = &self.dispatches[theirs].1;
            return format!(
                "{what}, which kernel `{kernel}` {did}{there}: there is no barrier between the two dispatches"
            );
        }
        if other.group != now.group {
            let position = self.positions[(other.group - self.first) as usize];
            return format!(
                "{what}, which thread {thread} of threadgroup {position:?} {did}{there}: threadgroups of a dispatch run \
                 in any order"
            );
        }
        if other.spread() == MANY_THREADGROUPS {
            return format!("{what}, which several threadgroups {did}{there}: they run in any order");
        }
        let flag = if access.kind >> SPACE == 3 { "mem_threadgroup" } else { "mem_device" };
        let others = if other.spread() == ONE_THREAD { "" } else { " and others" };
        format!(
            "(thread {} of its threadgroup) {what}, which thread {thread}{others} {did}{there}: there is no barrier \
             with {flag} between the two",
            now.thread
        )
    }
}

fn at_line(line: u32) -> String {
    if line == 0 { String::new() } else { format!(" (line {line})") }
}
