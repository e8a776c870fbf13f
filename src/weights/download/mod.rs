//! `fs pull`: a model's files, from a hub that speaks Hugging Face's API to the model directory.
//!
//! 1. [`Reference`]: what the user asked for.
//! 2. [`Plan`]: the commit, and every file with its size and checksum, before anything is stored.
//! 3. [`pull`]: each file into `NAME.partial/FILE.partial`, continued where an earlier try stopped; checked; named
//!    `NAME.partial/FILE`. When all are there and are a model, the directory becomes `NAME`.
//!
//! So a directory without `.partial` is a whole model, always, and the old one stays usable until the new one is whole.
//! The server is not trusted: names, sizes, ranges and contents are checked against the listing, and all of the
//! listing is for one commit.

mod error;
mod hub;
mod install;
mod plan;
mod reference;
mod transfer;

pub use error::DownloadError;
pub use hub::{HubOptions, Token};
pub use install::{Outcome, Source, free_space, pull};
pub use plan::Plan;
pub use reference::Reference;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A file of a model, as its hub lists it and as `source.json` records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// Its name: one plain path component.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Of its content.
    pub checksum: Checksum,
}

/// What a hub identifies a file's content with, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Checksum {
    /// SHA-256 of the content: large files (Git LFS).
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the content, as Git names objects: small files.
    GitBlob(String),
}

impl Checksum {
    fn sha256(text: &str) -> Option<Checksum> {
        is_hex(text, 64).then(|| Checksum::Sha256(text.to_ascii_lowercase()))
    }

    fn git_blob(text: &str) -> Option<Checksum> {
        is_hex(text, 40).then(|| Checksum::GitBlob(text.to_ascii_lowercase()))
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Checksum::Sha256(hex) => write!(f, "sha256:{hex}"),
            Checksum::GitBlob(hex) => write!(f, "git-sha1:{hex}"),
        }
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> String {
        checksum.to_string()
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Checksum, String> {
        let sha256 = text.strip_prefix("sha256:").and_then(Checksum::sha256);
        let checksum = sha256.or_else(|| text.strip_prefix("git-sha1:").and_then(Checksum::git_blob));
        checksum.ok_or(format!("{text:?} is not a checksum"))
    }
}

/// What happens while a model is pulled, for whoever shows it.
pub enum Event<'a> {
    /// Bytes that are already here are read and compared with the listing.
    Checking {
        /// The file.
        file: &'a str,
        /// How many bytes.
        bytes: u64,
    },
    /// The file was whole already, here or in the model that will be replaced.
    Present {
        /// The file.
        file: &'a str,
    },
    /// A file's transfer begins.
    Start {
        /// The file.
        file: &'a str,
        /// Its size in bytes.
        size: u64,
        /// Bytes of it that an earlier try left.
        have: u64,
    },
    /// A part arrived, or, when `have` is smaller than before, the file starts again.
    Received {
        /// The file.
        file: &'a str,
        /// Bytes of it that are stored.
        have: u64,
    },
    /// Something failed that may pass.
    Retry {
        /// How it failed.
        error: &'a DownloadError,
        /// Time until the next try.
        wait: Duration,
    },
    /// A file arrived with the wrong content, and is asked for once more.
    WrongChecksum {
        /// The file.
        file: &'a str,
    },
    /// A file is whole, checked and stored.
    Done {
        /// The file.
        file: &'a str,
    },
}

type Events<'a> = &'a mut dyn FnMut(Event<'_>);
