//! One threadgroup: its threads as fibers, and the places where they meet.
//!
//! A SIMD-group's lanes run one after the other, each until it waits or ends; the fiber that stops switches to the next
//! lane directly. When no lane can go on, `run_simdgroup` (on the host's stack) looks at what they wait for and lets
//! them pass. When all SIMD-groups wait at a threadgroup barrier, `run` opens it. Nothing depends on time: the
//! same dispatch always runs in the same order.

use std::arch::naked_asm;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Range;

use super::check::Checks;
use super::fiber::{Context, Stacks, switch};

/// Lanes in a SIMD-group.
pub const LANES: usize = 32;

/// `struct msl_bindings`: what a kernel's entry finds its arguments in.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Bindings {
    pub buffer: [*mut c_void; 31],
    pub threadgroup: [*mut c_void; 31],
}

impl Default for Bindings {
    fn default() -> Bindings {
        Bindings { buffer: [std::ptr::null_mut(); 31], threadgroup: [std::ptr::null_mut(); 31] }
    }
}

/// `struct msl_thread`: the built-in inputs of one thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread {
    pub position_in_grid: [u32; 3],
    pub threadgroup_position: [u32; 3],
    pub position_in_threadgroup: [u32; 3],
    pub threads_per_grid: [u32; 3],
    pub threads_per_threadgroup: [u32; 3],
    pub dispatch_threads_per_threadgroup: [u32; 3],
    pub threadgroups_per_grid: [u32; 3],
    pub index_in_threadgroup: u32,
    pub index_in_simdgroup: u32,
    pub simdgroup_index: u32,
    pub simdgroups_per_threadgroup: u32,
    pub threads_per_simdgroup: u32,
}

/// A kernel's entry point.
pub type Entry = unsafe extern "C" fn(*const Bindings, *const Thread);

/// What a thread is doing. `site` is the address that a call returns to: it tells one barrier from another.
#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Ready,
    Barrier { scope: u32, flags: u32, site: usize, line: u32 },
    Exchange { site: usize, bytes: usize, mine: *const u8, all: *mut u8 },
    Done,
}

/// `scope` of `msl_barrier`.
const SIMDGROUP: u32 = 0;

struct Lane {
    context: Cell<Context>,
    state: Cell<State>,
    /// The lanes that took part in the last exchange.
    mask: Cell<u32>,
}

/// A threadgroup's fibers, used again for every threadgroup that a worker runs.
pub struct Group {
    stacks: Stacks,
    lanes: Vec<Lane>,
    pub threads: Vec<Thread>,
    pub bindings: Bindings,
    /// The order in which threads run: SIMD-groups one after the other, each a contiguous piece.
    order: Vec<u16>,
    /// Where in `order` each SIMD-group's lanes are.
    pieces: Vec<Range<usize>>,
    entry: Option<Entry>,
    host: Cell<Context>,
    /// Index in `order` of the thread that is running.
    position: Cell<usize>,
    /// Source line of the last instrumented call, 0 if unknown.
    line: Cell<u32>,
    fault: Cell<Option<String>>,
    pub checks: Option<RefCell<Checks>>,
}

// SAFETY: the pointers are to fibers' stacks, which the group owns and which run only inside `run`.
unsafe impl Send for Group {}

thread_local! {
    /// The group whose fibers run on this system thread; what a hook belongs to.
    static CURRENT: Cell<*const Group> = const { Cell::new(std::ptr::null()) };
}

impl Group {
    pub fn new() -> Result<Group, String> {
        Ok(Group {
            stacks: Stacks::new(0, 0)?,
            lanes: Vec::new(),
            threads: Vec::new(),
            bindings: Bindings::default(),
            order: Vec::new(),
            pieces: Vec::new(),
            entry: None,
            host: Cell::new(std::ptr::null_mut()),
            position: Cell::new(0),
            line: Cell::new(0),
            fault: Cell::new(None),
            checks: None,
        })
    }

    /// Makes room for `threads` fibers with `stack` bytes each that run `entry`.
    pub fn prepare(&mut self, entry: Entry, threads: usize, stack: usize) -> Result<(), String> {
        self.entry = Some(entry);
        if self.stacks.count() < threads || self.stacks.bytes() < stack {
            let count = threads.max(self.stacks.count()).next_multiple_of(LANES);
            self.stacks = Stacks::new(count, stack.max(self.stacks.bytes()))?;
            self.renew();
        }
        Ok(())
    }

    /// Fresh fibers: at the start, and after a fault left some in the middle of a kernel. Those frames hold nothing that
    /// must be dropped.
    fn renew(&mut self) {
        self.lanes.clear();
        self.lanes.extend((0..self.stacks.count()).map(|index| Lane {
            context: Cell::new(self.stacks.fresh(index, fiber_main)),
            state: Cell::new(State::Done),
            mask: Cell::new(0),
        }));
    }

    /// Sets the order: `simdgroups` is a permutation of the SIMD-groups, `lanes` one of 32 lanes.
    pub fn arrange(&mut self, simdgroups: &[u16], lanes: &[u16]) {
        let size = self.threads.len();
        self.order.clear();
        self.pieces.clear();
        for &simdgroup in simdgroups {
            let start = self.order.len();
            let first = simdgroup as usize * LANES;
            self.order.extend(lanes.iter().map(|&lane| first as u16 + lane).filter(|&index| (index as usize) < size));
            self.pieces.push(start..self.order.len());
        }
        debug_assert_eq!(self.order.len(), size);
    }

    /// Runs `threads` from start to end as fibers.
    pub fn run(&mut self) -> Result<(), String> {
        let this = &*self;
        CURRENT.set(this);
        let result = this.run_fibers();
        if result.is_err() {
            self.renew();
        }
        result
    }

    /// Runs `threads` one after the other, for a kernel that never waits.
    pub fn run_plain(&self) {
        let entry = self.entry.expect("prepared");
        for thread in &self.threads {
            // SAFETY: the kernel's entry, with the arguments of its calling convention. What it does with the buffers is
            // not checked here: a wild access in unchecked mode is a wild access of this process.
            unsafe { entry(&self.bindings, thread) };
        }
    }

    fn run_fibers(&self) -> Result<(), String> {
        for lane in &self.lanes[..self.threads.len()] {
            lane.state.set(State::Ready);
        }
        loop {
            for piece in &self.pieces {
                self.run_simdgroup(piece.clone())?;
            }
            if !self.open_barrier()? {
                return Ok(());
            }
        }
    }

    fn lane(&self, position: usize) -> &Lane {
        &self.lanes[self.order[position] as usize]
    }

    /// Runs a SIMD-group until all of its threads wait at a threadgroup barrier or are done.
    fn run_simdgroup(&self, piece: Range<usize>) -> Result<(), String> {
        loop {
            if let Some(first) = piece.clone().find(|&position| self.lane(position).state.get() == State::Ready) {
                self.position.set(first);
                // SAFETY: the lane's context was saved by `switch` or is fresh; its stack is ours and nothing runs on it.
                unsafe { switch(self.host.as_ptr(), self.lane(first).context.get()) };
                if let Some(fault) = self.fault.take() {
                    return Err(fault);
                }
            }
            // None is ready: each waits for something or is done. Lanes that took different branches exchange among
            // themselves; the one that is behind in the code goes first, so that it can catch up.
            let sites = piece.clone().filter_map(|position| match self.lane(position).state.get() {
                State::Exchange { site, bytes, .. } => Some((site, bytes)),
                _ => None,
            });
            if let Some(earliest) = sites.min() {
                self.exchange(piece.clone(), earliest);
                continue;
            }
            let mut barriers = piece.clone().filter_map(|position| match self.lane(position).state.get() {
                State::Barrier { scope, flags, site, .. } => Some((scope, flags, site)),
                _ => None,
            });
            if barriers.clone().all(|(scope, ..)| scope != SIMDGROUP) {
                return Ok(());
            }
            let first = barriers.next();
            if !barriers.all(|barrier| Some(barrier) == first) {
                return Err(self.divergent(piece));
            }
            if let (Some((_, flags, _)), Some(checks)) = (first, &self.checks) {
                checks.borrow_mut().simdgroup_barrier(self.order[piece.start] as usize / LANES, flags);
            }
            self.release(piece.clone());
        }
    }

    /// Lets all threads at a barrier go on.
    fn release(&self, piece: Range<usize>) {
        for position in piece {
            let state = &self.lane(position).state;
            if state.get() != State::Done {
                state.set(State::Ready);
            }
        }
    }

    /// Opens the threadgroup's barrier if all threads that are not done wait at it; false if all are done.
    fn open_barrier(&self) -> Result<bool, String> {
        let mut at = None;
        for lane in &self.lanes[..self.threads.len()] {
            if let State::Barrier { flags, site, .. } = lane.state.get()
                && at.replace((site, flags)).is_some_and(|(other, _)| other != site)
            {
                return Err(self.divergent(0..self.order.len()));
            }
        }
        let Some((_, flags)) = at else { return Ok(false) };
        if let Some(checks) = &self.checks {
            checks.borrow_mut().threadgroup_barrier(flags);
        }
        self.release(0..self.order.len());
        Ok(true)
    }

    /// Every lane that waits at this exchange gives its bytes and receives those of all.
    fn exchange(&self, piece: Range<usize>, meeting: (usize, usize)) {
        let (_, bytes) = meeting;
        let mut gathered = [0_u128; 4 * LANES];
        let gathered = gathered.as_mut_ptr().cast::<u8>();
        let at_meeting = |position: usize| match self.lane(position).state.get() {
            State::Exchange { site, bytes, mine, all } if (site, bytes) == meeting => Some((mine, all)),
            _ => None,
        };
        let (mut mask, mut alive) = (0_u32, 0_u32);
        for position in piece.clone() {
            let lane = self.order[position] as usize % LANES;
            if let Some((mine, _)) = at_meeting(position) {
                mask |= 1 << lane;
                // SAFETY: the hook refused more than 64 bytes; `mine` lies on the stack of a fiber that waits.
                unsafe { gathered.add(lane * bytes).copy_from_nonoverlapping(mine, bytes) };
            }
            alive |= u32::from(self.lane(position).state.get() != State::Done) << lane;
        }
        for position in piece.clone() {
            if let Some((_, all)) = at_meeting(position) {
                // SAFETY: the calling convention gives `all` room for 32 times `bytes`.
                unsafe { all.copy_from_nonoverlapping(gathered, bytes * LANES) };
                self.lane(position).mask.set(mask);
                self.lane(position).state.set(State::Ready);
            }
        }
        if let (true, Some(checks)) = (mask == alive, &self.checks) {
            checks.borrow_mut().simdgroup_barrier(self.order[piece.start] as usize / LANES, !0);
        }
    }

    /// The sentence about threads that wait at different barriers.
    fn divergent(&self, piece: Range<usize>) -> String {
        let mut places: Vec<(State, Vec<u16>)> = Vec::new();
        let mut threads: Vec<u16> = self.order[piece].to_vec();
        threads.sort_unstable();
        for index in threads {
            let state = self.lanes[index as usize].state.get();
            match places.iter_mut().find(|(other, _)| *other == state) {
                Some((_, threads)) => threads.push(index),
                None => places.push((state, vec![index])),
            }
        }
        let places = places.iter().map(|(state, threads)| {
            let threads = ranges(threads);
            match state {
                State::Barrier { scope, site, line, .. } => {
                    let name = if *scope == SIMDGROUP { "simdgroup_barrier" } else { "threadgroup_barrier" };
                    match line {
                        0 => format!("threads {threads} wait at the {name} that returns to {site:#x}"),
                        _ => format!("threads {threads} wait at the {name} of line {line}"),
                    }
                }
                State::Done => format!("threads {threads} have returned"),
                _ => format!("threads {threads} are elsewhere"),
            }
        });
        let places = places.collect::<Vec<_>>().join(", ");
        format!("divergent barrier in threadgroup {:?}: {places}", self.threads[0].threadgroup_position)
    }

    /// The running thread, for checks.
    fn running(&self) -> usize {
        self.order[self.position.get()] as usize
    }

    /// Puts the running thread aside in `state`: goes on with the next lane that is ready, or with the host.
    fn wait(&self, state: State) {
        let mine = self.position.get();
        self.lane(mine).state.set(state);
        // The end of this SIMD-group's piece of `order`: threads of another one are never next.
        let simdgroup = self.order[mine] as usize / LANES;
        let next = (mine + 1..self.order.len())
            .take_while(|&position| self.order[position] as usize / LANES == simdgroup)
            .find(|&position| self.lane(position).state.get() == State::Ready);
        let to = match next {
            Some(position) => {
                self.position.set(position);
                self.lane(position).context.get()
            }
            None => self.host.get(),
        };
        // SAFETY: a ready lane's context was saved by `switch` or is fresh, and the host's was saved when it switched to
        // us; the host lets this fiber go on only by switching to it.
        unsafe { switch(self.lane(mine).context.as_ptr(), to) };
    }

    /// Ends the threadgroup: the running fiber never goes on.
    #[cold]
    fn fail(&self, fault: String) {
        self.fault.set(Some(fault));
        let mut abandoned: Context = std::ptr::null_mut();
        // SAFETY: the host waits in `run_simdgroup`; it will make fresh fibers of all.
        unsafe { switch(&mut abandoned, self.host.get()) };
    }
}

/// `0-15, 20`.
fn ranges(sorted: &[u16]) -> String {
    let mut parts: Vec<(u16, u16)> = Vec::new();
    for &value in sorted {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == value => *last = value,
            _ => parts.push((value, value)),
        }
    }
    let text =
        parts.iter().map(|&(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") });
    text.collect::<Vec<_>>().join(", ")
}

/// The group that the running fiber belongs to.
fn current() -> &'static Group {
    // SAFETY: only fibers and hooks ask, and they run only inside `Group::run`, which set it and outlives them.
    unsafe { &*CURRENT.get() }
}

/// As `current`, for a fiber that another system thread may have taken over: the place of this system thread's variable
/// must not be remembered across a switch.
#[inline(never)]
fn current_anew() -> &'static Group {
    current()
}

/// Where every fiber starts. It runs one thread after another, of one threadgroup after another, for ever.
unsafe extern "C" fn fiber_main() -> ! {
    loop {
        let group = current_anew();
        let entry = group.entry.expect("prepared");
        // SAFETY: the kernel's entry, with the arguments of its calling convention.
        unsafe { entry(&group.bindings, &group.threads[group.running()]) };
        group.wait(State::Done);
    }
}

/// `void msl_barrier(uint scope, uint flags)`; adds the address that it returns to.
#[unsafe(naked)]
pub unsafe extern "C" fn hook_barrier(scope: u32, flags: u32) {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("mov rdx, [rsp]", "jmp {}", sym barrier);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x2, x30", "b {}", sym barrier);
}

extern "C" fn barrier(scope: u32, flags: u32, site: usize) {
    let group = current();
    group.wait(State::Barrier { scope, flags, site, line: group.line.get() });
}

/// `uint msl_simd_exchange(const void *mine, void *all, uint bytes)`; adds the address that it returns to.
#[unsafe(naked)]
pub unsafe extern "C" fn hook_exchange(mine: *const u8, all: *mut u8, bytes: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("mov rcx, [rsp]", "jmp {}", sym exchange);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x3, x30", "b {}", sym exchange);
}

extern "C" fn exchange(mine: *const u8, all: *mut u8, bytes: u32, site: usize) -> u32 {
    let group = current();
    if bytes > 64 {
        group.fail(format!("msl_simd_exchange of {bytes} bytes a lane; 64 is the most"));
    }
    let mine_at = group.position.get();
    group.wait(State::Exchange { site, bytes: bytes as usize, mine, all });
    group.lane(mine_at).mask.get()
}

/// `void msl_access(const void *address, ulong size, uint kind, uint line)`: instrumented code, before each access.
pub extern "C" fn hook_access(address: *const u8, size: u64, kind: u32, line: u32) {
    let group = current();
    let Some(checks) = &group.checks else { return };
    let verdict = checks.borrow_mut().access(group.running(), address as usize, size as usize, kind, line);
    if let Err(fault) = verdict {
        let thread = &group.threads[group.running()];
        group.fail(format!("thread {:?} of the grid {fault}", thread.position_in_grid));
    }
}

/// `void msl_line(uint line)`: instrumented code, before a barrier or an exchange.
pub extern "C" fn hook_line(line: u32) {
    current().line.set(line);
}
