//! From a source in the Metal Shading Language to code that an executor runs.
//!
//! [`Library::compile`] preprocesses the program with clang, takes it apart into tokens (`lexer`), finds its kernels
//! (`program`), refuses what Apple refuses (`rules`), writes it as C++ with address spaces (`rewrite`) and lets clang check
//! that (`clang`). [`Library::build`] adds an entry point (`build`), sets function constants in the IR (`ir`) and optimizes.
//! `README-compiler.md` tells it as a story.

mod build;
mod cache;
mod clang;
mod ir;
mod lexer;
mod library;
mod program;
mod rewrite;
mod rules;

pub(crate) use clang::version;

pub use library::{FunctionConstant, Library};

use std::path::PathBuf;
use std::sync::Arc;

/// What `newLibraryWithSource:options:error:` is given.
#[derive(Clone, Debug)]
pub struct Source {
    /// The program.
    pub text: String,
    /// `MTLLanguageVersion`: `major << 16 | minor`, e.g. `0x3_0001` for 3.1, the first with `bfloat`.
    pub language_version: u32,
    /// Preprocessor macros, name and body.
    pub macros: Vec<(String, String)>,
    /// Whether arithmetic may be reordered and NaN ignored, as is Metal's default.
    pub fast_math: bool,
}

/// The compiler's errors, as `NSError localizedDescription` shows them: `program_source:LINE:COLUMN: error: …`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Diagnostics(pub String);

/// Where a kernel's argument comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// `device T *`, `device T &`: `[[buffer(index)]]`.
    Device,
    /// `constant T *`, `constant T &`: `[[buffer(index)]]`.
    Constant,
    /// `threadgroup T *`: `[[threadgroup(index)]]`, memory sized by `setThreadgroupMemoryLength:atIndex:`.
    Threadgroup,
}

/// One buffer or threadgroup argument of a kernel; built-in inputs (`[[thread_position_in_grid]]`, …) are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// As in the source.
    pub name: String,
    /// What memory it is in.
    pub kind: ArgumentKind,
    /// Its binding index, below 31.
    pub index: u32,
}

/// The value of a function constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConstantValue {
    /// `MTLDataTypeBool` (53).
    Bool(bool),
    /// `MTLDataTypeShort` (37).
    Short(i16),
    /// `MTLDataTypeUShort` (41).
    UShort(u16),
    /// `MTLDataTypeInt` (29).
    Int(i32),
    /// `MTLDataTypeUInt` (33).
    UInt(u32),
    /// `MTLDataTypeFloat` (3).
    Float(f32),
}

/// What the code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// LLVM IR in text, address spaces kept (1 device, 2 constant, 3 threadgroup), for the `cpu` executor to instrument.
    Cpu,
    /// PTX for compute capability 9.0.
    Nvidia,
}

/// One kernel with its function constants set, compiled.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its name in Metal (`[[host_name]]` for an instance of a template).
    pub name: String,
    /// The symbol of its entry point in `code`; see `crates/metal-standin/README.md` for the calling convention.
    pub entry: String,
    /// Its arguments, in order of declaration.
    pub arguments: Vec<Argument>,
    /// Bytes of threadgroup memory that it declares itself.
    pub static_threadgroup_bytes: u32,
    /// `[[max_total_threads_per_threadgroup(n)]]`, or 1,024.
    pub max_threads: u32,
    /// The compiled file in the cache: LLVM IR (`.ll`) or PTX (`.ptx`). Beside the former lies `….unoptimized.ll`, the
    /// same before optimization, for checks.
    pub code: Arc<PathBuf>,
}
