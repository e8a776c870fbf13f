//! Files that are there whole or not at all.

use super::WeightsError;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file under another name, which becomes `path` when it is whole and is removed if it never is.
pub(super) struct NewFile {
    writer: Option<BufWriter<File>>,
    partial: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Opens it, if there is room for `bytes`.
    pub(super) fn create(path: &Path, bytes: u64) -> Result<NewFile, WeightsError> {
        // A link is followed: what it names is replaced, and the link stays.
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if path.exists() && !path.is_file() && !path.is_dir() {
            let message = "is not a regular file (a device or a pipe?); name the file to write";
            return Err(WeightsError::invalid(&path.display().to_string(), message));
        }
        let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        let free = fs4::available_space(dir).map_err(WeightsError::io(dir))?;
        if free < bytes {
            let message = format!("the file takes {bytes} bytes, and {free} are free");
            return Err(WeightsError::invalid(&path.display().to_string(), message));
        }
        if path.is_dir() || path.file_name().is_none() {
            let message = "is a directory; name the file to write";
            return Err(WeightsError::invalid(&path.display().to_string(), message));
        }
        // The process's id: two at once must not write into one file.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!("{name}.{}.partial", std::process::id()));
        let file = File::create(&partial).map_err(WeightsError::io(&partial))?;
        Ok(NewFile { writer: Some(BufWriter::new(file)), partial, path: path.to_path_buf() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        let writer = self.writer.as_mut().expect("open until it is finished");
        writer.write_all(bytes).map_err(WeightsError::io(&self.path))
    }

    /// Gives the file its name, after everything has reached the disk.
    pub(super) fn finish(mut self) -> Result<(), WeightsError> {
        let writer = self.writer.take().expect("open until it is finished");
        let file = writer.into_inner().map_err(|error| WeightsError::io(&self.path)(error.into_error()))?;
        file.sync_all().map_err(WeightsError::io(&self.path))?;
        fs::rename(&self.partial, &self.path).map_err(WeightsError::io(&self.path))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Closed first, for systems that remove no open file. After `finish` there is nothing by this name.
        self.writer = None;
        let _ = fs::remove_file(&self.partial);
    }
}
