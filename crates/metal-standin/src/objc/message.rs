//! `objc_msgSend`: every message of an Objective-C program goes through this one function.
//!
//! It has no signature of its own. A caller casts it to that of the method it wants, puts receiver and selector where a
//! C function expects its first two arguments, and the method's arguments after them. So `objc_msgSend` must find the
//! method without touching an argument, wherever the calling convention has put it: it saves every register that may
//! hold one, calls `look_up`, restores them, and *jumps* to what was found. Arguments on the stack (`MTLSize` is 24
//! bytes, passed there) stay where they are, and the method returns to the caller. No Rust function can be written that
//! way, hence `naked`. As at Apple's, a message to nil does nothing and answers zero.
//!
//! A struct above 16 bytes as *result* would come through a hidden first argument on x86-64 (`objc_msgSend_stret`). No
//! method here has one, so there is none.

use std::arch::naked_asm;

use super::class::{Imp, Sel};
use super::failure::fail;
use super::object::Object;

/// Sends a message: cast it to `unsafe extern "C" fn(receiver, selector, arguments…) -> result`.
///
/// # Safety
/// The signature it is cast to is that of the method, and every argument is what the method says it is.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn objc_msgSend() {
    naked_asm!(
        // ANCHOR: msg_send
        "test rdi, rdi", // the receiver
        "je 2f",
        "sub rsp, 184", // 8 x 16 + 7 x 8; with the return address a multiple of 16, as calls want it
        "movaps [rsp], xmm0",
        "movaps [rsp + 16], xmm1",
        "movaps [rsp + 32], xmm2",
        "movaps [rsp + 48], xmm3",
        "movaps [rsp + 64], xmm4",
        "movaps [rsp + 80], xmm5",
        "movaps [rsp + 96], xmm6",
        "movaps [rsp + 112], xmm7",
        "mov [rsp + 128], rdi",
        "mov [rsp + 136], rsi",
        "mov [rsp + 144], rdx",
        "mov [rsp + 152], rcx",
        "mov [rsp + 160], r8",
        "mov [rsp + 168], r9",
        "mov [rsp + 176], rax", // a variadic call has the number of its vector registers here
        "call {look_up}",
        "mov r11, rax",
        "movaps xmm0, [rsp]",
        "movaps xmm1, [rsp + 16]",
        "movaps xmm2, [rsp + 32]",
        "movaps xmm3, [rsp + 48]",
        "movaps xmm4, [rsp + 64]",
        "movaps xmm5, [rsp + 80]",
        "movaps xmm6, [rsp + 96]",
        "movaps xmm7, [rsp + 112]",
        "mov rdi, [rsp + 128]",
        "mov rsi, [rsp + 136]",
        "mov rdx, [rsp + 144]",
        "mov rcx, [rsp + 152]",
        "mov r8, [rsp + 160]",
        "mov r9, [rsp + 168]",
        "mov rax, [rsp + 176]",
        "add rsp, 184",
        "jmp r11",
        // ANCHOR_END: msg_send
        "2:", // nil: whatever type the caller expects, it is zero
        "xor eax, eax",
        "xor edx, edx",
        "xorps xmm0, xmm0",
        "xorps xmm1, xmm1",
        "ret",
        look_up = sym look_up,
    )
}

/// Sends a message: cast it to `unsafe extern "C" fn(receiver, selector, arguments…) -> result`.
///
/// # Safety
/// The signature it is cast to is that of the method, and every argument is what the method says it is.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn objc_msgSend() {
    naked_asm!(
        "cbz x0, 2f", // the receiver
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "sub sp, sp, #208", // 8 x 16 + 9 x 8, rounded up to a multiple of 16
        "stp q0, q1, [sp]",
        "stp q2, q3, [sp, #32]",
        "stp q4, q5, [sp, #64]",
        "stp q6, q7, [sp, #96]",
        "stp x0, x1, [sp, #128]",
        "stp x2, x3, [sp, #144]",
        "stp x4, x5, [sp, #160]",
        "stp x6, x7, [sp, #176]",
        "str x8, [sp, #192]", // where a large result goes
        "bl {look_up}",
        "mov x16, x0", // the register for jumps to a function's start, also under branch target identification
        "ldp q0, q1, [sp]",
        "ldp q2, q3, [sp, #32]",
        "ldp q4, q5, [sp, #64]",
        "ldp q6, q7, [sp, #96]",
        "ldp x0, x1, [sp, #128]",
        "ldp x2, x3, [sp, #144]",
        "ldp x4, x5, [sp, #160]",
        "ldp x6, x7, [sp, #176]",
        "ldr x8, [sp, #192]",
        "add sp, sp, #208",
        "ldp x29, x30, [sp], #16",
        "br x16",
        "2:", // nil: whatever type the caller expects, it is zero
        "mov x0, #0",
        "mov x1, #0",
        "movi d0, #0",
        "movi d1, #0",
        "movi d2, #0",
        "movi d3, #0",
        "ret",
        look_up = sym look_up,
    )
}

/// The code of a receiver's method.
unsafe extern "C" fn look_up(receiver: *const Object, selector: Sel) -> Imp {
    // SAFETY: the caller of `objc_msgSend` says that this is an object; what it is not, `checked` mostly notices.
    let object = unsafe { Object::checked(receiver, || format!("message {}", selector.name())) };
    let Some(class) = object.class() else { fail!("message {} to a metaclass", selector.name()) };
    match class.method(selector) {
        Some(method) => method,
        None => fail!("{}: unrecognized selector sent to {receiver:p}", class.spell(selector)),
    }
}
