//! Taking a file apart. Nothing in it is believed: every count and length is held against the bytes that are left
//! before anything is allocated or skipped, so a file of n bytes takes time and memory in proportion to n, whatever it claims.

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, Entry, Gguf, Kind, MAGIC, Value};
use crate::weights::{DType, SharedBytes, Tensor, WeightsError, printable};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// The most dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMENSIONS: u32 = 4;

/// How deep lists may lie in lists. No key is known that has any.
const MAX_DEPTH: usize = 4;

/// What is being read, for errors.
#[derive(Clone, Copy)]
enum Part<'a> {
    Header,
    Key(&'a str),
    Tensor(&'a str),
}

/// A place in the file.
struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, part: Part, offset: usize, message: String) -> WeightsError {
        let (file, offset) = (self.file.to_string(), offset as u64);
        match part {
            Part::Header => WeightsError::Invalid { file, message: format!("at byte {offset}: {message}") },
            Part::Key(key) => WeightsError::Metadata { file, key: printable(key), offset, message },
            Part::Tensor(name) => WeightsError::Tensor { file, tensor: printable(name), offset, message },
        }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `length` bytes, which are `what`.
    fn take(&mut self, length: u64, what: &str, part: Part) -> Result<&'a [u8], WeightsError> {
        let left = self.left();
        match usize::try_from(length).ok().filter(|&length| length <= left) {
            Some(length) => {
                self.at += length;
                Ok(&self.bytes[self.at - length..self.at])
            }
            None => Err(self.error(
                part,
                self.at,
                format!("{what} takes {length} bytes, and {left} are left: the file is truncated or not valid"),
            )),
        }
    }

    fn u32(&mut self, what: &str, part: Part) -> Result<u32, WeightsError> {
        let bytes = self.take(4, what, part)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
    }

    fn u64(&mut self, what: &str, part: Part) -> Result<u64, WeightsError> {
        let bytes = self.take(8, what, part)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    /// A string, which must be UTF-8.
    fn text(&mut self, what: &str, part: Part) -> Result<&'a str, WeightsError> {
        let start = self.at;
        let length = self.u64(what, part)?;
        let bytes = self.take(length, what, part)?;
        std::str::from_utf8(bytes).map_err(|error| self.error(part, start, format!("{what} is not UTF-8: {error}")))
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, least: usize, part: Part) -> Result<usize, WeightsError> {
        let start = self.at;
        let count = self.u64(what, part)?;
        let most = self.left() / least;
        let too_many = || {
            let message = format!("{what} is {count}, and the bytes that are left hold {most} at most");
            self.error(part, start, message)
        };
        usize::try_from(count).ok().filter(|&count| count <= most).ok_or_else(too_many)
    }

    fn kind(&mut self, what: &str, part: Part) -> Result<Kind, WeightsError> {
        let start = self.at;
        let number = self.u32(what, part)?;
        Kind::from_number(number).ok_or_else(|| {
            let last = Kind::TABLE.len() - 1;
            self.error(part, start, format!("{what} is {number}, expected a value type of GGUF, 0 to {last}"))
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, WeightsError> {
        let part = Part::Key(key);
        let kind = self.kind("its type", part)?;
        let start = self.at;
        match (kind, kind.size()) {
            (Kind::Array, _) => self.array(key, 1).map(Value::Array),
            (_, Some(size)) => {
                let bytes = self.take(size as u64, "its value", part)?;
                let wrong = || self.error(part, start, format!("{} is not a {}", bytes[0], kind.name()));
                kind.number_from(bytes).ok_or_else(wrong)
            }
            _ => self.text("its text", part).map(|text| Value::Text(text.to_string())),
        }
    }

    /// Steps over a list, checking that it lies in the file.
    fn array(&mut self, key: &str, depth: usize) -> Result<Array, WeightsError> {
        let part = Part::Key(key);
        if depth > MAX_DEPTH {
            let message = format!("lists lie in lists more than {MAX_DEPTH} deep, which no known key does");
            return Err(self.error(part, self.at, message));
        }
        let kind = self.kind("its items' type", part)?;
        // A string has at least its length, a list its items' type and their count.
        let least = kind.size().unwrap_or(if kind == Kind::Array { 12 } else { 8 });
        let len = self.count("its number of items", least, part)?;
        let start = self.at;
        match (kind, kind.size()) {
            (Kind::Array, _) => (0..len).try_for_each(|_| self.array(key, depth + 1).map(drop))?,
            (_, Some(size)) => self.at += len * size,
            _ => {
                for _ in 0..len {
                    let length = self.u64("an item's length", part)?;
                    self.take(length, "an item", part)?;
                }
            }
        }
        Ok(Array { kind, len, bytes: start..self.at })
    }
}

/// A tensor as its entry describes it.
struct Info {
    name: String,
    /// Where its entry begins.
    at: usize,
    dtype: DType,
    shape: Vec<usize>,
    /// Of its bytes, from the start of the data.
    range: Range<usize>,
}

/// Reads and checks a file whose bytes are aligned to 8.
pub(super) fn read(bytes: SharedBytes, file: &str) -> Result<Gguf, WeightsError> {
    let mut cursor = Cursor { file, bytes: &bytes, at: 0 };
    let (version, tensors, keys) = read_start(&mut cursor)?;

    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..keys {
        let offset = cursor.at;
        let key = cursor.text("a key", Part::Header)?;
        if !seen.insert(key) {
            return Err(cursor.error(Part::Key(key), offset, "the key stands in the file twice".into()));
        }
        entries.push(Entry { key: key.to_string(), offset, value: cursor.value(key)? });
    }
    let alignment = read_alignment(&cursor, &entries)?;

    let (mut infos, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..tensors {
        let info = read_info(&mut cursor, alignment)?;
        if !seen.insert(info.name.clone()) {
            return Err(cursor.error(Part::Tensor(&info.name), info.at, "its name is given twice".into()));
        }
        infos.push(info);
    }
    // A file without tensors may end before its padding.
    let start = cursor.at.next_multiple_of(alignment);
    check_places(&cursor, start, &infos)?;

    let name: Arc<str> = file.into();
    let tensors = infos.into_iter().map(|Info { name: tensor, dtype, shape, range, .. }| Tensor {
        name: tensor,
        dtype,
        shape,
        data: bytes.slice(start + range.start..start + range.end).expect("checked against the file's length"),
        file: name.clone(),
        offset: (start + range.start) as u64,
    });
    let tensors = tensors.collect();
    Ok(Gguf { file: name.clone(), version, alignment, entries, tensors, bytes })
}

/// Magic, version, and the two counts.
fn read_start(cursor: &mut Cursor) -> Result<(u32, usize, usize), WeightsError> {
    let magic = cursor.take(4, "the magic number", Part::Header)?;
    if magic != MAGIC {
        let found: String = magic.iter().map(|&byte| char::from(byte)).collect();
        let message = format!("found {:?}, expected {:?}: not a GGUF file", printable(&found), "GGUF");
        return Err(cursor.error(Part::Header, 0, message));
    }
    let version = cursor.u32("the version", Part::Header)?;
    let refuse = |message| Err(cursor.error(Part::Header, 4, message));
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=0xFFFF) => {
            let version = version.swap_bytes();
            return refuse(format!("the file is big-endian (version {version}); fs reads little-endian GGUF"));
        }
        _ => return refuse(format!("GGUF version {version}; fs reads versions 2 and 3: convert the model again")),
    }
    // The shortest entry of a tensor has an empty name and one dimension, the shortest key is empty with one byte's value.
    let tensors = cursor.count("the number of tensors", 8 + 4 + 8 + 4 + 8, Part::Header)?;
    let keys = cursor.count("the number of keys", 8 + 4 + 1, Part::Header)?;
    Ok((version, tensors, keys))
}

fn read_alignment(cursor: &Cursor, entries: &[Entry]) -> Result<usize, WeightsError> {
    let Some(entry) = entries.iter().find(|entry| entry.key == ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    match entry.value {
        // A page is the most that makes sense of any storage; a huge one would only be a way to overflow.
        Value::Unsigned(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n as usize),
        ref other => {
            let message = format!("found {other}, expected a power of two up to 1048576");
            Err(cursor.error(Part::Key(ALIGNMENT_KEY), entry.offset, message))
        }
    }
}

fn read_info(cursor: &mut Cursor, alignment: usize) -> Result<Info, WeightsError> {
    let at = cursor.at;
    let name = cursor.text("a tensor's name", Part::Header)?;
    let part = Part::Tensor(name);
    let dimensions = cursor.u32("its number of dimensions", part)?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let message = format!("found {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}");
        return Err(cursor.error(part, at, message));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(cursor.u64("a dimension", part)?);
    }
    let number = cursor.u32("its type", part)?;
    let offset = cursor.u64("its offset", part)?;

    let refuse = |message| cursor.error(part, at, message);
    let dtype = DType::from_ggml_type(number).ok_or_else(|| {
        let known: Vec<&str> = DType::TABLE.iter().map(|row| row.name).collect();
        let name = GGML_TYPES.iter().find(|row| row.0 == number).map_or("unknown", |row| row.1);
        refuse(format!("its type is {number} ({name}), which fs does not read; it reads {}", known.join(", ")))
    })?;
    // Innermost first in the file.
    let shape: Option<Vec<usize>> = shape.iter().rev().map(|&n| usize::try_from(n).ok()).collect();
    let elements = shape.as_ref().and_then(|shape| shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n)));
    let (Some(shape), Some(elements)) = (shape, elements) else {
        return Err(refuse("its shape has more elements than 64 bits can count".into()));
    };
    let (row, block) = (shape[shape.len() - 1], dtype.layout().block);
    if row % block != 0 {
        return Err(refuse(format!("rows of {row} values are not whole {dtype} blocks of {block}")));
    }
    let Some(length) = dtype.bytes(elements) else {
        return Err(refuse(format!("{dtype} {shape:?} takes more bytes than 64 bits can count")));
    };
    if offset % alignment as u64 != 0 {
        return Err(refuse(format!("its offset {offset} is not a multiple of the file's alignment, {alignment}")));
    }
    let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(length)?));
    let Some(range) = range else {
        return Err(refuse(format!("its offset {offset} lies beyond what this machine can address")));
    };
    Ok(Info { name: name.to_string(), at, dtype, shape, range })
}

/// Every tensor lies in the file, is aligned, and shares no byte with another.
fn check_places(cursor: &Cursor, start: usize, infos: &[Info]) -> Result<(), WeightsError> {
    let there = cursor.bytes.len();
    let mut sorted: Vec<&Info> = infos.iter().collect();
    sorted.sort_by_key(|info| (info.range.start, info.range.end));
    let mut before: Option<&Info> = None;
    for info in sorted {
        let at = start.saturating_add(info.range.start);
        let refuse = |message| Err(cursor.error(Part::Tensor(&info.name), at, message));
        let end = start.saturating_add(info.range.end);
        if end > there {
            return refuse(format!("ends at byte {end}, but the file has {there}: it is truncated, download it again"));
        }
        let align = info.dtype.alignment();
        if at % align != 0 {
            return refuse(format!("misaligned: a {} tensor must start at a multiple of {align} bytes", info.dtype));
        }
        if let Some(other) = before.filter(|other| other.range.end > info.range.start && !info.range.is_empty()) {
            return refuse(format!(
                "overlaps tensor `{}`, which ends at byte {}",
                printable(&other.name),
                start + other.range.end
            ));
        }
        if before.is_none_or(|other| other.range.end < info.range.end) {
            before = Some(info);
        }
    }
    Ok(())
}

/// Types that other programs write, for errors that say more than a number (`enum ggml_type`).
const GGML_TYPES: [(u32, &str); 22] = [
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];
