//! Fibers: stacks of their own, and the switch between them.
//!
//! A GPU thread that waits at a barrier must be put aside in the middle of a function while its neighbours catch up. A
//! fiber is the cheapest way to do that: a stack, and the few registers that a function call must preserve. To switch is
//! to push those, exchange the stack pointer, and pop the others' (about two nanoseconds, no system call).

use std::arch::naked_asm;
use std::ffi::{c_int, c_long, c_void};

/// Pages that no one may touch, below each stack: overflow faults instead of running into a neighbour.
const GUARD: usize = 4096;

unsafe extern "C" {
    fn mmap(at: *mut c_void, length: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn munmap(at: *mut c_void, length: usize) -> c_int;
    fn mprotect(at: *mut c_void, length: usize, prot: c_int) -> c_int;
}
const PROT_READ_WRITE: c_int = 1 | 2;
/// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE`: pages cost nothing until they are touched.
const MAP_LAZY: c_int = 0x2 | 0x20 | 0x4000;

/// Zeroed pages that come into being when they are touched.
pub struct Pages {
    start: *mut u8,
    length: usize,
}

// SAFETY: owned memory, as in `Vec<u8>`.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    pub fn new(length: usize) -> Result<Pages, String> {
        // SAFETY: a fresh anonymous mapping touches nothing that exists.
        let start = unsafe { mmap(std::ptr::null_mut(), length.max(1), PROT_READ_WRITE, MAP_LAZY, -1, 0) };
        if start as isize == -1 {
            return Err(format!("no address space for {length} bytes"));
        }
        Ok(Pages { start: start.cast(), length: length.max(1) })
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once.
        unsafe { munmap(self.start.cast(), self.length) };
    }
}

/// The stack pointer of a fiber that is not running; what it must find again lies on its stack.
pub type Context = *mut u8;

/// The stacks of a threadgroup's threads.
pub struct Stacks {
    pages: Pages,
    /// Bytes from one stack to the next.
    stride: usize,
    count: usize,
}

impl Stacks {
    /// `count` stacks with at least `bytes` each.
    pub fn new(count: usize, bytes: usize) -> Result<Stacks, String> {
        let stride = bytes.next_multiple_of(4096) + 4096 + GUARD;
        let pages = Pages::new(stride * count)?;
        for index in 0..count {
            // SAFETY: inside the mapping made above; nothing lives there yet.
            if unsafe { mprotect(pages.start.add(index * stride).cast(), GUARD, 0) } != 0 {
                return Err("mprotect failed for a fiber's guard page".into());
            }
        }
        Ok(Stacks { pages, stride, count })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Usable bytes of each.
    pub fn bytes(&self) -> usize {
        self.stride - GUARD - 4096
    }

    /// A fiber that will start at `entry` when it is first switched to.
    pub fn fresh(&self, index: usize, entry: unsafe extern "C" fn() -> !) -> Context {
        assert!(index < self.count);
        // Equal offsets in all stacks would share the same few sets of the first-level cache: shift each a little.
        let colour = (index * 192) % 4096;
        // SAFETY: all words written lie inside stack `index`, at its upper end, 16-byte aligned.
        unsafe {
            let top = self.pages.start.add((index + 1) * self.stride - colour);
            prepare(top, entry)
        }
    }
}

/// Lays out at `top` what [`switch`] pops: zeros for the registers, and `entry` to return to.
#[cfg(target_arch = "x86_64")]
unsafe fn prepare(top: *mut u8, entry: unsafe extern "C" fn() -> !) -> Context {
    // SAFETY: the caller gives a 16-byte aligned end of a stack.
    unsafe {
        // A function starts with its return address on a stack that was aligned before the call.
        let words = top.cast::<usize>();
        words.sub(1).write(0);
        words.sub(2).write(entry as usize);
        for register in 3..9 {
            words.sub(register).write(0);
        }
        words.sub(8).cast()
    }
}

/// Saves this fiber's registers and stack pointer in `*save` and goes on where `to` was saved.
///
/// # Safety
/// `to` was saved by `switch` or made by [`Stacks::fresh`], its stack is alive, and no one else runs on it.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub unsafe extern "C" fn switch(save: *mut Context, to: Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        // `ret` would be predicted from a stack of calls that this is not one of.
        "pop rcx",
        "jmp rcx",
    )
}

#[cfg(target_arch = "aarch64")]
unsafe fn prepare(top: *mut u8, entry: unsafe extern "C" fn() -> !) -> Context {
    // SAFETY: the caller gives a 16-byte aligned end of a stack.
    unsafe {
        let words = top.sub(160).cast::<usize>();
        for register in 0..20 {
            words.add(register).write(0);
        }
        words.add(11).write(entry as usize); // x30, where `ret` goes
        words.cast()
    }
}

/// Saves this fiber's registers and stack pointer in `*save` and goes on where `to` was saved.
///
/// # Safety
/// `to` was saved by `switch` or made by [`Stacks::fresh`], its stack is alive, and no one else runs on it.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub unsafe extern "C" fn switch(save: *mut Context, to: Context) {
    naked_asm!(
        "sub sp, sp, #160",
        "stp x19, x20, [sp, #0]",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "mov x9, sp",
        "str x9, [x0]",
        "mov sp, x1",
        "ldp x19, x20, [sp, #0]",
        "ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "ldp d8, d9, [sp, #96]",
        "ldp d10, d11, [sp, #112]",
        "ldp d12, d13, [sp, #128]",
        "ldp d14, d15, [sp, #144]",
        "add sp, sp, #160",
        "ret",
    )
}
