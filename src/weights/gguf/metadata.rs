//! Keys and values: what a file says about itself.

use super::Gguf;
use crate::weights::{WeightsError, printable};
use std::ops::Range;

/// A key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, e.g. `qwen3.block_count`.
    pub key: String,
    /// Where the key begins in the file.
    pub offset: usize,
    /// The value.
    pub value: Value,
}

/// A value. Numbers are widened; nothing that the format can hold is lost by it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of 8, 16, 32 or 64 bits.
    Unsigned(u64),
    /// Of 8, 16, 32 or 64 bits.
    Signed(i64),
    /// Of 32 or 64 bits.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list, left in the file: a vocabulary has hundreds of thousands of items.
    Array(Array),
}

/// Where a list lies. Its items have been checked to fit into the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// What its items are.
    pub kind: Kind,
    /// How many there are.
    pub len: usize,
    /// The bytes of the items, in the file.
    pub bytes: Range<usize>,
}

/// The kinds of values, by their numbers in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// Every kind, in the order of its number, with its name and the bytes that a value takes (0: as many as it says).
    pub const TABLE: [(Kind, &str, usize); 13] = [
        (Kind::U8, "u8", 1),
        (Kind::I8, "i8", 1),
        (Kind::U16, "u16", 2),
        (Kind::I16, "i16", 2),
        (Kind::U32, "u32", 4),
        (Kind::I32, "i32", 4),
        (Kind::F32, "f32", 4),
        (Kind::Bool, "bool", 1),
        (Kind::Text, "string", 0),
        (Kind::Array, "array", 0),
        (Kind::U64, "u64", 8),
        (Kind::I64, "i64", 8),
        (Kind::F64, "f64", 8),
    ];

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Kind> {
        Self::TABLE.get(number as usize).map(|row| row.0)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Bytes that a value takes, if all take the same.
    pub fn size(self) -> Option<usize> {
        Some(Self::TABLE[self as usize].2).filter(|&size| size > 0)
    }

    /// A number from its bytes, of which there are [`size`](Self::size); `None` for text, lists, and a bool that is
    /// neither 0 nor 1.
    pub fn number_from(self, bytes: &[u8]) -> Option<Value> {
        fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.try_into().ok()
        }
        Some(match self {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(le(bytes)?).into()),
            Kind::I8 => Value::Signed(i8::from_le_bytes(le(bytes)?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(le(bytes)?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(le(bytes)?).into()),
            Kind::U32 => Value::Unsigned(u32::from_le_bytes(le(bytes)?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(le(bytes)?).into()),
            Kind::F32 => Value::Float(f32::from_le_bytes(le(bytes)?).into()),
            Kind::U64 => Value::Unsigned(u64::from_le_bytes(le(bytes)?)),
            Kind::I64 => Value::Signed(i64::from_le_bytes(le(bytes)?)),
            Kind::F64 => Value::Float(f64::from_le_bytes(le(bytes)?)),
            Kind::Bool => match bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            Kind::Text | Kind::Array => return None,
        })
    }
}

/// As a table may show it: what would steer a terminal escaped, the middle of a long text left out.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Unsigned(n) => n.fmt(f),
            Value::Signed(n) => n.fmt(f),
            Value::Float(n) => (*n as f32).fmt(f),
            Value::Bool(b) => b.fmt(f),
            Value::Text(text) => f.write_str(&printable(text)),
            Value::Array(array) => write!(f, "[{}; {}]", array.kind.name(), array.len),
        }
    }
}

impl Gguf {
    /// The entry with this key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of this key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The error for a key: what is wrong with its value.
    pub fn error(&self, key: &str, message: impl Into<String>) -> WeightsError {
        WeightsError::Metadata {
            file: self.file.to_string(),
            key: printable(key),
            offset: self.entry(key).map_or(0, |entry| entry.offset as u64),
            message: message.into(),
        }
    }

    /// The value of a key that `read` understands; `expected` says what it should be.
    fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("found {value}, expected {expected}"));
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        self.optional(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A number that fits into 32 bits, as token ids and counts do.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        self.optional(key, "a whole number of 32 bits", |value| match *value {
            Value::Unsigned(n) => n.try_into().ok(),
            Value::Signed(n) => n.try_into().ok(),
            _ => None,
        })
    }

    /// A number of any kind.
    pub fn number(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        self.optional(key, "a number", |value| match *value {
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            Value::Float(n) => Some(n),
            _ => None,
        })
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        self.optional(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    fn array(&self, key: &str, expected: &str, kinds: &[Kind]) -> Result<Option<&Array>, WeightsError> {
        self.optional(key, expected, |value| match value {
            Value::Array(array) if kinds.contains(&array.kind) => Some(array),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, WeightsError> {
        let Some(array) = self.array(key, "a list of strings", &[Kind::Text])? else { return Ok(None) };
        // Reading the file has checked that every item fits.
        let mut rest = &self.bytes[array.bytes.clone()];
        let mut texts = Vec::with_capacity(array.len);
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            let (text, after) = after.split_at(u64::from_le_bytes(*length) as usize);
            let text = std::str::from_utf8(text);
            let index = texts.len();
            texts.push(text.map_err(|error| self.error(key, format!("item {index} is not UTF-8: {error}")))?);
            rest = after;
        }
        Ok(Some(texts))
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, WeightsError> {
        const WHOLE: [Kind; 8] = [Kind::U8, Kind::I8, Kind::U16, Kind::I16, Kind::U32, Kind::I32, Kind::U64, Kind::I64];
        let expected = "a list of whole numbers";
        let Some(array) = self.array(key, expected, &WHOLE)? else { return Ok(None) };
        let size = array.kind.size().unwrap_or(1);
        let number = |bytes| match array.kind.number_from(bytes) {
            Some(Value::Unsigned(n)) => i64::try_from(n).ok(),
            Some(Value::Signed(n)) => Some(n),
            _ => None,
        };
        let numbers = self.bytes[array.bytes.clone()].chunks_exact(size).map(number).collect::<Option<Vec<_>>>();
        numbers.map(Some).ok_or_else(|| self.error(key, format!("expected {expected} of 63 bits")))
    }
}
