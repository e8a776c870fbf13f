//! What the tests share: messages as a foreign program sends them, and a double for the compiler and the executor whose
//! kernels are Rust functions. The double is there to test classes and runtime alone; kernels in Metal are tested elsewhere.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod double;

use std::ffi::{CStr, CString, c_char, c_void};

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

/// The device over the double.
pub fn device() -> Id {
    double::install();
    let device = unsafe { MTLCreateSystemDefaultDevice() };
    assert!(!device.is_null());
    device
}

/// A pipeline of one of the double's kernels, owned.
pub fn pipeline(device: Id, name: &str) -> Id {
    pool(|| {
        let library = send!(device, c"newLibraryWithSource:options:error:", text(name), NIL, NO_ERROR => Id);
        let function = send!(library, c"newFunctionWithName:", text(name) => Id);
        let pipeline = send!(device, c"newComputePipelineStateWithFunction:error:", function, NO_ERROR => Id);
        assert!(!pipeline.is_null());
        send!(library, c"release" => ());
        send!(function, c"release" => ());
        pipeline
    })
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
