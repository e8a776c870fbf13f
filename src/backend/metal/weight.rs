//! Weights in GPU memory.

use super::device::Device;
use super::objc::{MTLBuffer, NoCopyBuffer, Object};
use super::pack;
use super::stream::Arg;
use crate::backend::matrix::Matrix;
use crate::weights::{DType, Tensor};

/// What the plain kernels may rely on: the first byte of a matrix stands at a multiple of this. safetensors files promise 8.
const ALIGNMENT: usize = 8;

/// A tensor where the GPU reads it.
///
/// Matrices of f32, f16 and bf16 stay on the pages that the file is mapped to, where they begin at a multiple of what the
/// kernels want. Block formats are sorted anew for the fast kernels (`pack`) and stay as they are for the plain ones.
/// Vectors (norms and biases, next to nothing) are widened to f32.
pub struct MetalWeight {
    place: Place,
    /// How a matrix is stored.
    pub(super) dtype: DType,
    /// Rows: output features, or entries of a table.
    pub(super) rows: usize,
    /// Columns: input features.
    pub(super) columns: usize,
    /// Whether rows are as `metal/packed.h` wants them.
    pub(super) packed: bool,
}

enum Place {
    /// On the file's pages, from this byte of the buffer on.
    Mapped(NoCopyBuffer, u64),
    /// In a copy.
    Copied(Object<MTLBuffer>),
}

impl MetalWeight {
    /// For the plain kernels, or for all.
    pub(super) fn new(device: &Device, tensor: &Tensor, plain: bool) -> Result<Self, String> {
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
            device.upload(bytes).map(Place::Copied).map_err(|reason| format!("{}: {reason}", tensor.name))
        };
        if tensor.shape.len() == 1 {
            let place = copy(bytemuck::cast_slice(&matrix.to_f32()))?;
            return Ok(Self { place, dtype: DType::F32, rows, columns, packed: false });
        }
        let bytes = dtype.bytes(columns).expect("rows are whole blocks, as `Matrix` has checked");
        if dtype.layout().block > 1 && !plain {
            let stride = pack::row_bytes(dtype, columns);
            let mut packed = vec![0; stride * rows];
            for (row, to) in tensor.data.chunks_exact(bytes).zip(packed.chunks_exact_mut(stride)) {
                pack::pack(dtype, row, columns, to);
            }
            let place = copy(&packed)?;
            // The file's pages need not stay in memory beside it.
            matrix.release();
            return Ok(Self { place, dtype, rows, columns, packed: true });
        }
        // Rows that are not whole chunks are left to the plain kernel; no model has any.
        let packed = !plain && bytes.is_multiple_of(pack::ALIGNMENT);
        let alignment = if packed { pack::ALIGNMENT } else { ALIGNMENT };
        let aligned = (tensor.data.as_ptr() as usize).is_multiple_of(alignment);
        let mapped = if aligned { device.object.buffer_over(&tensor.data) } else { None };
        let place = match mapped {
            Some((buffer, offset)) => Place::Mapped(buffer, offset),
            None => copy(&tensor.data)?,
        };
        Ok(Self { place, dtype, rows, columns, packed })
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
        match self.is_sorted() {
            true => pack::row_bytes(self.dtype, self.columns),
            false => self.dtype.bytes(self.columns).expect("rows are whole blocks, as was checked at loading"),
        }
    }

    /// Whether the bytes of a row are not where the file has them.
    pub(super) fn is_sorted(&self) -> bool {
        self.packed && self.dtype.layout().block > 1
    }
}
