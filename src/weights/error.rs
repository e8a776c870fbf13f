//! What can go wrong between a file and a tensor.

use std::path::PathBuf;

/// An error in a model's files. Every variant names the file; the text says what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused to open, map or read a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file was read, but what it says is not valid.
    #[error("{file}: {message}")]
    Invalid {
        /// The file, or the name of an embedded one.
        file: String,
        /// What was found, what was expected, what to do.
        message: String,
    },
}
