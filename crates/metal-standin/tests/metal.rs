//! The Metal classes: libraries, pipelines, order of commands, ownership, errors.

#![cfg(not(target_os = "macos"))]
#![allow(clippy::undocumented_unsafe_blocks, reason = "a message is as safe as its signature, which stands beside it")]

mod support;

use support::{
    Id, NIL, NO_ERROR, Range, add, buffer, class, compile, device, library, pipeline, pool, read, send, text, words,
};

fn queue(device: Id) -> Id {
    send!(send!(device, c"newCommandQueue" => Id), c"autorelease" => Id)
}

#[test]
fn the_device_says_what_it_is() {
    pool(|| {
        let device = device();
        assert_eq!(read(send!(device, c"name" => Id)), "Metal stand-in (CPU, checked)");
        let families: [isize; 5] = [1007, 5001, 3003, 1009, 5002];
        assert_eq!(families.map(|f| send!(device, c"supportsFamily:", f => bool)), [true, true, true, false, false]);
        assert!(send!(device, c"hasUnifiedMemory" => bool));
        assert_eq!(send!(device, c"maxThreadgroupMemoryLength" => usize), 32768);
        let all = send!(unsafe { support::MTLCopyAllDevices() }, c"autorelease" => Id);
        assert_eq!(send!(all, c"objectAtIndex:", 0usize => Id), device);
    });
}

#[test]
fn a_source_that_does_not_compile_is_an_error() {
    pool(|| {
        let source = "kernel void k(device uint *x [[buffer(0)]]) {\n    x[0] = oops;\n}\n";
        let (mut error, device) = (NIL, device());
        let library = send!(device, c"newLibraryWithSource:options:error:", text(source), NIL, &mut error => Id);
        assert_eq!(library, NIL);
        let message = read(send!(error, c"localizedDescription" => Id));
        assert!(message.contains("program_source:2:") && message.contains("oops"), "{message}");
        assert_eq!(read(send!(error, c"domain" => Id)), "MTLLibraryErrorDomain");
        assert_eq!(send!(error, c"code" => isize), 3);
        assert_eq!(send!(device, c"newLibraryWithSource:options:error:", text(source), NIL, NO_ERROR => Id), NIL);
    });
}

/// Options lost on the way give kernels another language or other macros than was asked for.
#[test]
fn compile_options_reach_the_compiler() {
    pool(|| {
        let source = "#include <metal_stdlib>\nusing namespace metal;\n
            #if __METAL_VERSION__ < 310\n#error too old for bfloat\n#endif
            kernel void k(device TYPE *x [[buffer(0)]]) { x[0] = TYPE(WIDTH); }";
        let options = send!(send!(class(c"MTLCompileOptions"), c"new" => Id), c"autorelease" => Id);
        let macros = send!(class(c"NSMutableDictionary"), c"dictionary" => Id);
        send!(macros, c"setObject:forKey:", text("bfloat"), text("TYPE") => ());
        let number = send!(class(c"NSNumber"), c"numberWithInt:", 32i32 => Id);
        send!(macros, c"setObject:forKey:", number, text("WIDTH") => ());
        send!(options, c"setPreprocessorMacros:", macros => ());
        // Without a version it is that of the oldest macOS.
        assert!(compile(source, options).unwrap_err().contains("too old"));
        send!(options, c"setLanguageVersion:", 0x3_0001usize => ());
        assert!(compile(source, NIL).is_err());
        send!(compile(source, options).unwrap(), c"release" => ());
        send!(options, c"setMathMode:", 0isize => ());
        assert!(!send!(options, c"fastMathEnabled" => bool));
        send!(options, c"setFastMathEnabled:", true => ());
        assert_eq!(send!(options, c"mathMode" => isize), 2);
    });
}

#[test]
fn functions_are_found_by_name_and_specialized_by_constants() {
    pool(|| {
        let device = device();
        let library = library();
        let names = send!(library, c"functionNames" => Id);
        assert_eq!(send!(names, c"count" => usize), 6);
        assert_eq!(read(send!(names, c"objectAtIndex:", 4usize => Id)), "narrow");
        assert_eq!(send!(library, c"newFunctionWithName:", text("sub") => Id), NIL);

        let values = send!(class(c"MTLFunctionConstantValues"), c"new" => Id);
        let function = |name: &str, error: &mut Id| send!(library, c"newFunctionWithName:constantValues:error:", text(name), values, &mut *error => Id);
        let mut error = NIL;
        assert_eq!(function("narrow", &mut error), NIL);
        assert!(read(send!(error, c"localizedDescription" => Id)).contains("function constant 'width' (index 7)"));
        assert_eq!(function("sub", &mut error), NIL);
        assert!(read(send!(error, c"localizedDescription" => Id)).contains("sub was not found"));
        send!(values, c"setConstantValue:type:atIndex:", &64u32, 33usize, 7usize => ());
        let narrow = function("narrow", &mut error);
        assert_eq!(read(send!(narrow, c"name" => Id)), "narrow");
        let pipeline = send!(device, c"newComputePipelineStateWithFunction:error:", narrow, NO_ERROR => Id);
        assert_eq!(send!(pipeline, c"maxTotalThreadsPerThreadgroup" => usize), 64);
        assert_eq!(send!(pipeline, c"threadExecutionWidth" => usize), 32);
        for object in [library, values, narrow, pipeline] {
            send!(object, c"release" => ());
        }
    });
}

#[test]
fn a_kernel_with_too_much_threadgroup_memory_gets_no_pipeline() {
    pool(|| {
        let source = "#include <metal_stdlib>\nusing namespace metal;\n
            kernel void greedy(device uint *x [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
                threadgroup uint all[10000]; all[i] = i; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = all[9999 - i];
            }";
        let message: Result<Id, String> = compile(source, NIL).and_then(|library| {
            let function = send!(library, c"newFunctionWithName:", text("greedy") => Id);
            let mut error = NIL;
            let none = send!(device(), c"newComputePipelineStateWithFunction:error:", function, &mut error => Id);
            assert_eq!(none, NIL);
            send!(function, c"release" => ());
            send!(library, c"release" => ());
            Err(read(send!(error, c"localizedDescription" => Id)))
        });
        assert!(message.as_ref().unwrap_err().contains("40000"), "{message:?}");
    });
}

/// What two dispatches over the same buffer come to: the executor checks that a barrier lies between them.
fn twice(kind: usize, between: impl Fn(Id, Id)) -> (usize, Vec<u32>) {
    pool(|| {
        let device = device();
        let (pipeline, values) = (pipeline(device, "add_constant"), buffer(device, &[0; 4]));
        let commands = send!(queue(device), c"commandBuffer" => Id);
        let encoder = send!(commands, c"computeCommandEncoderWithDispatchType:", kind => Id);
        add(encoder, pipeline, values, 1);
        between(encoder, values);
        add(encoder, pipeline, values, 2);
        send!(encoder, c"endEncoding" => ());
        // A second encoder on the same buffer: encoders never overlap.
        let encoder = send!(commands, c"computeCommandEncoderWithDispatchType:", 1usize => Id);
        add(encoder, pipeline, values, 3);
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        send!(commands, c"waitUntilCompleted" => ());
        let result = (send!(commands, c"status" => usize), words(values));
        send!(values, c"release" => ());
        send!(pipeline, c"release" => ());
        result
    })
}

#[test]
fn a_serial_encoder_orders_its_dispatches() {
    assert_eq!(twice(0, |_, _| ()), (4, vec![6; 4]));
}

#[test]
fn a_concurrent_encoder_orders_only_what_it_is_told_to() {
    let scope = |encoder, _| send!(encoder, c"memoryBarrierWithScope:", 1usize => ());
    assert_eq!(twice(1, scope), (4, vec![6; 4]));
    let resources =
        |encoder, values| send!(encoder, c"memoryBarrierWithResources:count:", [values].as_ptr(), 1usize => ());
    assert_eq!(twice(1, resources), (4, vec![6; 4]));
    assert_eq!(twice(1, |_, _| ()).0, 5, "a forgotten barrier is found");
}

/// `enqueue` reserves a place in the line: what is committed first but enqueued later runs later.
#[test]
fn command_buffers_run_in_the_order_of_the_queue() {
    pool(|| {
        let device = device();
        let values = buffer(device, &[0; 4]);
        let queue = queue(device);
        let [plus_three, times_ten] = ["add_constant", "times_ten"].map(|name| {
            let pipeline = pipeline(device, name);
            let commands = send!(queue, c"commandBuffer" => Id);
            let encoder = send!(commands, c"computeCommandEncoder" => Id);
            add(encoder, pipeline, values, 3);
            send!(encoder, c"endEncoding" => ());
            send!(pipeline, c"release" => ());
            commands
        });
        send!(plus_three, c"enqueue" => ());
        assert_eq!(send!(plus_three, c"status" => usize), 1);
        send!(times_ten, c"commit" => ());
        assert_eq!(send!(times_ten, c"status" => usize), 2, "it waits for the first");
        send!(plus_three, c"commit" => ());
        send!(times_ten, c"waitUntilCompleted" => ());
        assert_eq!(words(values), [30; 4]);
        assert_eq!(send!(plus_three, c"status" => usize), 4, "it came before");
        send!(values, c"release" => ());
    });
}

/// A failed kernel must never pass for a result.
#[test]
fn a_kernel_that_fails_is_the_command_buffers_error() {
    pool(|| {
        let device = device();
        let (pipeline, values) = (pipeline(device, "faulty"), buffer(device, &[0; 4]));
        send!(values, c"setLabel:", text("logits") => ());
        let commands = send!(queue(device), c"commandBuffer" => Id);
        let encoder = send!(commands, c"computeCommandEncoder" => Id);
        add(encoder, pipeline, values, 1);
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        assert_eq!(send!(commands, c"status" => usize), 5);
        let error = send!(commands, c"error" => Id);
        let message = read(send!(error, c"localizedDescription" => Id));
        assert!(message.contains("faulty") && message.contains("logits"), "{message}");
        assert_eq!(read(send!(error, c"domain" => Id)), "MTLCommandBufferErrorDomain");
        send!(values, c"release" => ());
        send!(pipeline, c"release" => ());
    });
}

#[test]
fn blits_fill_and_copy() {
    pool(|| {
        let device = device();
        let [from, to] = [[1u32, 2, 3, 4], [9; 4]].map(|words| buffer(device, &words));
        let commands = send!(queue(device), c"commandBuffer" => Id);
        let blit = send!(commands, c"blitCommandEncoder" => Id);
        send!(blit, c"copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:", from, 4usize, to, 8usize, 8usize => ());
        send!(blit, c"fillBuffer:range:value:", from, Range(0, 8), 1u8 => ());
        send!(blit, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        send!(commands, c"waitUntilCompleted" => ());
        assert_eq!(words(to), [9, 9, 2, 3]);
        assert_eq!(words(from), [0x0101_0101, 0x0101_0101, 3, 4]);
        for object in [from, to] {
            send!(object, c"release" => ());
        }
    });
}

#[test]
fn private_buffers_have_no_contents_and_labels_stay() {
    pool(|| {
        let buffer = send!(device(), c"newBufferWithLength:options:", 100usize, 0x20usize => Id);
        assert!(send!(buffer, c"contents" => *const u8).is_null());
        assert_eq!(send!(buffer, c"length" => usize), 100);
        assert_eq!(send!(buffer, c"label" => Id), NIL);
        send!(buffer, c"setLabel:", text("kv cache") => ());
        assert_eq!(read(send!(buffer, c"label" => Id)), "kv cache");
        send!(buffer, c"release" => ());
    });
}

#[test]
fn events_are_signalled_when_their_command_buffer_completes() {
    pool(|| {
        let device = device();
        let event = send!(device, c"newSharedEvent" => Id);
        let commands = send!(queue(device), c"commandBuffer" => Id);
        send!(commands, c"encodeSignalEvent:value:", event, 7u64 => ());
        assert_eq!(send!(event, c"signaledValue" => u64), 0);
        send!(commands, c"commit" => ());
        assert_eq!(send!(event, c"signaledValue" => u64), 7);
        send!(event, c"release" => ());
    });
}
