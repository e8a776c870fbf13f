//! What this machine can run a model on, and why not where it cannot.

use crate::backend::BackendKind;
use crate::backend::cpu::simd::Level;
use serde::Serialize;

/// A backend on this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// The name for `--backend`.
    pub backend: &'static str,
    /// Whether `--backend auto` takes it.
    pub auto: bool,
    /// What it runs on; `None` where it cannot.
    pub device: Option<String>,
    /// More about it, or why it cannot run.
    pub details: Vec<String>,
}

/// Every backend.
pub fn devices() -> Vec<Device> {
    let auto = BackendKind::Auto.resolve();
    let device =
        |kind: BackendKind, device, details| Device { backend: kind.name(), auto: kind == auto, device, details };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut cpu = vec![format!("{threads} threads")];
    let missing = Level::missing();
    if !missing.is_empty() {
        cpu.push(format!("without {}", missing.join(", ")));
    }
    let (gpu, about) = match metal() {
        Ok((name, details)) => (Some(name), details),
        Err(reason) => (None, vec![reason]),
    };
    vec![
        device(BackendKind::Metal, gpu, about),
        device(BackendKind::Cpu, Some(Level::detect().name().into()), cpu),
        device(BackendKind::Reference, Some("scalar".into()), vec!["1 thread".into()]),
    ]
}

#[cfg(any(target_os = "macos", feature = "metal-standin"))]
fn metal() -> Result<(String, Vec<String>), String> {
    let report = crate::backend::metal::Metal::new(false).map_err(|error| error.message)?.report();
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let mut details = vec![format!("families {}", report.families.join(", "))];
    if report.unified_memory {
        details.push("unified memory".into());
    }
    details.push(format!("{} recommended at most", gb(report.recommended_working_set)));
    details.push(format!("buffers up to {}", gb(report.max_buffer_length)));
    Ok((report.name, details))
}

#[cfg(not(any(target_os = "macos", feature = "metal-standin")))]
fn metal() -> Result<(String, Vec<String>), String> {
    Err(crate::backend::METAL_IS_NOT_BUILT.into())
}
