//! The models in the binary: the story model whole, and Qwen3-0.6B without its weights. The feature
//! `embedded-model` (on by default) puts them there.

use super::{Checkpoint, SharedBytes, WeightsError};
use std::borrow::Cow;
use std::io::Read;

/// A model's files, as bytes in the binary.
#[derive(Debug)]
pub(super) struct Model {
    pub name: &'static str,
    /// Name and bytes; a name that ends in `.gz` is one that is unpacked when it is read.
    pub files: &'static [(&'static str, &'static [u8])],
    pub weights: Option<&'static [u8]>,
}

/// Bytes at an address that tensors of every dtype may lie at; `include_bytes!` alone promises only 1.
#[cfg(feature = "embedded-model")]
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

#[cfg(feature = "embedded-model")]
static STORIES_WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/stories/model.safetensors"));

#[cfg(feature = "embedded-model")]
pub(super) static MODELS: &[Model] = &[
    Model {
        name: "stories",
        files: &[
            ("config.json", include_bytes!("../../models/stories/config.json")),
            ("generation_config.json", include_bytes!("../../models/stories/generation_config.json")),
            ("tokenizer.json", include_bytes!("../../models/stories/tokenizer.json")),
            ("tokenizer_config.json", include_bytes!("../../models/stories/tokenizer_config.json")),
            ("chat_template.jinja", include_bytes!("../../models/stories/chat_template.jinja")),
        ],
        weights: Some(&STORIES_WEIGHTS.0),
    },
    Model {
        name: "qwen3-0.6b",
        files: &[
            ("config.json", include_bytes!("../../models/qwen3-0.6b/config.json")),
            ("generation_config.json", include_bytes!("../../models/qwen3-0.6b/generation_config.json")),
            ("tokenizer.json.gz", include_bytes!("../../models/qwen3-0.6b/tokenizer.json.gz")),
            ("tokenizer_config.json", include_bytes!("../../models/qwen3-0.6b/tokenizer_config.json")),
        ],
        weights: None,
    },
];

#[cfg(not(feature = "embedded-model"))]
pub(super) static MODELS: &[Model] = &[];

/// The embedded model with this name (in lower case), or for which this is the repository's name.
pub(super) fn find(name: &str) -> Option<&'static Model> {
    let short = super::known_models::directory_name(name);
    MODELS.iter().find(|model| model.name == short.as_deref().unwrap_or(name))
}

impl Model {
    /// A file's bytes; `None` if there is no such file.
    pub fn read(&self, name: &str) -> Option<Cow<'static, [u8]>> {
        self.files.iter().find_map(|&(file, bytes)| match file.strip_suffix(".gz") {
            _ if file == name => Some(Cow::Borrowed(bytes)),
            Some(unpacked) if unpacked == name => Some(Cow::Owned(gunzip(bytes))),
            _ => None,
        })
    }

    /// The weights, if they are in the binary.
    pub fn checkpoint(&self) -> Option<Result<Checkpoint, WeightsError>> {
        let file = format!("{}/model.safetensors (embedded)", self.name);
        self.weights.map(|weights| Checkpoint::from_bytes(SharedBytes::from_static(weights), &file))
    }
}

/// Unpacks bytes that are part of this binary.
fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut unpacked).expect("an embedded file is whole");
    unpacked
}
