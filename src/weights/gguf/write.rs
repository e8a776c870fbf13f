//! Putting a file together: everything but the tensors' bytes, which the caller writes after it one by one.

use super::{DEFAULT_ALIGNMENT, Kind, MAGIC};
use crate::weights::DType;

/// The version that is written.
const VERSION: u32 = 3;

/// Keys, values and tensor entries, as they are collected.
#[derive(Clone, Debug, Default)]
pub struct Header {
    keys: u64,
    key_bytes: Vec<u8>,
    tensors: u64,
    tensor_bytes: Vec<u8>,
    /// Where the next tensor's bytes begin.
    end: u64,
}

impl Header {
    fn key(&mut self, key: &str, kind: Kind) -> &mut Vec<u8> {
        self.keys += 1;
        put_text(&mut self.key_bytes, key);
        self.key_bytes.extend(kind.number().to_le_bytes());
        &mut self.key_bytes
    }

    fn list(&mut self, key: &str, kind: Kind, len: usize) -> &mut Vec<u8> {
        let bytes = self.key(key, Kind::Array);
        bytes.extend(kind.number().to_le_bytes());
        bytes.extend((len as u64).to_le_bytes());
        bytes
    }

    /// Adds a whole number.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, Kind::U32).extend(value.to_le_bytes());
    }

    /// Adds a whole number that may be negative.
    pub fn i32(&mut self, key: &str, value: i32) {
        self.key(key, Kind::I32).extend(value.to_le_bytes());
    }

    /// Adds a number.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, Kind::F32).extend(value.to_le_bytes());
    }

    /// Adds true or false.
    pub fn flag(&mut self, key: &str, value: bool) {
        self.key(key, Kind::Bool).push(value.into());
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) {
        put_text(self.key(key, Kind::Text), value);
    }

    /// Adds a list of texts.
    pub fn texts<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        let bytes = self.list(key, Kind::Text, values.len());
        values.for_each(|value| put_text(bytes, value));
    }

    /// Adds a list of whole numbers.
    pub fn i32s(&mut self, key: &str, values: impl ExactSizeIterator<Item = i32>) {
        let bytes = self.list(key, Kind::I32, values.len());
        values.for_each(|value| bytes.extend(value.to_le_bytes()));
    }

    /// Adds a tensor of `shape`, outermost first, whose bytes will follow those of the tensor before it, after
    /// [`padding`]. The elements fill whole blocks.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) {
        self.tensors += 1;
        put_text(&mut self.tensor_bytes, name);
        self.tensor_bytes.extend((shape.len() as u32).to_le_bytes());
        for &n in shape.iter().rev() {
            self.tensor_bytes.extend((n as u64).to_le_bytes());
        }
        self.tensor_bytes.extend(dtype.layout().ggml_type.to_le_bytes());
        self.tensor_bytes.extend(self.end.to_le_bytes());
        let length = dtype.bytes(shape.iter().product()).expect("whole blocks") as u64;
        self.end += length + padding(length) as u64;
    }

    /// The file up to the first tensor's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.keys.to_le_bytes());
        bytes.extend(&self.key_bytes);
        bytes.extend(&self.tensor_bytes);
        bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
        bytes
    }

    /// Bytes of all tensors with their padding.
    pub fn data_bytes(&self) -> u64 {
        self.end
    }
}

/// Zero bytes that follow `length` bytes, so that what comes next is aligned.
pub fn padding(length: u64) -> usize {
    (length.next_multiple_of(DEFAULT_ALIGNMENT as u64) - length) as usize
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
