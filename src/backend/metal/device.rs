//! The GPU: whether there is one that this backend can use, and its memory.

use super::objc::{
    self, FAMILY_APPLE7, FAMILY_APPLE8, FAMILY_APPLE9, FAMILY_METAL3, FAMILY_METAL4, MTLCommandQueue, MTLDevice,
    Object, STORAGE_PRIVATE, STORAGE_SHARED,
};
use super::stream::Memory;
use std::sync::atomic::{AtomicU64, Ordering};

/// A GPU and a queue of commands to it.
pub(super) struct Device {
    pub(super) object: Object<MTLDevice>,
    pub(super) queue: Object<MTLCommandQueue>,
    next_id: AtomicU64,
}

/// What `fs devices` says about a GPU.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// What Metal calls the sets of features that it has.
    pub families: Vec<&'static str>,
    /// Whether CPU and GPU share their memory.
    pub unified_memory: bool,
    /// Bytes that a program should keep in GPU memory at most.
    pub recommended_working_set: u64,
    /// Bytes of the largest buffer.
    pub max_buffer_length: u64,
}

const FAMILIES: [(i64, &str); 5] = [
    (FAMILY_APPLE7, "Apple7"),
    (FAMILY_APPLE8, "Apple8"),
    (FAMILY_APPLE9, "Apple9"),
    (FAMILY_METAL3, "Metal3"),
    (FAMILY_METAL4, "Metal4"),
];

/// What to do where a GPU has no memory left.
pub(super) const NEEDS_LESS: &str =
    "fewer tokens of context, a smaller format (`fs quantize`) or --backend cpu needs less";

/// Bytes that are copied to the GPU at a time.
const UPLOAD: usize = 16 << 20;

impl Device {
    /// The system's default device. Its GPU must be an M1's or a later one's, since the kernels use SIMD-group reductions and
    /// 8x8 matrices of SIMD-groups, which Apple7 is the first to have.
    pub(super) fn open() -> Result<Self, String> {
        objc::pool(Self::open_in_pool)
    }

    /// The default device, whatever it can do.
    pub(super) fn system() -> Result<Object<MTLDevice>, String> {
        Object::<MTLDevice>::system_default()
            .ok_or_else(|| "this system has no Metal device; run with --backend cpu".into())
    }

    fn open_in_pool() -> Result<Self, String> {
        let object = Self::system()?;
        let name = object.name().map_or_else(String::new, |name| name.text());
        if !object.supports_family(FAMILY_APPLE7) {
            return Err(format!(
                "{name} does not support GPU family Apple7; an M1 or a later chip is needed, or --backend cpu"
            ));
        }
        let queue = object.new_command_queue().ok_or_else(|| format!("{name} gave no command queue"))?;
        Ok(Self { object, queue, next_id: AtomicU64::new(0) })
    }

    pub(super) fn report(&self) -> DeviceReport {
        let object = &self.object;
        DeviceReport {
            name: objc::pool(|| object.name().map_or_else(String::new, |name| name.text())),
            families: FAMILIES.iter().filter(|row| object.supports_family(row.0)).map(|row| row.1).collect(),
            unified_memory: object.has_unified_memory(),
            recommended_working_set: object.recommended_max_working_set_size(),
            max_buffer_length: object.max_buffer_length(),
        }
    }

    /// Memory that only kernels reach.
    pub(super) fn private(&self, bytes: usize) -> Result<Memory, String> {
        self.memory(bytes, STORAGE_PRIVATE)
    }

    /// `bytes` in memory of the GPU's own: weights, which the CPU never looks at again. They pass through a small buffer that
    /// both reach.
    pub(super) fn upload(&self, bytes: &[u8]) -> Result<Object<objc::MTLBuffer>, String> {
        let buffer = self.private(bytes.len().next_multiple_of(4))?.buffer;
        for (i, piece) in bytes.chunks(UPLOAD).enumerate() {
            objc::pool(|| {
                // Metal copies whole words.
                let mut words = std::borrow::Cow::Borrowed(piece);
                if !piece.len().is_multiple_of(4) {
                    words.to_mut().resize(piece.len().next_multiple_of(4), 0);
                }
                let staged = self.object.buffer_of(&words);
                let staged = staged.ok_or_else(|| {
                    format!("no memory for {} bytes on their way to the GPU; {NEEDS_LESS}", piece.len())
                })?;
                let commands = self.queue.command_buffer().ok_or("Metal gave no command buffer")?;
                let encoder = commands.blit_command_encoder().ok_or("Metal gave no command encoder")?;
                encoder.copy(&staged, 0, &buffer, (i * UPLOAD) as u64, words.len() as u64);
                encoder.end_encoding();
                commands.commit();
                commands.wait_until_completed();
                match commands.status() {
                    objc::STATUS_COMPLETED => Ok(()),
                    status => {
                        let reason = commands.error().map(|error| error.message());
                        Err(format!("a copy to the GPU failed: {}", reason.unwrap_or(format!("status {status}"))))
                    }
                }
            })?;
        }
        Ok(buffer)
    }

    /// Memory that the CPU reaches as well.
    pub(super) fn shared(&self, bytes: usize) -> Result<Memory, String> {
        self.memory(bytes, STORAGE_SHARED)
    }

    fn memory(&self, bytes: usize, options: u64) -> Result<Memory, String> {
        let most = self.object.max_buffer_length();
        // Metal ends the process at a buffer that is empty or too long.
        if bytes as u64 > most {
            return Err(format!("a buffer of {bytes} bytes; the longest that this device has is {most}"));
        }
        let buffer = objc::pool(|| self.object.new_buffer_with_length(bytes.max(4) as u64, options));
        let buffer = buffer.ok_or_else(|| {
            let used = self.object.current_allocated_size();
            format!("no memory for a buffer of {bytes} bytes; {used} bytes are in use; {NEEDS_LESS}")
        })?;
        Ok(Memory { buffer, id: self.next_id.fetch_add(1, Ordering::Relaxed) })
    }
}
