//! A stand-in for Apple's Metal framework on Linux.
//!
//! It exports the C symbols that a program linked against Metal and the Objective-C runtime wants (`objc_msgSend`,
//! `MTLCreateSystemDefaultDevice`, …), compiles kernels written in the Metal Shading Language with clang, and runs them on
//! the CPU, where it can check every access, or on an NVIDIA GPU. It is a test instrument: where Apple's framework
//! would refuse, misbehave or crash, it refuses with a sentence that says why.
//!
//! Reading order: `objc` (messages, classes, retain counts), `metal` (the classes), `compiler` (MSL to code),
//! [`mod@executor`] (what runs a command buffer), [`cpu`] (fibers and checks), `nvidia` (the driver).

// On a Mac the real framework has these symbols.
#![cfg(not(target_os = "macos"))]
// The names of exported functions and of parameters in messages are Apple's.
#![allow(non_snake_case)]

pub mod compiler;
pub mod cpu;
mod dl;
pub mod executor;
mod machine;
pub mod metal;
#[cfg(feature = "nvidia")]
pub mod nvidia;
pub mod objc;

pub use machine::{executor, install};
pub use metal::fault::fail_command_buffer;
pub use objc::class::{Method, methods};
pub use objc::object::live_objects;
