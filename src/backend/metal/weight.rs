//! Weights in GPU memory.

use super::device::Device;
use super::objc::{MTLBuffer, NoCopyBuffer, Object};
use super::stream::Arg;
use crate::backend::matrix::Matrix;
use crate::weights::{DType, Tensor};

/// What the kernels may rely on: the first byte of a matrix stands at a multiple of this. safetensors files promise 8.
const ALIGNMENT: usize = 8;

/// A tensor where the GPU reads it.
///
/// Matrices stay in their file's format, and on the pages that the file is mapped to, where they begin at a multiple of
/// [`ALIGNMENT`]. Vectors (norms and biases, next to nothing) are widened to f32.
pub struct MetalWeight {
    place: Place,
    /// How a matrix is stored.
    pub(super) dtype: DType,
    /// Rows: output features, or entries of a table.
    pub(super) rows: usize,
    /// Columns: input features.
    pub(super) columns: usize,
}

enum Place {
    /// On the file's pages, from this byte of the buffer on.
    Mapped(NoCopyBuffer, u64),
    /// In a copy.
    Copied(Object<MTLBuffer>),
}

impl MetalWeight {
    pub(super) fn new(device: &Device, tensor: &Tensor) -> Result<Self, String> {
        let matrix = Matrix::new(tensor, "metal").map_err(|error| error.message)?;
        let (rows, columns, dtype) = (matrix.rows(), matrix.columns(), matrix.dtype());
        let most = device.object.max_buffer_length();
        if tensor.data.len() as u64 > most {
            let bytes = tensor.data.len();
            return Err(format!("{}: {bytes} bytes; the longest buffer of this device is {most}", tensor.name));
        }
        // A kernel counts elements and bytes of a row in 32 bits.
        if u32::try_from(tensor.data.len() / rows).is_err() || u32::try_from(columns.max(rows)).is_err() {
            return Err(format!("{}: shape {:?} is too large for the kernels", tensor.name, tensor.shape));
        }
        let copy = |bytes: &[u8]| {
            let buffer = device.object.buffer_of(bytes).map(Place::Copied);
            buffer.ok_or_else(|| format!("{}: no memory for {} bytes", tensor.name, bytes.len()))
        };
        if tensor.shape.len() == 1 {
            let place = copy(bytemuck::cast_slice(&matrix.to_f32()))?;
            return Ok(Self { place, dtype: DType::F32, rows, columns });
        }
        let aligned = (tensor.data.as_ptr() as usize).is_multiple_of(ALIGNMENT);
        let mapped = if aligned { device.object.buffer_over(&tensor.data) } else { None };
        let place = match mapped {
            Some((buffer, offset)) => Place::Mapped(buffer, offset),
            None => copy(&tensor.data)?,
        };
        Ok(Self { place, dtype, rows, columns })
    }

    /// As an argument of a kernel.
    pub(super) fn arg(&self) -> Arg<'_> {
        match &self.place {
            Place::Mapped(mapped, offset) => Arg::Constant(&mapped.buffer, *offset),
            Place::Copied(buffer) => Arg::Constant(buffer, 0),
        }
    }

    /// Bytes of one row.
    pub(super) fn row_bytes(&self) -> usize {
        self.dtype.bytes(self.columns).expect("rows are whole blocks, as was checked when the weight was loaded")
    }
}
