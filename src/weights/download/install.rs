//! The model's directory: one pull at a time, enough space, every file, a check of the whole, and the switch.

use super::error::{At, DownloadError};
use super::hub::{Hub, HubOptions};
use super::transfer::{download, is_whole, partial_path, sync_directory};
use super::{Event, Events, Plan, RemoteFile};
use crate::model::expected::compare;
use crate::weights::known_models::is_plain;
use crate::weights::{Checkpoint, Config, WeightsError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const SOURCE: &str = "source.json";

/// `source.json`: where a model's files came from. It lies beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `owner/name`.
    pub repo: String,
    /// The commit that all files are of.
    pub commit: String,
    /// When the pull ended (in a `.partial` directory: began), UTC.
    pub date: String,
    /// The hub.
    pub endpoint: String,
    /// Every file with its size and checksum.
    pub files: Vec<RemoteFile>,
}

impl Source {
    /// Reads `source.json` of a model's directory; `None` if there is none, or none that `fs pull` can have written.
    pub fn read(dir: &Path) -> Option<Source> {
        let source: Source = serde_json::from_slice(&fs::read(dir.join(SOURCE)).ok()?).ok()?;
        // The names will be joined to paths, and files deleted by them.
        source.files.iter().all(|file| is_plain(&file.name)).then_some(source)
    }

    fn write(&self, dir: &Path) -> Result<(), DownloadError> {
        let (path, new) = (dir.join(SOURCE), dir.join("source.json.new"));
        let json = serde_json::to_vec_pretty(self).expect("strings and numbers");
        fs::write(&new, json).and_then(|()| fs::File::open(&new)?.sync_all()).at(&new)?;
        fs::rename(&new, &path).at(&path)
    }
}

/// How a pull ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The model's directory.
    pub path: PathBuf,
    /// The model was complete, at this commit, before.
    pub up_to_date: bool,
    /// Bytes of files that came over the network.
    pub downloaded: u64,
}

/// Bytes that this user may still write below `path`, of which the last parts need not exist yet.
pub fn free_space(path: &Path) -> Result<u64, DownloadError> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    fs4::available_space(existing).at(existing)
}

/// Downloads what `plan` lists into `root`, the model directory. `force`: even what is there and complete.
pub fn pull(
    options: &HubOptions,
    plan: &Plan,
    root: &Path,
    force: bool,
    events: Events,
) -> Result<Outcome, DownloadError> {
    let hub = Hub::new(options)?;
    fs::create_dir_all(root).at(root)?;
    let name = &plan.reference.directory;
    let [target, partial, old] = ["", ".partial", ".old"].map(|suffix| root.join(format!("{name}{suffix}")));
    let _lock = lock(root, name)?;

    // An earlier pull may have been killed between the two renames at its end.
    if old.exists() {
        if target.exists() {
            fs::remove_dir_all(&old).at(&old)?;
        } else {
            fs::rename(&old, &target).at(&old)?;
        }
    }
    let existing = Source::read(&target);
    if target.exists() && existing.as_ref().is_none_or(|source| source.repo != plan.reference.repo) {
        return Err(DownloadError::Occupied { path: target });
    }
    if let Some(source) = &existing
        && !force
        && source.commit == plan.commit
        && source.files == plan.files
        && plan.files.iter().all(|file| has_size(&target.join(&file.name), file.size))
    {
        return Ok(Outcome { path: target, up_to_date: true, downloaded: 0 });
    }

    let mut source = Source {
        repo: plan.reference.repo.clone(),
        commit: plan.commit.clone(),
        date: now(),
        endpoint: options.endpoint.clone(),
        files: plan.files.clone(),
    };
    fs::create_dir_all(&partial).at(&partial)?;
    forget_other_contents(&partial, &plan.files)?;
    source.write(&partial)?;
    if let Some(existing) = existing.as_ref().filter(|_| !force) {
        // A new commit often leaves the weights as they were.
        for file in existing.files.iter().filter(|file| plan.files.contains(file)) {
            let _ = fs::hard_link(target.join(&file.name), partial.join(&file.name));
        }
    }
    check_space(plan, &partial)?;

    let mut downloaded = 0;
    for file in &plan.files {
        if is_whole(&partial.join(&file.name), file, events)? {
            events(Event::Present { file: &file.name });
        } else {
            let url = hub.file_url(&plan.reference.repo, &plan.commit, &file.name);
            downloaded += download(&hub, &url, file, &partial, events)?;
        }
    }
    check_model(&partial)?;

    source.date = now();
    source.write(&partial)?;
    if let Some(existing) = existing {
        keep_foreign_files(&existing, &target, &partial)?;
        fs::rename(&target, &old).at(&target)?;
    }
    sync_directory(&partial)?;
    fs::rename(&partial, &target).at(&target)?;
    sync_directory(root)?;
    if old.exists() {
        // The model is in place; what can't be removed now is removed by the next pull.
        let _ = fs::remove_dir_all(&old);
    }
    Ok(Outcome { path: target, up_to_date: false, downloaded })
}

/// The lock is held as long as the file is open. The file stays: removing it would let a third process lock a new
/// one while a second holds the removed.
fn lock(root: &Path, name: &str) -> Result<fs::File, DownloadError> {
    let path = root.join(format!(".{name}.lock"));
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).at(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DownloadError::Locked { name: name.to_string(), path }),
        Err(fs::TryLockError::Error(error)) => Err(error).at(path),
    }
}

fn has_size(path: &Path, size: u64) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.len() == size)
}

/// Removes what an interrupted pull of another commit left and this one can't continue.
fn forget_other_contents(partial: &Path, files: &[RemoteFile]) -> Result<(), DownloadError> {
    let Some(before) = Source::read(partial) else { return Ok(()) };
    for file in before.files.iter().filter(|file| !files.contains(file)) {
        for path in [partial.join(&file.name), partial_path(partial, &file.name)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at(path)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_space(plan: &Plan, partial: &Path) -> Result<(), DownloadError> {
    let length = |path: PathBuf| path.metadata().map_or(0, |m| m.len());
    let missing = |file: &RemoteFile| {
        let have = length(partial.join(&file.name)).max(length(partial_path(partial, &file.name)));
        file.size - have.min(file.size)
    };
    let (needed, free) = (plan.files.iter().map(missing).sum(), free_space(partial)?);
    if needed > free {
        return Err(DownloadError::Space { path: partial.to_path_buf(), needed, free });
    }
    Ok(())
}

/// The bytes are what the hub has; are they a model? Reads headers only.
fn check_model(dir: &Path) -> Result<(), DownloadError> {
    let path = dir.join("config.json");
    let config = Config::from_json(&fs::read(&path).at(&path)?, &path.display().to_string())?;
    let report = compare(&config, &Checkpoint::open(dir)?);
    if !report.is_ok() {
        let (file, message) = (dir.display().to_string(), format!("\n{report}"));
        return Err(WeightsError::Invalid { file, message }.into());
    }
    Ok(())
}

/// Moves what somebody else put into the old directory to the new one.
fn keep_foreign_files(existing: &Source, target: &Path, partial: &Path) -> Result<(), DownloadError> {
    for entry in fs::read_dir(target).at(target)? {
        let name = entry.at(target)?.file_name();
        let ours = name == SOURCE || existing.files.iter().any(|file| name == *file.name);
        if !ours && !partial.join(&name).exists() {
            fs::rename(target.join(&name), partial.join(&name)).at(target.join(&name))?;
        }
    }
    Ok(())
}

/// The time, as `2026-01-31T12:34:56Z`.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    rfc3339(seconds)
}

/// Days are counted in years that begin in March, so that the leap day is a year's last: then a month's first day
/// is (153 m + 2) / 5, with m = 0 for March.
fn rfc3339(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_on_both_sides_of_a_leap_day() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
