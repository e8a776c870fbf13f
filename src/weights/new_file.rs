//! Files that are there whole or not at all.

use super::WeightsError;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
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
        // A link is followed: what it names is replaced, and the link stays, unless it leads nowhere.
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

    /// Writes at a place of its own: parts may come in any order.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WeightsError> {
        let writer = self.writer.as_mut().expect("open until it is finished");
        writer.seek(SeekFrom::Start(offset)).map_err(WeightsError::io(&self.path))?;
        self.write(bytes)
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};

    fn write(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
        let mut file = NewFile::create(path, bytes.len() as u64)?;
        file.write(bytes)?;
        file.finish()
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        // A FIFO stands for devices: renaming over one would take it away from everybody.
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().expect("mkfifo runs").success());
        fs::create_dir(at("directory")).expect("a directory");
        for (name, target) in [("to-fifo", "fifo"), ("to-directory", "directory")] {
            symlink(target, at(name)).expect("a link");
        }
        for (name, word) in
            [("fifo", "regular"), ("to-fifo", "regular"), ("directory", "directory"), ("to-directory", "directory")]
        {
            let error = write(&at(name), b"new").expect_err(name).to_string();
            assert!(error.contains(word), "{name}: {error}");
        }
        assert!(fs::symlink_metadata(at("fifo")).expect("there").file_type().is_fifo());
        assert!(at("directory").is_dir() && fs::read_dir(dir.path()).expect("a directory").count() == 4);
    }

    #[test]
    fn a_link_is_followed_and_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("elsewhere")).expect("a directory");
        fs::write(at("elsewhere/file"), b"old").expect("a file");
        symlink("elsewhere/file", at("link")).expect("a link");
        write(&at("link"), b"new").expect("it is written");
        assert_eq!(fs::read(at("elsewhere/file")).expect("there"), b"new");
        assert!(fs::symlink_metadata(at("link")).expect("there").is_symlink());
        // A link that leads nowhere names no place to write to: it becomes the file.
        symlink("nowhere/file", at("broken")).expect("a link");
        write(&at("broken"), b"new").expect("it is written");
        assert!(fs::symlink_metadata(at("broken")).expect("there").is_file());
        assert_eq!(fs::read_dir(at("elsewhere")).expect("a directory").count(), 1, "nothing partial stays");
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        write(&path, b"old").expect("it is written");
        let mut file = NewFile::create(&path, 3).expect("room");
        file.write(b"new").expect("room");
        drop(file);
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }
}
