//! From source to pipeline: `MTLCompileOptions`, `MTLLibrary`, `MTLFunction`, `MTLFunctionConstantValues`,
//! `MTLComputePipelineState`.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use super::device::THREADGROUP_MEMORY;
use super::foundation::{Array, Dictionary, error, string, text};
use crate::compiler::{self, ConstantValue, Diagnostics, Kernel, Source, Target};
use crate::executor::{Executor, Pipeline};
use crate::objc::class::class;
use crate::objc::failure::fail;
use crate::objc::object::{Body, Id, Object, Retained};
use crate::objc::set_error;

const NIL: Id = std::ptr::null();

/// The body of compile options.
#[derive(Default)]
pub(crate) struct CompileOptions(Mutex<Options>);

#[derive(Clone)]
struct Options {
    language_version: u32,
    fast_math: bool,
    macros: Option<Retained<Dictionary>>,
}

impl Default for Options {
    /// Without `setLanguageVersion:` Metal takes the version of the oldest macOS that the program says it runs on. For
    /// Rust on Apple Silicon that is macOS 11, so MSL 2.3, which has no `bfloat`.
    fn default() -> Self {
        Self { language_version: 0x2_0003, fast_math: true, macros: None }
    }
}

impl Body for CompileOptions {
    const CLASS: &'static str = "MTLCompileOptions";
}

/// The versions of the Metal Shading Language up to 4.0.
fn is_language_version(version: usize) -> bool {
    matches!(version, 0x1_0000..=0x1_0002 | 0x2_0000..=0x2_0004 | 0x3_0000..=0x3_0002 | 0x4_0000)
}

class! { mtl_compile_options, CompileOptions, "MTLCompileOptions": "NSObject", CompileOptions::default();
    - c"setLanguageVersion:" (this, version: usize) {
        if !is_language_version(version) {
            fail!(this, "{version:#x} is not a version of the Metal Shading Language (3.1 is 0x30001)");
        }
        this.0.lock().unwrap().language_version = version as u32;
    }
    - c"languageVersion" (this) -> usize { this.0.lock().unwrap().language_version as usize }
    - c"setFastMathEnabled:" (this, enabled: bool) { this.0.lock().unwrap().fast_math = enabled }
    - c"fastMathEnabled" (this) -> bool { this.0.lock().unwrap().fast_math }
    // MTLMathMode: 0 safe, 1 relaxed, 2 fast. Relaxed keeps NaN and infinity, which the compiler here does only in safe mode.
    - c"setMathMode:" (this, mode: isize) {
        if !(0..=2).contains(&mode) {
            fail!(this, "{mode} is not a math mode: safe 0, relaxed 1, fast 2");
        }
        this.0.lock().unwrap().fast_math = mode == 2;
    }
    - c"mathMode" (this) -> isize { if this.0.lock().unwrap().fast_math { 2 } else { 0 } }
    - c"setPreprocessorMacros:" (this, macros: Option<&Object>) {
        this.0.lock().unwrap().macros = macros.map(Retained::of);
    }
    - c"preprocessorMacros" (this) -> Id {
        this.0.lock().unwrap().macros.clone().map_or(NIL, Retained::autorelease)
    }
}

/// The body of a library.
pub(crate) struct Library {
    executor: &'static dyn Executor,
    program: Arc<compiler::Library>,
}

impl Body for Library {
    const CLASS: &'static str = "MTLLibrary";
}

impl Library {
    pub fn compile(
        executor: &'static dyn Executor,
        source: String,
        options: Option<&CompileOptions>,
    ) -> Result<Self, Diagnostics> {
        let options = options.map(|options| options.0.lock().unwrap().clone()).unwrap_or_default();
        let source = Source {
            text: source,
            language_version: options.language_version,
            macros: options.macros.map(|macros| macros.texts()).unwrap_or_default(),
            fast_math: options.fast_math,
        };
        Ok(Self { executor, program: Arc::new(compiler::Library::compile(&source)?) })
    }

    fn function(&self, name: &str, constants: Vec<(u32, ConstantValue)>) -> Option<Function> {
        self.program.function_names().iter().any(|other| other == name).then(|| Function {
            program: self.program.clone(),
            name: name.into(),
            constants,
        })
    }
}

class! { mtl_library, Library, "MTLLibrary": "MTLObject";
    - c"functionNames" (this) -> Id {
        let names = this.program.function_names();
        Retained::new(Array(names.iter().map(|name| string(name).handle()).collect())).autorelease()
    }
    - c"newFunctionWithName:" (this, name: Option<&Object>) -> Id {
        let name = text(this.required(name, "the name"));
        this.function(&name, Vec::new()).map_or(NIL, |function| Retained::new(function).into_id())
    }
    - c"newFunctionWithName:constantValues:error:" (this, name: Option<&Object>, values: Option<&Object>, out: *mut Id) -> Id {
        let name = text(this.required(name, "the name"));
        let values = this.required(values, "constantValues").body::<ConstantValues>().list();
        let fails = |code, message: &str| {
            set_error(out, error("MTLLibraryErrorDomain", code, message));
            NIL
        };
        let Some(function) = this.function(&name, values) else {
            return fails(5, &format!("Function {name} was not found in the library")); // FunctionNotFound
        };
        // Specialized now, as at Apple's: a missing constant is this method's error.
        match function.build(this.executor) {
            Ok(_) => Retained::new(function).into_id(),
            Err(diagnostics) => fails(3, &diagnostics.0), // CompileFailure
        }
    }
}

/// The body of a function: a kernel's name and the values of its constants.
pub(crate) struct Function {
    program: Arc<compiler::Library>,
    name: String,
    constants: Vec<(u32, ConstantValue)>,
}

impl Body for Function {
    const CLASS: &'static str = "MTLFunction";
}

impl Function {
    fn build(&self, executor: &dyn Executor) -> Result<Kernel, Diagnostics> {
        // What is compiled here for a GPU in another machine, which has the cache but no compiler.
        if std::env::var("METAL_STANDIN_ALSO").is_ok_and(|target| target == "nvidia") {
            self.program.build(&self.name, &self.constants, Target::Nvidia)?;
        }
        self.program.build(&self.name, &self.constants, executor.target())
    }
}

class! { mtl_function, Function, "MTLFunction": "MTLObject";
    - c"name" (this) -> Id { string(&this.name).autorelease() }
    - c"functionType" (this) -> usize { 3 } // MTLFunctionTypeKernel
}

/// The body of function constant values: by index.
#[derive(Default)]
pub(crate) struct ConstantValues(Mutex<BTreeMap<u32, ConstantValue>>);

impl Body for ConstantValues {
    const CLASS: &'static str = "MTLFunctionConstantValues";
}

impl ConstantValues {
    fn list(&self) -> Vec<(u32, ConstantValue)> {
        self.0.lock().unwrap().iter().map(|(&index, &value)| (index, value)).collect()
    }
}

class! { mtl_function_constant_values, ConstantValues, "MTLFunctionConstantValues": "NSObject", ConstantValues::default();
    - c"setConstantValue:type:atIndex:" (this, value: *const c_void, kind: usize, index: usize) {
        if value.is_null() {
            fail!(this, "the value at index {index} is NULL");
        }
        if index > 65_535 {
            fail!(this, "index {index}; function constants have 0 to 65535");
        }
        // SAFETY: the sender's value, of the type that it names.
        let value = unsafe {
            match kind {
                53 => ConstantValue::Bool(value.cast::<u8>().read() != 0),
                37 => ConstantValue::Short(value.cast::<i16>().read_unaligned()),
                41 => ConstantValue::UShort(value.cast::<u16>().read_unaligned()),
                29 => ConstantValue::Int(value.cast::<i32>().read_unaligned()),
                33 => ConstantValue::UInt(value.cast::<u32>().read_unaligned()),
                3 => ConstantValue::Float(value.cast::<f32>().read_unaligned()),
                _ => fail!(this, "MTLDataType {kind} is not supported: bool 53, short 37, ushort 41, int 29, uint 33, float 3"),
            }
        };
        this.0.lock().unwrap().insert(index as u32, value);
    }
    - c"reset" (this) { this.0.lock().unwrap().clear() }
}

/// The body of a pipeline: a kernel ready to run.
pub(crate) struct PipelineState(pub Arc<Pipeline>);

impl Body for PipelineState {
    const CLASS: &'static str = "MTLComputePipelineState";
}

impl PipelineState {
    pub fn new(executor: &dyn Executor, function: &Function) -> Result<Self, String> {
        let kernel = function.build(executor).map_err(|diagnostics| diagnostics.0)?;
        let (bytes, name) = (kernel.static_threadgroup_bytes as usize, &function.name);
        if bytes > THREADGROUP_MEMORY {
            return Err(format!("{name} declares {bytes} bytes of threadgroup memory; there are {THREADGROUP_MEMORY}"));
        }
        Ok(Self(Arc::new(executor.prepare(kernel)?)))
    }
}

class! { mtl_compute_pipeline_state, PipelineState, "MTLComputePipelineState": "MTLObject";
    - c"maxTotalThreadsPerThreadgroup" (this) -> usize { this.0.kernel.max_threads as usize }
    - c"threadExecutionWidth" (this) -> usize { 32 }
    - c"staticThreadgroupMemoryLength" (this) -> usize { this.0.kernel.static_threadgroup_bytes as usize }
}

/// The kernel of a source of our own, for what Metal does without one (`blit`).
pub(crate) fn internal(executor: &'static dyn Executor, source: &str, name: &str) -> Arc<Pipeline> {
    let library = Library::compile(executor, source.into(), None);
    let function = library.map(|library| library.function(name, Vec::new()).expect("it is in the source"));
    let pipeline =
        function.map_err(|diagnostics| diagnostics.0).and_then(|function| PipelineState::new(executor, &function));
    match pipeline {
        Ok(pipeline) => pipeline.0,
        Err(message) => fail!("the stand-in's own kernel {name} does not compile: {message}"),
    }
}
