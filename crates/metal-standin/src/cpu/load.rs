//! From a kernel's IR to machine code in this process: the pass of [`super::ir`], clang, `dlopen`.

use std::ffi::{CStr, c_char, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use super::group::{Entry, hook_access, hook_barrier, hook_exchange, hook_lane, hook_line};
use super::ir;
use crate::compiler::{Kernel, version};
use crate::dl::Library;

/// What a kernel's thread may need beside its own frames: hooks, the C library's functions, a signal's frame.
const RESERVE: usize = 32 << 10;
/// The most that the frames of one thread may take.
const MAX_FRAMES: usize = 256 << 10;

/// A variable in threadgroup or program-scope constant memory.
#[derive(Clone, Debug)]
pub struct Static {
    pub address: usize,
    pub size: usize,
    /// 2 constant, 3 threadgroup.
    pub space: u32,
    pub name: String,
}

/// A kernel's machine code.
pub struct Loaded {
    _library: Library,
    pub entry: Entry,
    /// Whether its threads can wait for each other and so need fibers.
    pub waits: bool,
    /// Stack bytes for one thread.
    pub stack: usize,
    pub statics: Vec<Static>,
}

/// Compiles (or finds in the cache) and loads.
pub fn load(kernel: &Kernel, checked: bool) -> Result<Loaded, String> {
    let name = &kernel.name;
    let unoptimized = kernel.code.with_extension("unoptimized.ll");
    let source = if checked && unoptimized.exists() { &unoptimized } else { kernel.code.as_ref() };
    let text = fs::read_to_string(source).map_err(|why| format!("kernel `{name}`: {}: {why}", source.display()))?;
    let library = compile(source, &text, &kernel.entry, checked).map_err(|why| format!("kernel `{name}`: {why}"))?;
    let frames = frames(&library.with_extension("su")).map_err(|why| format!("kernel `{name}`: {why}"))?;
    if frames > MAX_FRAMES {
        return Err(format!(
            "kernel `{name}` needs {frames} bytes of stack for each thread; {MAX_FRAMES} is the most: are its \
             thread-local arrays that large?"
        ));
    }
    open(&library, &kernel.entry, frames + RESERVE).map_err(|why| format!("kernel `{name}`: {why}"))
}

/// The shared object for this IR, in the cache beside it.
fn compile(source: &Path, text: &str, entry: &str, checked: bool) -> Result<PathBuf, String> {
    let clang = env::var("METAL_STANDIN_CLANG").unwrap_or_else(|_| "clang-19".into());
    // F16C, FMA and AVX2 together: half conversions and vector arithmetic in single instructions.
    #[cfg(target_arch = "x86_64")]
    let modern =
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(target_arch = "x86_64")]
    let processor = if modern { "-march=x86-64-v3" } else { "-march=x86-64" };
    #[cfg(not(target_arch = "x86_64"))]
    let processor = "-march=armv8.2-a+fp16";
    // This crate's own sources decide what the pass writes.
    let pass = (include_str!("ir.rs"), include_str!("load.rs"));
    let base = source.with_file_name(format!("cpu-{}", digest(&(text, entry, checked, version(), processor, pass))));
    let (library, usage) = (base.with_extension("so"), base.with_extension("su"));
    if library.exists() && usage.exists() {
        return Ok(library);
    }
    // Others may be compiling the same: names of our own first, then a rename, the shared object last.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let own = |suffix: &str| base.with_extension(format!("{}-{count}.{suffix}", std::process::id()));
    let [inlined, rewritten, object, stack, shared] = ["inlined.ll", "ll", "o", "su", "so"].map(own);
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|why| format!("{}: {why}", path.display()));
    let run = |arguments: &[&str], input: &Path, output: &Path| {
        let done = Command::new(&clang).args(arguments).arg("-o").arg(output).arg(input).output();
        let done = done.map_err(|why| format!("{clang} does not start ({why}); METAL_STANDIN_CLANG names another"))?;
        match done.status.success() {
            true => Ok(()),
            false => Err(format!("{clang} failed on {}:\n{}", input.display(), String::from_utf8_lossy(&done.stderr))),
        }
    };
    let mut text = text.to_string();
    if checked {
        // Inlines the header's functions and nothing more, so that accesses have the program's lines.
        run(&["-O0", "-S", "-emit-llvm", "-Wno-override-module"], source, &inlined)?;
        text = fs::read_to_string(&inlined).map_err(|why| format!("{}: {why}", inlined.display()))?;
    }
    write(&rewritten, &ir::rewrite(&text, entry, checked)?)?;
    let optimise = ["-O2", "-fPIC", processor, "-Wno-override-module", "-fstack-usage", "-c"];
    run(&optimise, &rewritten, &object)?;
    run(&["-shared", "-Wl,--no-as-needed", "-lm"], &object, &shared)?;
    for (from, to) in [(&stack, &usage), (&shared, &library)] {
        fs::rename(from, to).map_err(|why| format!("{}: {why}", to.display()))?;
    }
    for spent in [&inlined, &rewritten, &object] {
        // Left behind, they would only take space.
        let _ = fs::remove_file(spent);
    }
    Ok(library)
}

/// 128 bits of SipHash with fixed keys: a cache's name, not a defence.
fn digest(of: &impl Hash) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        of.hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(1), half(2))
}

/// The sum of all functions' frames, from clang's `-fstack-usage`: MSL has no recursion, so no path is deeper.
fn frames(usage: &Path) -> Result<usize, String> {
    let text = fs::read_to_string(usage).map_err(|why| format!("{}: {why}", usage.display()))?;
    let size = |line: &str| line.split('\t').nth(1).and_then(|bytes| bytes.parse::<usize>().ok());
    text.lines().map(|line| size(line).ok_or(format!("{}: not understood: {line}", usage.display()))).sum()
}

/// A row of `msl_arrays`.
#[repr(C)]
struct Row {
    address: usize,
    size: usize,
    space: usize,
    name: *const c_char,
}

fn open(path: &Path, entry: &str, stack: usize) -> Result<Loaded, String> {
    let library = Library::open(path)?;
    let symbol = |name: &str| library.symbol(name).map_err(|why| format!("{}: {why}", path.display()));
    // SAFETY: the compiler's entry points have this type.
    let entry = unsafe { std::mem::transmute::<*mut c_void, Entry>(symbol(entry)?) };
    let mut statics = Vec::new();
    let hooks: [*const (); ir::HOOKS.len()] = [
        hook_barrier as *const (),
        hook_exchange as *const (),
        hook_access as *const (),
        hook_line as *const (),
        hook_lane as *const (),
    ];
    // SAFETY: `msl_hooks` and `msl_arrays` were written by our pass: as many pointers, and rows up to one of zeros.
    let waits = unsafe {
        symbol("msl_hooks")?.cast::<[*const (); ir::HOOKS.len()]>().write(hooks);
        let mut row = symbol("msl_arrays")?.cast::<Row>();
        while (*row).address != 0 {
            let Row { address, size, space, name } = row.read();
            let name = CStr::from_ptr(name).to_string_lossy().into_owned();
            statics.push(Static { address, size, space: space as u32, name });
            row = row.add(1);
        }
        symbol("msl_waits")?.cast::<u8>().read() != 0
    };
    Ok(Loaded { entry, waits, stack, statics, _library: library })
}
