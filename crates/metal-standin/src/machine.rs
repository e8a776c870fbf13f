//! What this process runs kernels on: one executor, chosen once.

use std::sync::OnceLock;

use crate::cpu::{CpuExecutor, Options};
use crate::executor::Executor;

static EXECUTOR: OnceLock<Result<Box<dyn Executor>, String>> = OnceLock::new();

/// Chooses the executor from a program, before the first device is asked for. False if that was too late.
pub fn install(executor: Box<dyn Executor>) -> bool {
    EXECUTOR.set(Ok(executor)).is_ok()
}

/// What runs kernels in this process, or why nothing does; then there is no Metal device.
///
/// # Errors
/// What `METAL_STANDIN` asks for cannot be had.
pub fn executor() -> Result<&'static dyn Executor, &'static str> {
    EXECUTOR.get_or_init(choose).as_deref().map_err(String::as_str)
}

/// `METAL_STANDIN`: `cpu` (also when it is not set), `nvidia`, `compile` to fill the cache for one elsewhere, or `none` for a
/// computer without Metal.
fn choose() -> Result<Box<dyn Executor>, String> {
    match std::env::var("METAL_STANDIN").as_deref().unwrap_or("cpu") {
        "cpu" => Ok(Box::new(CpuExecutor::new(Options::from_environment())?)),
        "compile" => Ok(Box::new(CpuExecutor::compile_only()?)),
        "none" => Err("METAL_STANDIN=none asks for none".into()),
        #[cfg(feature = "nvidia")]
        "nvidia" => Ok(Box::new(crate::nvidia::NvidiaExecutor::new()?)),
        other => Err(format!(
            "METAL_STANDIN={other} is not an executor of this build: cpu, compile, none, or nvidia with the feature"
        )),
    }
}
