//! A program that breaks a rule aborts with one line that says which. Each rule has a test here: it runs in a child
//! process, which must die of SIGABRT after a line that begins with `metal-standin:` and says the words given.

#![cfg(not(target_os = "macos"))]
#![allow(clippy::undocumented_unsafe_blocks, reason = "a message is as safe as its signature, which stands beside it")]

mod support;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use support::{Id, NIL, Range, Size, add, buffer, class, device, pipeline, pool, send, string, text, words};

const CHILD: &str = "METAL_STANDIN_TEST_CHILD";

/// Runs a test of this file again, alone, as a child.
fn child(name: &str, variables: &[(&str, &str)]) -> Output {
    let this = std::env::current_exe().unwrap();
    // An aarch64 test on another machine runs under qemu, and so must its child.
    let qemu =
        std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").ok().filter(|_| cfg!(target_arch = "aarch64"));
    let mut words = qemu.iter().flat_map(|qemu| qemu.split(' ')).map(OsStr::new).chain([this.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args([name, "--exact", "--nocapture"]).env(CHILD, name).envs(variables.iter().copied());
    command.output().unwrap()
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn said(output: &Output, words: &str) -> bool {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().any(|line| line.starts_with("metal-standin: ") && line.contains(words))
}

/// `fails! { test_name: "words" => { what breaks the rule } … }`
macro_rules! fails {
    ($($name:ident: $words:literal => $body:block)*) => {
        $(#[test]
        fn $name() {
            if is_child() {
                pool(|| $body);
                return;
            }
            let output = child(stringify!($name), &[]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(6), "it should have aborted: {stderr}");
            assert!(said(&output, $words), "{:?} should be in: {stderr}", $words);
        })*
    };
}

const ONE: Size = Size(1, 1, 1);

/// A device, its queue, a command buffer and an open encoder.
fn encoder() -> (Id, Id, Id) {
    let device = device();
    let queue = send!(device, c"newCommandQueue" => Id);
    let commands = send!(queue, c"commandBuffer" => Id);
    (device, commands, send!(commands, c"computeCommandEncoder" => Id))
}

/// The same, with a kernel set: `add_constant` wants a buffer at 0 and 1, `scratch` threadgroup memory at 0.
fn ready(kernel: &str) -> Id {
    let (device, _, encoder) = encoder();
    send!(encoder, c"setComputePipelineState:", pipeline(device, kernel) => ());
    send!(encoder, c"setBuffer:offset:atIndex:", buffer(device, &[0; 8]), 0usize, 0usize => ());
    encoder
}

fn dispatch(encoder: Id, threads: Size, group: Size) {
    send!(encoder, c"dispatchThreads:threadsPerThreadgroup:", threads, group => ());
}

fails! {
    unknown_selector: "-[MTLDevice foo:]: unrecognized selector" => { send!(device(), c"foo:", NIL => ()) }
    unknown_class_method: "+[NSString foo]: unrecognized selector" => { send!(class(c"NSString"), c"foo" => ()) }
    message_to_a_freed_object: "message length to a freed object: NSString" => {
        let string = string("x");
        send!(string, c"release" => ());
        send!(string, c"length" => usize);
    }
    over_release: "release to a freed object: MTLBuffer" => {
        let buffer = buffer(device(), &[1]);
        unsafe { support::objc_release(buffer) };
        unsafe { support::objc_release(buffer) };
    }
    over_release_by_a_pool: "release to a freed object: NSString" => {
        let string = text("x");
        send!(string, c"release" => ());
    }
    argument_already_freed: "a freed object: MTLBuffer" => {
        let (device, _, encoder) = encoder();
        let buffer = buffer(device, &[1]);
        send!(buffer, c"release" => ());
        send!(encoder, c"setBuffer:offset:atIndex:", buffer, 0usize, 0usize => ());
    }
    not_an_object: "which is not an object" => { send!([0u64; 8].as_ptr().cast(), c"length" => usize); }
    argument_of_another_class: "an object of class MTLBuffer is wanted, and NSString" => {
        send!(encoder().2, c"setBuffer:offset:atIndex:", text("x"), 0usize, 0usize => ());
    }
    pool_popped_twice: "popped twice" => {
        let inner = unsafe { support::objc_autoreleasePoolPush() };
        unsafe { support::objc_autoreleasePoolPop(inner) };
        unsafe { support::objc_autoreleasePoolPop(inner) };
    }
    alloc_of_what_only_metal_makes: "+[MTLBuffer alloc]" => { send!(class(c"MTLBuffer"), c"alloc" => Id); }

    encode_after_end: "setBuffer:offset:atIndex:]: after endEncoding" => {
        let encoder = encoder().2;
        send!(encoder, c"endEncoding" => ());
        send!(encoder, c"setBuffer:offset:atIndex:", NIL, 0usize, 0usize => ());
    }
    end_twice: "endEncoding]: after endEncoding" => {
        let encoder = encoder().2;
        send!(encoder, c"endEncoding" => ());
        send!(encoder, c"endEncoding" => ());
    }
    encoder_freed_open: "MTLComputeCommandEncoder: freed before endEncoding" => { pool(encoder); }
    commit_with_an_open_encoder: "commit]: an MTLComputeCommandEncoder of this command buffer is open" => {
        send!(encoder().1, c"commit" => ());
    }
    two_open_encoders: "blitCommandEncoder]: an MTLComputeCommandEncoder of this command buffer is open" => {
        send!(encoder().1, c"blitCommandEncoder" => Id);
    }
    encoder_after_commit: "computeCommandEncoder]: the command buffer was committed" => {
        let (_, commands, encoder) = encoder();
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        send!(commands, c"computeCommandEncoder" => Id);
    }
    committed_twice: "commit]: the command buffer was committed before" => {
        let (_, commands, encoder) = encoder();
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        send!(commands, c"commit" => ());
    }
    wait_before_commit: "waitUntilCompleted]: the command buffer was not committed" => {
        let (_, commands, encoder) = encoder();
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"waitUntilCompleted" => ());
    }
    wait_behind_one_not_committed: "enqueued before this one was not committed" => {
        let queue = send!(device(), c"newCommandQueue" => Id);
        let [first, second] = [(); 2].map(|()| send!(queue, c"commandBuffer" => Id));
        send!(first, c"enqueue" => ());
        send!(second, c"commit" => ());
        send!(second, c"waitUntilCompleted" => ());
    }
    too_many_command_buffers: "64 command buffers of this queue exist and none runs" => {
        let queue = send!(device(), c"newCommandQueue" => Id);
        for _ in 0..65 {
            send!(queue, c"commandBuffer" => Id);
        }
    }
    unbalanced_debug_group: "1 debug groups were pushed and not popped" => {
        let encoder = encoder().2;
        send!(encoder, c"pushDebugGroup:", text("layer 0") => ());
        send!(encoder, c"endEncoding" => ());
    }

    dispatch_without_pipeline: "dispatchThreads:threadsPerThreadgroup:]: no pipeline was set" => {
        dispatch(encoder().2, ONE, ONE);
    }
    unbound_buffer: "add_constant: no buffer is bound at index 1 for addend" => { dispatch(ready("add_constant"), ONE, ONE) }
    unbound_threadgroup_memory: "scratch: no threadgroup memory is set at index 0 for given" => {
        dispatch(ready("scratch"), ONE, ONE);
    }
    threadgroup_over_1024: "1056 threads in a threadgroup [33, 32, 1], and 1024" => {
        dispatch(ready("faulty"), Size(33, 32, 1), Size(33, 32, 1));
    }
    empty_grid: "is empty along an axis" => { dispatch(ready("faulty"), Size(0, 1, 1), ONE) }
    empty_threadgroup: "is empty along an axis" => { dispatch(ready("faulty"), ONE, Size(32, 0, 1)) }
    grid_over_32_bits: "does not fit 32 bits" => {
        let encoder = ready("faulty");
        send!(encoder, c"dispatchThreadgroups:threadsPerThreadgroup:", Size(1 << 30, 1, 1), Size(32, 1, 1) => ());
    }
    threadgroup_memory_over_32_kib: "33024 bytes of threadgroup memory (256 of the kernel and 32768 set)" => {
        let encoder = ready("scratch");
        send!(encoder, c"setThreadgroupMemoryLength:atIndex:", 32768usize, 0usize => ());
        dispatch(encoder, ONE, ONE);
    }
    threadgroup_memory_not_a_multiple_of_16: "24 bytes at index 0 are not a multiple of 16" => {
        send!(encoder().2, c"setThreadgroupMemoryLength:atIndex:", 24usize, 0usize => ());
    }
    set_bytes_over_4_kib: "setBytes:length:atIndex:]: 4097 bytes at index 3" => {
        send!(encoder().2, c"setBytes:length:atIndex:", [0u8; 4097].as_ptr(), 4097usize, 3usize => ());
    }
    set_bytes_of_nothing: "setBytes:length:atIndex:]: 0 bytes" => {
        send!(encoder().2, c"setBytes:length:atIndex:", [0u8; 1].as_ptr(), 0usize, 3usize => ());
    }
    index_over_30: "index 31; there are 31 (0 to 30)" => {
        send!(encoder().2, c"setBuffer:offset:atIndex:", NIL, 0usize, 31usize => ());
    }
    offset_beyond_the_buffer: "offset 8 at index 0 is beyond the 8 bytes of weights" => {
        let (device, _, encoder) = encoder();
        let buffer = buffer(device, &[1, 2]);
        send!(buffer, c"setLabel:", text("weights") => ());
        send!(encoder, c"setBuffer:offset:atIndex:", buffer, 8usize, 0usize => ());
    }
    barrier_of_another_scope: "memoryBarrierWithScope:]: scope 2" => {
        send!(encoder().2, c"memoryBarrierWithScope:", 2usize => ());
    }

    empty_buffer: "a buffer must have at least one byte" => {
        send!(device(), c"newBufferWithLength:options:", 0usize, 0usize => Id);
    }
    managed_buffer: "managed storage (0x10)" => {
        send!(device(), c"newBufferWithLength:options:", 4usize, 0x10usize => Id);
    }
    bytes_into_a_private_buffer: "only a shared buffer can be filled by the CPU" => {
        send!(device(), c"newBufferWithBytes:length:options:", [0u8; 4].as_ptr(), 4usize, 0x20usize => Id);
    }
    no_copy_pointer_not_aligned: "is not aligned to a page" => { no_copy(64, page()) }
    no_copy_length_not_whole_pages: "is not a multiple of a page" => { no_copy(0, page() - 1) }
    buffer_freed_under_unretained_commands: "was freed while a command buffer with unretained references" => {
        let device = device();
        let (queue, pipeline) = (send!(device, c"newCommandQueue" => Id), pipeline(device, "faulty"));
        let commands = send!(queue, c"commandBufferWithUnretainedReferences" => Id);
        let encoder = send!(commands, c"computeCommandEncoder" => Id);
        let buffer = buffer(device, &[1]);
        send!(encoder, c"setComputePipelineState:", pipeline => ());
        send!(encoder, c"setBuffer:offset:atIndex:", buffer, 0usize, 0usize => ());
        dispatch(encoder, ONE, ONE);
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        send!(buffer, c"release" => ());
    }

    unknown_language_version: "0x50000 is not a version of the Metal Shading Language" => {
        send!(send!(class(c"MTLCompileOptions"), c"new" => Id), c"setLanguageVersion:", 0x5_0000usize => ());
    }
    function_constant_of_unknown_type: "MTLDataType 99 is not supported" => {
        let values = send!(class(c"MTLFunctionConstantValues"), c"new" => Id);
        send!(values, c"setConstantValue:type:atIndex:", [0u8; 4].as_ptr(), 99usize, 0usize => ());
    }

    fill_beyond_the_buffer: "8 bytes at 4 are beyond the 8 bytes of buffer" => { blit(Range(4, 8)) }
    fill_of_odd_length: "both must be multiples of 4" => { blit(Range(0, 7)) }
    copy_onto_itself: "source and destination overlap" => {
        let (device, commands) = blit_commands();
        let (blit, buffer) = (send!(commands, c"blitCommandEncoder" => Id), buffer(device, &[0; 8]));
        send!(blit, c"copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:", buffer, 0usize, buffer, 8usize, 12usize => ());
    }
}

fn page() -> usize {
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

fn no_copy(shift: usize, length: usize) {
    let size = 2 * page();
    let pages = unsafe { libc::mmap(std::ptr::null_mut(), size, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    let pages = unsafe { pages.byte_add(shift) };
    send!(device(), c"newBufferWithBytesNoCopy:length:options:deallocator:", pages, length, 0usize, NIL => Id);
}

fn blit_commands() -> (Id, Id) {
    let device = device();
    (device, send!(send!(device, c"newCommandQueue" => Id), c"commandBuffer" => Id))
}

fn blit(range: Range) {
    let (device, commands) = blit_commands();
    let blit = send!(commands, c"blitCommandEncoder" => Id);
    send!(blit, c"fillBuffer:range:value:", buffer(device, &[0; 2]), range, 0u8 => ());
}

/// Apple's runtime logs it and goes on; so does this.
#[test]
fn autorelease_without_a_pool_is_reported() {
    if is_child() {
        send!(string("x"), c"autorelease" => Id);
        return;
    }
    let output = child("autorelease_without_a_pool_is_reported", &[]);
    assert!(output.status.success());
    assert!(said(&output, "NSString") && said(&output, "autoreleased with no pool in place"));
}

#[test]
fn leaks_are_reported_at_exit() {
    if is_child() {
        let device = device();
        buffer(device, &[1]);
        buffer(device, &[2]);
        let freed = buffer(device, &[3]);
        send!(freed, c"release" => ());
        return;
    }
    let output = child("leaks_are_reported_at_exit", &[("METAL_STANDIN_LEAKS", "1")]);
    assert_eq!(output.status.code(), Some(86));
    assert!(said(&output, "objects leaked: 2 MTLBuffer"), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(child("leaks_are_reported_at_exit", &[]).status.success());
}

/// A computer without Metal: nil and an empty array, not a failure.
#[test]
fn no_device() {
    if is_child() {
        pool(|| {
            assert_eq!(unsafe { support::MTLCreateSystemDefaultDevice() }, NIL);
            let all = send!(unsafe { support::MTLCopyAllDevices() }, c"autorelease" => Id);
            assert_eq!(send!(all, c"count" => usize), 0);
        });
        return;
    }
    let output = child("no_device", &[("METAL_STANDIN", "none")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said(&output, "no Metal device"));
}

#[test]
fn no_memory_is_nil() {
    if is_child() {
        pool(|| {
            let device = device();
            assert_eq!(send!(device, c"recommendedMaxWorkingSetSize" => u64), 1000);
            let first = send!(device, c"newBufferWithLength:options:", 600usize, 0x20usize => Id);
            assert_eq!(send!(device, c"currentAllocatedSize" => usize), 600);
            assert_eq!(send!(device, c"newBufferWithLength:options:", 600usize, 0x20usize => Id), NIL);
            send!(first, c"release" => ());
            assert_ne!(send!(device, c"newBufferWithLength:options:", 600usize, 0x20usize => Id), NIL);
        });
        return;
    }
    let output = child("no_memory_is_nil", &[("METAL_STANDIN_MEMORY", "1000")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One failure, on demand, in its turn: nothing of that command buffer runs, and those before and after it do.
#[test]
fn a_command_buffer_fails_when_it_is_told_to() {
    if is_child() {
        pool(|| {
            let device = device();
            let (pipeline, values) = (pipeline(device, "add_constant"), buffer(device, &[0; 4]));
            let queue = send!(device, c"newCommandQueue" => Id);
            let runs = [(); 3].map(|()| {
                let commands = send!(queue, c"commandBuffer" => Id);
                let encoder = send!(commands, c"computeCommandEncoder" => Id);
                add(encoder, pipeline, values, 1);
                send!(encoder, c"endEncoding" => ());
                send!(commands, c"commit" => ());
                send!(commands, c"waitUntilCompleted" => ());
                let error = send!(commands, c"error" => Id);
                let code = if error.is_null() { 0 } else { send!(error, c"code" => isize) };
                (send!(commands, c"status" => usize), code, words(values)[0])
            });
            assert_eq!(runs, [(4, 0, 1), (5, 2, 1), (4, 0, 2)]);
        });
        return;
    }
    let output = child("a_command_buffer_fails_when_it_is_told_to", &[("METAL_STANDIN_FAIL", "2")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
