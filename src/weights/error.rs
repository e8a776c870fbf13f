//! What can go wrong between a file and a tensor.

use std::path::PathBuf;

/// An error in a model's files. Every variant names the file, or the model; the text says what was found,
/// what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused to open, map, read or write a file; the source says why.
    #[error("cannot access {}", path.display())]
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
    /// One field of a JSON file is missing or has a value that cannot be used.
    #[error("{file}: field `{field}`: found {found}, expected {expected}")]
    Field {
        /// The file, or the name of an embedded one.
        file: String,
        /// The field; nested ones with dots, e.g. `rope_scaling.factor`.
        field: String,
        /// What the file says, shortened.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// What a file says of one tensor is not valid.
    #[error("{file}: tensor `{tensor}` at byte {offset}: {message}")]
    Tensor {
        /// The file, or the name of an embedded one.
        file: String,
        /// The tensor's name, control characters escaped.
        tensor: String,
        /// Where its data begins as the file says, or where the file says what is not valid; from the start of the file.
        offset: u64,
        /// What was found, what was expected.
        message: String,
    },
    /// A key of a GGUF file is missing or has a value that cannot be used.
    #[error("{file}: key `{key}` at byte {offset}: {message}")]
    Metadata {
        /// The file.
        file: String,
        /// The key, control characters escaped.
        key: String,
        /// Where it lies in the file; 0 if it is missing.
        offset: u64,
        /// What was found, what was expected.
        message: String,
    },
    /// A model was found, but a part of it is not there.
    #[error("{model}: no {part}; {hint}")]
    Absent {
        /// The model's name or directory.
        model: String,
        /// What is missing: `weights`, `tokenizer.json`, …
        part: String,
        /// How to get it.
        hint: String,
    },
    /// `--model` names neither a path nor a model that is on this machine.
    #[error("no model `{name}` here: it is not a path, and the models on this machine are {available}; {hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is, comma-separated.
        available: String,
        /// How to get it.
        hint: String,
    },
}

impl WeightsError {
    pub(crate) fn invalid(file: &str, message: impl Into<String>) -> Self {
        WeightsError::Invalid { file: file.to_string(), message: message.into() }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| WeightsError::Io { path, source }
    }
}

/// A part of a model that is made from its files by another room: the tokenizer, the chat template.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file itself.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// What it says.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
}
