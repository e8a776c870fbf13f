//! `tokenizer.json`, as the file spells it: what is in it, and whether `fs` supports it.
//!
//! The format describes many kinds of tokenizer. `fs` implements one, byte-level BPE as the Qwen family uses it, and
//! refuses everything else by name: a tokenizer that is nearly right gives a model text that it never saw in training.

use super::byte_alphabet;
use super::pre_tokenizer::QWEN_PATTERN;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// The whole file. Strings are borrowed from it where they hold no escapes: the vocabulary has 151,643 of them.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerJson<'a> {
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    pub added_tokens: Vec<AddedTokenJson>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    pub model: ModelJson<'a>,
}

/// One entry of `added_tokens`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddedTokenJson {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Left out, it is the opposite of `special`.
    normalized: Option<bool>,
}

/// The `model` section: vocabulary and merges.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelJson<'a> {
    #[serde(default)]
    r#type: Value,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    fuse_unk: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Value,
    #[serde(borrow)]
    pub vocab: VocabJson<'a>,
    pub merges: MergesJson,
}

/// `{"Ġthe": 279, …}`: pairs rather than a map, so that a name given twice is noticed.
pub struct VocabJson<'a>(pub Vec<(Spelled<'a>, u32)>);

/// `[["Ġ", "t"], …]`, or in older files `["Ġ t", …]`.
#[derive(Default)]
pub struct MergesJson {
    /// The bytes that the parts of all merges stand for, one after the other.
    bytes: Vec<u8>,
    /// Start, middle and end of each merge in `bytes`.
    bounds: Vec<(usize, usize, usize)>,
    /// The first character outside the byte alphabet, and the rank of its merge. Not an error at once: a setting that is
    /// not supported may be the reason, and then that is what to say.
    outside: Option<(usize, char)>,
}

/// A string in the [byte alphabet](super::byte_alphabet), borrowed if it can be.
#[derive(Clone)]
pub struct Spelled<'a>(pub Cow<'a, str>);

/// Reads and checks the file.
pub fn parse(json: &[u8]) -> Result<TokenizerJson<'_>, String> {
    // The type first: a model of another type would only be called malformed below.
    #[derive(serde::Deserialize)]
    struct Typed {
        model: Option<Type>,
    }
    #[derive(serde::Deserialize)]
    struct Type {
        r#type: Option<String>,
    }
    let file =
        serde_json::from_slice::<TokenizerJson>(json).map_err(|error| match serde_json::from_slice::<Typed>(json) {
            Ok(Typed { model: Some(Type { r#type: Some(other) }) }) if other != "BPE" => {
                format!("model.type {other:?} is not supported; fs reads byte-level BPE (\"BPE\")")
            }
            _ => format!("not a tokenizer.json that fs can read: {error}"),
        })?;
    file.check()?;
    Ok(file)
}

impl<'a> TokenizerJson<'a> {
    /// A tokenizer with the settings of the Qwen family, which are those that [`check`](Self::check) accepts, with NFC.
    pub fn new(added_tokens: Vec<AddedTokenJson>, model: ModelJson<'a>) -> Self {
        let [truncation, padding, pre_tokenizer, post_processor, decoder] = [const { Value::Null }; 5];
        let normalizer = json!({"type": "NFC"});
        Self {
            _version: IgnoredAny,
            truncation,
            padding,
            added_tokens,
            normalizer,
            pre_tokenizer,
            post_processor,
            decoder,
            model,
        }
    }
}

impl AddedTokenJson {
    /// An added token that matches as it is.
    pub fn new(id: u32, content: &str, special: bool) -> Self {
        let content = content.to_string();
        Self { id, content, special, single_word: false, lstrip: false, rstrip: false, normalized: Some(false) }
    }
}

impl<'a> ModelJson<'a> {
    /// A vocabulary with merges, each `"a b"`.
    pub fn new(vocab: VocabJson<'a>, merges: &[&str]) -> Result<Self, String> {
        let off = Value::Null;
        let mut list = MergesJson::default();
        merges.iter().try_for_each(|merge| list.push(merge))?;
        Ok(Self {
            r#type: off.clone(),
            dropout: off.clone(),
            unk_token: off.clone(),
            continuing_subword_prefix: off.clone(),
            end_of_word_suffix: off.clone(),
            fuse_unk: off.clone(),
            byte_fallback: off.clone(),
            ignore_merges: off,
            vocab,
            merges: list,
        })
    }
}

impl TokenizerJson<'_> {
    /// Whether text is to be brought into NFC first.
    pub fn nfc(&self) -> bool {
        !self.normalizer.is_null()
    }

    /// Refuses by name what `fs` does not support.
    fn check(&self) -> Result<(), String> {
        let model = &self.model;
        let off = [Value::Null, json!(false), json!("")];
        refuse_unless("truncation", &self.truncation, &off)?;
        refuse_unless("padding", &self.padding, &off)?;
        refuse_unless("model.type", &model.r#type, &[Value::Null, json!("BPE")])?;
        refuse_unless("model.dropout", &model.dropout, &[Value::Null, json!(0.0), json!(0)])?;
        refuse_unless("model.unk_token", &model.unk_token, &off)?;
        refuse_unless("model.continuing_subword_prefix", &model.continuing_subword_prefix, &off)?;
        refuse_unless("model.end_of_word_suffix", &model.end_of_word_suffix, &off)?;
        refuse_unless("model.fuse_unk", &model.fuse_unk, &off)?;
        refuse_unless("model.byte_fallback", &model.byte_fallback, &off)?;
        refuse_unless("model.ignore_merges", &model.ignore_merges, &off)?;
        refuse_unless("normalizer", &self.normalizer, &[Value::Null, json!({"type": "NFC"})])?;
        refuse_unless("decoder", &byte_level(&self.decoder), &[json!({"type": "ByteLevel"})])?;
        let post_processor = byte_level(&self.post_processor);
        refuse_unless("post_processor", &post_processor, &[Value::Null, json!({"type": "ByteLevel"})])?;
        check_pre_tokenizer(&self.pre_tokenizer)?;
        for token in &self.added_tokens {
            let AddedTokenJson { id, content, single_word, lstrip, rstrip, .. } = token;
            for (flag, set) in [("single_word", single_word), ("lstrip", lstrip), ("rstrip", rstrip)] {
                if *set {
                    return Err(format!("added token {id} {content:?}: {flag} is not supported"));
                }
            }
            if token.normalized.unwrap_or(!token.special) {
                return Err(format!("added token {id} {content:?}: normalized is not supported"));
            }
        }
        Ok(())
    }
}

/// Refuses a setting whose value is none of `supported`, naming both.
fn refuse_unless(name: &str, found: &Value, supported: &[Value]) -> Result<(), String> {
    if supported.contains(found) {
        return Ok(());
    }
    let supported: Vec<String> = supported.iter().filter(|value| **value != json!("")).map(Value::to_string).collect();
    Err(format!("{name} {found} is not supported; fs supports {}", supported.join(" or ")))
}

/// The section without the settings of `ByteLevel` that only matter elsewhere: to the pre-tokenizer, or to offsets.
fn byte_level(section: &Value) -> Value {
    let mut section = section.clone();
    if let Some(object) = section.as_object_mut().filter(|object| object.get("type") == Some(&json!("ByteLevel"))) {
        object.retain(|key, _| !["add_prefix_space", "trim_offsets", "use_regex"].contains(&key.as_str()));
    }
    section
}

/// `Split` by the Qwen pattern, then `ByteLevel` with nothing but the byte alphabet.
fn check_pre_tokenizer(section: &Value) -> Result<(), String> {
    let steps = match (section["type"].as_str(), section["pretokenizers"].as_array()) {
        (Some("Sequence"), Some(steps)) => steps.as_slice(),
        _ => std::slice::from_ref(section),
    };
    let [split, bytes] = steps else {
        return Err(format!("pre_tokenizer {section} is not supported; fs supports Split followed by ByteLevel"));
    };
    if let Some(pattern) = split["pattern"]["Regex"].as_str().filter(|pattern| *pattern != QWEN_PATTERN) {
        return Err(format!("pre_tokenizer: the pattern {pattern} is not supported; fs supports {QWEN_PATTERN}"));
    }
    let qwen = json!({"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": false});
    refuse_unless("pre_tokenizer", split, &[qwen])?;
    let mut bytes = bytes.clone();
    if let Some(object) = bytes.as_object_mut() {
        object.remove("trim_offsets");
    }
    let supported = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    refuse_unless("pre_tokenizer", &bytes, &[supported])
}

impl<'de: 'a, 'a> Deserialize<'de> for Spelled<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Spelled<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Spelled(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Spelled(Cow::Owned(text.to_string())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for VocabJson<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = VocabJson<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a map from tokens to ids")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(VocabJson(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl MergesJson {
    /// The bytes of each merge's two parts, in order of rank.
    pub fn pairs(&self) -> Result<impl ExactSizeIterator<Item = (&[u8], &[u8])>, String> {
        match self.outside {
            Some((rank, char)) => Err(format!("merge {rank} holds {char:?}, which is not in the byte alphabet")),
            None => Ok(self.bounds.iter().map(|&(a, b, c)| (&self.bytes[a..b], &self.bytes[b..c]))),
        }
    }

    /// Appends a merge, `"a b"`; the byte alphabet has no space, so exactly one is expected.
    fn push(&mut self, text: &str) -> Result<(), String> {
        let (left, right) = match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => (left, right),
            _ => return Err(format!("a merge is two tokens with one space between, not {text:?}")),
        };
        let start = self.bytes.len();
        self.push_part(left);
        let middle = self.bytes.len();
        self.push_part(right);
        self.bounds.push((start, middle, self.bytes.len()));
        Ok(())
    }

    fn push_part(&mut self, spelled: &str) {
        if let Err(char) = byte_alphabet::unspell(spelled, &mut self.bytes) {
            self.outside.get_or_insert((self.bounds.len(), char));
        }
    }
}

impl<'de> Deserialize<'de> for MergesJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = MergesJson;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list of merges")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
                let mut merges = MergesJson::default();
                while list.next_element_seed(MergeJson(&mut merges))?.is_some() {}
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(All)
    }
}

/// Appends one merge.
struct MergeJson<'m>(&'m mut MergesJson);

impl<'de> DeserializeSeed<'de> for MergeJson<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeJson<'_> {
    type Value = ();
    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a merge, [\"a\", \"b\"] or \"a b\"")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push(text).map_err(E::custom)
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut parts: S) -> Result<(), S::Error> {
        let start = self.0.bytes.len();
        parts.next_element_seed(PartJson(self.0))?.ok_or_else(|| S::Error::invalid_length(0, &"two tokens"))?;
        let middle = self.0.bytes.len();
        parts.next_element_seed(PartJson(self.0))?.ok_or_else(|| S::Error::invalid_length(1, &"two tokens"))?;
        if parts.next_element::<IgnoredAny>()?.is_some() {
            return Err(S::Error::invalid_length(3, &"two tokens"));
        }
        self.0.bounds.push((start, middle, self.0.bytes.len()));
        Ok(())
    }
}

/// Appends one part of a merge.
struct PartJson<'m>(&'m mut MergesJson);

impl<'de> DeserializeSeed<'de> for PartJson<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for PartJson<'_> {
    type Value = ();
    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push_part(text);
        Ok(())
    }
}
