//! Named tensors from one safetensors file, or from shards listed in an index.

use super::{DType, SharedBytes, WeightsError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// One tensor as it lies in its file: row-major, little-endian, not copied.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the file, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its dimensions, outermost first. A projection is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// Its bytes: `dtype.bytes(product of shape)` of them, aligned to the element size.
    pub data: SharedBytes,
    /// The file it lies in.
    pub file: Arc<str>,
    /// Where its first byte lies in that file.
    pub offset: u64,
}

/// All tensors of a model, by name.
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// A copy of the elements as f32, exactly (every stored format fits in f32).
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => bytemuck::cast_slice::<u8, f32>(&self.data).to_vec(),
            DType::F16 => bytemuck::cast_slice::<u8, half::f16>(&self.data).iter().map(|v| v.to_f32()).collect(),
            DType::BF16 => bytemuck::cast_slice::<u8, half::bf16>(&self.data).iter().map(|v| v.to_f32()).collect(),
        }
    }
}

impl Checkpoint {
    /// Opens and checks a `.safetensors` file, a `.safetensors.index.json`, or a directory that holds
    /// `model.safetensors` or `model.safetensors.index.json`.
    pub fn open(_path: &Path) -> Result<Checkpoint, WeightsError> {
        todo!()
    }

    /// Checks one safetensors file that is already in memory; `file` is the name used in errors.
    pub fn from_bytes(_bytes: SharedBytes, _file: &str) -> Result<Checkpoint, WeightsError> {
        todo!()
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }
}
