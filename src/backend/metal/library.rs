//! The kernels' sources, and how a kernel becomes a pipeline.
//!
//! Sources are part of the binary and are compiled when the first of their kernels is wanted: no Xcode is needed to build or to
//! run. With `FS_METAL_SOURCE_DIR` set they are read from that directory instead, so that a kernel can be changed without
//! building anything.

use super::objc::{LANGUAGE_2_4, MTLComputePipelineState, MTLDevice, MTLLibrary, Object, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A file in `metal/`.
struct Source {
    file: &'static str,
    text: &'static str,
    /// The least version of the Metal Shading Language that it needs; what it is compiled as.
    language: u64,
}

macro_rules! sources {
    ($($file:literal $language:expr;)*) => {
        &[$(Source { file: $file, text: include_str!(concat!("../../../metal/", $file)), language: $language }),*]
    };
}

/// Every file. 2.4 is macOS 12's; bfloat16 needs no `bfloat` of 3.1, since its bits are the upper half of a float's.
const SOURCES: &[Source] = sources! {
    "formats.h" LANGUAGE_2_4;
    "kv_cache.h" LANGUAGE_2_4;
    "order.h" LANGUAGE_2_4;
    "packed.h" LANGUAGE_2_4;
    "add.metal" LANGUAGE_2_4;
    "argmax.metal" LANGUAGE_2_4;
    "attention.metal" LANGUAGE_2_4;
    "attention_decode.metal" LANGUAGE_2_4;
    "attention_prefill.metal" LANGUAGE_2_4;
    "copy.metal" LANGUAGE_2_4;
    "copy_rows.metal" LANGUAGE_2_4;
    "embed.metal" LANGUAGE_2_4;
    "linear.metal" LANGUAGE_2_4;
    "linear_row.metal" LANGUAGE_2_4;
    "linear_row_many.metal" LANGUAGE_2_4;
    "linear_rows.metal" LANGUAGE_2_4;
    "linear_tiles.metal" LANGUAGE_2_4;
    "norm_rope_store.metal" LANGUAGE_2_4;
    "rms_norm.metal" LANGUAGE_2_4;
    "rope.metal" LANGUAGE_2_4;
    "store_kv.metal" LANGUAGE_2_4;
    "swiglu.metal" LANGUAGE_2_4;
    "top_k.metal" LANGUAGE_2_4;
};

/// A kernel: where it is, and the values of its function constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    pub(super) file: &'static str,
    pub(super) name: &'static str,
    pub(super) constants: Vec<(u32, Value)>,
}

impl Kernel {
    /// The kernel called `name` in `file`, without function constants.
    pub(super) const fn new(file: &'static str, name: &'static str) -> Self {
        Self { file, name, constants: Vec::new() }
    }
}

/// A kernel that is ready to run.
pub(super) struct Pipeline {
    pub(super) state: Object<MTLComputePipelineState>,
    /// The most threads that a threadgroup of it may have: fewer where it needs many registers.
    pub(super) max_threads: u64,
}

/// What has been compiled so far.
pub(super) struct Library {
    device: Object<MTLDevice>,
    directory: Option<PathBuf>,
    libraries: Mutex<HashMap<&'static str, Object<MTLLibrary>>>,
    pipelines: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
}

impl Library {
    /// Kernels from the binary, or from a directory.
    pub(super) fn new(device: Object<MTLDevice>, directory: Option<PathBuf>) -> Self {
        Self { device, directory, libraries: Mutex::default(), pipelines: Mutex::default() }
    }

    /// A kernel's pipeline, made when it is first asked for. The error names the file and carries Metal's own words.
    pub(super) fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>, String> {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(kernel) {
            return Ok(pipeline.clone());
        }
        let Kernel { file, name, constants } = kernel;
        let function = self.library(file)?.function(name, constants);
        let state = function.and_then(|function| self.device.pipeline(&function));
        let state = state.map_err(|error| format!("{file}, kernel {name}: {error}"))?;
        // A SIMD-group of another width would need other kernels; no GPU that Metal runs on here has one.
        let width = state.thread_execution_width();
        if width != 32 {
            return Err(format!("{file}, kernel {name}: SIMD-groups of {width} threads; expected 32"));
        }
        let pipeline = Arc::new(Pipeline { max_threads: state.max_total_threads_per_threadgroup(), state });
        pipelines.insert(kernel.clone(), pipeline.clone());
        Ok(pipeline)
    }

    /// Compiles every file, without making pipelines: as many as there are.
    pub(super) fn compile_all(&self) -> Result<usize, String> {
        let kernels: Vec<_> = SOURCES.iter().filter(|source| source.file.ends_with(".metal")).collect();
        for source in &kernels {
            self.library(source.file)?;
        }
        Ok(kernels.len())
    }

    fn library(&self, file: &'static str) -> Result<Object<MTLLibrary>, String> {
        let mut libraries = self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries.get(file) {
            return Ok(library.clone());
        }
        let source = SOURCES.iter().find(|source| source.file == file).ok_or(format!("no source {file}"))?;
        let text = self.expand(source, &mut vec![source.file])?;
        let library = self.device.compile(&text, source.language).map_err(|error| format!("{file}: {error}"))?;
        libraries.insert(file, library.clone());
        Ok(library)
    }

    /// A file's text with the files that it includes in their places: a program that is compiled from memory has no
    /// directory to include from, each once: `seen` has those that stand in the text already. `#line` makes the compiler name the
    /// right file and line.
    fn expand(&self, source: &Source, seen: &mut Vec<&'static str>) -> Result<String, String> {
        let mut text = format!("#line 1 \"{}\"\n", source.file);
        for (i, line) in self.text(source)?.lines().enumerate() {
            let included = line.trim_start().strip_prefix("#include \"").and_then(|rest| rest.split_once('"'));
            match included {
                Some((name, _)) => {
                    let missing = || format!("{}:{}: there is no `{name}` to include", source.file, i + 1);
                    let included = SOURCES.iter().find(|source| source.file == name).ok_or_else(missing)?;
                    if seen.contains(&included.file) {
                        text.push('\n');
                        continue;
                    }
                    seen.push(included.file);
                    text += &format!("{}#line {} \"{}\"\n", self.expand(included, seen)?, i + 2, source.file);
                }
                None => {
                    text += line;
                    text.push('\n');
                }
            }
        }
        Ok(text)
    }

    fn text(&self, source: &Source) -> Result<String, String> {
        match &self.directory {
            None => Ok(source.text.into()),
            Some(directory) => {
                let path = directory.join(source.file);
                std::fs::read_to_string(&path).map_err(|error| {
                    format!(
                        "{}: {error} (kernels are read from there, not from the binary: see FS_METAL_SOURCE_DIR)",
                        path.display()
                    )
                })
            }
        }
    }
}
