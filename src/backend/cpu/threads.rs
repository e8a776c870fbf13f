//! One pool of threads for the whole backend, and a safe way to let them fill one buffer together.
//!
//! An operation lasts 10 to 1,000 microseconds, and a token needs a few hundred of them: starting a thread for each, or
//! sleeping in between, would cost more than the arithmetic. So the workers stay, spin for a moment after each job, and
//! park only when nothing comes. The calling thread works too.
//!
//! `unsafe` in this file does two things that Rust's borrow rules cannot express: it lends the workers a closure that
//! borrows from the caller's stack (sound because [`ThreadPool::run`] returns only when no worker can touch it any
//! more), and it hands out disjoint rectangles of one buffer (sound because a grid's blocks never overlap).

use super::simd::prefetch;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Spins before a worker parks: about 50 microseconds, longer than the pauses between operations of one token. With more
/// threads than cores a spinning worker would hold up one that has work, so there they park at once.
const SPINS_BEFORE_PARKING: usize = 2_000;

/// Bytes that a waiting thread asks for ahead of time: what memory delivers in the pauses between two linear layers. Four times as
/// much gained half as much: the queue of requests is then still full when the thread's own work begins.
const AHEAD: usize = 96 << 10;

/// Bytes of a cache line.
const LINE: usize = 64;

/// A fixed set of worker threads that run one job at a time.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Sessions that share an engine take turns, operation by operation.
    turn: Mutex<()>,
}

/// A task's body, called with the task's index.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// Counts jobs; a worker that sees it change has a job to join. `usize::MAX` asks the workers to end.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Of each thread's share of the tasks, the next one to be taken.
    next: Vec<Padded<AtomicUsize>>,
    /// Workers that have not finished the current job.
    busy: AtomicUsize,
    /// For each thread, the address of the next cache line to ask for while it waits, and where to stop.
    ahead: Vec<Padded<[AtomicUsize; 2]>>,
    panicked: AtomicBool,
    spins_before_parking: usize,
    parked: Mutex<usize>,
    wake: Condvar,
}

/// A cache line of its own: threads that count up neighbours would pass one line back and forth.
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Clone, Copy)]
struct Job {
    body: *const Body<'static>,
    tasks: usize,
}

// SAFETY: `job` is written only by the thread that holds `turn`, before it publishes a new epoch (Release) and after all
// workers have left the previous job (`busy` is 0); workers read it only after they saw that epoch (Acquire).
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer inside is only followed while `run` keeps the closure alive.
unsafe impl Send for Shared {}

const END: usize = usize::MAX;

impl ThreadPool {
    /// A pool in which `threads` threads compute: the caller's and `threads - 1` workers.
    pub fn new(threads: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let shared = Arc::new(Shared {
            spins_before_parking: if threads > cores { 0 } else { SPINS_BEFORE_PARKING },
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next: (0..threads.max(1)).map(|_| Padded(AtomicUsize::new(0))).collect(),
            busy: AtomicUsize::new(0),
            ahead: (0..threads.max(1)).map(|_| Padded(Default::default())).collect(),
            panicked: AtomicBool::new(false),
            parked: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers = (1..threads.max(1))
            .map_while(|i| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("fs-worker-{i}")).spawn(move || shared.work(i)).ok()
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(task)` for every task in `0..tasks`, in any order, on all threads; returns when all are done.
    ///
    /// Each thread begins with a share of neighbouring tasks, so that it streams contiguous memory, and then takes over
    /// what others have not begun.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(body);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = &*self.shared;
        let body: *const Body<'_> = &body;
        // SAFETY: this only lengthens the closure's lifetime in the type. The pointer is followed by workers between
        // the epoch's publication and their decrement of `busy`, and this function waits for `busy` to be 0 before
        // it returns (panics of the caller's own tasks are caught until then), so the closure outlives every use.
        let body: *const Body<'static> = unsafe { std::mem::transmute(body) };
        // SAFETY: `turn` is held and `busy` is 0, so no other thread reads or writes the job now.
        unsafe { *shared.job.get() = Some(Job { body, tasks }) };
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(thread, tasks).start, Ordering::Relaxed);
        }
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        if *shared.parked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) > 0 {
            shared.wake.notify_all();
        }

        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(Job { body, tasks }, 0)));
        let mut spins = 0;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            // A worker that lost its core cannot finish while this thread spins on it.
            if spins % 256 == 0 { std::thread::yield_now() } else { shared.fetch_ahead(0) }
        }
        let worker_panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(_turn);
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!worker_panicked, "a worker thread panicked; its message is above");
    }

    /// Says which memory the next jobs will read, in order. Threads that wait for the current one to end, or for the next to
    /// begin, ask for the first cache lines of their share of it. Addresses are only hints, and need not be valid.
    pub fn expect(&self, memory: &[Range<usize>]) {
        let threads = self.shared.ahead.len();
        let total: usize = memory.iter().map(|range| range.len()).sum();
        for (thread, ahead) in self.shared.ahead.iter().enumerate() {
            let mut first = total * thread / threads;
            let mut share = 0..0;
            for range in memory {
                if first < range.len() {
                    share = range.start + first..range.end.min(range.start + first + AHEAD);
                    break;
                }
                first -= range.len();
            }
            ahead.0[1].store(share.end, Ordering::Relaxed);
            ahead.0[0].store(share.start, Ordering::Relaxed);
        }
    }

    /// Cuts `values: [rows, columns]` into blocks of at most `block_rows` rows and `block_columns` columns and calls
    /// `body` once for each block, on all threads.
    pub fn run_blocks(
        &self,
        values: &mut [f32],
        columns: usize,
        block: (usize, usize),
        body: impl Fn(&mut Block<'_>) + Sync,
    ) {
        self.run_blocks_of([Cut { values, columns, block }], |_, block| body(block));
    }

    /// [`run_blocks`](Self::run_blocks) of several buffers at once; `body` is given the buffer's number too. One job
    /// for three buffers makes threads wait for each other once instead of three times.
    pub fn run_blocks_of<const N: usize>(&self, cuts: [Cut<'_>; N], body: impl Fn(usize, &mut Block<'_>) + Sync) {
        let grids = cuts.map(|Cut { values, columns, block }| {
            assert!(
                columns > 0 && values.len().is_multiple_of(columns),
                "{} values in rows of {columns}",
                values.len()
            );
            assert!(block.0 > 0 && block.1 > 0);
            Grid { start: values.as_mut_ptr(), rows: values.len() / columns, columns, block }
        });
        self.run(grids.iter().map(Grid::blocks).sum(), |task| {
            let mut task = task;
            for (number, grid) in grids.iter().enumerate() {
                if task < grid.blocks() {
                    let (across, (block_rows, block_columns)) = (grid.across(), grid.block);
                    let (row, column) = (task / across * block_rows, task % across * block_columns);
                    return body(
                        number,
                        &mut Block {
                            grid,
                            rows: row..(row + block_rows).min(grid.rows),
                            columns: column..(column + block_columns).min(grid.columns),
                            values: PhantomData,
                        },
                    );
                }
                task -= grid.blocks();
            }
        });
    }

    /// Calls `body(i, chunk)` for every chunk of `size` values (the last may be shorter), on all threads.
    pub fn run_chunks<T: Send>(&self, values: &mut [T], size: usize, body: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = Chunks { start: values.as_mut_ptr(), len: values.len() };
        self.run(values.len().div_ceil(size.max(1)), |i| {
            // SAFETY: chunk `i` is inside `values`, which this function has borrowed mutably, no two chunks overlap, and
            // each is handed out once.
            body(i, unsafe { chunks.get(i * size, size) });
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.epoch.store(END, Ordering::Release);
        drop(self.shared.parked.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = match self.wait_for_epoch_after(seen, thread) {
                END => return,
                epoch => epoch,
            };
            // SAFETY: the epoch was read with Acquire after the job was written, and the job is not written again
            // before this thread decrements `busy`.
            if let Some(job) = unsafe { *self.job.get() }
                && catch_unwind(AssertUnwindSafe(|| self.take_tasks(job, thread))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// The tasks that `thread` begins with.
    fn share(&self, thread: usize, tasks: usize) -> Range<usize> {
        let threads = self.next.len();
        tasks * thread / threads..tasks * (thread + 1) / threads
    }

    // ANCHOR: take_tasks
    fn take_tasks(&self, job: Job, thread: usize) {
        // SAFETY: `run` keeps the closure alive until every thread has left this job.
        let body = unsafe { &*job.body };
        for turn in 0..self.next.len() {
            let owner = (thread + turn) % self.next.len();
            let end = self.share(owner, job.tasks).end;
            let next = &self.next[owner].0;
            // Looked at before it is counted up, so that the owner's counter is not passed around
            // for nothing.
            while next.load(Ordering::Relaxed) < end {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task < end {
                    body(task);
                }
            }
        }
    }
    // ANCHOR_END: take_tasks

    /// A moment of waiting, used to ask for a cache line that will be needed.
    fn fetch_ahead(&self, thread: usize) {
        let [next, end] = &self.ahead[thread].0;
        let at = next.load(Ordering::Relaxed);
        if at < end.load(Ordering::Relaxed) {
            next.store(at + LINE, Ordering::Relaxed);
            prefetch(at);
        } else {
            std::hint::spin_loop();
        }
    }

    fn wait_for_epoch_after(&self, seen: usize, thread: usize) -> usize {
        for _ in 0..self.spins_before_parking {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            self.fetch_ahead(thread);
        }
        let mut parked = self.parked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *parked += 1;
        // The epoch is looked at under the lock, and `run` takes the lock after it published: a wake-up cannot be lost.
        while self.epoch.load(Ordering::Acquire) == seen {
            parked = self.wake.wait(parked).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *parked -= 1;
        self.epoch.load(Ordering::Acquire)
    }
}

/// A buffer `[rows, columns]` and the most rows and columns of a block of it.
pub struct Cut<'a> {
    /// The buffer.
    pub values: &'a mut [f32],
    /// Length of a row.
    pub columns: usize,
    /// Rows and columns of a block.
    pub block: (usize, usize),
}

struct Chunks<T> {
    start: *mut T,
    len: usize,
}

impl<T> Chunks<T> {
    /// # Safety
    /// `start <= len`; nobody else uses these values while the slice is alive.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps slices apart")]
    unsafe fn get(&self, start: usize, size: usize) -> &mut [T] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), size.min(self.len - start)) }
    }
}

// SAFETY: the pointer comes from a `&mut [T]` that `run_chunks` holds, and chunks are disjoint; `T: Send` lets them go to
// other threads.
unsafe impl<T: Send> Sync for Chunks<T> {}

struct Grid {
    start: *mut f32,
    rows: usize,
    columns: usize,
    block: (usize, usize),
}

impl Grid {
    fn across(&self) -> usize {
        self.columns.div_ceil(self.block.1)
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block.0) * self.across()
    }
}

// SAFETY: the pointer comes from a `&mut [f32]` that `run_blocks_of` holds while blocks exist, and blocks reach only their
// own rectangle of it.
unsafe impl Sync for Grid {}

/// A rectangle of a buffer, which one task alone may read and write.
pub struct Block<'a> {
    grid: &'a Grid,
    rows: Range<usize>,
    columns: Range<usize>,
    values: PhantomData<&'a mut f32>,
}

impl Block<'_> {
    /// The rows of the whole buffer that this block covers.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns of the whole buffer that this block covers.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// This block's part of row `row` of the whole buffer.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row {row} outside {:?}", self.rows);
        // SAFETY: the rectangle lies inside the buffer and belongs to this block alone; `&mut self` keeps the slices
        // of one block from overlapping in time.
        unsafe {
            let start = self.grid.start.add(row * self.grid.columns + self.columns.start);
            std::slice::from_raw_parts_mut(start, self.columns.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once_job_after_job() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            for tasks in [0, 1, 2, 7, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks}");
            }
        }
    }

    #[test]
    fn blocks_cover_a_buffer_once_at_every_edge() {
        let pool = ThreadPool::new(3);
        for (rows, columns, block) in [(1, 1, (1, 1)), (5, 7, (2, 3)), (4, 8, (4, 8)), (3, 10, (16, 4)), (9, 2, (1, 5))]
        {
            let mut values = vec![0.0; rows * columns];
            pool.run_blocks(&mut values, columns, block, |block| {
                for row in block.rows() {
                    for (column, value) in block.columns().zip(block.row_mut(row)) {
                        *value += (row * columns + column) as f32 + 1.0;
                    }
                }
            });
            assert!(values.iter().enumerate().all(|(i, v)| *v == i as f32 + 1.0), "{rows}x{columns} in {block:?}");
        }
    }

    #[test]
    fn workers_wake_after_parking() {
        let pool = ThreadPool::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let sum = AtomicUsize::new(0);
            pool.run(100, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(64, |task| assert!(task != 40, "planted"))));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, |_| {
            sum.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 10);
    }
}
