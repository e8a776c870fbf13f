//! The device that the tests of Metal kernels run on, and kernels with a mistake in them.

#![allow(dead_code, reason = "each test uses a part of it")]

use failed_star::backend::metal::Metal;

/// The Metal backend: on a Mac on its GPU; elsewhere on the stand-in, on the CPU with bounds, races, uninitialised memory and
/// missing barriers checked, in an order of threads made from `METAL_STANDIN_SHUFFLE` (1 without it), or where `METAL_STANDIN` says.
pub fn metal(plain: bool) -> Metal {
    choose();
    match Metal::new(plain) {
        Ok(metal) => metal,
        // A Mac in name: a hosted runner's GPU is virtual, and older than an M1's. None of these tests can run there.
        Err(error) if cfg!(target_os = "macos") && error.to_string().contains("Apple7") => {
            eprintln!("skipped: {error}");
            std::process::exit(0);
        }
        Err(error) => panic!("a device: {error}"),
    }
}

/// Whether a fault in a kernel can be caught: a GPU has no checks, and may not outlive a wild access.
pub fn checked() -> bool {
    std::env::var("METAL_STANDIN").map_or(cfg!(not(target_os = "macos")), |executor| executor == "cpu")
}

/// The backend, or its plain kernels, with one place of one file's text changed. The directory lives as long as the backend needs it.
pub fn planted(file: &str, from: &str, to: &str, plain: bool) -> (tempfile::TempDir, Metal) {
    choose();
    let directory = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/metal")).expect("the kernels") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name");
        let mut text = std::fs::read_to_string(&path).expect("a text");
        if name == file {
            assert!(text.contains(from), "{file} has no `{from}` to change");
            text = text.replacen(from, to, 1);
        }
        std::fs::write(directory.path().join(name), text).expect("room on the disk");
    }
    let metal = Metal::with_sources(plain, Some(directory.path().to_owned())).expect("a device");
    (directory, metal)
}

/// Chooses what kernels run on, before the first device is asked for.
pub fn choose() {
    #[cfg(not(target_os = "macos"))]
    {
        use metal_standin::cpu::{CpuExecutor, Options};
        static CHOSEN: std::sync::Once = std::sync::Once::new();
        CHOSEN.call_once(|| {
            if checked() {
                let shuffle =
                    std::env::var("METAL_STANDIN_SHUFFLE").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
                let executor = CpuExecutor::new(Options { check: true, shuffle: Some(shuffle) }).expect("an executor");
                assert!(metal_standin::install(Box::new(executor)), "nothing was chosen before");
            }
        });
    }
}
