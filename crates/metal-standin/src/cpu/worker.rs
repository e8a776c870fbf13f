//! Command buffers to dispatches to threadgroups.

use std::ffi::c_void;

use super::check::{Checks, Region};
use super::group::{Bindings, Group, LANES, Thread};
use super::load::Loaded;
use super::{Options, POISON, THREADGROUP_BYTES};
use crate::compiler::ArgumentKind;
use crate::executor::{Binding, Command, Dispatch};

/// What runs threadgroups, one after the other.
pub struct Worker {
    options: Options,
    pub group: Group,
    /// Threadgroup memory given by `setThreadgroupMemoryLength:atIndex:`.
    memory: Vec<u128>,
    /// Command buffers that have run: a shuffle of its own for each.
    ordinal: u64,
    /// Allocations that kernels must not write to.
    pub read_only: Vec<u64>,
}

/// Room between pieces of threadgroup memory when checking, so that an index one too far lands in none.
const GAP: usize = 64;

impl Worker {
    pub fn new(options: Options) -> Result<Worker, String> {
        let mut group = Group::new()?;
        group.checks = options.check.then(|| Checks::new().into());
        Ok(Worker { options, group, memory: Vec::new(), ordinal: 0, read_only: Vec::new() })
    }

    /// Runs a command buffer. After an error nothing of it runs any more.
    pub fn run(&mut self, commands: &[Command]) -> Result<(), String> {
        self.ordinal += 1;
        let mut count = 0;
        for span in commands.split(|command| matches!(command, Command::Barrier)) {
            if let Some(checks) = &mut self.group.checks {
                checks.get_mut().begin_span();
            }
            let mut order: Vec<u64> = (count..count + span.len() as u64).collect();
            if let Some(seed) = self.options.shuffle {
                Random::new(&[seed, self.ordinal, count]).shuffle(&mut order);
            }
            for number in order {
                if let Command::Dispatch(dispatch) = &span[(number - count) as usize] {
                    let kernel = &dispatch.pipeline.kernel.name;
                    self.dispatch(dispatch, number).map_err(|why| format!("kernel `{kernel}`: {why}"))?;
                }
            }
            count += span.len() as u64;
        }
        Ok(())
    }

    fn dispatch(&mut self, dispatch: &Dispatch, number: u64) -> Result<(), String> {
        let loaded = dispatch.pipeline.prepared.downcast_ref::<Loaded>().ok_or("a pipeline of another executor")?;
        let (grid, shape) = (dispatch.threads, dispatch.threads_per_threadgroup);
        let size: usize = shape.iter().map(|&extent| extent as usize).product();
        if size == 0 || size > 1024 {
            return Err(format!("a threadgroup of {shape:?} threads"));
        }
        let groups: [u32; 3] = std::array::from_fn(|axis| grid[axis].div_ceil(shape[axis]));
        let total: usize = groups.iter().map(|&extent| extent as usize).product();

        let mut copies = Vec::new();
        let regions = self.bind(dispatch, loaded, &mut copies)?;
        if let Some(checks) = &mut self.group.checks {
            checks.get_mut().begin_dispatch(&dispatch.pipeline.kernel.name, regions)?;
        }
        self.group.prepare(loaded.entry, size, loaded.stack)?;

        let mut random = self.options.shuffle.map(|seed| Random::new(&[seed, self.ordinal, number, 1]));
        let order = random.as_mut().map(|random| {
            let mut order: Vec<u32> = (0..total as u32).collect();
            random.shuffle(&mut order);
            order
        });
        let mut arranged = 0;
        for step in 0..total {
            let index = order.as_ref().map_or(step as u32, |order| order[step]);
            let position = [index % groups[0], index / groups[0] % groups[1], index / groups[0] / groups[1]];
            place(&mut self.group.threads, position, groups, grid, shape);
            let size = self.group.threads.len();
            if random.is_some() || arranged != size {
                let mut simdgroups: Vec<u16> = (0..size.div_ceil(LANES) as u16).collect();
                let mut lanes: Vec<u16> = (0..LANES as u16).collect();
                if let Some(random) = &mut random {
                    random.shuffle(&mut simdgroups);
                    random.shuffle(&mut lanes);
                }
                self.group.arrange(&simdgroups, &lanes);
                arranged = size;
            }
            self.poison(loaded);
            match &mut self.group.checks {
                Some(checks) => checks.get_mut().begin_threadgroup(position),
                None if !loaded.waits => {
                    self.group.run_plain();
                    continue;
                }
                None => {}
            }
            self.group.run()?;
        }
        Ok(())
    }

    /// Fills the bindings: addresses of buffers, copies of `setBytes`, pieces of threadgroup memory. Returns what may be
    /// accessed, for the checks.
    fn bind(
        &mut self,
        dispatch: &Dispatch,
        loaded: &Loaded,
        copies: &mut Vec<Vec<u128>>,
    ) -> Result<Vec<Region>, String> {
        let mut bindings = Bindings::default();
        let mut regions = Vec::new();
        for (index, binding) in dispatch.buffers.iter().enumerate().take(31) {
            let (base, address, size, label, writable, allocation) = match binding {
                None => continue,
                Some(binding @ Binding::Buffer { allocation, offset, .. }) => {
                    let label = format!("`{}`", binding.name());
                    let base = allocation.device as usize;
                    let writable = !self.read_only.contains(&allocation.id);
                    (base, base + offset, allocation.length, label, writable, Some(allocation.id))
                }
                Some(Binding::Bytes(bytes)) => {
                    // Kernels read vectors from it: aligned as those want.
                    let mut copy = vec![0_u128; bytes.len().div_ceil(16) + GAP / 16];
                    // SAFETY: the copy is at least as long.
                    unsafe { copy.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                    let base = copy.as_ptr() as usize;
                    copies.push(copy);
                    (base, base, bytes.len(), "(setBytes)".into(), false, None)
                }
            };
            bindings.buffer[index] = address as *mut c_void;
            let label = format!("buffer {index} {label}");
            regions.push(Region { start: base, size, space: 1, label, writable, allocation });
        }
        let mut used = 0;
        let mut pieces = Vec::new();
        for argument in dispatch.pipeline.kernel.arguments.iter().filter(|a| a.kind == ArgumentKind::Threadgroup) {
            let size = dispatch.threadgroup.get(argument.index as usize).map_or(0, |&size| size as usize);
            pieces.push((argument, used, size));
            used += size.next_multiple_of(16) + if self.options.check { GAP } else { 0 };
        }
        if used > THREADGROUP_BYTES + 31 * GAP {
            return Err(format!("{used} bytes of threadgroup memory; {THREADGROUP_BYTES} is the most"));
        }
        // One vector more than is used, so that a piece of no bytes has an address too.
        self.memory.resize(used / 16 + 1, 0);
        for (argument, offset, size) in pieces {
            let start = self.memory.as_ptr() as usize + offset;
            bindings.threadgroup[argument.index as usize] = start as *mut c_void;
            let label = format!("threadgroup memory {} `{}`", argument.index, argument.name);
            regions.push(Region { start, size, space: 3, label, writable: true, allocation: None });
        }
        for variable in &loaded.statics {
            let kind = if variable.space == 3 { "threadgroup" } else { "constant" };
            let (start, size, space) = (variable.address, variable.size, variable.space);
            // Threadgroup variables have a number and a size before the name that their source gives them.
            let name = variable.name.strip_prefix("msl.threadgroup.").and_then(|rest| rest.splitn(3, '.').nth(2));
            let label = format!("{kind} variable `{}`", name.unwrap_or(&variable.name));
            regions.push(Region { start, size, space, label, writable: space == 3, allocation: None });
        }
        self.group.bindings = bindings;
        Ok(regions)
    }

    /// Threadgroup memory starts with no defined value; this one shows.
    fn poison(&mut self, loaded: &Loaded) {
        let word = u128::from(POISON);
        self.memory.fill(word | word << 32 | word << 64 | word << 96);
        for variable in loaded.statics.iter().filter(|variable| variable.space == 3) {
            // SAFETY: a variable of the loaded library; no kernel runs.
            let bytes = unsafe { std::slice::from_raw_parts_mut(variable.address as *mut u8, variable.size) };
            for word in bytes.chunks_mut(4) {
                word.copy_from_slice(&POISON.to_le_bytes()[..word.len()]);
            }
        }
    }
}

/// The built-in inputs of all threads of the threadgroup at `position`, smaller at the grid's edges.
fn place(threads: &mut Vec<Thread>, position: [u32; 3], groups: [u32; 3], grid: [u32; 3], shape: [u32; 3]) {
    let extent: [u32; 3] = std::array::from_fn(|axis| shape[axis].min(grid[axis] - position[axis] * shape[axis]));
    let size = extent.iter().product::<u32>();
    let common = Thread {
        threadgroup_position: position,
        threads_per_grid: grid,
        threads_per_threadgroup: extent,
        dispatch_threads_per_threadgroup: shape,
        threadgroups_per_grid: groups,
        simdgroups_per_threadgroup: size.div_ceil(LANES as u32),
        threads_per_simdgroup: LANES as u32,
        ..Thread::default()
    };
    threads.clear();
    let mut at = [0_u32; 3];
    for index in 0..size {
        threads.push(Thread {
            position_in_grid: std::array::from_fn(|axis| position[axis] * shape[axis] + at[axis]),
            position_in_threadgroup: at,
            index_in_threadgroup: index,
            index_in_simdgroup: index % LANES as u32,
            simdgroup_index: index / LANES as u32,
            ..common
        });
        at[0] += 1;
        for axis in 0..2 {
            if at[axis] == extent[axis] {
                at[axis] = 0;
                at[axis + 1] += 1;
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): all that a shuffle needs.
struct Random(u64);

impl Random {
    fn new(seeds: &[u64]) -> Random {
        let mut random = Random(0);
        for &seed in seeds {
            random.0 = random.next() ^ seed;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Fisher-Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}
