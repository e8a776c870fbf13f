//! What can go wrong between a hub and a model's directory.

use crate::weights::WeightsError;
use indicatif::DecimalBytes;
use std::path::PathBuf;
use std::time::Duration;

/// An error of a download. The text says what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The text after `fs pull` names no model.
    #[error("{0}")]
    Name(String),
    /// An environment variable holds something that can't be used.
    #[error("{variable}: {message}")]
    Environment {
        /// Its name.
        variable: String,
        /// What is wrong; never the value of a token.
        message: String,
    },
    /// The hub wants to know who asks (401), or does not let them (403).
    #[error("{url}: refused with status {status}{message}. {hint}")]
    Refused {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The hub's own words, if any, after a colon.
        message: String,
        /// Where to put a token, or what to do about the one that was sent.
        hint: String,
    },
    /// The hub has no such repository, revision or file.
    #[error("{0}")]
    NotFound(String),
    /// The hub is too busy (429, 5xx, 408): worth another try.
    #[error("{url}: the server answers with status {status}{}", if *.status == 429 { " (too many requests)" } else { "" })]
    Busy {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// No connection, a dropped one, or no answer in time: worth another try.
    #[error("{url}: {message}")]
    Connection {
        /// What was asked for.
        url: String,
        /// What happened.
        message: String,
    },
    /// The same thing failed too often.
    #[error("gave up after {tries} tries: {last}")]
    GaveUp {
        /// How often it was tried.
        tries: u32,
        /// How it failed the last time.
        last: Box<DownloadError>,
    },
    /// The server's answer can't be right, and asking again won't help.
    #[error("{url}: {message}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What was found, what was expected.
        message: String,
    },
    /// A file arrived whole, twice, with the wrong content.
    #[error(
        "{file}: the checksum is {found}, expected {expected}, twice in a row; the file was removed: try again later or another HF_ENDPOINT"
    )]
    Checksum {
        /// The file.
        file: String,
        /// Of what was received.
        found: String,
        /// From the hub's listing.
        expected: String,
    },
    /// The disk is too small.
    #[error("{}: {} are needed ({needed} bytes) and {} are free ({free} bytes): free some space, or set FS_MODELS to a directory on another disk", path.display(), DecimalBytes(*.needed), DecimalBytes(*.free))]
    Space {
        /// Where the model was to go.
        path: PathBuf,
        /// Bytes still to be received.
        needed: u64,
        /// Bytes free for this user.
        free: u64,
    },
    /// Another process pulls the same model.
    #[error("another `fs pull` of {name} is running (it holds {})", path.display())]
    Locked {
        /// The model.
        name: String,
        /// The lock file.
        path: PathBuf,
    },
    /// There is a directory of that name that `fs pull` did not make.
    #[error("{} exists and was not made by `fs pull` (it has no readable source.json): move it away first", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused to create, write, read or rename a file.
    #[error("cannot access {}{}", path.display(), if source.kind() == std::io::ErrorKind::StorageFull { "; free some space and run the same command again, it goes on from here" } else { "" })]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The files are as the hub has them, and no model that `fs` can run.
    #[error("not a model that fs can run")]
    Model(#[from] WeightsError),
}

impl DownloadError {
    /// Whether the same request may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, DownloadError::Busy { .. } | DownloadError::Connection { .. })
    }

    pub(super) fn answer(url: &str, message: impl Into<String>) -> DownloadError {
        DownloadError::Answer { url: shown(url), message: message.into() }
    }

    pub(super) fn connection(url: &str, message: impl ToString) -> DownloadError {
        DownloadError::Connection { url: shown(url), message: shown(&message.to_string()) }
    }
}

/// Names the file in an I/O error: `.at(path)`.
pub(super) trait At<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, DownloadError>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, DownloadError> {
        self.map_err(|source| DownloadError::Io { path: path.into(), source })
    }
}

/// Text from a server, safe to print: no control characters (they could drive the terminal), not endless, and
/// of a URL no query (a CDN's query is a signed permission to download).
pub(super) fn shown(text: &str) -> String {
    let text = if text.starts_with("http") { text.split('?').next().unwrap_or_default() } else { text };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
