//! Metal's classes, as far as a compute engine uses them.
//!
//! Reading order: `foundation` (strings, errors, …), `device`, `buffer`, `library` (source, functions, pipelines),
//! `queue` (command buffers: order, waiting), `encoder` (bindings, dispatches and the rules for them), `blit`; then the
//! small ones: `capture`, `residency`, `event`, `fault` (failures on demand).
//!
//! Two kinds of trouble, as at Apple's. A program that breaks a rule which Apple's validation layer knows aborts with one line
//! (`objc::failure`). What can happen to a correct program (a source that does not compile, a function that is not
//! there, no memory, a kernel that fails) is nil, an `NSError`, or a command buffer of status 5.

pub(crate) mod blit;
pub(crate) mod buffer;
pub(crate) mod capture;
pub(crate) mod device;
pub(crate) mod encoder;
pub(crate) mod event;
pub(crate) mod fault;
pub(crate) mod foundation;
pub(crate) mod library;
pub(crate) mod queue;
pub(crate) mod residency;

use crate::objc::class::{Definition, encode};

/// `MTLSize`, passed by value: 24 bytes on the stack on x86-64, by a pointer to a copy on aarch64.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Along x.
    pub width: usize,
    /// Along y.
    pub height: usize,
    /// Along z.
    pub depth: usize,
}

/// `NSRange`, passed by value in two registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub location: usize,
    /// How many.
    pub length: usize,
}

encode! { Size => "{?=QQQ}", Range => "{_NSRange=QQ}" }

/// Every class, each after its superclass.
pub(crate) fn definitions() -> Vec<Definition> {
    vec![
        foundation::ns_object(),
        foundation::ns_string(),
        foundation::ns_error(),
        foundation::ns_array(),
        foundation::ns_dictionary(),
        foundation::ns_mutable_dictionary(),
        foundation::ns_number(),
        foundation::ns_url(),
        foundation::mtl_object(),
        device::mtl_device(),
        buffer::mtl_buffer(),
        library::mtl_compile_options(),
        library::mtl_library(),
        library::mtl_function(),
        library::mtl_function_constant_values(),
        library::mtl_compute_pipeline_state(),
        queue::mtl_command_queue(),
        queue::mtl_command_buffer(),
        encoder::mtl_compute_command_encoder(),
        blit::mtl_blit_command_encoder(),
        capture::mtl_capture_manager(),
        capture::mtl_capture_descriptor(),
        residency::mtl_residency_set_descriptor(),
        residency::mtl_residency_set(),
        event::mtl_shared_event(),
    ]
}
