//! Reading JSON files that nobody vouches for: bounded reads, and fields with clear errors.

use super::WeightsError;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

/// The largest JSON file that is read. Qwen3's tokenizer.json, the largest one known, has 11 MB.
pub(crate) const MAX_JSON_BYTES: u64 = 100_000_000;

/// Reads a whole small file; a longer one than `limit` bytes, or one that is no regular file, is refused unread.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, WeightsError> {
    let refuse = |message: String| WeightsError::invalid(&path.display().to_string(), message);
    // The kind first: opening a named pipe would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(WeightsError::io(path))?;
    if !metadata.is_file() {
        return Err(refuse("not a regular file".into()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(WeightsError::io(path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(WeightsError::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(refuse(format!("longer than {limit} bytes, the most that a file of this kind may have")));
    }
    Ok(bytes)
}

/// A JSON object whose fields are asked for by name. `null` counts as absent, as Python's `None` does.
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// Put before field names in errors, e.g. `rope_scaling.`.
    prefix: &'a str,
    object: &'a Map<String, Value>,
}

/// Parses a file that must hold one JSON object.
pub(crate) fn parse_object(json: &[u8], file: &str) -> Result<Map<String, Value>, WeightsError> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| WeightsError::invalid(file, format!("not valid JSON: {}", printable(&error.to_string()))))?;
    match value {
        Value::Object(object) => Ok(object),
        other => Err(WeightsError::invalid(file, format!("found {}, expected a JSON object", shorten(&other)))),
    }
}

impl<'a> Fields<'a> {
    pub fn new(file: &'a str, prefix: &'a str, object: &'a Map<String, Value>) -> Self {
        Self { file, prefix, object }
    }

    /// The fields of an object inside this one; `prefix` is what its names carry in errors.
    pub fn inside<'b>(&self, prefix: &'b str, object: &'b Map<String, Value>) -> Fields<'b>
    where
        'a: 'b,
    {
        Fields { file: self.file, prefix, object }
    }

    /// An error about more than one field.
    pub fn invalid(&self, message: String) -> WeightsError {
        WeightsError::invalid(self.file, message)
    }

    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.object.keys().map(String::as_str)
    }

    /// The error for this field.
    pub fn error(&self, field: &str, expected: impl Into<String>) -> WeightsError {
        WeightsError::Field {
            file: self.file.to_string(),
            field: format!("{}{}", self.prefix, printable(field)),
            found: self.object.get(field).map_or("nothing".into(), shorten),
            expected: expected.into(),
        }
    }

    /// An optional field that `read` understands; `expected` says what it should be.
    pub fn optional<T>(
        &self,
        field: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        self.get(field).map(|value| read(value).ok_or_else(|| self.error(field, expected))).transpose()
    }

    /// A whole number from 1 to `max`.
    pub fn count(&self, field: &str, max: usize) -> Result<Option<usize>, WeightsError> {
        self.optional(field, &format!("a whole number from 1 to {max}"), |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n))
        })
    }

    /// A finite number that `accept` accepts.
    pub fn number(
        &self,
        field: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, WeightsError> {
        self.optional(field, expected, |value| value.as_f64().filter(|n| n.is_finite() && accept(*n)))
    }

    pub fn flag(&self, field: &str) -> Result<Option<bool>, WeightsError> {
        self.optional(field, "true or false", Value::as_bool)
    }

    pub fn text(&self, field: &str) -> Result<Option<&'a str>, WeightsError> {
        self.optional(field, "a string", Value::as_str)
    }

    /// One token id, or a list of them; absent is an empty list.
    pub fn token_ids(&self, field: &str) -> Result<Vec<u32>, WeightsError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.optional(field, "a token id or a list of token ids", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }
}

/// A value as an error may quote it.
fn shorten(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
        other => printable(&other.to_string()),
    }
}

/// A JSON object whose names all differ, in the order of the file. (serde's own maps keep the last of two
/// equal names, so that one could hide the other.)
pub(crate) struct Unique<T>(pub Vec<(String, T)>);

/// A value whose type may depend on the name it stands under.
pub(crate) trait Named: Sized {
    fn read<'de, D: Deserializer<'de>>(name: &str, value: D) -> Result<Self, D::Error>;
}

impl Named for String {
    fn read<'de, D: Deserializer<'de>>(_name: &str, value: D) -> Result<Self, D::Error> {
        String::deserialize(value)
    }
}

impl<'de, T: Named> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Named> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<T>, A::Error> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name `{}` stands in it twice", printable(&name))));
            }
            let value = map
                .next_value_seed(NamedSeed::<T> { name: &name, value: PhantomData })
                .map_err(|error| A::Error::custom(format!("`{}`: {error}", printable(&name))))?;
            entries.push((name, value));
        }
        Ok(Unique(entries))
    }
}

struct NamedSeed<'n, T> {
    name: &'n str,
    value: PhantomData<T>,
}

impl<'de, T: Named> DeserializeSeed<'de> for NamedSeed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::read(self.name, deserializer)
    }
}

/// Text from a file as an error or a table may show it: what would steer a terminal is escaped, and of a long
/// text the middle is left out.
pub fn printable(text: &str) -> String {
    const HEAD: usize = 160;
    const TAIL: usize = 60;
    // Control characters, and those that turn the direction of writing.
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let show = |chars: &mut dyn Iterator<Item = char>| -> String {
        chars.map(|c| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
    };
    let length = text.chars().count();
    if length <= HEAD + TAIL {
        return show(&mut text.chars());
    }
    format!("{}…{}", show(&mut text.chars().take(HEAD)), show(&mut text.chars().skip(length - TAIL)))
}
