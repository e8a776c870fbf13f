//! Where downloaded models lie.

use super::WeightsError;
use std::path::PathBuf;

/// The directory that holds one directory for each downloaded model. It need not exist yet.
///
/// `$FS_MODELS` if set; otherwise `failed-star/models` in the platform's place for a user's data:
/// `~/Library/Application Support` on macOS, `%LOCALAPPDATA%` on Windows, and elsewhere `$XDG_DATA_HOME`, which
/// is `~/.local/share` unless set to an absolute path (XDG Base Directory Specification).
pub fn model_directory() -> Result<PathBuf, WeightsError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("FS_MODELS") {
        return Ok(dir);
    }
    let data = if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Application Support"))
    } else if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else {
        variable("XDG_DATA_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
    };
    data.map(|data| data.join("failed-star").join("models")).ok_or_else(|| WeightsError::Absent {
        model: "the model directory".into(),
        part: "home directory to put it in".into(),
        hint: "set FS_MODELS to a directory".into(),
    })
}
