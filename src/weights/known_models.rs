//! The models that have a short name, and what a model's directory is called.

/// Short names of the dense Qwen3 models, and the Hugging Face repositories they stand for.
pub const KNOWN: [(&str, &str); 6] = [
    ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
    ("qwen3-1.7b", "Qwen/Qwen3-1.7B"),
    ("qwen3-4b", "Qwen/Qwen3-4B"),
    ("qwen3-8b", "Qwen/Qwen3-8B"),
    ("qwen3-14b", "Qwen/Qwen3-14B"),
    ("qwen3-32b", "Qwen/Qwen3-32B"),
];

/// The repository that a name stands for: a short name's (in any case), or an `owner/name` itself.
/// `None` if it is neither, or has a character that a repository's name cannot have.
pub fn repository(name: &str) -> Option<String> {
    if let Some((_, repository)) = KNOWN.iter().find(|row| row.0.eq_ignore_ascii_case(name)) {
        return Some(repository.to_string());
    }
    let (owner, model) = name.split_once('/')?;
    (is_plain(owner) && is_plain(model)).then(|| name.to_string())
}

/// The directory, inside [`model_directory()`](super::model_directory()), of a model given by short name or
/// `owner/name`: the short name where there is one, otherwise `owner--name`, in lower case so that names mean
/// the same on file systems that ignore case. `None` as for [`repository`].
pub fn directory_name(name: &str) -> Option<String> {
    let repository = repository(name)?;
    let known = KNOWN.iter().find(|row| row.1.eq_ignore_ascii_case(&repository));
    Some(known.map_or_else(|| repository.replace('/', "--").to_lowercase(), |row| row.0.to_string()))
}

/// Whether this is one part of a repository's name, and nothing that could lead out of a directory.
pub(super) fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.len() <= 96
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
