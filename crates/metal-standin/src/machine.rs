//! What this process runs kernels on: an executor and the compiler for it, chosen once.

use std::sync::{Arc, OnceLock};

use crate::compiler::{ConstantValue, Diagnostics, Kernel, Source, Target};
use crate::executor::Executor;

/// A compiled library, as the Metal classes see it.
pub trait Program: Send + Sync {
    /// The names of its kernels.
    fn function_names(&self) -> Vec<String>;

    /// One kernel, with its function constants set.
    fn build(&self, name: &str, constants: &[(u32, ConstantValue)], target: Target) -> Result<Kernel, Diagnostics>;
}

/// An executor and its compiler.
pub struct Machine {
    /// Runs command buffers.
    pub executor: Box<dyn Executor>,
    /// Parses a source and checks it.
    pub compile: fn(&Source) -> Result<Arc<dyn Program>, Diagnostics>,
}

static MACHINE: OnceLock<Result<Machine, String>> = OnceLock::new();

/// Chooses the machine from a program, before the first device is made; `Err` gives back one that came too late.
pub fn install(machine: Machine) -> Result<(), Machine> {
    MACHINE.set(Ok(machine)).map_err(|late| match late {
        Ok(machine) => machine,
        Err(_) => unreachable!("it is the value given above"),
    })
}

/// The machine, or why there is none.
pub(crate) fn machine() -> Result<&'static Machine, &'static str> {
    MACHINE.get_or_init(choose).as_ref().map_err(String::as_str)
}

/// What runs kernels in this process, once a device has been made.
pub fn executor() -> Option<&'static dyn Executor> {
    machine().ok().map(|machine| &*machine.executor)
}

/// `METAL_STANDIN`: `cpu` (also when it is not set), `nvidia`, or `none` for a machine without a Metal device.
fn choose() -> Result<Machine, String> {
    match std::env::var("METAL_STANDIN").as_deref().unwrap_or("cpu") {
        "none" => Err("METAL_STANDIN=none asks for no device".into()),
        // The rooms `cpu` and `nvidia` are joined here.
        other => Err(format!("METAL_STANDIN={other} is not an executor of this build: cpu, nvidia or none")),
    }
}
