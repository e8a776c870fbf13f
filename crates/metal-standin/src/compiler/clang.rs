//! Runs clang, and says what it says in the user's lines.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::cache;
use super::program::Fault;
use super::rewrite::Text;
use super::{Diagnostics, Source, Target};

/// The name of the user's program in messages, which is also Metal's.
pub(crate) const FILE: &str = "program_source";

/// The standard library, by file name.
pub(crate) const HEADERS: [(&str, &str); 19] = [
    ("msl.h", include_str!("../../include/msl.h")),
    ("macros.h", include_str!("../../include/macros.h")),
    ("msl/types.h", include_str!("../../include/msl/types.h")),
    ("msl/objects.h", include_str!("../../include/msl/objects.h")),
    ("msl/make.h", include_str!("../../include/msl/make.h")),
    ("msl/traits.h", include_str!("../../include/msl/traits.h")),
    ("msl/scalar_math.h", include_str!("../../include/msl/scalar_math.h")),
    ("msl/math.h", include_str!("../../include/msl/math.h")),
    ("msl/integer.h", include_str!("../../include/msl/integer.h")),
    ("msl/relational.h", include_str!("../../include/msl/relational.h")),
    ("msl/geometric.h", include_str!("../../include/msl/geometric.h")),
    ("msl/matrix.h", include_str!("../../include/msl/matrix.h")),
    ("msl/pack.h", include_str!("../../include/msl/pack.h")),
    ("msl/sync.h", include_str!("../../include/msl/sync.h")),
    ("msl/simd.h", include_str!("../../include/msl/simd.h")),
    ("msl/atomic.h", include_str!("../../include/msl/atomic.h")),
    ("msl/simdgroup_matrix.h", include_str!("../../include/msl/simdgroup_matrix.h")),
    ("msl/builtins.h", include_str!("../../include/msl/builtins.h")),
    ("msl/entry.h", include_str!("../../include/msl/entry.h")),
];

/// Stands for `#pragma unroll COUNT` between the preprocessor and the rewriter.
pub(crate) const UNROLL: &str = "msl_pragma_unroll";

/// What a program may include; all give the same.
const INCLUDED: [&str; 26] = [
    "metal_stdlib",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_atomic",
    "metal_math",
    "metal_common",
    "metal_matrix",
    "metal_integer",
    "metal_geometric",
    "metal_compute",
    "metal_limits",
    "metal_type_traits",
    "metal_array",
    "metal_pack",
    "metal_relational",
    "metal_numeric",
    "metal_uniform",
    "metal_config",
    "metal_types",
    "metal_texture",
    "metal_graphics",
    "metal_quadgroup",
    "metal_utility",
    "metal_logging",
    "metal_assert",
    "simd/simd.h",
];

/// The compiler's name.
fn compiler() -> PathBuf {
    std::env::var_os("METAL_STANDIN_CLANG").map_or_else(|| "clang-19".into(), PathBuf::from)
}

/// What `clang --version` says in its first line. Without a clang, that of the one which filled the cache, so that what it made
/// is found.
pub(crate) fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let file = cache::directory().join("clang-version");
        let recorded = std::fs::read_to_string(&file).unwrap_or_default();
        let Ok(output) = Command::new(compiler()).arg("--version").output() else { return recorded };
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default();
        if version != recorded {
            // A cache that cannot be written is reported by whoever has something to put into it.
            let _ = cache::write(&file, version.as_bytes());
        }
        version.into()
    })
}

/// Options that decide what a type, a number or an address space is.
pub(crate) fn options(source: &Source, target: Target) -> Vec<String> {
    let mut options: Vec<&str> = vec![
        "-x",
        "c++",
        "-std=gnu++23",
        "-O2",
        "-Wno-everything",
        "-Wno-c++11-narrowing",
        "-nostdinc",
        "-fno-exceptions",
        "-fno-rtti",
        "-fno-threadsafe-statics",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=fast",
        "-fno-color-diagnostics",
        "-fno-caret-diagnostics",
        "-fno-strict-aliasing",
        "-fno-stack-protector",
        "-fno-asynchronous-unwind-tables",
        "-ferror-limit=50",
        "-ftemplate-depth=1024",
        "-Xclang",
        "-ffloat16-excess-precision=none",
        "-Xclang",
        "-fbfloat16-excess-precision=none",
    ];
    match target {
        Target::Cpu if cfg!(target_arch = "x86_64") => {
            options.extend(["--target=x86_64-linux-gnu", "-march=x86-64-v3"])
        }
        Target::Cpu => options.push("--target=aarch64-linux-gnu"),
        Target::Nvidia => options.extend(NVPTX),
    }
    if source.fast_math {
        // NaN and infinity stay what they are: kernels mask with -INFINITY under fast math, and get what they mean.
        options.extend([
            "-fassociative-math",
            "-freciprocal-math",
            "-fno-signed-zeros",
            "-fapprox-func",
            "-D__FAST_MATH__=1",
        ]);
    }
    options.into_iter().map(String::from).collect()
}

const NVPTX: [&str; 6] =
    ["--target=nvptx64-nvidia-cuda", "-march=sm_90", "-Xclang", "-target-feature", "-Xclang", "+ptx80"];

/// Feeds clang and takes what it writes.
fn run(arguments: &[String], input: &str) -> Result<String, Diagnostics> {
    let spawned = Command::new(compiler())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| {
        Diagnostics(format!(
            "the compiler '{}' does not start: {error}. METAL_STANDIN_CLANG names another; without one, kernels come \
             from the cache ({})",
            compiler().display(),
            cache::directory().display()
        ))
    })?;
    let mut stdin = child.stdin.take();
    let input = input.to_string();
    let writer = std::thread::spawn(move || {
        // A compiler that stops early closes its end; its messages say why.
        if let Some(stdin) = stdin.as_mut() {
            let _ = stdin.write_all(input.as_bytes());
        }
    });
    let output = child.wait_with_output().map_err(|error| Diagnostics(format!("the compiler failed: {error}")))?;
    let _ = writer.join();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Diagnostics(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

/// Writes the headers once, where clang finds them.
fn headers() -> Result<PathBuf, Diagnostics> {
    let directory = cache::directory().join(format!("include-{}", &cache::headers_key()[..16]));
    let done = directory.join("complete");
    if !done.exists() {
        for (name, text) in HEADERS {
            cache::write(&directory.join(name), text.as_bytes())?;
        }
        for name in INCLUDED {
            cache::write(&directory.join("program").join(name), b"#pragma once\n#include \"../macros.h\"\n")?;
        }
        cache::write(&directory.join("program/simd/simd.h"), b"#pragma once\n#include \"../../macros.h\"\n")?;
        cache::write(&done, b"")?;
    }
    Ok(directory)
}

/// The user's text through the preprocessor.
pub(crate) fn preprocess(source: &Source) -> Result<String, Diagnostics> {
    let headers = headers()?;
    let (major, minor) = (source.language_version >> 16, source.language_version & 0xffff);
    let mut arguments = strings(&["-x", "c++", "-E", "-nostdinc", "-undef", "-fno-color-diagnostics", "-w"]);
    arguments.push(format!("-I{}", headers.join("program").display()));
    arguments.push(format!("-D__METAL_VERSION__={}", major * 100 + minor * 10));
    arguments.extend(strings(&["-D__METAL__=1", "-D__METAL_MACOS__=1", "-D__HAVE_BFLOAT__=1", "-D__APPLE__=1"]));
    if major * 10 + minor < 31 {
        arguments.push("-U__HAVE_BFLOAT__".into());
    }
    arguments.extend(source.macros.iter().map(|(name, body)| format!("-D{name}={body}")));
    arguments.push("-".into());
    let mut text = format!("# 1 \"{FILE}\"\n");
    for line in source.text.lines() {
        // Places are lines of this text until somebody reads them: see `origins`.
        let line = if line_directive(line).is_some() { "" } else { line };
        // The preprocessor leaves pragmas alone; an unroll count may be a macro.
        let words = line.trim_start().strip_prefix('#').map(str::trim_start);
        let count = words.and_then(|l| l.strip_prefix("pragma")).and_then(|l| l.trim_start().strip_prefix("unroll"));
        match count.map(|c| c.split("//").next().unwrap_or("").trim()).filter(|count| !count.is_empty()) {
            Some(count) => {
                let _ = writeln!(text, "{UNROLL} ({count})");
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    run(&arguments, &text).map_err(|errors| Diagnostics(with_lines(&errors.0, source)))
}

/// `#line NUMBER "FILE"`.
fn line_directive(line: &str) -> Option<(u32, Option<&str>)> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("line")?.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((rest[..end].parse().ok()?, rest[end..].trim_start().strip_prefix('"')?.split_once('"').map(|(name, _)| name)))
}

/// File and number of each line of the text, as the program's `#line`s say.
fn origins(source: &Source) -> Vec<(&str, u32)> {
    let mut next = (FILE, 1);
    let origin = |line| {
        let origin = next;
        next.1 += 1;
        if let Some((number, file)) = line_directive(line) {
            next = (file.unwrap_or(next.0), number);
        }
        origin
    };
    source.text.lines().map(origin).collect()
}

/// Makes each message about the user's text one about the file and line that its `#line`s say, and adds the offending line
/// and a caret.
fn with_lines(messages: &str, source: &Source) -> String {
    let origins = origins(source);
    let mut result = String::new();
    for message in messages.lines() {
        let parts: Vec<&str> = message.splitn(4, ':').collect();
        let line = |number: &str| number.parse::<usize>().ok()?.checked_sub(1);
        if let [FILE, number, column, rest] = parts[..]
            && let Some((line, column)) = line(number).zip(column.parse::<usize>().ok())
            && let (Some(text), Some((file, number))) = (source.text.lines().nth(line), origins.get(line))
        {
            let blank: String =
                text.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let _ = writeln!(result, "{file}:{number}:{column}:{rest}\n{text}\n{blank}^");
        } else {
            let _ = writeln!(result, "{message}");
        }
    }
    result.truncate(result.trim_end().len());
    result
}

/// Our own findings, as clang would print them.
pub(crate) fn faults(faults: &[Fault], source: &Source) -> Diagnostics {
    let mut text = String::new();
    for fault in faults {
        let _ = writeln!(text, "{FILE}:{}:{}: error: {}", fault.place.line, fault.place.column, fault.message);
    }
    Diagnostics(with_lines(&text, source))
}

/// clang's words for what MSL calls otherwise.
const WORDS: [(&str, &str); 7] = [
    ("__attribute__((address_space(1)))", "device"),
    ("__attribute__((address_space(2)))", "constant"),
    ("__attribute__((address_space(3)))", "threadgroup"),
    (
        "variable length arrays in C++ are a Clang extension",
        "variable length arrays are not supported in Metal: how many elements an array has must be known without function constants",
    ),
    (" [-Werror,-Wvla-cxx-extension]", ""),
    ("_Float16", "half"),
    ("__bf16", "bfloat"),
];

/// clang's messages about the rewritten text, in the user's places.
fn translate(messages: &str, text: &Text, source: &Source) -> Diagnostics {
    let mut result = String::new();
    let (mut seen_error, mut notes) = (false, 0);
    // An error inside the library is reported where the program made it happen, which the next note says.
    let mut inside: Option<String> = None;
    for message in messages.lines() {
        let mut words = message.to_string();
        for (old, new) in WORDS {
            words = words.replace(old, new);
        }
        let parts: Vec<&str> = words.splitn(4, ':').collect();
        match parts[..] {
            ["<stdin>", line, column, rest] => {
                let place = text.place(line.parse().unwrap_or(0), column.parse().unwrap_or(0));
                let is_note = rest.contains("note:");
                if let Some(error) = inside.take().filter(|_| is_note) {
                    seen_error = true;
                    let _ = writeln!(result, "{FILE}:{}:{}:{error}", place.line, place.column);
                    continue;
                }
                seen_error |= !is_note;
                notes = if is_note { notes + 1 } else { 0 };
                // clang lists every candidate of an overload; our own copies of a struct's constructors are among them.
                if is_note && (notes > 2 || rest.contains("candidate constructor")) {
                    continue;
                }
                let _ = writeln!(result, "{FILE}:{}:{}:{rest}", place.line, place.column);
            }
            [file, _, _, rest] if file.ends_with(".h") && rest.contains("error:") => inside = Some(rest.to_string()),
            // Notes that point into the library or list every candidate help nobody.
            _ if words.contains("note:") => {}
            _ if words.ends_with("generated.") || words.starts_with("In file included") => {}
            _ => {
                let _ = writeln!(result, "{words}");
            }
        }
    }
    if !seen_error && result.is_empty() {
        result = messages.to_string();
    }
    Diagnostics(with_lines(&result, source))
}

/// The standard library, precompiled for these options. Compiling it is most of a small kernel's time.
fn precompiled(source: &Source, target: Target) -> Result<PathBuf, Diagnostics> {
    let headers = headers()?;
    let options = options(source, target);
    let key = cache::key(&[&options.join(" "), &cache::headers_key()]);
    let file = cache::directory().join(format!("library-{}.pch", &key[..32]));
    if file.exists() {
        return Ok(file);
    }
    let temporary = cache::temporary(&file);
    let mut arguments = options;
    arguments[1] = "c++-header".into();
    arguments.push(format!("-I{}", headers.display()));
    arguments.push("-fpch-instantiate-templates".into());
    arguments.extend([headers.join("msl.h").display().to_string(), "-o".into(), temporary.display().to_string()]);
    run(&arguments, "")?;
    cache::rename(&temporary, &file)?;
    Ok(file)
}

/// Checks the whole program.
pub(crate) fn check(text: &Text, source: &Source) -> Result<(), Diagnostics> {
    let mut arguments = options(source, Target::Cpu);
    arguments.extend(["-include-pch".into(), precompiled(source, Target::Cpu)?.display().to_string()]);
    arguments.extend(strings(&["-Werror=vla", "-DMSL_INSTANCE(...)=__VA_ARGS__", "-fsyntax-only", "-"]));
    run(&arguments, &text.text).map(drop).map_err(|errors| translate(&errors.0, text, source))
}

/// IR of every function, with the lines that they come from.
pub(crate) fn everything(text: &Text, source: &Source) -> Result<String, Diagnostics> {
    let mut arguments = options(source, Target::Cpu);
    arguments.extend(["-include-pch".into(), precompiled(source, Target::Cpu)?.display().to_string()]);
    arguments.extend(strings(&[
        "-DMSL_INSTANCE(...)=__VA_ARGS__",
        "-Xclang",
        "-disable-llvm-passes",
        "-S",
        "-emit-llvm",
    ]));
    arguments.extend(strings(&["-femit-all-decls", "-gline-tables-only", "-fno-discard-value-names", "-o", "-", "-"]));
    run(&arguments, &text.text).map_err(|errors| translate(&errors.0, text, source))
}

/// IR of the program with the entry point of one kernel, before any optimization.
pub(crate) fn lower(text: &Text, entry: &str, source: &Source, target: Target) -> Result<String, Diagnostics> {
    let mut arguments = options(source, target);
    arguments.extend(["-include-pch".into(), precompiled(source, target)?.display().to_string()]);
    arguments.extend(strings(&["-DMSL_INSTANCE(...)=", "-Xclang", "-disable-llvm-passes", "-S", "-emit-llvm"]));
    if target == Target::Cpu {
        // Lines for the executor's checks; a vector of three is accessed as three, not as four.
        arguments.extend(strings(&["-gline-tables-only", "-Xclang", "-fpreserve-vec3-type"]));
    }
    arguments.extend(strings(&["-o", "-", "-"]));
    // What a function of an included file does is said to be done where the kernel's file calls it: see `cpu::ir`.
    let mut origins = origins(source);
    let kernels = origins.last().map_or(FILE, |(file, _)| *file);
    origins.iter_mut().filter(|(file, _)| *file == kernels).for_each(|(file, _)| *file = FILE);
    let whole = format!("{}# 1 \"{FILE}\"\n{entry}", text.with_line_markers(&origins));
    run(&arguments, &whole).map_err(|errors| translate(&errors.0, text, source))
}

/// Optimizes IR: to IR for the CPU executor, to PTX for NVIDIA.
pub(crate) fn optimize(ir: &str, target: Target, output: &Path) -> Result<String, Diagnostics> {
    let mut arguments = strings(&["-x", "ir", "-O2", "-S", "-w", "-mllvm", "-inline-threshold=2000"]);
    match target {
        // The executor checks every access: it wants them one by one.
        Target::Cpu => arguments.extend(strings(&["-emit-llvm", "-fno-vectorize", "-fno-slp-vectorize"])),
        Target::Nvidia => arguments.extend(strings(&NVPTX)),
    }
    arguments.extend(["-ffp-contract=fast".into(), "-o".into(), output.display().to_string(), "-".into()]);
    run(&arguments, ir)?;
    std::fs::read_to_string(output).map_err(|error| Diagnostics(format!("{}: {error}", output.display())))
}
