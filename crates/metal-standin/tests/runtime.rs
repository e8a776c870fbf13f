//! The Objective-C runtime: messages, retain counts, pools, and the table of methods.

#![cfg(not(target_os = "macos"))]
#![allow(clippy::undocumented_unsafe_blocks, reason = "a message is as safe as its signature, which stands beside it")]

mod support;

use std::ffi::{CStr, c_char};

use metal_standin::{live_objects, methods};
use support::{Id, NIL, NO_ERROR, class, pool, quiet, read, send, string};

fn alive(name: &str) -> usize {
    live_objects().iter().find(|(class, _)| *class == name).map_or(0, |&(_, count)| count)
}

#[test]
fn selectors_are_unique_and_keep_their_name() {
    let [a, b, c] = [c"setBuffer:offset:atIndex:", c"setBuffer:offset:atIndex:", c"setBuffer:"]
        .map(|name| unsafe { support::sel_registerName(name.as_ptr()) });
    assert_eq!(a, b);
    assert_ne!(a, c);
    let name: *const c_char = unsafe { support::sel_getName(a) };
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"setBuffer:offset:atIndex:");
}

#[test]
fn classes_are_found_by_name_and_are_objects() {
    assert_eq!(class(c"NSNothing"), NIL);
    assert_eq!(unsafe { support::object_getClass(NIL) }, NIL);
    let (string, ns_string) = (string("x"), class(c"NSString"));
    assert_eq!(unsafe { support::object_getClass(string) }, ns_string);
    assert_eq!(send!(ns_string, c"self" => Id), ns_string);
    assert!(send!(string, c"isKindOfClass:", class(c"NSObject") => bool));
    assert!(!send!(string, c"isKindOfClass:", class(c"NSError") => bool));
    assert!(support::responds(string, "UTF8String") && !support::responds(string, "foo"));
    assert!(support::responds(ns_string, "alloc") && !support::responds(ns_string, "UTF8String"));
    unsafe { support::objc_release(string) };
}

/// A look-up that loses an argument register, a vector register or the stack gives a method wrong numbers.
#[test]
fn arguments_come_through_in_registers_and_on_the_stack() {
    pool(|| {
        let number = send!(class(c"NSNumber"), c"numberWithDouble:", 2.5f64 => Id);
        assert_eq!(read(send!(number, c"stringValue" => Id)), "2.5");
        let number = send!(class(c"NSNumber"), c"numberWithInt:", -7i32 => Id);
        assert_eq!(read(send!(number, c"stringValue" => Id)), "-7");
        let device = support::device();
        let pipeline = support::pipeline(device, "add");
        let queue = send!(device, c"newCommandQueue" => Id);
        let [a, b, sum] = [[1, 2, 3, 4], [10, 20, 30, 40], [0; 4]].map(|words| support::buffer(device, &words));
        let commands = send!(queue, c"commandBuffer" => Id);
        let encoder = send!(commands, c"computeCommandEncoder" => Id);
        send!(encoder, c"setComputePipelineState:", pipeline => ());
        for (index, buffer) in [a, b, sum].into_iter().enumerate() {
            send!(encoder, c"setBuffer:offset:atIndex:", buffer, 0usize, index => ());
        }
        // Two structs of 24 bytes each, on the stack.
        send!(encoder, c"dispatchThreads:threadsPerThreadgroup:", support::Size(4, 1, 1), support::Size(2, 1, 1) => ());
        send!(encoder, c"endEncoding" => ());
        send!(commands, c"commit" => ());
        send!(commands, c"waitUntilCompleted" => ());
        assert_eq!(support::words(sum), [11, 22, 33, 44]);
        // A result in a vector register.
        let (start, end) = (send!(commands, c"GPUStartTime" => f64), send!(commands, c"GPUEndTime" => f64));
        assert!(0.0 < start && start < end && end - start < 60.0, "{start} to {end}");
        for object in [a, b, sum, queue, pipeline] {
            send!(object, c"release" => ());
        }
    });
}

#[test]
fn a_message_to_nil_answers_zero() {
    assert_eq!(send!(NIL, c"length" => usize), 0);
    assert_eq!(send!(NIL, c"GPUEndTime" => f64), 0.0);
    assert_eq!(send!(NIL, c"device" => Id), NIL);
    assert_eq!(unsafe { support::objc_retain(NIL) }, NIL);
    unsafe { support::objc_release(NIL) };
}

#[test]
fn retain_and_release_count_and_the_last_frees() {
    let _quiet = quiet();
    let before = alive("NSMutableDictionary");
    let object = send!(class(c"NSMutableDictionary"), c"new" => Id);
    assert_eq!(send!(object, c"retain" => Id), object);
    unsafe { support::objc_retain(object) };
    assert_eq!(send!(object, c"retainCount" => usize), 3);
    send!(object, c"release" => ());
    unsafe { support::objc_release(object) };
    assert_eq!(alive("NSMutableDictionary"), before + 1);
    send!(object, c"release" => ());
    assert_eq!(alive("NSMutableDictionary"), before);
}

/// A dictionary owns its values: freeing them with the caller's count would leave it with zombies.
#[test]
fn collections_own_what_they_hold() {
    let _quiet = quiet();
    pool(|| {
        let dictionary = send!(class(c"NSMutableDictionary"), c"new" => Id);
        let (key, value) = (string("WIDTH"), string("32"));
        send!(dictionary, c"setObject:forKey:", value, key => ());
        send!(value, c"release" => ());
        send!(key, c"release" => ());
        let found = send!(dictionary, c"objectForKey:", support::text("WIDTH") => Id);
        assert_eq!(read(found), "32");
        assert_eq!(send!(dictionary, c"objectForKey:", support::text("HEIGHT") => Id), NIL);
        assert_eq!(send!(dictionary, c"count" => usize), 1);
        send!(dictionary, c"release" => ());
    });
}

#[test]
fn pools_release_what_was_autoreleased_in_them_and_nest() {
    let _quiet = quiet();
    let before = alive("NSURL");
    let path = string("/tmp/x");
    let outer = unsafe { support::objc_autoreleasePoolPush() };
    send!(class(c"NSURL"), c"fileURLWithPath:", path => Id);
    let _inner = unsafe { support::objc_autoreleasePoolPush() };
    let kept = send!(class(c"NSURL"), c"fileURLWithPath:", path => Id);
    unsafe { support::objc_retain(kept) };
    send!(class(c"NSURL"), c"fileURLWithPath:", path => Id);
    assert_eq!(alive("NSURL"), before + 3);
    unsafe { support::objc_autoreleasePoolPop(outer) }; // and the inner one with it
    assert_eq!(alive("NSURL"), before + 1);
    for object in [kept, path] {
        unsafe { support::objc_release(object) };
    }
}

#[test]
fn strings_are_utf8_and_refuse_what_is_not() {
    let bytes = [b'a', 0xff];
    let empty = send!(class(c"NSString"), c"alloc" => Id);
    let bad = send!(empty, c"initWithBytes:length:encoding:", bytes.as_ptr(), 2usize, 4usize => Id);
    assert_eq!(bad, NIL);
    let good = string("naïve 🚀");
    assert_eq!(read(good), "naïve 🚀");
    assert_eq!(send!(good, c"length" => usize), 8, "in UTF-16 units");
    unsafe { support::objc_release(good) };
}

/// The table says what the code takes: receiver and selector first, one argument for each colon.
#[test]
fn every_method_has_an_encoding() {
    let methods = methods();
    let find = |class: &str, selector: &str| {
        let found = methods.iter().find(|method| method.class == class && method.selector == selector);
        found.unwrap_or_else(|| panic!("no {class} {selector}")).types.clone()
    };
    assert_eq!(find("MTLComputeCommandEncoder", "setBuffer:offset:atIndex:"), "v@:@QQ");
    assert_eq!(find("MTLComputeCommandEncoder", "dispatchThreads:threadsPerThreadgroup:"), "v@:{?=QQQ}{?=QQQ}");
    assert_eq!(find("MTLDevice", "newLibraryWithSource:options:error:"), "@@:@@^@");
    assert_eq!(find("MTLDevice", "supportsFamily:"), "B@:q");
    assert_eq!(find("MTLCommandBuffer", "GPUEndTime"), "d@:");
    assert_eq!(find("MTLBlitCommandEncoder", "fillBuffer:range:value:"), "v@:@{_NSRange=QQ}C");
    let mut names: Vec<_> = methods.iter().map(|m| (m.class, m.is_class_method, m.selector)).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a method is in the table twice");
}

#[test]
fn capture_is_refused_with_an_error() {
    pool(|| {
        let manager = send!(class(c"MTLCaptureManager"), c"sharedCaptureManager" => Id);
        let descriptor = send!(class(c"MTLCaptureDescriptor"), c"new" => Id);
        let mut error = NIL;
        assert!(!send!(manager, c"startCaptureWithDescriptor:error:", descriptor, &mut error => bool));
        assert!(read(send!(error, c"localizedDescription" => Id)).contains("not supported"));
        assert!(!send!(manager, c"startCaptureWithDescriptor:error:", descriptor, NO_ERROR => bool));
        send!(descriptor, c"release" => ());
    });
}
