//! A clock that only goes forward.
//!
//! On wasm the standard library has none (`Instant::now` panics there), so the page that runs the engine lends its own:
//! the import `host.now_ms`, which is `performance.now`.

#[cfg(not(target_family = "wasm"))]
pub use std::time::Instant;

#[cfg(target_family = "wasm")]
pub use host::Instant;

#[cfg(target_family = "wasm")]
mod host {
    use std::time::Duration;

    #[link(wasm_import_module = "host")]
    // SAFETY: the import takes and touches nothing, and any number is a valid result.
    unsafe extern "C" {
        safe fn now_ms() -> f64;
    }

    /// A moment, in milliseconds since one that the page chose.
    #[derive(Clone, Copy, Debug)]
    pub struct Instant(f64);

    impl Instant {
        /// This moment.
        pub fn now() -> Self {
            Self(now_ms())
        }

        /// Time since then; zero if the page's clock went back or is not a number.
        pub fn elapsed(&self) -> Duration {
            Duration::try_from_secs_f64((now_ms() - self.0) / 1e3).unwrap_or_default()
        }
    }
}
