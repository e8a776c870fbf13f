//! One file: received into `FILE.partial`, continued where it stopped, checked, and only then given its name.

use super::error::{At, DownloadError};
use super::hub::{Answer, Hub, Method};
use super::{Checksum, Event, Events, RemoteFile};
use crate::weights::source::hex;
use sha2::Digest;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A connection that brought at least this much counts as working: the next failure is the first again. Below it,
/// a server that drops every connection after a few bytes would be asked forever.
const PROGRESS: u64 = 1 << 20;
const BUFFER: usize = 256 << 10;

/// A running checksum.
enum Hasher {
    Sha256(sha2::Sha256),
    GitBlob(sha1::Sha1),
}

impl Hasher {
    /// Of the kind that `file` is listed with.
    fn new(file: &RemoteFile) -> Hasher {
        match file.checksum {
            Checksum::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            // Git hashes a header with the length before the content.
            Checksum::GitBlob(_) => Hasher::GitBlob(sha1::Sha1::new().chain_update(format!("blob {}\0", file.size))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Checksum {
        match self {
            Hasher::Sha256(hasher) => Checksum::Sha256(hex(&hasher.finalize())),
            Hasher::GitBlob(hasher) => Checksum::GitBlob(hex(&hasher.finalize())),
        }
    }
}

/// Whether the file at `path` is `file`: its size, then its checksum.
pub(super) fn is_whole(path: &Path, file: &RemoteFile, events: Events) -> Result<bool, DownloadError> {
    if !path.metadata().is_ok_and(|m| m.is_file() && m.len() == file.size) {
        return Ok(false);
    }
    events(Event::Checking { file: &file.name, bytes: file.size });
    let mut hasher = Hasher::new(file);
    hash(&mut File::open(path).at(path)?, path, &mut hasher)?;
    Ok(hasher.finish() == file.checksum)
}

/// Whether `bytes` are `file`.
pub(super) fn is_content(bytes: &[u8], file: &RemoteFile) -> bool {
    let mut hasher = Hasher::new(file);
    hasher.update(bytes);
    bytes.len() as u64 == file.size && hasher.finish() == file.checksum
}

/// Hashes `source` from where it stands to its end; returns how many bytes that was.
fn hash(source: &mut File, path: &Path, hasher: &mut Hasher) -> Result<u64, DownloadError> {
    let (mut buffer, mut total) = (vec![0; BUFFER], 0);
    loop {
        match source.read(&mut buffer).at(path)? {
            0 => return Ok(total),
            n => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
        }
    }
}

/// The name under which a file is received.
pub(super) fn partial_path(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!("{file}.partial"))
}

/// Downloads `file` into `dir`; returns how many bytes came over the network. On failure, `FILE.partial` keeps what
/// was received, unless its content is wrong.
pub(super) fn download(
    hub: &Hub,
    url: &str,
    file: &RemoteFile,
    dir: &Path,
    events: Events,
) -> Result<u64, DownloadError> {
    let path = partial_path(dir, &file.name);
    let mut received = 0;
    for last_try in [false, true] {
        let mut transfer = Transfer::open(&path, file, events)?;
        let result = transfer.receive(hub, url, events);
        received += transfer.received;
        result?;
        let found = transfer.hasher.finish();
        if found == file.checksum {
            // On disk before it has its name: after a power failure a named file is a whole file.
            transfer.output.sync_all().at(&path)?;
            std::fs::rename(&path, dir.join(&file.name)).at(dir.join(&file.name))?;
            sync_directory(dir)?;
            events(Event::Done { file: &file.name });
            return Ok(received);
        }
        drop(transfer.output);
        std::fs::remove_file(&path).at(&path)?;
        if last_try {
            let (found, expected) = (found.to_string(), file.checksum.to_string());
            return Err(DownloadError::Checksum { file: file.name.clone(), found, expected });
        }
        events(Event::WrongChecksum { file: &file.name });
    }
    unreachable!("the last try returns")
}

/// Makes renames in `dir` survive a power failure (Windows has no such call, and needs none).
pub(super) fn sync_directory(dir: &Path) -> Result<(), DownloadError> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).at(dir)?;
    }
    Ok(())
}

/// The state that outlives a dropped connection.
struct Transfer<'a> {
    file: &'a RemoteFile,
    path: &'a Path,
    output: File,
    hasher: Hasher,
    /// Bytes in `output`, all of them hashed.
    have: u64,
    /// Bytes that came over the network.
    received: u64,
    /// `ETag` of the server that sent the first part.
    etag: Option<String>,
}

impl<'a> Transfer<'a> {
    fn open(path: &'a Path, file: &'a RemoteFile, events: Events) -> Result<Transfer<'a>, DownloadError> {
        let output = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).at(path)?;
        let hasher = Hasher::new(file);
        let mut transfer = Transfer { file, path, output, hasher, have: 0, received: 0, etag: None };
        let length = transfer.output.metadata().at(path)?.len();
        if length > file.size {
            transfer.restart()?;
        } else if length > 0 {
            events(Event::Checking { file: &file.name, bytes: length });
            transfer.have = hash(&mut transfer.output, path, &mut transfer.hasher)?;
        }
        events(Event::Start { file: &file.name, size: file.size, have: transfer.have });
        Ok(transfer)
    }

    /// Forgets what was received.
    fn restart(&mut self) -> Result<(), DownloadError> {
        self.output.set_len(0).at(self.path)?;
        self.output.seek(SeekFrom::Start(0)).at(self.path)?;
        (self.hasher, self.have, self.etag) = (Hasher::new(self.file), 0, None);
        Ok(())
    }

    /// Until the file is as long as it should be.
    fn receive(&mut self, hub: &Hub, url: &str, events: Events) -> Result<(), DownloadError> {
        let mut retries = hub.retries();
        while self.have < self.file.size {
            let before = self.received;
            if let Err(error) = self.connection(hub, url, events) {
                if self.received - before >= PROGRESS {
                    retries.progress();
                }
                retries.wait(error, events)?;
            }
        }
        Ok(())
    }

    /// One connection: what is missing, or as much of it as comes.
    fn connection(&mut self, hub: &Hub, url: &str, events: Events) -> Result<(), DownloadError> {
        let mut answer = hub.request(Method::Get, url, self.have)?;
        self.check(&answer)?;
        events(Event::Received { file: &self.file.name, have: self.have });
        let url = answer.url.clone();
        let mut body = answer.response.body_mut().as_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = body.read(&mut buffer).map_err(|error| {
                let so_far = format!("{} of {} bytes", self.have, self.file.size);
                DownloadError::connection(&url, format!("the connection failed after {so_far} ({error})"))
            })?;
            let missing = self.file.size - self.have;
            if n as u64 > missing {
                self.restart()?;
                return Err(DownloadError::answer(
                    &url,
                    format!("sends more than the {} bytes listed", self.file.size),
                ));
            }
            if n == 0 && missing > 0 {
                let so_far = format!("{} of {} bytes", self.have, self.file.size);
                return Err(DownloadError::connection(&url, format!("the connection ended after {so_far}")));
            }
            if n == 0 {
                return Ok(());
            }
            self.output.write_all(&buffer[..n]).at(self.path)?;
            self.hasher.update(&buffer[..n]);
            self.have += n as u64;
            self.received += n as u64;
            events(Event::Received { file: &self.file.name, have: self.have });
        }
    }

    /// Compares the headers with what was asked for, before a byte of the body is written.
    fn check(&mut self, answer: &Answer) -> Result<(), DownloadError> {
        let (url, size) = (&answer.url, self.file.size);
        let status = answer.response.status().as_u16();
        if let (Some(etag), Checksum::Sha256(listed)) = (&answer.linked_etag, &self.file.checksum)
            && etag != listed
        {
            return Err(DownloadError::answer(url, format!("the server has sha256 {etag:.64}, its listing {listed}")));
        }
        if let Some(linked) = answer.linked_size.filter(|linked| *linked != size) {
            return Err(DownloadError::answer(url, format!("the server has {linked} bytes, its listing {size}")));
        }
        if let Some(encoding) = answer.header("content-encoding").filter(|e| *e != "identity") {
            return Err(DownloadError::answer(url, format!("content-encoding {encoding:.40} was not asked for")));
        }
        if status == 416 {
            let message = format!("refuses to go on from byte {} (416)", self.have);
            self.restart()?;
            return Err(DownloadError::connection(url, message));
        } else if status == 206 {
            let range = answer.header("content-range").unwrap_or("missing");
            let expected = format!("bytes {}-{}/{size}", self.have, size - 1);
            if self.have == 0 || range != expected {
                let asked = self.have;
                self.restart()?;
                let message = format!("asked for bytes from {asked}, got content-range {range:.80}, not {expected}");
                return Err(DownloadError::connection(url, message));
            }
            if self.etag.is_some() && answer.etag() != self.etag {
                self.restart()?;
                return Err(DownloadError::connection(url, "the file changed between two parts of it (other ETag)"));
            }
        } else if self.have > 0 {
            // 200: the server ignores ranges and sends everything again.
            self.restart()?;
        }
        self.etag = answer.etag();
        let missing = size - self.have;
        match answer.content_length() {
            Some(length) if length != missing => {
                let message =
                    format!("announces {length} bytes where {missing} are expected (the listing says {size})");
                Err(DownloadError::answer(url, message))
            }
            _ => Ok(()),
        }
    }
}
