//! `MTLBlitCommandEncoder`: fills and copies of buffers.
//!
//! An executor only knows kernels, so these are two kernels, in Metal like any other. They work on 32-bit words because
//! macOS wants ranges that are multiples of 4 bytes.

use std::sync::{Arc, OnceLock};

use super::Range;
use super::buffer::{Buffer, name_of};
use super::encoder::Encoding;
use super::library::internal;
use super::queue::CommandBuffer;
use crate::executor::{Binding, Command, Dispatch, Pipeline};
use crate::objc::class::{This, class};
use crate::objc::failure::fail;
use crate::objc::object::{Body, Object, Retained};

/// Words that a thread writes.
const WORDS: usize = 8;

/// Thread `i` of a threadgroup of `n` takes words `i`, `i + n`, …: neighbours write neighbouring words.
const SOURCE: &str = "
#include <metal_stdlib>
using namespace metal;
kernel void standin_fill(device uint *to [[buffer(0)]], constant uint2 &n [[buffer(2)]],
                         uint i [[thread_position_in_threadgroup]], uint group [[threadgroup_position_in_grid]],
                         uint threads [[threads_per_threadgroup]]) {
    for (uint word = group * threads * 8 + i, k = 0; k < 8 && word < n.x; word += threads, k++) to[word] = n.y;
}
kernel void standin_copy(device uint *to [[buffer(0)]], device const uint *from [[buffer(1)]], constant uint2 &n [[buffer(2)]],
                         uint i [[thread_position_in_threadgroup]], uint group [[threadgroup_position_in_grid]],
                         uint threads [[threads_per_threadgroup]]) {
    for (uint word = group * threads * 8 + i, k = 0; k < 8 && word < n.x; word += threads, k++) to[word] = from[word];
}
";

/// The body of a blit encoder.
pub(crate) struct BlitEncoder(Encoding);

impl Body for BlitEncoder {
    const CLASS: &'static str = "MTLBlitCommandEncoder";
}

impl BlitEncoder {
    pub fn new(buffer: Retained<CommandBuffer>) -> Self {
        Self(Encoding::new(buffer, Self::CLASS))
    }
}

impl This<'_, BlitEncoder> {
    /// A part of a buffer, bound.
    fn part(&self, object: &Object, offset: usize, length: usize) -> Binding {
        let allocation = object.body::<Buffer>().allocation;
        if length == 0 || !offset.is_multiple_of(4) || !length.is_multiple_of(4) {
            fail!(
                self,
                "{length} bytes at {offset} of {}: both must be multiples of 4, and the length not 0",
                name_of(object)
            );
        }
        if offset.checked_add(length).is_none_or(|end| end > allocation.length) {
            fail!(self, "{length} bytes at {offset} are beyond the {} bytes of {}", allocation.length, name_of(object));
        }
        self.0.buffer.keep(object);
        Binding::Buffer { allocation, offset, label: object.label.lock().unwrap().clone() }
    }

    fn dispatch(&self, pipeline: &Arc<Pipeline>, to: Binding, from: Option<Binding>, length: usize, value: u32) {
        let Ok(words) = u32::try_from(length / 4) else { fail!(self, "{length} bytes are more than 16 GiB") };
        let numbers = [words.to_ne_bytes(), value.to_ne_bytes()].concat();
        let mut buffers = vec![None; 31];
        (buffers[0], buffers[1], buffers[2]) = (Some(to), from, Some(Binding::Bytes(numbers)));
        let group = 256;
        let threads = (words as usize).div_ceil(WORDS * group) * group;
        let mut recording = self.0.buffer.recording();
        recording.barrier();
        recording.commands.push(Command::Dispatch(Dispatch {
            pipeline: pipeline.clone(),
            buffers,
            threadgroup: vec![0; 31],
            threads: [threads as u32, 1, 1],
            threads_per_threadgroup: [group as u32, 1, 1],
        }));
    }

    fn kernel(&self, slot: &'static OnceLock<Arc<Pipeline>>, name: &str) -> &'static Arc<Pipeline> {
        slot.get_or_init(|| internal(self.0.buffer.executor(), SOURCE, name))
    }
}

class! { mtl_blit_command_encoder, BlitEncoder, "MTLBlitCommandEncoder": "MTLObject";
    - c"fillBuffer:range:value:" (this, buffer: Option<&Object>, range: Range, value: u8) {
        static FILL: OnceLock<Arc<Pipeline>> = OnceLock::new();
        this.0.check_open(|| this.method());
        let to = this.part(this.required(buffer, "the buffer"), range.location, range.length);
        this.dispatch(this.kernel(&FILL, "standin_fill"), to, None, range.length, u32::from_ne_bytes([value; 4]));
    }
    - c"copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:" (this, source: Option<&Object>, source_offset: usize, destination: Option<&Object>, destination_offset: usize, size: usize) {
        static COPY: OnceLock<Arc<Pipeline>> = OnceLock::new();
        this.0.check_open(|| this.method());
        let (source, destination) = (this.required(source, "the source"), this.required(destination, "the destination"));
        let from = this.part(source, source_offset, size);
        let to = this.part(destination, destination_offset, size);
        if std::ptr::eq(source, destination) && source_offset.abs_diff(destination_offset) < size {
            fail!(this, "source and destination overlap");
        }
        this.dispatch(this.kernel(&COPY, "standin_copy"), to, Some(from), size, 0);
    }
    - c"pushDebugGroup:" (this, name: Option<&Object>) {
        this.required(name, "the name");
        this.0.push_group(this.method());
    }
    - c"popDebugGroup" (this) { this.0.pop_group(this.method()) }
    - c"endEncoding" (this) { this.0.end(this.method()) }
}
