//! Which weights come next: learned, since a token reads all of them in the same order as the one before.
//!
//! Between two linear layers a few small operations and the hand-over from thread to thread leave memory idle, for a
//! tenth of a token's time. Threads that wait use it to ask for the first lines of the weights that follow.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Addresses of the weights that one job reads. Only asked for ahead of time, never read through, so they need not be valid.
type Memory = Vec<Range<usize>>;

/// What followed on what.
#[derive(Default)]
pub struct Order(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Where the weights of the job before begin.
    before: usize,
    /// By where the weights of a job begin: the weights of the job after it.
    after: HashMap<usize, Memory>,
}

impl Order {
    /// Notes that a job reads `memory`, and says what the job after it read the last time.
    pub fn next_after(&self, memory: Memory) -> Memory {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = memory.first().map_or(0, |range| range.start);
        let before = std::mem::replace(&mut seen.before, first);
        if seen.after.get(&before) != Some(&memory) {
            seen.after.insert(before, memory);
        }
        seen.after.get(&first).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_round_knows_what_comes_next() {
        let order = Order::default();
        #[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
        let jobs: [Memory; 3] = [vec![10..20, 40..50], vec![20..30], vec![60..90]];
        for job in &jobs {
            assert!(order.next_after(job.clone()).is_empty(), "nothing has followed on {job:?} yet");
        }
        for (i, job) in jobs.iter().enumerate() {
            assert_eq!(order.next_after(job.clone()), jobs[(i + 1) % 3]);
        }
    }
}
