//! An [`Engine`] holds a model on a backend and never changes; a [`Session`] is one growing sequence of tokens on it.
//!
//! This is all that the command line, the server and the course see.

pub mod bench;
pub mod devices;
mod engine;
mod error;
mod generate;
#[cfg(not(target_family = "wasm"))]
mod importance;
pub mod perplexity;
pub mod sampling;
pub mod stop;
pub mod verify;

pub(crate) use engine::WithBackend;
pub use engine::{Engine, EngineOptions, Session, SessionOptions};
pub use error::SessionError;
pub use generate::{Completion, Event, GenerateOptions, GeneratedToken, Generation, StopReason, Timings};
