//! Talking to Metal: the Objective-C runtime, called directly. All of the backend's `unsafe` is in this file, which is why it is
//! longer than others.
//!
//! Sending a message `[receiver selector: argument]` is a call of `objc_msgSend(receiver, selector, argument)`, made as if it
//! had the method's own signature. A wrong signature compiles, links, and then reads the wrong register; so every message is
//! declared once, in the table of `messages!`, from which the calls and the list [`MESSAGES`] are made, and
//! `tests/metal_messages.rs` compares that list with Apple's headers.
//!
//! **Ownership** is in the types. An `Object` holds one reference and releases it when dropped. A method whose name begins
//! with `new`, `alloc` or `init` hands its reference over (`New`); what any other method returns belongs to the innermost
//! autorelease pool, and is retained before it is given out (`Autoreleased`), so no pointer outlives its `pool`.
//!
//! **SAFETY of all `unsafe` here.** Receivers and object arguments come from `Object`s, which are alive; selectors, argument
//! and result types are those of the table. Messages that take plain pointers are private to this file, and the functions
//! around them say what they rely on. On macOS the symbols are those of the system's libraries; elsewhere the crate
//! `metal-standin` defines them.

use crate::weights::SharedBytes;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

#[cfg(not(target_os = "macos"))]
use metal_standin as _;

#[cfg(target_os = "macos")]
#[link(name = "Foundation", kind = "framework")]
unsafe extern "C" {}

// Without it a command-line program is given no device.
#[cfg(target_os = "macos")]
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

#[cfg_attr(target_os = "macos", link(name = "objc"))]
#[cfg_attr(target_os = "macos", link(name = "Metal", kind = "framework"))]
unsafe extern "C" {
    fn objc_getClass(name: *const c_char) -> *mut c_void;
    fn sel_registerName(name: *const c_char) -> *mut c_void;
    fn objc_msgSend();
    fn objc_autoreleasePoolPush() -> *mut c_void;
    fn objc_autoreleasePoolPop(pool: *mut c_void);
    fn MTLCreateSystemDefaultDevice() -> *mut c_void;
}

/// An instance of class or protocol `T`, and one reference to it.
pub(super) struct Object<T: Kind> {
    pointer: NonNull<c_void>,
    kind: PhantomData<T>,
}

/// A class or protocol.
pub(super) trait Kind {
    /// As in Apple's headers.
    const NAME: &'static CStr;
}

// SAFETY: references are counted atomically. Metal documents devices, queues, libraries, pipelines and buffers as usable from
// any thread; encoders and command buffers are used by one thread at a time, since encoding takes `&mut` of what holds them.
unsafe impl<T: Kind> Send for Object<T> {}
// SAFETY: as above.
unsafe impl<T: Kind> Sync for Object<T> {}

impl<T: Kind> Object<T> {
    /// Takes over a reference that the caller was given; `None` for nil.
    unsafe fn owned(pointer: *mut c_void) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, kind: PhantomData })
    }

    /// Adds a reference to an object that somebody else holds; `None` for nil.
    unsafe fn retained(pointer: *mut c_void) -> Option<Self> {
        // SAFETY: see the head of this file; the new reference is the one taken over.
        unsafe {
            let object = Self::owned(pointer)?;
            retain(object.pointer.as_ptr());
            Some(object)
        }
    }
}

impl<T: Kind> Clone for Object<T> {
    fn clone(&self) -> Self {
        // SAFETY: see the head of this file.
        unsafe { Self::retained(self.pointer.as_ptr()) }.expect("it is not nil")
    }
}

impl<T: Kind> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that this value holds.
        unsafe { release(self.pointer.as_ptr()) }
    }
}

/// A selector, looked up once.
struct Selector {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Selector {
    const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(null_mut()) }
    }

    fn get(&self) -> *mut c_void {
        let mut found = self.found.load(Ordering::Relaxed);
        if found.is_null() {
            // SAFETY: a C string goes in; the runtime answers the same pointer each time.
            found = unsafe { sel_registerName(self.name.as_ptr()) };
            self.found.store(found, Ordering::Relaxed);
        }
        found
    }
}

fn class(name: &CStr) -> *mut c_void {
    // SAFETY: a C string goes in.
    let class = unsafe { objc_getClass(name.as_ptr()) };
    assert!(!class.is_null(), "the Objective-C runtime has no class {name:?}");
    class
}

/// A type as it crosses the call, for [`MESSAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Nothing.
    Void,
    /// `BOOL`, which is C's `bool` wherever this runs.
    Bool,
    /// `NSUInteger`, and the enumerations and option sets made of it.
    Unsigned,
    /// `NSInteger`, and the enumerations made of it.
    Signed,
    /// `double`.
    Double,
    /// `MTLSize`, by value.
    Size,
    /// A pointer to plain memory.
    Pointer,
    /// A block; we only ever pass none.
    Block,
    /// `NSError **`.
    ErrorOut,
    /// An object of this class or protocol.
    Object(&'static CStr),
}

/// Who holds the reference to a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The result is no object.
    None,
    /// The caller: methods of the families `alloc`, `init`, `new`, `copy`.
    Retained,
    /// The autorelease pool: all others.
    Autoreleased,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Class or protocol.
    pub receiver: &'static CStr,
    /// Whether the class itself receives it (`+` in headers).
    pub to_class: bool,
    /// The method's name.
    pub selector: &'static CStr,
    /// Without receiver and selector.
    pub arguments: &'static [Type],
    /// What comes back.
    pub result: Type,
    /// Whose it is.
    pub ownership: Ownership,
}

/// A number of things along x, y and z: `MTLSize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Size {
    /// Along x.
    pub width: u64,
    /// Along y.
    pub height: u64,
    /// Along z.
    pub depth: u64,
}

/// A Rust type that may stand in the table as an argument.
pub(super) trait Argument {
    type Raw;
    const TYPE: Type;
    fn raw(self) -> Self::Raw;
}

/// A Rust type that may stand in the table as a result.
pub(super) trait Answer {
    type Raw;
    type Out;
    const TYPE: Type;
    const OWNERSHIP: Ownership = Ownership::None;
    unsafe fn take(raw: Self::Raw) -> Self::Out;
}

macro_rules! plain_types {
    ($($rust:ty = $kind:ident),* $(,)?) => {$(
        impl Argument for $rust {
            type Raw = $rust;
            const TYPE: Type = Type::$kind;
            fn raw(self) -> $rust { self }
        }
        impl Answer for $rust {
            type Raw = $rust;
            type Out = $rust;
            const TYPE: Type = Type::$kind;
            unsafe fn take(raw: $rust) -> $rust { raw }
        }
    )*};
}
plain_types! {
    () = Void, bool = Bool, u64 = Unsigned, i64 = Signed, f64 = Double, Size = Size,
    *const c_void = Pointer, *mut c_void = Pointer, *const c_char = Pointer,
}

impl<T: Kind> Argument for &Object<T> {
    type Raw = *mut c_void;
    const TYPE: Type = Type::Object(T::NAME);
    fn raw(self) -> *mut c_void {
        self.pointer.as_ptr()
    }
}

/// A block that is not there.
pub(super) struct NoBlock;

impl Argument for NoBlock {
    type Raw = *mut c_void;
    const TYPE: Type = Type::Block;
    fn raw(self) -> *mut c_void {
        null_mut()
    }
}

/// Where a method puts its `NSError`, which belongs to the autorelease pool.
pub(super) struct ErrorOut(*mut c_void);

impl ErrorOut {
    fn none() -> Self {
        Self(null_mut())
    }

    /// What the error says.
    fn message(self) -> String {
        // SAFETY: the method has left nil or an error that the pool around the call keeps alive.
        let error = unsafe { Object::<NSError>::retained(self.0) };
        error.map_or_else(|| "no reason was given".into(), |error| error.message())
    }
}

impl Argument for &mut ErrorOut {
    type Raw = *mut *mut c_void;
    const TYPE: Type = Type::ErrorOut;
    fn raw(self) -> *mut *mut c_void {
        &mut self.0
    }
}

/// A result that is the caller's.
pub(super) struct New<T>(PhantomData<T>);

// ANCHOR: ownership
impl<T: Kind> Answer for New<T> {
    type Raw = *mut c_void;
    type Out = Option<Object<T>>;
    const TYPE: Type = Type::Object(T::NAME);
    const OWNERSHIP: Ownership = Ownership::Retained;
    unsafe fn take(raw: *mut c_void) -> Option<Object<T>> {
        // SAFETY: the method's family says that the reference is ours.
        unsafe { Object::owned(raw) }
    }
}
// ANCHOR_END: ownership

/// A result that is the autorelease pool's.
pub(super) struct Autoreleased<T>(PhantomData<T>);

impl<T: Kind> Answer for Autoreleased<T> {
    type Raw = *mut c_void;
    type Out = Option<Object<T>>;
    const TYPE: Type = Type::Object(T::NAME);
    const OWNERSHIP: Ownership = Ownership::Autoreleased;
    unsafe fn take(raw: *mut c_void) -> Option<Object<T>> {
        // SAFETY: the pool holds it until the caller's `pool` ends, and now so do we.
        unsafe { Object::retained(raw) }
    }
}

/// What `alloc` answers: memory that only an `init` method may be sent to, which takes the reference over.
pub(super) struct Allocated<T>(PhantomData<T>);

impl<T: Kind> Answer for Allocated<T> {
    type Raw = *mut c_void;
    type Out = *mut c_void;
    const TYPE: Type = Type::Object(T::NAME);
    const OWNERSHIP: Ownership = Ownership::Retained;
    unsafe fn take(raw: *mut c_void) -> *mut c_void {
        raw
    }
}

/// Makes a type for each class and protocol, a function for each message, and the list [`MESSAGES`].
///
/// `+` goes to the class and `-` to an instance; `raw` goes to an instance too, but takes pointers and is `unsafe` to call;
/// `id` is sent to a plain pointer.
macro_rules! messages {
    // ANCHOR: send
    (@send $kind:ident, $selector:literal, $receiver:expr, $answer:ty, $($argument:ident: $type:ty),*) => {{
        static SELECTOR: Selector = Selector::new($selector);
        type Method = unsafe extern "C" fn(*mut c_void, *mut c_void $(, <$type as Argument>::Raw)*) -> <$answer as Answer>::Raw;
        // SAFETY: see the head of this file.
        unsafe {
            let send = std::mem::transmute::<unsafe extern "C" fn(), Method>(objc_msgSend);
            <$answer as Answer>::take(send($receiver, SELECTOR.get() $(, Argument::raw($argument))*))
        }
    }};
    // ANCHOR_END: send
    (@function $kind:ident, + $name:ident $selector:literal ($($argument:ident: $type:ty),*) $answer:ty) => {
        impl Object<$kind> {
            #[allow(dead_code, reason = "some are for macOS alone")]
            fn $name($($argument: $type),*) -> <$answer as Answer>::Out {
                messages!(@send $kind, $selector, class($kind::NAME), $answer, $($argument: $type),*)
            }
        }
    };
    (@function $kind:ident, - $name:ident $selector:literal ($($argument:ident: $type:ty),*) $answer:ty) => {
        impl Object<$kind> {
            #[allow(dead_code, reason = "some are for macOS alone")]
            #[doc = concat!("`", stringify!($selector), "`")]
            pub(super) fn $name(&self $(, $argument: $type)*) -> <$answer as Answer>::Out {
                messages!(@send $kind, $selector, self.pointer.as_ptr(), $answer, $($argument: $type),*)
            }
        }
    };
    (@function $kind:ident, raw $name:ident $selector:literal ($($argument:ident: $type:ty),*) $answer:ty) => {
        impl Object<$kind> {
            unsafe fn $name(&self $(, $argument: $type)*) -> <$answer as Answer>::Out {
                messages!(@send $kind, $selector, self.pointer.as_ptr(), $answer, $($argument: $type),*)
            }
        }
    };
    (@function $kind:ident, id $name:ident $selector:literal ($($argument:ident: $type:ty),*) $answer:ty) => {
        unsafe fn $name(receiver: *mut c_void $(, $argument: $type)*) -> <$answer as Answer>::Out {
            messages!(@send $kind, $selector, receiver, $answer, $($argument: $type),*)
        }
    };
    ($($kind:ident { $($how:tt $name:ident $selector:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)* })*) => {
        $(
            #[allow(missing_docs, clippy::upper_case_acronyms, reason = "Apple's name for it, which says what it is")]
            pub(super) enum $kind {}
            impl Kind for $kind {
                const NAME: &'static CStr = match CStr::from_bytes_with_nul(concat!(stringify!($kind), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!(),
                };
            }
            $(messages! { @function $kind, $how $name $selector ($($argument: $type),*) $answer })*
        )*
        /// Every message that is sent.
        pub const MESSAGES: &[Message] = &[$($(Message {
            receiver: <$kind as Kind>::NAME,
            to_class: matches!(stringify!($how).as_bytes(), b"+"),
            selector: $selector,
            arguments: &[$(<$type as Argument>::TYPE),*],
            result: <$answer as Answer>::TYPE,
            ownership: <$answer as Answer>::OWNERSHIP,
        },)*)*];
    };
}

messages! {
    NSObject {
        id retain c"retain" () -> *mut c_void;
        id release c"release" () -> ();
    }
    NSString {
        + alloc c"alloc" () -> Allocated<NSString>;
        id init_with_bytes c"initWithBytes:length:encoding:" (bytes: *const c_void, length: u64, encoding: u64) -> New<NSString>;
        raw utf8_string c"UTF8String" () -> *const c_char;
    }
    NSError {
        - localized_description c"localizedDescription" () -> Autoreleased<NSString>;
    }
    NSURL {
        + file_url_with_path c"fileURLWithPath:" (path: &Object<NSString>) -> Autoreleased<NSURL>;
    }
    MTLDevice {
        - name c"name" () -> Autoreleased<NSString>;
        - supports_family c"supportsFamily:" (family: i64) -> bool;
        - has_unified_memory c"hasUnifiedMemory" () -> bool;
        - max_buffer_length c"maxBufferLength" () -> u64;
        - recommended_max_working_set_size c"recommendedMaxWorkingSetSize" () -> u64;
        - current_allocated_size c"currentAllocatedSize" () -> u64;
        - new_command_queue c"newCommandQueue" () -> New<MTLCommandQueue>;
        - new_buffer_with_length c"newBufferWithLength:options:" (length: u64, options: u64) -> New<MTLBuffer>;
        raw new_buffer_with_bytes c"newBufferWithBytes:length:options:"
            (bytes: *const c_void, length: u64, options: u64) -> New<MTLBuffer>;
        raw new_buffer_with_bytes_no_copy c"newBufferWithBytesNoCopy:length:options:deallocator:"
            (bytes: *mut c_void, length: u64, options: u64, deallocator: NoBlock) -> New<MTLBuffer>;
        - new_library_with_source c"newLibraryWithSource:options:error:"
            (source: &Object<NSString>, options: &Object<MTLCompileOptions>, error: &mut ErrorOut) -> New<MTLLibrary>;
        - new_compute_pipeline_state c"newComputePipelineStateWithFunction:error:"
            (function: &Object<MTLFunction>, error: &mut ErrorOut) -> New<MTLComputePipelineState>;
    }
    MTLCompileOptions {
        + new_options c"new" () -> New<MTLCompileOptions>;
        - set_language_version c"setLanguageVersion:" (version: u64) -> ();
        - set_fast_math_enabled c"setFastMathEnabled:" (enabled: bool) -> ();
    }
    MTLLibrary {
        - new_function_with_name c"newFunctionWithName:constantValues:error:"
            (name: &Object<NSString>, values: &Object<MTLFunctionConstantValues>, error: &mut ErrorOut) -> New<MTLFunction>;
    }
    MTLFunction {}
    MTLFunctionConstantValues {
        + new_values c"new" () -> New<MTLFunctionConstantValues>;
        raw set_constant_value c"setConstantValue:type:atIndex:" (value: *const c_void, kind: u64, index: u64) -> ();
    }
    MTLComputePipelineState {
        - max_total_threads_per_threadgroup c"maxTotalThreadsPerThreadgroup" () -> u64;
        - thread_execution_width c"threadExecutionWidth" () -> u64;
    }
    MTLBuffer {
        raw contents c"contents" () -> *mut c_void;
        - length c"length" () -> u64;
    }
    MTLCommandQueue {
        - command_buffer c"commandBuffer" () -> Autoreleased<MTLCommandBuffer>;
    }
    MTLCommandBuffer {
        - compute_command_encoder c"computeCommandEncoderWithDispatchType:" (kind: u64) -> Autoreleased<MTLComputeCommandEncoder>;
        - blit_command_encoder c"blitCommandEncoder" () -> Autoreleased<MTLBlitCommandEncoder>;
        - commit c"commit" () -> ();
        - wait_until_completed c"waitUntilCompleted" () -> ();
        - status c"status" () -> u64;
        - error c"error" () -> Autoreleased<NSError>;
        - gpu_start_time c"GPUStartTime" () -> f64;
        - gpu_end_time c"GPUEndTime" () -> f64;
    }
    // ANCHOR: encoder
    MTLComputeCommandEncoder {
        - set_pipeline c"setComputePipelineState:" (pipeline: &Object<MTLComputePipelineState>) -> ();
        - set_buffer c"setBuffer:offset:atIndex:" (buffer: &Object<MTLBuffer>, offset: u64, index: u64) -> ();
        raw set_bytes_raw c"setBytes:length:atIndex:" (bytes: *const c_void, length: u64, index: u64) -> ();
        - set_threadgroup_memory_length c"setThreadgroupMemoryLength:atIndex:" (length: u64, index: u64) -> ();
        - dispatch_threadgroups c"dispatchThreadgroups:threadsPerThreadgroup:" (groups: Size, threads: Size) -> ();
        - memory_barrier c"memoryBarrierWithScope:" (scope: u64) -> ();
        - end_encoding c"endEncoding" () -> ();
    }
    // ANCHOR_END: encoder
    MTLBlitCommandEncoder {
        - copy c"copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:"
            (from: &Object<MTLBuffer>, at: u64, to: &Object<MTLBuffer>, to_at: u64, size: u64) -> ();
        - end_encoding c"endEncoding" () -> ();
    }
    MTLCaptureManager {
        + shared_capture_manager c"sharedCaptureManager" () -> Autoreleased<MTLCaptureManager>;
        - supports_destination c"supportsDestination:" (destination: i64) -> bool;
        - start_capture c"startCaptureWithDescriptor:error:" (descriptor: &Object<MTLCaptureDescriptor>, error: &mut ErrorOut) -> bool;
        - stop_capture c"stopCapture" () -> ();
    }
    MTLCaptureDescriptor {
        + new_descriptor c"new" () -> New<MTLCaptureDescriptor>;
        - set_capture_object c"setCaptureObject:" (object: &Object<MTLDevice>) -> ();
        - set_destination c"setDestination:" (destination: i64) -> ();
        - set_output_url c"setOutputURL:" (url: &Object<NSURL>) -> ();
    }
}

/// A constant of Apple's headers.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// The enumeration or option set; empty for a constant that stands alone.
    pub of: &'static str,
    /// Its name there, without the prefix.
    pub name: &'static str,
    /// Its value.
    pub value: i128,
}

macro_rules! constants {
    ($($rust:ident: $type:ty = $value:expr, $of:literal $name:literal;)*) => {
        $(
            #[doc = concat!("`", $of, $name, "`")]
            #[allow(dead_code, reason = "some are for macOS alone, or for a kernel to come")]
            pub(super) const $rust: $type = $value;
        )*
        /// Every constant that is passed or compared.
        pub const CONSTANTS: &[Constant] = &[$(Constant { of: $of, name: $name, value: $value as i128 }),*];
    };
}

constants! {
    UTF8: u64 = 4, "" "NSUTF8StringEncoding";
    FAMILY_APPLE7: i64 = 1007, "MTLGPUFamily" "Apple7";
    FAMILY_APPLE8: i64 = 1008, "MTLGPUFamily" "Apple8";
    FAMILY_APPLE9: i64 = 1009, "MTLGPUFamily" "Apple9";
    FAMILY_METAL3: i64 = 5001, "MTLGPUFamily" "Metal3";
    FAMILY_METAL4: i64 = 5002, "MTLGPUFamily" "Metal4";
    STORAGE_SHARED: u64 = 0, "MTLResourceOptions" "StorageModeShared";
    STORAGE_PRIVATE: u64 = 0x20, "MTLResourceOptions" "StorageModePrivate";
    LANGUAGE_2_4: u64 = 0x2_0004, "MTLLanguageVersion" "Version2_4";
    LANGUAGE_3_0: u64 = 0x3_0000, "MTLLanguageVersion" "Version3_0";
    LANGUAGE_3_1: u64 = 0x3_0001, "MTLLanguageVersion" "Version3_1";
    DATA_BOOL: u64 = 53, "MTLDataType" "Bool";
    DATA_UINT: u64 = 33, "MTLDataType" "UInt";
    DISPATCH_CONCURRENT: u64 = 1, "MTLDispatchType" "Concurrent";
    BARRIER_BUFFERS: u64 = 1, "MTLBarrierScope" "Buffers";
    STATUS_COMPLETED: u64 = 4, "MTLCommandBufferStatus" "Completed";
    CAPTURE_TO_FILE: i64 = 2, "MTLCaptureDestination" "GPUTraceDocument";
}

// ANCHOR: pool
/// Runs `body` in an autorelease pool of its own: what Metal hands out inside is given back at the end.
pub(super) fn pool<R>(body: impl FnOnce() -> R) -> R {
    struct Pool(*mut c_void);
    impl Drop for Pool {
        fn drop(&mut self) {
            // SAFETY: pools are popped in the order opposite to that in which they were pushed, as scopes end.
            unsafe { objc_autoreleasePoolPop(self.0) }
        }
    }
    // SAFETY: a pool may be pushed at any time; the guard pops it, also when `body` panics.
    let _pool = Pool(unsafe { objc_autoreleasePoolPush() });
    body()
}
// ANCHOR_END: pool

impl Object<NSString> {
    /// A string with this text.
    pub(super) fn new(text: &str) -> Self {
        // SAFETY: the bytes are read before the call returns, and `init` takes over what `alloc` gave.
        let string = unsafe { init_with_bytes(Self::alloc(), text.as_ptr().cast(), text.len() as u64, UTF8) };
        string.expect("any Rust string is UTF-8")
    }

    /// Its text.
    pub(super) fn text(&self) -> String {
        // SAFETY: the C string lives as long as this object and the pool, and is copied here.
        pool(|| unsafe {
            let text = self.utf8_string();
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        })
    }
}

impl Object<NSError> {
    /// The error's localized description.
    pub(super) fn message(&self) -> String {
        pool(|| self.localized_description().map_or_else(String::new, |text| text.text()))
    }
}

impl Object<MTLDevice> {
    /// The system's default device.
    pub(super) fn system_default() -> Option<Self> {
        // SAFETY: a `Create` function hands its reference over.
        pool(|| unsafe { Self::owned(MTLCreateSystemDefaultDevice()) })
    }

    /// Compiles a program; the error is the compiler's.
    pub(super) fn compile(&self, source: &str, language: u64) -> Result<Object<MTLLibrary>, String> {
        pool(|| {
            let options = Object::<MTLCompileOptions>::new_options().ok_or("no compile options")?;
            // Left unset, it would follow the SDK that this program happened to be linked with.
            options.set_language_version(language);
            // NaN and infinity mean something here: see `metal/README.md`.
            options.set_fast_math_enabled(false);
            let mut error = ErrorOut::none();
            let library = self.new_library_with_source(&Object::<NSString>::new(source), &options, &mut error);
            library.ok_or_else(|| error.message())
        })
    }

    /// Makes a kernel ready to run.
    pub(super) fn pipeline(&self, function: &Object<MTLFunction>) -> Result<Object<MTLComputePipelineState>, String> {
        pool(|| {
            let mut error = ErrorOut::none();
            self.new_compute_pipeline_state(function, &mut error).ok_or_else(|| error.message())
        })
    }

    /// A buffer that holds a copy of `bytes`, in memory that the CPU shares; `None` if there is no memory.
    pub(super) fn buffer_of(&self, bytes: &[u8]) -> Option<Object<MTLBuffer>> {
        // SAFETY: the bytes are copied before the call returns.
        pool(|| unsafe { self.new_buffer_with_bytes(bytes.as_ptr().cast(), bytes.len() as u64, STORAGE_SHARED) })
    }

    /// A buffer over the memory pages that `bytes` lie in, without a copy, and where in it they begin; `None` if Metal
    /// refuses. The caller sees to it that whole pages around `bytes` belong to one mapping.
    pub(super) fn buffer_over(&self, bytes: &SharedBytes) -> Option<(NoCopyBuffer, u64)> {
        let pages = bytes.mapped_pages()?;
        let offset = bytes.as_ptr() as usize - pages.start;
        // SAFETY: `mapped_pages` are whole pages of one mapping, which `owner` keeps. Kernels only read weights, and the
        // command buffers that use the buffer are waited for before their weights can be dropped.
        let buffer = pool(|| unsafe {
            let start = std::ptr::with_exposed_provenance_mut(pages.start);
            self.new_buffer_with_bytes_no_copy(start, pages.len() as u64, STORAGE_SHARED, NoBlock)
        })?;
        Some((NoCopyBuffer { buffer, _owner: bytes.clone() }, offset as u64))
    }
}

/// A buffer over memory that `_owner` keeps mapped.
pub(super) struct NoCopyBuffer {
    // Dropped first.
    pub(super) buffer: Object<MTLBuffer>,
    _owner: SharedBytes,
}

/// The most bytes of an argument that is copied into the command buffer; Metal ends the process at more.
pub(super) const MAX_BYTES: usize = 4096;

/// The value of a function constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// `bool`.
    Bool(bool),
    /// `uint`.
    Uint(u32),
}

impl Object<MTLLibrary> {
    /// The kernel called `name`, with its function constants set.
    pub(super) fn function(&self, name: &str, constants: &[(u32, Value)]) -> Result<Object<MTLFunction>, String> {
        pool(|| {
            let values = Object::<MTLFunctionConstantValues>::new_values().ok_or("no function constants")?;
            for &(index, value) in constants {
                // SAFETY: the value has the type that is named, and is copied before the call returns.
                unsafe {
                    match value {
                        Value::Bool(value) => {
                            values.set_constant_value((&raw const value).cast(), DATA_BOOL, index.into())
                        }
                        Value::Uint(value) => {
                            values.set_constant_value((&raw const value).cast(), DATA_UINT, index.into())
                        }
                    }
                }
            }
            let mut error = ErrorOut::none();
            let function = self.new_function_with_name(&Object::<NSString>::new(name), &values, &mut error);
            function.ok_or_else(|| error.message())
        })
    }
}

impl Object<MTLBuffer> {
    /// Copies `out.len()` bytes from the front of a shared buffer. Command buffers that write to it must have completed.
    pub(super) fn copy_to(&self, out: &mut [u8]) {
        assert!(out.len() as u64 <= self.length(), "{} bytes of a buffer of {}", out.len(), self.length());
        // SAFETY: a shared buffer has `length` readable bytes, which nobody writes now, as the caller sees to.
        unsafe {
            let contents = self.contents();
            assert!(!contents.is_null(), "the CPU cannot read a private buffer");
            std::ptr::copy_nonoverlapping(contents.cast_const().cast(), out.as_mut_ptr(), out.len());
        }
    }
}

impl Object<MTLComputeCommandEncoder> {
    /// Copies a small argument into the command buffer.
    pub(super) fn set_bytes(&self, bytes: &[u8], index: u64) {
        assert!(!bytes.is_empty() && bytes.len() <= MAX_BYTES, "an argument of {} bytes", bytes.len());
        // SAFETY: the bytes are copied before the call returns.
        unsafe { self.set_bytes_raw(bytes.as_ptr().cast(), bytes.len() as u64, index) }
    }
}

/// Starts writing a GPU trace of `device` to `path`; [`stop_capture`] ends it.
#[cfg(target_os = "macos")]
pub(super) fn start_capture(device: &Object<MTLDevice>, path: &str) -> Result<(), String> {
    pool(|| {
        let manager = Object::<MTLCaptureManager>::shared_capture_manager().ok_or("no capture manager")?;
        if !manager.supports_destination(CAPTURE_TO_FILE) {
            return Err("GPU traces are off; set METAL_CAPTURE_ENABLED=1 in the environment".into());
        }
        let descriptor = Object::<MTLCaptureDescriptor>::new_descriptor().ok_or("no capture descriptor")?;
        let url = Object::<NSURL>::file_url_with_path(&Object::<NSString>::new(path)).ok_or("no file URL")?;
        descriptor.set_capture_object(device);
        descriptor.set_destination(CAPTURE_TO_FILE);
        descriptor.set_output_url(&url);
        let mut error = ErrorOut::none();
        if manager.start_capture(&descriptor, &mut error) { Ok(()) } else { Err(error.message()) }
    })
}

/// Ends what [`start_capture`] began.
#[cfg(target_os = "macos")]
pub(super) fn stop_capture() {
    pool(|| {
        if let Some(manager) = Object::<MTLCaptureManager>::shared_capture_manager() {
            manager.stop_capture();
        }
    });
}
