//! The exports of the wasm module. A page calls them one at a time: wasm without threads cannot do otherwise.
//!
//! ```text
//! input(bytes) -> address     room for what goes in, which the page then writes
//! load() -> 0 or 1            takes the input as a model
//! answer() -> 0 or 1          takes the input as a request, which is JSON
//! output(), output_len()      where the answer lies: JSON after 0, an error's text after 1
//! ```

use crate::{Live, LiveError};
use std::cell::RefCell;

#[derive(Default)]
struct State {
    live: Live,
    input: Vec<u8>,
    output: Vec<u8>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

#[link(wasm_import_module = "host")]
// SAFETY: the page reads that much memory at that address, and changes nothing.
unsafe extern "C" {
    /// Tells the page what went wrong, before the module ends.
    safe fn panicked(message: *const u8, len: usize);
}

/// Room for `bytes` bytes that the page writes before its next call.
// SAFETY (of all `no_mangle` here): the names are this module's own.
#[unsafe(no_mangle)]
pub extern "C" fn input(bytes: usize) -> *mut u8 {
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        panicked(message.as_ptr(), message.len());
    }));
    STATE.with_borrow_mut(|state| {
        state.input = vec![0; bytes];
        state.input.as_mut_ptr()
    })
}

fn run(body: impl FnOnce(&mut Live, Vec<u8>) -> Result<Vec<u8>, LiveError>) -> u32 {
    STATE.with_borrow_mut(|state| {
        let input = std::mem::take(&mut state.input);
        let (status, output) = match body(&mut state.live, input) {
            Ok(output) => (0, output),
            Err(error) => (1, error.to_string().into_bytes()),
        };
        state.output = output;
        status
    })
}

/// Takes the input as a model: a GGUF file.
#[unsafe(no_mangle)]
pub extern "C" fn load() -> u32 {
    run(|live, model| live.load(model).map(|()| b"null".to_vec()))
}

/// Answers the input, a request.
#[unsafe(no_mangle)]
pub extern "C" fn answer() -> u32 {
    run(|live, request| live.answer(&request))
}

/// Where the output lies, until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn output() -> *const u8 {
    STATE.with_borrow(|state| state.output.as_ptr())
}

/// How long it is, in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn output_len() -> usize {
    STATE.with_borrow(|state| state.output.len())
}
