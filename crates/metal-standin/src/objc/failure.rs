//! What happens when a program breaks a rule: one line on stderr, and the process aborts, as it does under Apple's
//! runtime and its Metal validation layer. Nothing is thrown: the caller is foreign code with no way to catch it.

use std::fmt::Display;
use std::io::Write;
use std::process::abort;
use std::sync::Once;

use super::object::live_objects;

/// Says what rule was broken, and aborts.
pub(crate) fn abort_with(what: impl Display) -> ! {
    report(what);
    abort()
}

/// Says something that Apple's frameworks only log.
pub(crate) fn report(what: impl Display) {
    // Not `eprintln!`: the test harness would keep the line to itself, and an abort would lose it. One write: lines of
    // several threads do not mix.
    let _ = std::io::stderr().write_all(format!("metal-standin: {what}\n").as_bytes());
}

/// `fail!("...")`, or `fail!(this, "...")` in a method: the line then begins with the method's name.
macro_rules! fail {
    ($format:literal $($rest:tt)*) => { $crate::objc::failure::abort_with(format_args!($format $($rest)*)) };
    ($this:expr, $format:literal $($rest:tt)*) => {
        $crate::objc::failure::abort_with(format_args!("{}: {}", $this.method(), format_args!($format $($rest)*)))
    };
}
pub(crate) use fail;

/// With `METAL_STANDIN_LEAKS=1`, a process that ends with objects alive says which, and ends with status 86.
pub(crate) fn check_leaks_at_exit() {
    static ONCE: Once = Once::new();
    extern "C" fn at_exit() {
        let alive = live_objects();
        if !alive.is_empty() {
            let list: Vec<String> = alive.iter().map(|(class, count)| format!("{count} {class}")).collect();
            report(format_args!("objects leaked: {}", list.join(", ")));
            // SAFETY: ends the process; `exit` must not be called a second time from a handler.
            unsafe { libc::_exit(86) };
        }
    }
    ONCE.call_once(|| {
        if std::env::var_os("METAL_STANDIN_LEAKS").is_some_and(|value| value == "1") {
            // SAFETY: `at_exit` is a plain function that lives as long as the program.
            unsafe { libc::atexit(at_exit) };
        }
    });
}
