//! Autorelease pools: objects to release later, a stack of them for each thread.
//!
//! A method that hands out an object without giving it away (`commandBuffer`, `localizedDescription`) puts the count
//! that it owns into the innermost pool; popping the pool releases it. Without a pool the object would never be freed:
//! Apple's runtime logs that, and so does this one.

use std::cell::RefCell;

use super::failure::{fail, report};
use super::object::Handle;

thread_local! {
    static POOLS: RefCell<Vec<Vec<Handle>>> = const { RefCell::new(Vec::new()) };
}

/// Opens a pool; its number is what `objc_autoreleasePoolPush` answers.
pub(crate) fn push() -> usize {
    POOLS.with_borrow_mut(|pools| {
        pools.push(Vec::new());
        pools.len()
    })
}

/// Closes a pool and those opened after it.
pub(crate) fn pop(number: usize) {
    let depth = POOLS.with_borrow(Vec::len);
    if number == 0 || number > depth {
        fail!("objc_autoreleasePoolPop: no pool {number} is open on this thread ({depth} are): popped twice?");
    }
    // Not inside the borrow: what is released may release others, or autorelease.
    for _ in number..=depth {
        let mut pool = POOLS.with_borrow_mut(|pools| pools.last_mut().map(std::mem::take).unwrap_or_default());
        while !pool.is_empty() {
            drop(std::mem::take(&mut pool));
            pool = POOLS.with_borrow_mut(|pools| pools.last_mut().map(std::mem::take).unwrap_or_default());
        }
        POOLS.with_borrow_mut(Vec::pop);
    }
}

/// Hands a count to the innermost pool.
pub(crate) fn add(handle: Handle) {
    let orphan = POOLS.with_borrow_mut(|pools| match pools.last_mut() {
        Some(pool) => {
            pool.push(handle);
            None
        }
        None => Some(handle),
    });
    if let Some(handle) = orphan {
        report(format_args!("{} {:p} autoreleased with no pool in place: it leaks", handle.class_name(), &*handle));
        std::mem::forget(handle);
    }
}
