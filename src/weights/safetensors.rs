//! The safetensors format: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes.
//!
//! ```text
//! {"__metadata__": {"format": "pt"}, "model.norm.weight": {"dtype": "BF16", "shape": [1024], "data_offsets": [0, 2048]}, …}
//! ```
//!
//! Offsets count from the end of the header. The tensors must cover the rest of the file exactly: no overlap,
//! no gap, no tail, so that no byte is read twice and none is hidden. Nothing that the header claims is
//! allocated or indexed before it is checked against the bytes that are there.

use super::json::{Named, Unique, printable};
use super::{DType, SharedBytes, Tensor, WeightsError};
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::sync::Arc;

/// The longest header, as in the official implementation; about 700,000 tensors.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The most dimensions of a tensor; no weight of a language model has more than 2.
const MAX_DIMENSIONS: usize = 8;

// ANCHOR: entry
/// What the header says of one tensor. A field that the format does not have could change what the
/// bytes mean.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}
// ANCHOR_END: entry

/// A header's value: a tensor, or the free text under `__metadata__`.
enum Value {
    Tensor(Entry),
    Metadata,
}

impl Named for Value {
    fn read<'de, D: Deserializer<'de>>(name: &str, value: D) -> Result<Self, D::Error> {
        match name {
            "__metadata__" => HashMap::<String, String>::deserialize(value).map(|_| Value::Metadata),
            _ => Entry::deserialize(value).map(Value::Tensor),
        }
    }
}

/// Checks one file and returns its tensors in the order of their bytes.
pub(super) fn read_tensors(bytes: &SharedBytes, file: &str) -> Result<Vec<Tensor>, WeightsError> {
    let (header, data_start) = split_header(bytes, file)?;
    let data_length = bytes.len() - data_start;
    let invalid = |message: String| WeightsError::invalid(file, message);

    let Unique::<Value>(header) = serde_json::from_slice(header)
        .map_err(|error| invalid(format!("the header at byte 8 is not valid: {}", printable(&error.to_string()))))?;
    let mut entries: Vec<(String, Entry)> = header
        .into_iter()
        .filter_map(|(name, value)| match value {
            Value::Tensor(entry) => Some((name, entry)),
            Value::Metadata => None,
        })
        .collect();
    entries.sort_by_key(|(_, entry)| entry.data_offsets);

    let file_name: Arc<str> = file.into();
    let mut tensors: Vec<Tensor> = Vec::with_capacity(entries.len());
    let mut covered = 0;
    for (name, entry) in entries {
        let (begin, end) = entry.data_offsets;
        let refuse = |message: String| WeightsError::Tensor {
            file: file.to_string(),
            tensor: printable(&name),
            offset: (data_start as u64).saturating_add(begin as u64),
            message,
        };
        let dtype = DType::from_safetensors_name(&entry.dtype).ok_or_else(|| {
            let known: Vec<&str> = DType::TABLE.iter().filter(|row| row.block == 1).map(|row| row.name).collect();
            refuse(format!("found dtype `{}`, expected one of {}", printable(&entry.dtype), known.join(", ")))
        })?;
        if entry.shape.len() > MAX_DIMENSIONS {
            let found = entry.shape.len();
            return Err(refuse(format!("found {found} dimensions, expected at most {MAX_DIMENSIONS}")));
        }
        let length = entry.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let Some(length) = length.and_then(|elements| dtype.bytes(elements)) else {
            return Err(refuse(format!("shape {:?} has more elements than 64 bits can count", entry.shape)));
        };
        if begin > end || end - begin != length {
            let shape = &entry.shape;
            return Err(refuse(format!(
                "data_offsets [{begin}, {end}] do not span the {length} bytes of {dtype} {shape:?}"
            )));
        }
        if end > data_length {
            let (needed, there) = (data_start.saturating_add(end), bytes.len());
            return Err(refuse(format!(
                "ends at byte {needed}, but the file has {there}: it is truncated, download it again"
            )));
        }
        // ANCHOR: no_gap
        if begin < covered {
            let other = tensors.last().map_or_else(String::new, |tensor| printable(&tensor.name));
            return Err(refuse(format!(
                "overlaps tensor `{other}`, which ends at byte {}; tensors must lie one after the other",
                data_start + covered
            )));
        }
        if begin > covered {
            let gap = begin - covered;
            return Err(refuse(format!("{gap} bytes before it belong to no tensor; tensors must leave no gap")));
        }
        // ANCHOR_END: no_gap
        let align = dtype.alignment();
        if (data_start + begin) % align != 0 {
            return Err(refuse(format!(
                "misaligned: a {dtype} tensor must start at a multiple of {align} bytes; write the file again \
                 with a header padded to a multiple of 8"
            )));
        }
        let data = bytes.slice(data_start + begin..data_start + end).expect("checked against the file's length");
        let offset = (data_start + begin) as u64;
        tensors.push(Tensor { name, dtype, shape: entry.shape, data, file: file_name.clone(), offset });
        covered = end;
    }
    if covered != data_length {
        let (tail, at) = (data_length - covered, data_start + covered);
        return Err(invalid(format!("{tail} bytes from byte {at} to the end of the file belong to no tensor")));
    }
    Ok(tensors)
}

/// The header's bytes, and where the data after them starts.
fn split_header<'a>(bytes: &'a [u8], file: &str) -> Result<(&'a [u8], usize), WeightsError> {
    // EXERCISE: m1.safetensors_header
    let invalid = |message: String| Err(WeightsError::invalid(file, message));
    let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else {
        return invalid(format!(
            "found {} bytes, expected at least the 8 of the header's length; is this a safetensors file?",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER_BYTES {
        return invalid(format!(
            "bytes 0 to 7 claim a header of {length} bytes, more than the {MAX_HEADER_BYTES} that are allowed; \
             is this a safetensors file?"
        ));
    }
    // At most MAX_HEADER_BYTES, so it fits.
    let length = length as usize;
    let Some(header) = rest.get(..length) else {
        return invalid(format!(
            "bytes 0 to 7 claim a header of {length} bytes, but only {} follow: it is truncated, download it again",
            rest.len()
        ));
    };
    if header.first() != Some(&b'{') {
        return invalid("the header at byte 8 does not begin with `{`; is this a safetensors file?".to_string());
    }
    Ok((header, 8 + length))
    // EXERCISE_END
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header length, whatever follows.
    fn file(length: u64, rest: &[u8]) -> Vec<u8> {
        [&length.to_le_bytes(), rest].concat()
    }

    #[test]
    fn the_header_lies_between_its_length_and_the_data() {
        let bytes = file(2, b"{}abcd");
        let (header, data_start) = split_header(&bytes, "a.safetensors").unwrap();
        assert_eq!(String::from_utf8_lossy(header), "{}", "the header of 2 bytes");
        assert_eq!(data_start, 10, "where the data starts");
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        let refused = |bytes: &[u8]| match split_header(bytes, "a.safetensors") {
            Ok((header, start)) => format!("accepted: a header of {} bytes, data from {start}", header.len()),
            Err(error) => error.to_string(),
        };
        for (what, bytes, expected) in [
            ("7 bytes", vec![0; 7], "at least the 8"),
            ("a header longer than the file", file(3, b"{}"), "truncated"),
            ("a header of 2^63 bytes", file(1 << 63, b"{}"), "are allowed"),
            ("a header that is no JSON", file(2, b"PK"), "does not begin with `{`"),
        ] {
            let found = refused(&bytes);
            assert!(found.contains(expected), "{what}: expected an error with \"{expected}\", found {found}");
        }
    }
}
