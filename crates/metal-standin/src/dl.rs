//! Shared libraries opened at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(library: *mut c_void) -> c_int;
    fn dlerror() -> *const c_char;
}
const RTLD_NOW: c_int = 2;

/// An open library; closed when dropped.
pub(crate) struct Library(*mut c_void);

// SAFETY: a library's handle belongs to the process.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens a library and runs its constructors. A name without a slash is searched for as the linker does.
    pub(crate) fn open(path: &Path) -> Result<Library, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|why| why.to_string())?;
        // SAFETY: a C string.
        let handle = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: after a failure dlerror gives a C string.
            return Err(unsafe { CStr::from_ptr(dlerror()) }.to_string_lossy().into_owned());
        }
        Ok(Library(handle))
    }

    /// A symbol's address, not null.
    pub(crate) fn symbol(&self, name: &str) -> Result<*mut c_void, String> {
        let c_name = CString::new(name).map_err(|why| why.to_string())?;
        // SAFETY: an open library and a C string.
        let address = unsafe { dlsym(self.0, c_name.as_ptr()) };
        if address.is_null() { Err(format!("the library has no symbol `{name}`")) } else { Ok(address) }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once. Who copied an address out of it keeps the library.
        unsafe { dlclose(self.0) };
    }
}
