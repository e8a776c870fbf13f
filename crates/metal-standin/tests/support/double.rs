//! A double for the compiler and the executor: a "source" is a list of kernel names, and the kernels are below.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use metal_standin::compiler::{Argument, ArgumentKind, ConstantValue, Diagnostics, Kernel, Source, Target};
use metal_standin::executor::{Allocation, Binding, Command, Dispatch, Executor, Pipeline, Storage, Ticket, Timing};
use metal_standin::{Machine, Program};

use ArgumentKind::{Constant, Device, Threadgroup};

/// Name, arguments, static threadgroup memory, threads at most, and what it does.
type Row = (&'static str, &'static [(ArgumentKind, u32)], u32, u32, fn(&Dispatch));

const KERNELS: &[Row] = &[
    ("add", &[(Device, 0), (Device, 1), (Device, 2)], 0, 1024, |dispatch| {
        let [a, b, sum] = [0, 1, 2].map(|index| address(dispatch, index));
        each(dispatch, |i| unsafe { *sum.add(i) = *a.add(i) + *b.add(i) });
    }),
    ("add_constant", &[(Device, 0), (Constant, 1)], 0, 1024, |dispatch| {
        let [values, constant] = [0, 1].map(|index| address(dispatch, index));
        each(dispatch, |i| unsafe { *values.add(i) += *constant });
    }),
    ("scratch", &[(Device, 0), (Threadgroup, 0)], 256, 1024, |dispatch| {
        let to = address(dispatch, 0);
        each(dispatch, |i| unsafe { *to.add(i) = dispatch.threadgroup[0] });
    }),
    ("narrow", &[(Device, 0)], 0, 64, |_| ()),
    ("greedy", &[(Device, 0)], 40_000, 1024, |_| ()),
    ("faulty", &[(Device, 0)], 0, 1024, |_| ()),
    ("standin_fill", &[(Device, 0), (Constant, 2)], 0, 1024, |dispatch| {
        let [to, count] = [0, 2].map(|index| address(dispatch, index));
        let (count, value) = unsafe { (*count, *count.add(1)) };
        (0..count as usize).for_each(|i| unsafe { *to.add(i) = value });
    }),
    ("standin_copy", &[(Device, 0), (Device, 1), (Constant, 2)], 0, 1024, |dispatch| {
        let [to, from, count] = [0, 1, 2].map(|index| address(dispatch, index));
        unsafe { std::ptr::copy(from, to, *count as usize) };
    }),
];

fn each(dispatch: &Dispatch, body: impl FnMut(usize)) {
    (0..dispatch.threads.iter().product::<u32>() as usize).for_each(body);
}

fn address(dispatch: &Dispatch, index: usize) -> *mut u32 {
    match dispatch.buffers[index].as_ref().unwrap() {
        Binding::Buffer { allocation, offset, .. } => (allocation.device as usize + offset) as *mut u32,
        Binding::Bytes(bytes) => bytes.as_ptr().cast_mut().cast(),
    }
}

/// What ran, for tests of order: kernel names, and `|` for a barrier. Take [`quiet`] first.
pub static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Held by tests that look at what the whole process does.
pub fn quiet() -> std::sync::MutexGuard<'static, ()> {
    static QUIET: Mutex<()> = Mutex::new(());
    let guard = QUIET.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    LOG.lock().unwrap().clear();
    guard
}

pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let machine = Machine { executor: Box::new(Double), compile };
        assert!(metal_standin::install(machine).is_ok());
    });
}

struct Names(Vec<&'static Row>);

fn compile(source: &Source) -> Result<Arc<dyn Program>, Diagnostics> {
    if let Some(column) = source.text.find("oops") {
        return Err(Diagnostics(format!("program_source:1:{}: error: unknown word 'oops'", column + 1)));
    }
    if source.text.contains("options") {
        // Shows what the compiler was given.
        let Source { language_version, macros, fast_math, .. } = source;
        return Err(Diagnostics(format!("{language_version:#x} {fast_math} {macros:?}")));
    }
    let has = |name: &str| source.text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    Ok(Arc::new(Names(KERNELS.iter().filter(|row| has(row.0)).collect())))
}

impl Program for Names {
    fn function_names(&self) -> Vec<String> {
        self.0.iter().map(|row| row.0.into()).collect()
    }

    fn build(&self, name: &str, constants: &[(u32, ConstantValue)], _: Target) -> Result<Kernel, Diagnostics> {
        if name == "narrow" && constants != [(7, ConstantValue::UInt(64))] {
            return Err(Diagnostics(format!("narrow wants function constant 7, and has {constants:?}")));
        }
        let &&(name, arguments, static_threadgroup_bytes, max_threads, _) =
            self.0.iter().find(|row| row.0 == name).unwrap();
        let argument = |&(kind, index): &(ArgumentKind, u32)| Argument { name: format!("x{index}"), kind, index };
        Ok(Kernel {
            name: name.into(),
            entry: name.into(),
            arguments: arguments.iter().map(argument).collect(),
            static_threadgroup_bytes,
            max_threads,
            code: Arc::default(),
        })
    }
}

struct Double;

impl Executor for Double {
    fn name(&self) -> String {
        "a double".into()
    }

    fn target(&self) -> Target {
        Target::Cpu
    }

    fn allocate(&self, length: usize, storage: Storage) -> Result<Allocation, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let memory = match storage {
            Storage::NoCopy(pages) => pages,
            // Not given back: the tests' buffers are small.
            _ => vec![0u64; length.div_ceil(8)].leak().as_mut_ptr().cast(),
        };
        let host = if matches!(storage, Storage::Private) { std::ptr::null_mut() } else { memory };
        Ok(Allocation { host, device: memory as u64, length, id })
    }

    fn release(&self, _: Allocation) {}

    fn prepare(&self, kernel: Kernel) -> Result<Pipeline, String> {
        Ok(Pipeline { kernel, prepared: Box::new(()) as Box<dyn Any + Send + Sync> })
    }

    fn submit(&self, commands: Vec<Command>) -> Ticket {
        Ticket(Box::new(commands))
    }

    /// Runs now, not in `submit`: a command buffer that nobody asks about stays pending.
    fn wait(&self, ticket: Ticket) -> Result<Timing, String> {
        for command in ticket.0.downcast_ref::<Vec<Command>>().unwrap() {
            let Command::Dispatch(dispatch) = command else {
                LOG.lock().unwrap().push("|".into());
                continue;
            };
            let name = &dispatch.pipeline.kernel.name;
            LOG.lock().unwrap().push(name.clone());
            if name == "faulty" {
                return Err("faulty: thread (3, 0, 0) wrote beyond its buffer".into());
            }
            KERNELS.iter().find(|row| row.0 == name).unwrap().4(dispatch);
        }
        Ok(Timing { start: 1.0, end: 1.5 })
    }
}
