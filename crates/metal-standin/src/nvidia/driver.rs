//! The part of NVIDIA's driver API that is used, found in `libcuda.so.1` at run time. Names, types and constants are those
//! of `cuda.h`, CUDA 12.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;

use crate::dl::Library;

/// A pointer to something of the driver's.
pub type Handle = *mut c_void;
/// An address in device memory.
pub type DevicePointer = u64;

/// Declares the table of functions, loads it, and gives each a method that turns a status into an error.
macro_rules! driver {
    ($($method:ident = $symbol:ident($($argument:ident: $kind:ty),*);)*) => {
        /// The driver's functions. Each method returns the driver's sentence if it fails.
        pub struct Driver {
            _library: Library,
            $($method: unsafe extern "C" fn($($kind),*) -> c_int,)*
        }

        impl Driver {
            /// The symbols that `load` looks for.
            #[cfg(test)]
            pub const SYMBOLS: &[&str] = &[$(stringify!($symbol)),*];

            /// Opens the driver.
            pub fn load() -> Result<Driver, String> {
                let library = Library::open(Path::new("libcuda.so.1"))
                    .map_err(|why| format!("no NVIDIA driver: {why}"))?;
                Ok(Driver {
                    // SAFETY: the symbols have these types, in every driver that supports CUDA 12.
                    $($method: unsafe { std::mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn($($kind),*) -> c_int
                    >(library.symbol(stringify!($symbol))?) },)*
                    _library: library,
                })
            }

            $(
                // The API's own number of parameters; what `sentence` calls it calls without this.
                #[allow(dead_code, clippy::too_many_arguments)]
                /// # Safety
                /// As the driver's documentation asks: pointers are valid, handles alive, the context current.
                pub unsafe fn $method(&self, $($argument: $kind),*) -> Result<(), String> {
                    // SAFETY: promised by the caller.
                    let status = unsafe { (self.$method)($($argument),*) };
                    if status == 0 { Ok(()) } else { Err(self.sentence(stringify!($symbol), status)) }
                }
            )*
        }
    };
}

driver! {
    init = cuInit(flags: c_uint);
    error_name = cuGetErrorName(error: c_int, name: *mut *const c_char);
    error_string = cuGetErrorString(error: c_int, text: *mut *const c_char);
    device = cuDeviceGet(device: *mut c_int, ordinal: c_int);
    device_name = cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int);
    device_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int);
    retain_context = cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int);
    release_context = cuDevicePrimaryCtxRelease_v2(device: c_int);
    set_current = cuCtxSetCurrent(context: Handle);
    load_module = cuModuleLoadDataEx(
        module: *mut Handle, image: *const c_char, options: c_uint, names: *const c_int, values: *const *mut c_void
    );
    unload_module = cuModuleUnload(module: Handle);
    function = cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char);
    allocate = cuMemAlloc_v2(address: *mut DevicePointer, length: usize);
    free = cuMemFree_v2(address: DevicePointer);
    allocate_host = cuMemHostAlloc(address: *mut *mut c_void, length: usize, flags: c_uint);
    free_host = cuMemFreeHost(address: *mut c_void);
    device_pointer = cuMemHostGetDevicePointer_v2(address: *mut DevicePointer, host: *mut c_void, flags: c_uint);
    fill = cuMemsetD8_v2(address: DevicePointer, value: u8, length: usize);
    copy_to_device = cuMemcpyHtoD_v2(to: DevicePointer, from: *const c_void, length: usize);
    copy_to_device_behind = cuMemcpyHtoDAsync_v2(to: DevicePointer, from: *const c_void, length: usize, stream: Handle);
    create_stream = cuStreamCreate(stream: *mut Handle, flags: c_uint);
    synchronize_stream = cuStreamSynchronize(stream: Handle);
    wait_in_stream = cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint);
    destroy_stream = cuStreamDestroy_v2(stream: Handle);
    create_event = cuEventCreate(event: *mut Handle, flags: c_uint);
    record_event = cuEventRecord(event: Handle, stream: Handle);
    wait_for_event = cuEventSynchronize(event: Handle);
    elapsed = cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle);
    destroy_event = cuEventDestroy_v2(event: Handle);
    launch = cuLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: Handle, parameters: *mut *mut c_void, extra: *mut *mut c_void
    );
    create_graph = cuGraphCreate(graph: *mut Handle, flags: c_uint);
    destroy_graph = cuGraphDestroy(graph: Handle);
    add_kernel_node = cuGraphAddKernelNode_v2(
        node: *mut Handle, graph: Handle, before: *const Handle, count: usize, kernel: *const KernelNode
    );
    add_edges = cuGraphAddDependencies_v2(
        graph: Handle, from: *const Handle, to: *const Handle, kinds: *const Edge, count: usize
    );
    instantiate_graph = cuGraphInstantiateWithFlags(instance: *mut Handle, graph: Handle, flags: u64);
    set_kernel_node = cuGraphExecKernelNodeSetParams_v2(instance: Handle, node: Handle, kernel: *const KernelNode);
    launch_graph = cuGraphLaunch(instance: Handle, stream: Handle);
    destroy_instance = cuGraphExecDestroy(instance: Handle);
}

/// `CUDA_KERNEL_NODE_PARAMS`, version 2.
#[repr(C)]
pub struct KernelNode {
    /// A kernel's function.
    pub function: Handle,
    /// Threadgroups.
    pub grid: [c_uint; 3],
    /// Threads of each.
    pub block: [c_uint; 3],
    /// Dynamic shared memory.
    pub shared_bytes: c_uint,
    /// Where each parameter is.
    pub parameters: *mut *mut c_void,
    /// Or all of them packed: not used.
    pub extra: *mut *mut c_void,
    /// A `CUkernel` in place of the function, and its context: not used.
    pub kernel: Handle,
    /// See `kernel`.
    pub context: Handle,
}

/// `CUgraphEdgeData`: what of the node before the node behind waits for.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Edge {
    /// 0: the end; 1: that all its blocks have said that others may start.
    pub from_port: u8,
    /// 0.
    pub to_port: u8,
    /// 0: everything before is finished; 1: the node behind itself waits for that.
    pub kind: u8,
    /// Zeros.
    pub reserved: [u8; 5],
}

/// `CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC` with `CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC`.
pub const STARTS_EARLY: Edge = Edge { from_port: 1, to_port: 0, kind: 1, reserved: [0; 5] };

/// `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`.
pub const HOST_MAPPED: c_uint = 1 | 2;
/// `CU_STREAM_NON_BLOCKING`.
pub const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub const EVENT_WITHOUT_TIME: c_uint = 2;
/// `CU_JIT_ERROR_LOG_BUFFER`, `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`.
pub const JIT_ERROR_LOG: [c_int; 2] = [5, 6];
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
pub const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];

impl Driver {
    /// `cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)`.
    fn sentence(&self, call: &str, status: c_int) -> String {
        let word = |lookup: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes a pointer to a constant string, or null for a status that it does not know.
            unsafe {
                lookup(status, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = word(self.error_name).unwrap_or_else(|| format!("error {status}"));
        match word(self.error_string) {
            Some(text) => format!("{call}: {name} ({text})"),
            None => format!("{call}: {name}"),
        }
    }
}
