//! A command buffer that fails, to try what a program does then: real GPUs have hangs, resets and page faults, and no test can
//! wait for one.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Command buffers with a compute encoder until one fails, that one counted; 0 where none will.
static LEFT: LazyLock<AtomicU64> = LazyLock::new(|| {
    let nth = std::env::var("METAL_STANDIN_FAIL").ok().and_then(|nth| nth.parse().ok());
    AtomicU64::new(nth.unwrap_or(0))
});

/// What the failed one's `error` is, as Apple's drivers say it of a kernel that ran for too long.
pub(crate) const ERROR: (isize, &str) =
    (2, "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"); // MTLCommandBufferErrorTimeout

/// Makes the `nth` command buffer with a compute encoder that is committed from now on fail, in any queue: 1 is the next; 0
/// takes that back. Nothing of it runs. `METAL_STANDIN_FAIL=N` does so from a process's start.
pub fn fail_command_buffer(nth: u64) {
    LEFT.store(nth, Ordering::Relaxed);
}

/// Whether the command buffer that is being committed is the one.
pub(crate) fn is_due() -> bool {
    LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1)
}
