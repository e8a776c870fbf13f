//! Objects live as long as they are used and no longer. These tests count all objects of the process, so they have it for themselves.

#![cfg(not(target_os = "macos"))]
#![allow(clippy::undocumented_unsafe_blocks, reason = "a message is as safe as its signature, which stands beside it")]

mod support;

use metal_standin::live_objects;
use support::{Id, Size, add, buffer, device, pipeline, pool, quiet, send, words};

const FOUR: Size = Size(4, 1, 1);

/// The program may let go of everything after commit; it lives until the work is done, and no longer.
#[test]
fn a_command_buffer_keeps_what_it_uses_until_it_has_completed() {
    let _quiet = quiet();
    let device = device();
    let (pipeline, sum) = (pipeline(device, "add"), buffer(device, &[0; 4]));
    let queue = send!(device, c"newCommandQueue" => Id);
    let buffers = || live_objects().into_iter().find(|(class, _)| *class == "MTLBuffer").unwrap().1;
    let before = buffers();
    pool(|| {
        let commands = send!(queue, c"commandBuffer" => Id);
        let encoder = send!(commands, c"computeCommandEncoder" => Id);
        send!(encoder, c"setComputePipelineState:", pipeline => ());
        for (index, words) in [[1, 2, 3, 4], [5, 6, 7, 8]].iter().enumerate() {
            let buffer = buffer(device, words);
            send!(encoder, c"setBuffer:offset:atIndex:", buffer, 0usize, index => ());
            send!(buffer, c"release" => ());
        }
        send!(encoder, c"setBuffer:offset:atIndex:", sum, 0usize, 2usize => ());
        send!(encoder, c"dispatchThreads:threadsPerThreadgroup:", FOUR, FOUR => ());
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
    });
    assert_eq!(buffers(), before + 2);
    send!(queue, c"release" => ()); // nobody waits, yet what was committed completes
    assert_eq!(words(sum), [6, 8, 10, 12]);
    assert_eq!(buffers(), before);
    send!(pipeline, c"release" => ());
    send!(sum, c"release" => ());
}

/// What a token costs in objects: after a thousand command buffers there are as many as before.
#[test]
fn a_thousand_command_buffers_leak_nothing() {
    let _quiet = quiet();
    let device = device();
    let (pipeline, values) = (pipeline(device, "add_constant"), buffer(device, &[0; 4]));
    let queue = send!(device, c"newCommandQueue" => Id);
    let before = live_objects();
    for token in 0..1000 {
        pool(|| {
            let commands = send!(queue, c"commandBuffer" => Id);
            let encoder = send!(commands, c"computeCommandEncoder" => Id);
            add(encoder, pipeline, values, 1);
            send!(encoder, c"endEncoding" => ());
            send!(commands, c"commit" => ());
            // Most are never waited for: the queue's limit of 64 completes them.
            if token % 100 == 99 {
                send!(commands, c"waitUntilCompleted" => ());
            }
        });
    }
    assert_eq!(live_objects(), before);
    assert_eq!(words(values), [1000; 4]);
    for object in [queue, pipeline, values] {
        send!(object, c"release" => ());
    }
}
