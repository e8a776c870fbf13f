//! Where a model comes from: `--model` takes a name, a directory or a file.

use super::checkpoint::{INDEX_FILE, SINGLE_FILE, find_weights};
use super::gguf::Gguf;
use super::json::{MAX_JSON_BYTES, parse_object, read_bounded};
use super::known_models::{self, KNOWN};
use super::{Checkpoint, Config, GenerationConfig, SharedBytes, SourceError, WeightsError, embedded, model_directory};
use crate::text::{ChatTemplate, Tokenizer};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The model that is used when none is named, if it has been downloaded.
const PREFERRED: &str = "qwen3-0.6b";

/// A place that a model's files can be read from. Nothing is read until it is asked for, so
/// `fs tokenize` needs no weights and `fs inspect` works on a configuration alone.
#[derive(Clone, Debug)]
pub struct ModelSource {
    name: String,
    place: Place,
    is_embedded_default: bool,
}

#[derive(Clone, Debug)]
enum Place {
    /// In the binary.
    Embedded(&'static embedded::Model),
    /// In a directory; `weights` is the single file or the index.
    Directory { dir: PathBuf, weights: Option<PathBuf> },
    /// A configuration and nothing else, in this file.
    Config(PathBuf),
    /// In one GGUF file.
    Gguf { path: PathBuf, gguf: Arc<Gguf> },
}

/// A file's name for errors, and its bytes.
type File = (String, Cow<'static, [u8]>);

impl ModelSource {
    /// Finds a model. What exists as a path is a path: a model's directory, a `.gguf` file, a `.safetensors` file, an
    /// index or a `config.json`. Everything else is a name, in any case: one of [`KNOWN`] or `owner/name` looks in
    /// [`model_directory()`], `stories` is in the binary, and so are the tokenizer and configuration (not the
    /// weights) of `qwen3-0.6b` for when it has not been pulled.
    ///
    /// `None` is `$FS_MODEL` if set, else a pulled `qwen3-0.6b`, else the embedded `stories`.
    pub fn resolve(model: Option<&str>) -> Result<ModelSource, WeightsError> {
        if let Some(model) = model {
            return Self::find(model);
        }
        if let Some(model) = std::env::var("FS_MODEL").ok().filter(|model| !model.is_empty()) {
            return Self::find(&model);
        }
        if let Some(pulled) = Self::pulled(PREFERRED)
            && pulled.has_weights()
        {
            return Ok(pulled);
        }
        match embedded::find("stories") {
            Some(model) => Ok(Self { is_embedded_default: true, ..Self::embedded(model) }),
            None => Err(WeightsError::Absent {
                model: "no --model given".into(),
                part: format!("{PREFERRED} on this machine"),
                hint: format!("run `fs pull {PREFERRED}`, or name a model's directory"),
            }),
        }
    }

    /// As [`resolve`](Self::resolve), where a configuration is all that is needed: a file of any name is one, and stands
    /// alone unless it is called `config.json`.
    pub fn resolve_config(model: &str) -> Result<ModelSource, WeightsError> {
        let path = Path::new(model);
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let weights = [".index.json", ".safetensors", ".gguf"].iter().any(|end| file.ends_with(end));
        if !path.is_file() || file == "config.json" || weights {
            return Self::find(model);
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, place: Place::Config(path.to_path_buf()), is_embedded_default: false })
    }

    /// A model in memory: the bytes of a GGUF file, which may come from anywhere.
    pub fn from_gguf(name: &str, bytes: Vec<u8>) -> Result<ModelSource, WeightsError> {
        let gguf = Arc::new(Gguf::from_bytes(SharedBytes::from_vec(bytes), name)?);
        Ok(Self { name: name.into(), place: Place::Gguf { path: name.into(), gguf }, is_embedded_default: false })
    }

    fn find(model: &str) -> Result<ModelSource, WeightsError> {
        let path = Path::new(model);
        if path.exists() {
            return Self::at_path(path);
        }
        let name = model.to_lowercase();
        if let Some(source) = Self::pulled(&name).or_else(|| embedded::find(&name).map(Self::embedded)) {
            return Ok(source);
        }
        let mut available: Vec<ModelSource> = embedded::MODELS.iter().map(Self::embedded).collect();
        available.retain(|embedded| Self::pulled(embedded.name()).is_none());
        available.extend(pulled_names().iter().filter_map(|name| Self::pulled(name)));
        let label =
            |source: &Self| format!("{}{}", source.name, if source.has_weights() { "" } else { " (no weights)" });
        let mut available: Vec<String> = available.iter().map(label).collect();
        available.sort();
        let hint = match known_models::repository(model) {
            Some(_) => format!("download it with `fs pull {model}`"),
            None => {
                format!("`fs pull` downloads {}, or any Qwen3 model as owner/name", KNOWN.map(|row| row.0).join(", "))
            }
        };
        let available = if available.is_empty() { "none".into() } else { available.join(", ") };
        Err(WeightsError::Unknown { name: model.to_string(), available, hint })
    }

    fn at_path(path: &Path) -> Result<ModelSource, WeightsError> {
        if path.is_dir() {
            return Ok(Self::directory(path.to_path_buf(), find_weights(path)));
        }
        let dir = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if file == "config.json" {
            let weights = find_weights(&dir);
            return Ok(Self::directory(dir, weights));
        }
        if file.ends_with(".safetensors") || file.ends_with(".index.json") {
            return Ok(Self::directory(dir, Some(path.to_path_buf())));
        }
        if file.ends_with(".gguf") {
            let (name, gguf) = (file.trim_end_matches(".gguf").to_string(), Arc::new(Gguf::open(path)?));
            return Ok(Self {
                name,
                place: Place::Gguf { path: path.to_path_buf(), gguf },
                is_embedded_default: false,
            });
        }
        let message = "not a model: expected a directory, a .gguf file, a .safetensors file, a .safetensors.index.json or \
                       a config.json";
        Err(WeightsError::invalid(&path.display().to_string(), message))
    }

    /// A model in the model directory, by the name it was pulled with or by its directory's name.
    fn pulled(name: &str) -> Option<ModelSource> {
        let directory_name = known_models::directory_name(name).or_else(|| {
            // As `fs models` lists it, e.g. `owner--name`.
            known_models::is_plain(name).then(|| name.to_string())
        })?;
        let dir = model_directory().ok()?.join(&directory_name);
        dir.join("config.json").is_file().then(|| {
            let weights = find_weights(&dir);
            Self { name: directory_name, place: Place::Directory { dir, weights }, is_embedded_default: false }
        })
    }

    fn directory(dir: PathBuf, weights: Option<PathBuf>) -> ModelSource {
        // `.` and `..` have no name of their own.
        let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        let name = full.file_name().map_or(full.display().to_string(), |name| name.to_string_lossy().into_owned());
        ModelSource { name, place: Place::Directory { dir, weights }, is_embedded_default: false }
    }

    fn embedded(model: &'static embedded::Model) -> ModelSource {
        ModelSource { name: model.name.to_string(), place: Place::Embedded(model), is_embedded_default: false }
    }

    /// What to call the model on screen, e.g. `qwen3-0.6b` or the directory's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the embedded story model because none was named and none found. Commands then say, in one
    /// line, how to get a larger one.
    pub fn is_embedded_default(&self) -> bool {
        self.is_embedded_default
    }

    /// The line that commands put on stderr if [`is_embedded_default`](Self::is_embedded_default).
    pub fn default_notice(&self) -> Option<String> {
        self.is_embedded_default.then(|| {
            format!(
                "no model named and none found: using the embedded `{}`; `fs pull {PREFERRED}` gets the real one",
                self.name
            )
        })
    }

    /// The directory that the files lie in, or the GGUF file; `None` if they are in the binary.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Embedded(_) => None,
            Place::Directory { dir, .. } => Some(dir),
            Place::Gguf { path, .. } | Place::Config(path) => Some(path),
        }
    }

    /// Whether there are weights. They may still turn out not to be valid.
    pub fn has_weights(&self) -> bool {
        match &self.place {
            Place::Embedded(model) => model.weights.is_some(),
            Place::Directory { weights, .. } => weights.is_some(),
            Place::Gguf { gguf, .. } => !gguf.tensors.is_empty(),
            Place::Config(_) => false,
        }
    }

    /// The GGUF file, if the model is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.place {
            Place::Gguf { gguf, .. } => Some(gguf),
            _ => None,
        }
    }

    /// `config.json`, or a GGUF file's keys.
    pub fn config(&self) -> Result<Config, WeightsError> {
        if let Some(gguf) = self.gguf() {
            return gguf.config();
        }
        let (file, json) = self.require("config.json")?;
        Config::from_json(&json, &file)
    }

    /// `generation_config.json`; its absence is not an error.
    pub fn generation_config(&self) -> Result<GenerationConfig, WeightsError> {
        if let Some(gguf) = self.gguf() {
            return gguf.generation_config();
        }
        match self.read("generation_config.json")? {
            Some((file, json)) => GenerationConfig::from_json(&json, &file),
            None => Ok(GenerationConfig::default()),
        }
    }

    /// Whether there is a tokenizer: token ids can be used without one.
    pub fn has_tokenizer(&self) -> bool {
        match &self.place {
            Place::Embedded(_) => true,
            Place::Directory { dir, .. } => dir.join("tokenizer.json").exists(),
            Place::Gguf { gguf, .. } => gguf.has_tokenizer(),
            Place::Config(_) => false,
        }
    }

    /// `tokenizer.json`, or a GGUF file's keys.
    pub fn tokenizer(&self) -> Result<Tokenizer, SourceError> {
        if let Some(gguf) = self.gguf() {
            return gguf.tokenizer();
        }
        let (file, json) = self.require("tokenizer.json")?;
        Ok(Tokenizer::from_json(&json, &file)?)
    }

    /// `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` (where it is a list of named
    /// templates, the one named `default`); `None` if there is neither.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, SourceError> {
        let Some((file, template)) = self.chat_template_text()? else { return Ok(None) };
        Ok(Some(ChatTemplate::new(&template, &file)?))
    }

    /// The chat template as it is written, after the name of its file.
    pub(super) fn chat_template_text(&self) -> Result<Option<(String, String)>, WeightsError> {
        if let Some(gguf) = self.gguf() {
            return gguf.chat_template_text();
        }
        if let Some((file, bytes)) = self.read("chat_template.jinja")? {
            let text = String::from_utf8(bytes.into_owned())
                .map_err(|error| WeightsError::invalid(&file, format!("not UTF-8: {error}")))?;
            return Ok(Some((file, text)));
        }
        let Some((file, json)) = self.read("tokenizer_config.json")? else { return Ok(None) };
        let object = parse_object(&json, &file)?;
        let template = match object.get("chat_template") {
            Some(serde_json::Value::Array(named)) => named
                .iter()
                .find(|one| one.get("name").and_then(serde_json::Value::as_str) == Some("default"))
                .and_then(|one| one.get("template")),
            other => other,
        };
        Ok(template.and_then(serde_json::Value::as_str).map(|text| (file, text.to_string())))
    }

    /// SHA-256 of each weights file, by file name: what golden vectors are tied to.
    pub fn weights_sha256(&self) -> Result<BTreeMap<String, String>, WeightsError> {
        let files: BTreeSet<PathBuf> = match &self.place {
            Place::Embedded(model) => {
                let bytes = model.weights.into_iter();
                return Ok(bytes.map(|bytes| ("model.safetensors".into(), hex(&Sha256::digest(bytes)))).collect());
            }
            Place::Gguf { path, .. } => [path.clone()].into(),
            Place::Directory { .. } | Place::Config(_) => {
                let checkpoint = self.require_checkpoint()?;
                checkpoint.tensors().map(|tensor| PathBuf::from(&*tensor.file)).collect()
            }
        };
        let hash = |path: PathBuf| match sha256_of_file(&path) {
            Ok(hash) => Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), hash)),
            Err(source) => Err(WeightsError::Io { path, source }),
        };
        files.into_iter().map(hash).collect()
    }

    /// The weights; `None` if the source has a configuration but no weights.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, WeightsError> {
        match &self.place {
            Place::Embedded(model) => model.checkpoint().transpose(),
            Place::Directory { weights, .. } => weights.as_deref().map(Checkpoint::open).transpose(),
            Place::Gguf { gguf, .. } => Ok((!gguf.tensors.is_empty()).then(|| gguf.checkpoint())),
            Place::Config(_) => Ok(None),
        }
    }

    /// The weights; if there are none, an error that says how to get them.
    pub fn require_checkpoint(&self) -> Result<Checkpoint, WeightsError> {
        self.checkpoint()?.ok_or_else(|| {
            let (model, hint) = match &self.place {
                Place::Embedded(model) => (
                    self.name.clone(),
                    format!("the binary holds only its tokenizer and configuration; run `fs pull {}`", model.name),
                ),
                Place::Gguf { path, .. } => (
                    path.display().to_string(),
                    "the file holds no tensors: it is a vocabulary or a split model's first part".into(),
                ),
                Place::Config(path) => (path.display().to_string(), "the file is a configuration alone".into()),
                Place::Directory { dir, .. } => (
                    dir.display().to_string(),
                    format!(
                        "expected {SINGLE_FILE}, or {INDEX_FILE} and its shards; `fs pull` downloads them, and a \
                         .safetensors file with another name can be given itself"
                    ),
                ),
            };
            WeightsError::Absent { model, part: "weights".into(), hint }
        })
    }

    /// A file by name; `None` if there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<File>, WeightsError> {
        match &self.place {
            Place::Embedded(model) => {
                Ok(model.read(name).map(|bytes| (format!("{}/{name} (embedded)", model.name), bytes)))
            }
            Place::Gguf { .. } => Ok(None),
            Place::Config(path) if name == "config.json" => read_file(path),
            Place::Config(_) => Ok(None),
            Place::Directory { dir, .. } => read_file(&dir.join(name)),
        }
    }

    fn require(&self, name: &str) -> Result<File, WeightsError> {
        self.read(name)?.ok_or_else(|| WeightsError::Absent {
            model: self.path().map_or(self.name.clone(), |dir| dir.display().to_string()),
            part: name.to_string(),
            hint:
                "a model's directory holds config.json, tokenizer.json and its weights; `fs pull` downloads all of them"
                    .into(),
        })
    }
}

fn read_file(path: &Path) -> Result<Option<File>, WeightsError> {
    match read_bounded(path, MAX_JSON_BYTES) {
        Ok(bytes) => Ok(Some((path.display().to_string(), bytes.into()))),
        Err(WeightsError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directories in the model directory that hold a `config.json`.
fn pulled_names() -> Vec<String> {
    let Ok(entries) = model_directory().and_then(|dir| std::fs::read_dir(&dir).map_err(WeightsError::io(dir))) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.path().join("config.json").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // What an interrupted `fs pull` leaves.
        .filter(|name| !name.ends_with(".partial") && !name.ends_with(".old"))
        .collect()
}

fn sha256_of_file(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hasher, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Bytes as lower-case hexadecimal digits: how hashes are written.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("a writable directory");
        }
        let source = ModelSource::resolve(dir.path().to_str()).expect("a directory");
        source.chat_template_text().expect("valid files").map(|(_, text)| text)
    }

    #[test]
    fn the_template_file_wins_over_the_tokenizer_config() {
        let config = ("tokenizer_config.json", r#"{"chat_template": "in json"}"#);
        assert_eq!(template(&[config]).as_deref(), Some("in json"));
        assert_eq!(template(&[config, ("chat_template.jinja", "in jinja")]).as_deref(), Some("in jinja"));
        let named =
            r#"{"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]}"#;
        assert_eq!(template(&[("tokenizer_config.json", named)]).as_deref(), Some("b"));
        assert_eq!(template(&[("tokenizer_config.json", "{}")]), None);
        assert_eq!(template(&[]), None);
    }

    #[cfg(feature = "embedded-model")]
    #[test]
    fn the_embedded_files_are_whole() {
        let qwen3 = ModelSource::embedded(embedded::find("qwen/qwen3-0.6b").expect("embedded"));
        let (_, tokenizer) = qwen3.require("tokenizer.json").expect("embedded");
        assert_eq!(
            hex(&Sha256::digest(&tokenizer)),
            "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
            "the published file"
        );
        assert!(qwen3.chat_template_text().expect("valid").is_some_and(|(_, text)| text.contains("enable_thinking")));
        let error = qwen3.require_checkpoint().expect_err("no weights are embedded").to_string();
        assert!(error.contains("qwen3-0.6b: no weights") && error.contains("fs pull qwen3-0.6b"), "{error}");

        let stories = ModelSource::embedded(embedded::find("stories").expect("embedded"));
        let config = stories.config().expect("valid");
        let checkpoint = stories.require_checkpoint().expect("embedded");
        let report = crate::model::expected::compare(&config, &checkpoint);
        assert!(report.is_ok(), "{report}");
        assert!(stories.generation_config().is_ok());
    }
}
