//! A kernel in C++, compiled to LLVM IR as the compiler does it, and what is needed to run it.
#![allow(dead_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use metal_standin::compiler::{Argument, ArgumentKind, Kernel as Compiled};
use metal_standin::cpu::{CpuExecutor, Options};
use metal_standin::executor::{Allocation, Binding, Command, Dispatch, Executor, Pipeline, Storage, Timing};

/// What a kernel's source starts with. `#line 1` follows, so that line 1 is the source's first.
const HEADER: &str = "
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
typedef unsigned uint; typedef unsigned char uchar; typedef _Float16 half; typedef __bf16 bfloat;
typedef float float3 __attribute__((ext_vector_type(3)));
typedef float float4 __attribute__((ext_vector_type(4)));
typedef half half4 __attribute__((ext_vector_type(4)));
struct Bindings { void *buffer[31]; void *threadgroup_[31]; };
struct Thread {
  uint grid[3], group[3], local[3], threads_per_grid[3], extent[3], shape[3], groups[3];
  uint index, lane, simdgroup, simdgroups, lanes;
};
extern \"C\" void msl_barrier(uint, uint) __attribute__((convergent));
extern \"C\" uint msl_simd_exchange(const void *, void *, uint) __attribute__((convergent));
#define INLINE static inline __attribute__((always_inline))
INLINE void barrier(uint flags = 2) { msl_barrier(1, flags); }
INLINE void simd_barrier(uint flags = 2) { msl_barrier(0, flags); }
INLINE float simd_sum(float x) {
  float all[32];
  uint mask = msl_simd_exchange(&x, all, 4);
  for (uint i = 0; i < 32; i++) if (!(mask >> i & 1)) all[i] = 0;
  for (uint step = 16; step > 0; step /= 2) for (uint i = 0; i < step; i++) all[i] += all[i + step];
  return all[0];
}
#define KERNEL(name) extern \"C\" void name(const Bindings *b, const Thread *t)
#define BUFFER(T, i) ((T *)b->buffer[i])
#define SHARED(T, i) ((threadgroup T *)b->threadgroup_[i])
";

/// An executor and a directory for what is compiled.
pub struct Bench {
    pub executor: CpuExecutor,
    directory: PathBuf,
}

impl Bench {
    pub fn new(options: Options) -> Bench {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels");
        std::fs::create_dir_all(&directory).unwrap();
        Bench { executor: CpuExecutor::new(options).unwrap(), directory }
    }

    pub fn checked() -> Bench {
        Bench::new(Options { check: true, shuffle: None })
    }

    pub fn shared<T: Copy>(&self, values: &[T]) -> Memory<'_> {
        let allocation = self.executor.allocate(size_of_val(values), Storage::Shared).unwrap();
        // SAFETY: the allocation was made for as many values.
        unsafe { allocation.host.cast::<T>().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        Memory { bench: self, allocation, offset: 0, label: String::new() }
    }

    /// Runs the dispatches with barriers between them.
    pub fn run(&self, dispatches: Vec<Dispatch>) -> Result<Timing, String> {
        let commands = dispatches.into_iter().flat_map(|dispatch| [Command::Dispatch(dispatch), Command::Barrier]);
        self.submit(commands.collect())
    }

    pub fn submit(&self, commands: Vec<Command>) -> Result<Timing, String> {
        self.executor.wait(self.executor.submit(commands))
    }
}

pub struct Memory<'b> {
    bench: &'b Bench,
    pub allocation: Allocation,
    pub offset: usize,
    label: String,
}

impl Memory<'_> {
    pub fn label(mut self, label: &str) -> Self {
        self.label = label.into();
        self
    }

    pub fn read<T: Copy>(&self) -> Vec<T> {
        let count = self.allocation.length / size_of::<T>();
        // SAFETY: the CPU executor's addresses are the host's, and the allocation holds as many values.
        unsafe { std::slice::from_raw_parts(self.allocation.device as *const T, count) }.to_vec()
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.bench.executor.release(self.allocation);
    }
}

pub struct Kernel {
    pipeline: Arc<Pipeline>,
    threadgroup: Vec<u32>,
}

impl Kernel {
    pub fn new(bench: &Bench, name: &str, source: &str) -> Kernel {
        Kernel::with_threadgroup(bench, name, source, &[]).unwrap()
    }

    /// A kernel with threadgroup arguments of these sizes.
    pub fn with_threadgroup(bench: &Bench, name: &str, source: &str, sizes: &[u32]) -> Result<Kernel, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let stem = format!("{name}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let ll = bench.directory.join(format!("{stem}.ll"));
        let clang = std::env::var("METAL_STANDIN_CLANG").unwrap_or_else(|_| "clang-19".into());
        let flags = ["-O2", "-Xclang", "-disable-llvm-passes", "-Xclang", "-fpreserve-vec3-type", "-gline-tables-only"];
        let mut clang = process::Command::new(clang);
        clang.args(flags).args(["-S", "-emit-llvm", "-x", "c++", "-", "-o"]).arg(&ll).stdin(Stdio::piped());
        let mut clang = clang.spawn().unwrap();
        let program = format!("{HEADER}\n#line 1 \"kernel.metal\"\n{}", source.trim_start());
        clang.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
        assert!(clang.wait().unwrap().success(), "clang failed on {name}");
        let arguments = sizes.iter().enumerate().map(|(index, _)| Argument {
            name: format!("shared{index}"),
            kind: ArgumentKind::Threadgroup,
            index: index as u32,
        });
        let kernel = Compiled {
            name: name.into(),
            entry: name.into(),
            arguments: arguments.collect(),
            static_threadgroup_bytes: 0,
            max_threads: 1024,
            code: Arc::new(ll.clone()),
        };
        let kernel = Kernel::compiled(bench, kernel, sizes);
        let _ = std::fs::remove_file(ll);
        kernel
    }

    /// What the compiler made, with threadgroup arguments of these sizes.
    pub fn compiled(bench: &Bench, kernel: Compiled, sizes: &[u32]) -> Result<Kernel, String> {
        let pipeline = Arc::new(bench.executor.prepare(kernel)?);
        Ok(Kernel { pipeline, threadgroup: sizes.to_vec() })
    }

    pub fn dispatch(&self, buffers: &[&Memory], threads: [u32; 3], threads_per_threadgroup: [u32; 3]) -> Dispatch {
        let mut bound: Vec<Option<Binding>> = vec![None; 31];
        for (slot, memory) in bound.iter_mut().zip(buffers) {
            let (allocation, offset, label) = (memory.allocation, memory.offset, memory.label.clone());
            *slot = Some(Binding::Buffer { allocation, offset, label });
        }
        let mut threadgroup = self.threadgroup.clone();
        threadgroup.resize(31, 0);
        let pipeline = self.pipeline.clone();
        Dispatch { pipeline, buffers: bound, threadgroup, threads, threads_per_threadgroup }
    }
}
