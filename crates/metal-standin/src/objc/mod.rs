//! A subset of the Objective-C runtime: what a program needs to send messages to Metal.
//!
//! Reading order: [`message`] (`objc_msgSend`), [`class`] (method tables, selectors), [`object`] (retain counts,
//! zombies), [`pool`] (autorelease), [`failure`] (what happens to a program that breaks a rule). The C functions below
//! are what such a program links against.

pub mod class;
pub mod failure;
pub mod message;
pub mod object;
pub mod pool;

use std::ffi::{CStr, c_char, c_void};

use class::{Class, Sel, classes};
use failure::fail;
use object::{Handle, Id, Object};

/// The class of that name, or nil.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn objc_getClass(name: *const c_char) -> Id {
    // SAFETY: as the caller says.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().ok().and_then(|name| classes().get(name)).map_or(std::ptr::null(), Class::as_id)
}

/// The selector of that name.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sel_registerName(name: *const c_char) -> Sel {
    classes(); // whose selectors come first, so that their numbers are small
    // SAFETY: as the caller says.
    Sel::register(unsafe { CStr::from_ptr(name) })
}

/// A selector's name.
///
/// # Safety
/// `selector` came from `sel_registerName`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sel_getName(selector: Sel) -> *const c_char {
    selector.as_ptr()
}

/// An object's class; nil for nil.
///
/// # Safety
/// `object` is nil or an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn object_getClass(object: Id) -> Id {
    // SAFETY: as the caller says.
    let object = unsafe { argument(object, "object_getClass") };
    object.and_then(Object::class).map_or(std::ptr::null(), Class::as_id)
}

/// Adds one to an object's retain count.
///
/// # Safety
/// `object` is nil or an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn objc_retain(object: Id) -> Id {
    if !object.is_null() {
        // SAFETY: as the caller says.
        unsafe { object::retain(object) };
    }
    object
}

/// Takes one away; the last frees the object.
///
/// # Safety
/// `object` is nil or an object, and the caller owns one count of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn objc_release(object: Id) {
    if !object.is_null() {
        // SAFETY: as the caller says.
        unsafe { object::release(object) };
    }
}

/// Releases when the innermost pool is popped.
///
/// # Safety
/// As for [`objc_release`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn objc_autorelease(object: Id) -> Id {
    // SAFETY: as the caller says.
    if let Some(object) = unsafe { argument(object, "objc_autorelease") } {
        // SAFETY: the caller's count goes to the pool: retained here once, and that count released at once.
        unsafe { object::release(Handle::of(object).autorelease()) };
    }
    object
}

/// Opens an autorelease pool on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn objc_autoreleasePoolPush() -> *mut c_void {
    std::ptr::without_provenance_mut(pool::push())
}

/// Closes it, and those opened after it.
#[unsafe(no_mangle)]
pub extern "C" fn objc_autoreleasePoolPop(pool: *mut c_void) {
    pool::pop(pool.addr());
}

/// An object given to a C function.
unsafe fn argument<'a>(object: Id, function: &str) -> Option<&'a Object> {
    // SAFETY: as the caller says.
    (!object.is_null()).then(|| unsafe { Object::checked(object, || function.into()) })
}

/// Writes the `error:` argument of a method, if the caller wants to know.
pub(crate) fn set_error(out: *mut Id, error: Handle) {
    if !out.is_null() {
        if !out.is_aligned() {
            fail!("error: {out:p} is not the address of an object pointer");
        }
        // SAFETY: not null; the method's caller gave the address of a variable for it.
        unsafe { *out = error.autorelease() };
    }
}
