//! What widgets show that need no engine in the page: taken from a model's own file when the site is built (`fs-live --record`).

use crate::LiveError;
use failed_star::weights::formats::{BlockFormat, Q4_0, Q4K, Q5K, Q6K, Q8_0};
use failed_star::weights::{DType, ModelSource, Tensor};
use serde_json::{Value, json};
use std::path::Path;

/// Values of each tensor that the file map opens.
const OPENED: usize = 8;

/// Values that the microscope looks at: a super-block.
const BLOCK: usize = 256;

/// Where the microscope looks: a tensor, and a row of it.
const PLACES: [(&str, usize); 3] = [
    ("model.layers.3.self_attn.q_proj.weight", 17),
    ("model.layers.0.mlp.down_proj.weight", 100),
    ("model.embed_tokens.weight", 437),
];

/// The file map's data: the parts of `directory/model.safetensors`, and the first values of each tensor with their bytes.
pub fn file_map(directory: &Path) -> Result<Value, LiveError> {
    let path = directory.join("model.safetensors");
    let file = std::fs::read(&path).map_err(|error| LiveError::Name(format!("{}: {error}", path.display())))?;
    let checkpoint = ModelSource::resolve(Some(&path.display().to_string()))?.require_checkpoint()?;
    let mut tensors: Vec<&Tensor> = checkpoint.tensors().collect();
    tensors.sort_by_key(|tensor| tensor.offset);
    // The checkpoint was read from these bytes and has checked them; here the header is shown as it stands.
    let length = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)) as usize;
    let header: Value = serde_json::from_slice(file.get(8..8 + length).unwrap_or_default())?;
    let tensors: Vec<Value> = tensors.into_iter().map(|tensor| opened(tensor, &header[&tensor.name])).collect();
    Ok(
        json!({"file": "model.safetensors", "bytes": file.len(), "header": length, "length": hex(&file[..8]), "tensors": tensors}),
    )
}

fn opened(tensor: &Tensor, entry: &Value) -> Value {
    let width = tensor.dtype.bytes(1).unwrap_or(1);
    let values = tensor.to_f32();
    let values = values.iter().zip(tensor.data.chunks(width)).take(OPENED);
    json!({
        "name": tensor.name, "entry": entry.to_string(), "dtype": tensor.dtype, "shape": tensor.shape,
        "offset": tensor.offset, "bytes": tensor.data.len(), "width": width,
        "values": values.map(|(value, bytes)| json!({"bytes": hex(bytes), "value": value})).collect::<Vec<_>>(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The microscope's data: some blocks of weights, and what each format makes of them.
pub fn microscope(directory: &Path) -> Result<Value, LiveError> {
    let checkpoint = ModelSource::resolve(Some(&directory.display().to_string()))?.require_checkpoint()?;
    let places = PLACES.iter().map(|&(name, row)| {
        let missing = || LiveError::Name(format!("there is no row {row} of {name}"));
        let tensor = checkpoint.get(name).ok_or_else(missing)?;
        let &[_, columns] = tensor.shape.as_slice() else { return Err(missing()) };
        let all = tensor.to_f32();
        let values = all.get(row * columns..).and_then(|row| row.get(..BLOCK)).ok_or_else(missing)?;
        let formats = [
            look::<Q8_0>(DType::Q8_0, values),
            look::<Q6K>(DType::Q6K, values),
            look::<Q5K>(DType::Q5K, values),
            look::<Q4K>(DType::Q4K, values),
            look::<Q4_0>(DType::Q4_0, values),
        ];
        Ok(json!({"tensor": name, "row": row, "values": values, "formats": formats}))
    });
    Ok(json!({"places": places.collect::<Result<Vec<_>, LiveError>>()?}))
}

/// A block's parts, so that `value[i] = scales[i / sub] * codes[i] - minima[i / sub]`.
pub struct Parts {
    /// Codes, from below zero where the format's are.
    pub codes: Vec<i32>,
    /// Values that share a scale.
    pub sub: usize,
    /// What a step of a code is worth.
    pub scales: Vec<f32>,
    /// What is taken away; all zero in formats without.
    pub minima: Vec<f32>,
}

/// A format that can be taken apart.
pub trait Open: BlockFormat {
    /// Its parts, scales multiplied out.
    fn parts(&self) -> Parts;
}

impl Open for Q8_0 {
    fn parts(&self) -> Parts {
        let codes = self.codes.iter().map(|&code| code.into()).collect();
        Parts { codes, sub: 32, scales: vec![self.d.to_f32()], minima: vec![0.0] }
    }
}

impl Open for Q4_0 {
    fn parts(&self) -> Parts {
        let codes = (0..32).map(|i| i32::from(self.code(i)) - 8).collect();
        Parts { codes, sub: 32, scales: vec![self.d.to_f32()], minima: vec![0.0] }
    }
}

impl Open for Q6K {
    fn parts(&self) -> Parts {
        let codes = (0..256).map(|i| i32::from(self.code(i)) - 32).collect();
        let scales = self.scales.iter().map(|&scale| self.d.to_f32() * f32::from(scale)).collect();
        Parts { codes, sub: 16, scales, minima: vec![0.0; 16] }
    }
}

/// Q4_K and Q5_K differ in their codes alone.
fn super_block(codes: Vec<i32>, d: half::f16, dmin: half::f16, packed: &[u8; 12]) -> Parts {
    let (scales, minima) = failed_star::weights::formats::q4_k::scales_and_minima(packed);
    let times = |d: half::f16, all: [u8; 8]| all.iter().map(|&n| d.to_f32() * f32::from(n)).collect();
    Parts { codes, sub: 32, scales: times(d, scales), minima: times(dmin, minima) }
}

impl Open for Q4K {
    fn parts(&self) -> Parts {
        super_block((0..256).map(|i| self.code(i).into()).collect(), self.d, self.dmin, &self.scales)
    }
}

impl Open for Q5K {
    fn parts(&self) -> Parts {
        super_block((0..256).map(|i| self.code(i).into()).collect(), self.d, self.dmin, &self.scales)
    }
}

/// What a format makes of `values: [256]`: its codes, scales and minima, the values they stand for, and how far these are.
fn look<B: Open>(dtype: DType, values: &[f32]) -> Value {
    let (mut codes, mut scales, mut minima, mut restored, mut sub) = (vec![], vec![], vec![], vec![], 0);
    for values in values.chunks_exact(B::VALUES) {
        let block = B::quantize(values, None);
        let mut out = vec![0.0; B::VALUES];
        block.dequantize(&mut out);
        restored.extend(out);
        let parts = block.parts();
        sub = parts.sub;
        codes.extend(parts.codes);
        scales.extend(parts.scales);
        minima.extend(parts.minima);
    }
    let errors = values.iter().zip(&restored).map(|(value, restored)| f64::from(restored - value));
    let (sum, most) = errors.fold((0.0, 0.0f64), |(sum, most), error| (sum + error * error, most.max(error.abs())));
    json!({
        "format": dtype, "bits": 8.0 * size_of::<B>() as f64 / B::VALUES as f64, "block": B::VALUES,
        "block_bytes": size_of::<B>(), "sub": sub, "codes": codes, "scales": scales, "minima": minima, "restored": restored,
        "rmse": (sum / values.len() as f64).sqrt(), "largest_error": most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stories() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/stories")
    }

    #[test]
    fn the_map_covers_the_file_and_its_values_are_those_at_their_bytes() {
        let map = file_map(&stories()).unwrap();
        let file = std::fs::read(stories().join("model.safetensors")).unwrap();
        let mut at = 8 + map["header"].as_u64().unwrap();
        let tensors = map["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 90);
        for tensor in tensors {
            assert_eq!(tensor["offset"], at);
            let first = at as usize;
            assert_eq!(tensor["values"][0]["bytes"], hex(&file[first..first + 2]));
            // The upper half of an f32, least byte first.
            let value = f32::from_le_bytes([0, 0, file[first], file[first + 1]]);
            assert_eq!(tensor["values"][0]["value"], json!(value));
            at += tensor["bytes"].as_u64().unwrap();
        }
        assert_eq!(map["bytes"], at);
    }

    #[test]
    fn codes_scales_and_minima_are_the_values_that_the_format_restores() {
        let data = microscope(&stories()).unwrap();
        let numbers =
            |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect() };
        for place in data["places"].as_array().unwrap() {
            let mut last = 0.0;
            for format in place["formats"].as_array().unwrap() {
                let [codes, scales, minima, restored] =
                    ["codes", "scales", "minima", "restored"].map(|name| numbers(&format[name]));
                let sub = format["sub"].as_u64().unwrap() as usize;
                assert_eq!((codes.len(), scales.len(), minima.len()), (BLOCK, BLOCK / sub, BLOCK / sub));
                for (i, restored) in restored.iter().enumerate() {
                    let value = scales[i / sub] * codes[i] - minima[i / sub];
                    assert!((value - restored).abs() <= 1e-6 * restored.abs().max(0.01), "{value} {restored}");
                }
                // Fewer bits, more error; Q4_K's minima make up for its scales.
                let rmse = format["rmse"].as_f64().unwrap();
                assert!(rmse > 0.9 * last, "{}", format["format"]);
                last = rmse;
            }
        }
    }

    #[test]
    fn a_model_without_these_tensors_is_an_error() {
        let empty = tempfile::tempdir().unwrap();
        assert!(file_map(empty.path()).is_err());
        assert!(microscope(empty.path()).is_err());
    }
}
