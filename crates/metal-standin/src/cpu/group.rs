//! One threadgroup: its threads as fibers, and the places where they meet.
//!
//! A SIMD-group's lanes run one after the other, each until it waits or ends; the fiber that stops switches to the next
//! lane directly. When no lane can go on, `run_simdgroup` (on the host's stack) looks at what they wait for and lets
//! them pass. When all SIMD-groups wait at a threadgroup barrier, `run` opens it. Nothing depends on time: the
//! same dispatch always runs in the same order.

use std::arch::naked_asm;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::mem::MaybeUninit;

use super::check::{Access, Checks};
use super::fiber::{Context, Stacks, switch};

/// Lanes in a SIMD-group.
pub const LANES: usize = 32;
/// The most bytes that a lane can give in an exchange.
const MAX_EXCHANGE: usize = 256;

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

/// What a thread waits for. `site` is the address that the call returns to: it tells one barrier from another.
#[derive(Clone, Copy)]
struct Wait {
    site: usize,
    /// Source line, 0 if unknown.
    line: u32,
    /// A barrier's memory flags; the bytes that each lane gives in an exchange.
    detail: u32,
    /// An exchange's pointers, to the stack of the fiber that waits.
    mine: *const u8,
    all: *mut u8,
}

const NOTHING: Wait = Wait { site: 0, line: 0, detail: 0, mine: std::ptr::null(), all: std::ptr::null_mut() };

/// One SIMD-group: which of its lanes do what. Bit `i` is the lane that runs as its `i`-th; it is in no set once it is
/// done.
#[derive(Default)]
struct Simdgroup {
    /// Its number in the threadgroup.
    number: usize,
    /// The index in the threadgroup of the lane of each bit.
    order: [u16; LANES],
    alive: Cell<u32>,
    ready: Cell<u32>,
    exchange: Cell<u32>,
    simdgroup_barrier: Cell<u32>,
    threadgroup_barrier: Cell<u32>,
}

impl Simdgroup {
    fn index(&self, bit: u32) -> usize {
        self.order[bit as usize % LANES].into()
    }
}

/// A thread's fiber, in one line of the cache.
#[repr(align(64))]
struct Lane {
    context: Cell<Context>,
    wait: Cell<Wait>,
}

/// A threadgroup's fibers, used again for every threadgroup that a worker runs.
pub struct Group {
    stacks: Stacks,
    lanes: Vec<Lane>,
    pub threads: Vec<Thread>,
    pub bindings: Bindings,
    /// In the order in which they run.
    simdgroups: Vec<Simdgroup>,
    entry: Option<Entry>,
    host: Cell<Context>,
    /// The thread that runs: which of `simdgroups`, and its bit there.
    current: Cell<(u32, u32)>,
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

/// The numbers of the bits that are set.
fn bits(mut mask: u32) -> impl Iterator<Item = u32> + Clone {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(bit)
    })
}

impl Group {
    pub fn new() -> Result<Group, String> {
        Ok(Group {
            stacks: Stacks::new(0, 0)?,
            lanes: Vec::new(),
            threads: Vec::new(),
            bindings: Bindings::default(),
            simdgroups: Vec::new(),
            entry: None,
            host: Cell::new(std::ptr::null_mut()),
            current: Cell::new((0, 0)),
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
        let fresh = |index| Lane { context: self.stacks.fresh(index, fiber_main).into(), wait: NOTHING.into() };
        self.lanes = (0..self.stacks.count()).map(fresh).collect();
    }

    /// Sets the order: `simdgroups` is a permutation of the SIMD-groups, `lanes` one of 32 lanes.
    pub fn arrange(&mut self, simdgroups: &[u16], lanes: &[u16]) {
        let size = self.threads.len();
        self.simdgroups.clear();
        for &number in simdgroups {
            let mut simdgroup = Simdgroup { number: number.into(), ..Simdgroup::default() };
            let indices = lanes.iter().map(|&lane| number * LANES as u16 + lane);
            for (place, index) in simdgroup.order.iter_mut().zip(indices.filter(|&index| usize::from(index) < size)) {
                *place = index;
            }
            self.simdgroups.push(simdgroup);
        }
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
        for simdgroup in &self.simdgroups {
            let size = (self.threads.len() - simdgroup.number * LANES).min(LANES);
            let all = !0 >> (LANES - size);
            simdgroup.alive.set(all);
            simdgroup.ready.set(all);
            for waiting in [&simdgroup.exchange, &simdgroup.simdgroup_barrier, &simdgroup.threadgroup_barrier] {
                waiting.set(0);
            }
        }
        loop {
            for number in 0..self.simdgroups.len() {
                self.run_simdgroup(number)?;
            }
            if !self.open_barrier()? {
                return Ok(());
            }
        }
    }

    fn lane(&self, simdgroup: &Simdgroup, bit: u32) -> &Lane {
        &self.lanes[simdgroup.index(bit)]
    }

    fn waits(&self, simdgroup: &Simdgroup, bit: u32) -> Wait {
        self.lane(simdgroup, bit).wait.get()
    }

    /// Runs a SIMD-group until all of its threads wait at a threadgroup barrier or are done.
    fn run_simdgroup(&self, number: usize) -> Result<(), String> {
        let simdgroup = &self.simdgroups[number];
        loop {
            if simdgroup.ready.get() != 0 {
                let first = simdgroup.ready.get().trailing_zeros();
                self.current.set((number as u32, first));
                let context = self.lane(simdgroup, first).context.get();
                // SAFETY: the context was saved by `switch` or is fresh; its stack is ours and nothing runs on it.
                unsafe { switch(self.host.as_ptr(), context) };
                if let Some(fault) = self.fault.take() {
                    return Err(fault);
                }
            }
            // None is ready: each waits for something or is done. Lanes that took different branches exchange among
            // themselves; those that are behind in the code go first, so that they can catch up.
            let exchange = simdgroup.exchange.get();
            if exchange != 0 {
                self.exchange(simdgroup, exchange);
                continue;
            }
            let barrier = simdgroup.simdgroup_barrier.get();
            if barrier == 0 {
                return Ok(());
            }
            let Wait { site, detail: flags, .. } = self.waits(simdgroup, barrier.trailing_zeros());
            let here = bits(barrier).all(|bit| self.waits(simdgroup, bit).site == site);
            if barrier != simdgroup.alive.get() || !here {
                return Err(self.divergent(&self.simdgroups[number..=number]));
            }
            if let Some(checks) = &self.checks {
                let mut checks = checks.borrow_mut();
                checks.simdgroup_barrier(simdgroup.number, flags);
                checks.recorder.simdgroup_barrier(simdgroup.number);
            }
            simdgroup.simdgroup_barrier.set(0);
            simdgroup.ready.set(barrier);
        }
    }

    // ANCHOR: open_barrier
    /// Opens the threadgroup's barrier if all threads that are not done wait at it; false if all are done.
    fn open_barrier(&self) -> Result<bool, String> {
        let (mut at, mut line) = (None, 0);
        for simdgroup in &self.simdgroups {
            let waiting = simdgroup.threadgroup_barrier.replace(0);
            simdgroup.ready.set(waiting);
            for wait in bits(waiting).map(|bit| self.waits(simdgroup, bit)) {
                line = wait.line;
                if *at.get_or_insert((wait.site, wait.detail)) != (wait.site, wait.detail) {
                    return Err(self.divergent(&self.simdgroups));
                }
            }
        }
        if let (Some((_, flags)), Some(checks)) = (at, &self.checks) {
            let mut checks = checks.borrow_mut();
            checks.threadgroup_barrier(flags);
            checks.recorder.barrier(line);
        }
        Ok(at.is_some())
    }
    // ANCHOR_END: open_barrier

    /// The lanes that wait at one exchange give their bytes and receive those of all.
    fn exchange(&self, simdgroup: &Simdgroup, waiting: u32) {
        let meeting = |bit: u32| (self.waits(simdgroup, bit).site, self.waits(simdgroup, bit).detail);
        let earliest = bits(waiting).map(meeting).min().expect("some wait");
        let taking_part = bits(waiting).filter(|&bit| meeting(bit) == earliest);
        let bytes = earliest.1 as usize;
        let line = taking_part.clone().map(|bit| self.waits(simdgroup, bit).line).next().unwrap_or_default();
        let (mut part, mut lanes) = (0, 0);
        let mut gathered = MaybeUninit::<[u128; MAX_EXCHANGE * LANES / 16]>::uninit();
        let gathered = gathered.as_mut_ptr().cast::<u8>();
        // SAFETY: the hook refused more than MAX_EXCHANGE bytes. Lanes that take no part give zeros.
        unsafe { gathered.write_bytes(0, bytes * LANES) };
        for bit in taking_part.clone() {
            let lane = simdgroup.index(bit) % LANES;
            part |= 1 << bit;
            lanes |= 1 << lane;
            // SAFETY: `mine` is on the stack of a fiber that waits.
            unsafe { gathered.add(lane * bytes).copy_from_nonoverlapping(self.waits(simdgroup, bit).mine, bytes) };
        }
        for bit in taking_part {
            let wait = &self.lane(simdgroup, bit).wait;
            // SAFETY: the calling convention gives `all` room for 32 times `bytes`.
            unsafe { wait.get().all.copy_from_nonoverlapping(gathered, bytes * LANES) };
            // What the hook returns.
            wait.set(Wait { detail: lanes, ..NOTHING });
        }
        simdgroup.exchange.set(waiting & !part);
        simdgroup.ready.set(part);
        if let Some(checks) = &self.checks {
            let mut checks = checks.borrow_mut();
            checks.recorder.exchange(simdgroup.number, lanes, bytes, line);
            if part == simdgroup.alive.get() {
                checks.simdgroup_barrier(simdgroup.number, !0);
            }
        }
    }

    /// The sentence about threads that wait at different barriers.
    fn divergent(&self, simdgroups: &[Simdgroup]) -> String {
        let mut threads = Vec::new();
        for simdgroup in simdgroups {
            for bit in 0..32 {
                // Barriers that `open_barrier` was about to open are ready again.
                let waiting = simdgroup.threadgroup_barrier.get() | simdgroup.ready.get();
                let kind = match 1 << bit {
                    bit if simdgroup.simdgroup_barrier.get() & bit != 0 => "simdgroup_barrier",
                    bit if waiting & bit != 0 => "threadgroup_barrier",
                    _ => continue,
                };
                let Wait { site, line, .. } = self.waits(simdgroup, bit);
                let place = match line {
                    0 => format!("wait at the {kind} that returns to {site:#x}"),
                    _ => format!("wait at the {kind} of line {line}"),
                };
                threads.push((simdgroup.index(bit) as u16, site, place));
            }
        }
        threads.sort_unstable();
        let mut places: Vec<(usize, String, Vec<u16>)> = Vec::new();
        for (thread, site, place) in threads {
            match places.iter_mut().find(|(other, ..)| *other == site) {
                Some((.., threads)) => threads.push(thread),
                None => places.push((site, place, vec![thread])),
            }
        }
        let places = places.iter().map(|(_, place, threads)| format!("threads {} {place}", ranges(threads)));
        let places = places.collect::<Vec<_>>().join(", ");
        format!("divergent barrier in threadgroup {:?}: {places}", self.threads[0].threadgroup_position)
    }

    /// The index in the threadgroup of the running thread.
    fn running(&self) -> usize {
        let (number, bit) = self.current.get();
        self.simdgroups[number as usize].index(bit)
    }

    /// Puts the running thread aside, noted in the set that `set` chooses: goes on with the next lane that is ready, or
    /// with the host. Returns what was waited for.
    fn wait(&self, set: impl Fn(&Simdgroup) -> &Cell<u32>, wait: Wait) -> Wait {
        let (number, bit) = self.current.get();
        let simdgroup = &self.simdgroups[number as usize];
        let lane = self.lane(simdgroup, bit);
        lane.wait.set(wait);
        simdgroup.ready.update(|ready| ready & !(1 << bit));
        set(simdgroup).update(|set| set ^ 1 << bit);
        let ready = simdgroup.ready.get();
        let to = if ready == 0 {
            self.host.get()
        } else {
            let next = ready.trailing_zeros();
            self.current.set((number, next));
            self.lane(simdgroup, next).context.get()
        };
        // SAFETY: a ready lane's context was saved by `switch` or is fresh, and the host's was saved when it switched to
        // us; this fiber goes on only when someone switches to it.
        unsafe { switch(lane.context.as_ptr(), to) };
        lane.wait.get()
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
        // Done: alive no more, and in no set.
        group.wait(|simdgroup| &simdgroup.alive, NOTHING);
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
    let wait = Wait { site, line: group.line.get(), detail: flags, ..NOTHING };
    match scope {
        0 => group.wait(|simdgroup| &simdgroup.simdgroup_barrier, wait),
        _ => group.wait(|simdgroup| &simdgroup.threadgroup_barrier, wait),
    };
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
    if bytes as usize > MAX_EXCHANGE {
        group.fail(format!("msl_simd_exchange of {bytes} bytes a lane; {MAX_EXCHANGE} is the most"));
    }
    let wait = Wait { site, line: group.line.get(), detail: bytes, mine, all };
    group.wait(|simdgroup| &simdgroup.exchange, wait).detail
}

/// `void msl_access(const void *address, ulong size, uint kind, uint line)`: instrumented code, before each access.
pub extern "C" fn hook_access(address: *const u8, size: u64, kind: u32, line: u32) {
    let group = current();
    let Some(checks) = &group.checks else { return };
    let access = Access { at: address as usize, size: size as usize, kind, line };
    let verdict = checks.borrow_mut().access(group.running(), access);
    if let Err(fault) = verdict {
        let thread = &group.threads[group.running()];
        group.fail(format!("thread {:?} of the grid {fault}", thread.position_in_grid));
    }
}

/// `void msl_line(uint line)`: instrumented code, before a barrier or an exchange.
pub extern "C" fn hook_line(line: u32) {
    current().line.set(line);
}

/// `uint msl_lane()`: the running thread's index in its SIMD-group, for functions that are not given `msl_thread`.
pub extern "C" fn hook_lane() -> u32 {
    (current().running() % LANES) as u32
}
