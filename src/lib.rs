//! **Failed Star**: a small LLM inference engine, written to be read.
//!
//! Read the modules in the order a prompt meets them:
//!
//! 1. [`text`]: text becomes token ids (NFC, pre-tokenizer, byte-level BPE), and token ids become text.
//! 2. [`weights`]: files become a [`weights::Config`] and named tensors; nothing in a file is trusted.
//! 3. [`model`]: the Qwen3 forward pass, once, as a short program over about a dozen operations, and the KV cache.
//! 4. [`backend`]: what runs those operations: [`backend::reference`] (plain loops, the oracle), [`backend::cpu`], and
//!    `backend::metal` (on a Mac's GPU).
//! 5. [`session`]: [`session::Engine`] (immutable) and [`session::Session`] (one growing timeline), sampling, stopping.
//! 6. [`trace`]: what ran: every operation with shapes, bytes, arithmetic, time and values.
//!
//! The command line (`src/cli`) sees [`session::Engine`] and [`session::Session`] only, and computes with no tensor.

pub mod backend;
mod clock;
#[cfg(test)]
mod expect;
pub mod model;
pub mod session;
pub mod text;
pub mod trace;
pub mod weights;
