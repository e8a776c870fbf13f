//! What can go wrong between text and token ids.

/// What can be wrong with a tokenizer's file, a template, or ids to decode.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// `tokenizer.json` is not valid, or asks for something that `fs` does not support.
    #[error("{file}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// What was found, what was expected.
        message: String,
    },
    /// An id that no token has.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// One more than the largest id.
        vocab_size: usize,
    },
    /// The chat template failed to compile or to render.
    #[error("chat template: {0}")]
    Template(String),
}
