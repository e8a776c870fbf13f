//! What the tests share: messages as a foreign program sends them, and a few kernels.
#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::{CStr, CString, c_char, c_void};

use metal_standin::cpu::{CpuExecutor, Options};

pub type Id = *const c_void;
pub type Sel = *const c_void;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Size(pub usize, pub usize, pub usize);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Range(pub usize, pub usize);

// Declared here again, not taken from the crate: this is what a program that links against the real framework has.
unsafe extern "C" {
    pub fn objc_msgSend();
    pub fn objc_getClass(name: *const c_char) -> Id;
    pub fn object_getClass(object: Id) -> Id;
    pub fn sel_registerName(name: *const c_char) -> Sel;
    pub fn sel_getName(selector: Sel) -> *const c_char;
    pub fn objc_retain(object: Id) -> Id;
    pub fn objc_release(object: Id);
    pub fn objc_autorelease(object: Id) -> Id;
    pub fn objc_autoreleasePoolPush() -> *mut c_void;
    pub fn objc_autoreleasePoolPop(pool: *mut c_void);
    pub fn MTLCreateSystemDefaultDevice() -> Id;
    pub fn MTLCopyAllDevices() -> Id;
}

/// `send!(receiver, c"selector:", argument, … => Result)`. Integers want their suffix: an argument's type is its own.
macro_rules! send {
    ($receiver:expr, $selector:expr $(, $argument:expr)* => $result:ty) => {{
        let selector: &std::ffi::CStr = $selector;
        #[allow(unused_unsafe)]
        unsafe {
            let message: unsafe extern "C" fn($crate::support::Id, $crate::support::Sel $(, send!(@infer $argument))*) -> $result =
                std::mem::transmute($crate::support::objc_msgSend as *const ());
            message($receiver, $crate::support::sel_registerName(selector.as_ptr()) $(, $argument)*)
        }
    }};
    (@infer $argument:expr) => { _ };
}
pub(crate) use send;

pub fn class(name: &CStr) -> Id {
    unsafe { objc_getClass(name.as_ptr()) }
}

/// A pool for the time of a closure.
pub fn pool<R>(body: impl FnOnce() -> R) -> R {
    let pool = unsafe { objc_autoreleasePoolPush() };
    let result = body();
    unsafe { objc_autoreleasePoolPop(pool) };
    result
}

/// A new `NSString`, owned.
pub fn string(text: &str) -> Id {
    let new = send!(class(c"NSString"), c"alloc" => Id);
    send!(new, c"initWithBytes:length:encoding:", text.as_ptr(), text.len(), 4usize => Id)
}

/// An autoreleased `NSString`.
pub fn text(text: &str) -> Id {
    send!(string(text), c"autorelease" => Id)
}

/// What an `NSString` says.
pub fn read(string: Id) -> String {
    assert!(!string.is_null(), "a string is wanted");
    let bytes = send!(string, c"UTF8String" => *const c_char);
    unsafe { CStr::from_ptr(bytes) }.to_str().unwrap().to_owned()
}

/// An object's class name, through the runtime.
pub fn responds(object: Id, selector: &str) -> bool {
    let selector = CString::new(selector).unwrap();
    send!(object, c"respondsToSelector:", unsafe { sel_registerName(selector.as_ptr()) } => bool)
}

/// The device, on the CPU with all checks on.
pub fn device() -> Id {
    static CHECKED: std::sync::Once = std::sync::Once::new();
    CHECKED.call_once(|| {
        let executor = CpuExecutor::new(Options { check: true, shuffle: None }).unwrap();
        assert!(metal_standin::install(Box::new(executor)));
    });
    let device = unsafe { MTLCreateSystemDefaultDevice() };
    assert!(!device.is_null());
    device
}

/// Held by tests that count the objects of the whole process.
pub fn quiet() -> std::sync::MutexGuard<'static, ()> {
    static QUIET: std::sync::Mutex<()> = std::sync::Mutex::new(());
    QUIET.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Kernels that the rules are tried with.
pub const KERNELS: &str = "
#include <metal_stdlib>
using namespace metal;
constant uint width [[function_constant(7)]];

kernel void add(device const uint *a [[buffer(0)]], device const uint *b [[buffer(1)]], device uint *sum [[buffer(2)]],
                uint i [[thread_position_in_grid]]) {
    sum[i] = a[i] + b[i];
}
kernel void add_constant(device uint *values [[buffer(0)]], constant uint &addend [[buffer(1)]],
                         uint i [[thread_position_in_grid]]) {
    values[i] += addend;
}
kernel void times_ten(device uint *values [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    values[i] *= 10;
}
kernel void scratch(device uint *to [[buffer(0)]], threadgroup uint *given [[threadgroup(0)]],
                    uint i [[thread_position_in_threadgroup]]) {
    threadgroup uint own[64];
    own[i] = i;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    given[i] = own[(i + 1) % 64];
    to[i] = given[i];
}
[[max_total_threads_per_threadgroup(64)]]
kernel void narrow(device uint *to [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    to[i] = width;
}
kernel void faulty(device uint *to [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    to[i + 1000] = 1;
}
";

/// `newLibraryWithSource:`, owned, or what the error says.
pub fn compile(source: &str, options: Id) -> Result<Id, String> {
    let mut error = NIL;
    let library = send!(device(), c"newLibraryWithSource:options:error:", text(source), options, &mut error => Id);
    match library.is_null() {
        true => Err(read(send!(error, c"localizedDescription" => Id))),
        false => Ok(library),
    }
}

/// A library of these kernels, owned.
pub fn library() -> Id {
    compile(KERNELS, NIL).unwrap_or_else(|message| panic!("{message}"))
}

/// A pipeline of one of them, owned.
pub fn pipeline(device: Id, name: &str) -> Id {
    pool(|| {
        let library = library();
        let function = send!(library, c"newFunctionWithName:", text(name) => Id);
        let mut error = NIL;
        let pipeline = send!(device, c"newComputePipelineStateWithFunction:error:", function, &mut error => Id);
        if pipeline.is_null() {
            panic!("{name}: {}", read(send!(error, c"localizedDescription" => Id)));
        }
        send!(library, c"release" => ());
        send!(function, c"release" => ());
        pipeline
    })
}

/// Encodes `add_constant` on a buffer of four words.
pub fn add(encoder: Id, pipeline: Id, buffer: Id, value: u32) {
    send!(encoder, c"setComputePipelineState:", pipeline => ());
    send!(encoder, c"setBuffer:offset:atIndex:", buffer, 0usize, 0usize => ());
    send!(encoder, c"setBytes:length:atIndex:", &value, 4usize, 1usize => ());
    send!(encoder, c"dispatchThreadgroups:threadsPerThreadgroup:", Size(2, 1, 1), Size(2, 1, 1) => ());
}

pub const NIL: Id = std::ptr::null();
pub const NO_ERROR: *mut Id = std::ptr::null_mut();

/// A shared buffer of words, owned.
pub fn buffer(device: Id, words: &[u32]) -> Id {
    send!(device, c"newBufferWithBytes:length:options:", words.as_ptr(), size_of_val(words), 0usize => Id)
}

/// The words of a shared buffer.
pub fn words(buffer: Id) -> Vec<u32> {
    let (contents, length) = (send!(buffer, c"contents" => *const u32), send!(buffer, c"length" => usize));
    unsafe { std::slice::from_raw_parts(contents, length / 4) }.to_vec()
}
