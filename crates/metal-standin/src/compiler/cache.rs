//! Compiled kernels on disk, by the hash of all that made them.
//!
//! A file appears by renaming a finished one, so that processes that build the same kernel at the same time, or die while
//! they do, leave whole files only. What a library's source taught is kept too: a machine without a compiler loads it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::{Diagnostics, clang};

/// `METAL_STANDIN_CACHE`, or `metal-standin` in the user's cache.
pub(crate) fn directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("METAL_STANDIN_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("metal-standin")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/metal-standin")))
        .unwrap_or_else(|| std::env::temp_dir().join("metal-standin"))
}

/// SHA-256 in hexadecimal over the parts, each with its length.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of the standard library, of this compiler driver, and of clang.
pub(crate) fn headers_key() -> String {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut parts = vec![env!("CARGO_PKG_VERSION"), clang::version()];
        parts.extend(DRIVER);
        parts.extend(clang::HEADERS.iter().flat_map(|(name, text)| [*name, *text]));
        key(&parts)
    })
    .clone()
}

/// The driver's own source: a change in how programs are rewritten makes other kernels.
const DRIVER: [&str; 8] = [
    include_str!("lexer.rs"),
    include_str!("program.rs"),
    include_str!("rewrite.rs"),
    include_str!("rewrite/expressions.rs"),
    include_str!("rewrite/structs.rs"),
    include_str!("clang.rs"),
    include_str!("ir.rs"),
    include_str!("build.rs"),
];

/// A name beside `file` that no other process or thread uses.
pub(crate) fn temporary(file: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    file.with_file_name(format!(".{name}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Diagnostics> {
    std::fs::rename(from, to).map_err(|error| Diagnostics(format!("the cache file {}: {error}", to.display())))
}

pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<(), Diagnostics> {
    let fail = |error: std::io::Error| Diagnostics(format!("the cache file {}: {error}", file.display()));
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    let temporary = temporary(file);
    std::fs::write(&temporary, bytes).map_err(fail)?;
    rename(&temporary, file)
}
