//! The course's exercises: a reader writes a function of the engine again, and the engine's own tests check it.
//!
//! 1. [`markers`]: comments in the source say where an exercise's body is.
//! 2. [`catalogue`]: `exercises/*.toml` say what to do, give hints, and name wrong answers.
//! 3. [`workbook`]: a copy of the engine in which the body is missing.
//! 4. [`run`]: builds a copy and runs its tests; [`explain`]: says what a failed one means.
//! 5. [`style`]: colours, for terminals.
//! 6. [`prove`]: every exercise can be solved, and no known-wrong answer passes.

pub mod catalogue;
pub mod explain;
pub mod markers;
pub mod prove;
pub mod run;
pub mod style;
pub mod workbook;

pub use catalogue::{Catalogue, CatalogueError, Exercise};
