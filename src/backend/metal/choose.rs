//! What leaves the GPU of a token's logits: the largest, now or as a promise, or the k largest.

use super::library::Kernel;
use super::stream::{Arg, Grid, Memory, Sent};
use super::{Metal, MetalBuffer, error};
use crate::backend::{Ahead, Backend, BackendError, plain};
use bytemuck::{Pod, Zeroable, bytes_of, cast_slice, cast_slice_mut};
use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

static ARGMAX_BLOCKS: Kernel = Kernel::new("argmax.metal", "argmax_blocks");
static ARGMAX_REST: Kernel = Kernel::new("argmax.metal", "argmax_rest");
static TOP_K: Kernel = Kernel::new("top_k.metal", "top_k");

/// Values that a threadgroup looks through; the same number stands in `argmax.metal` and `top_k.metal`.
const BLOCK: usize = 4096;

/// The index in a pair that `top_k.metal` writes where there is no value.
const ABSENT: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TopKShape {
    len: u32,
    k: u32,
    pairs: u32,
}

/// Answers that the GPU has yet to give, and memory for others.
#[derive(Default)]
pub(super) struct Promises {
    number: u64,
    given: HashMap<u64, (Sent, Answer)>,
    spare: Vec<Answer>,
}

/// Where the GPU finds the largest of some values.
struct Answer {
    /// The GPU's own: the index and its value, and those of each block.
    found: Memory,
    /// The first of them, for the CPU.
    shared: Memory,
}

impl Metal {
    fn promises(&self) -> MutexGuard<'_, Promises> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends off what has been encoded and the search for the largest of the first `len` values.
pub(super) fn argmax(metal: &Metal, buffer: &MetalBuffer, len: usize) -> Result<Ahead, BackendError> {
    let Some(memory) = buffer.memory() else { return metal.finish().map(|()| Ahead::Known(0, f32::NAN)) };
    // Each threadgroup looks through a block; one more looks through their answers.
    let blocks = len.div_ceil(BLOCK);
    let pair = 2 * size_of::<u32>();
    let spare = metal.promises().spare.pop_if(|spare| spare.found.buffer.length() as usize >= (blocks + 1) * pair);
    let answer = match spare {
        Some(answer) => answer,
        None => Answer {
            found: metal.device.private((blocks + 1) * pair).map_err(error)?,
            shared: metal.device.shared(pair).map_err(error)?,
        },
    };
    let shape = [len as u32, blocks as u32];
    let shape = Arg::Bytes(cast_slice(&shape));
    metal.encode(&ARGMAX_BLOCKS, &[shape, Arg::In(memory), Arg::Out(&answer.found)], Grid::groups(blocks, 1, 256));
    let shape = [len as u32, blocks as u32];
    let arguments = [Arg::Bytes(cast_slice(&shape)), Arg::Out(&answer.found), Arg::Out(&answer.shared)];
    metal.encode(&ARGMAX_REST, &arguments, Grid::groups(1, 1, 256));
    let Some(sent) = metal.stream(|stream| stream.send()).map_err(error)? else {
        return Err(error("nothing was encoded".into()));
    };
    let mut promises = metal.promises();
    promises.number += 1;
    let number = promises.number;
    promises.given.insert(number, (sent, answer));
    Ok(Ahead::Number(number))
}

/// Waits for the answer to [`argmax`].
pub(super) fn settle(metal: &Metal, ahead: Ahead) -> Result<(u32, f32), BackendError> {
    let number = match ahead {
        Ahead::Known(index, value) => return Ok((index, value)),
        Ahead::Number(number) => number,
    };
    let given = metal.promises().given.remove(&number);
    let (sent, answer) = given.ok_or_else(|| error("an answer that was never promised".into()))?;
    metal.wait(sent)?;
    let mut pair = [0u32; 2];
    answer.shared.buffer.copy_to(cast_slice_mut(&mut pair));
    // A kernel that is on its way may still read what was found. Who uses the memory next comes after it.
    metal.promises().spare.push(answer);
    Ok((pair[0], f32::from_bits(pair[1])))
}

/// Where the GPU finds the index that it has promised.
pub(super) fn found(metal: &Metal, ahead: &Ahead) -> Option<Memory> {
    match ahead {
        Ahead::Known(..) => None,
        Ahead::Number(number) => metal.promises().given.get(number).map(|(_, answer)| answer.found.clone()),
    }
}

/// The `k` largest of the first `len` values: the kernel runs on what it has found until that is one block.
pub(super) fn top_k(
    metal: &Metal,
    buffer: &MetalBuffer,
    len: usize,
    k: usize,
) -> Result<Vec<(u32, f32)>, BackendError> {
    // Where a block is not much more than k, little is gained by finding them there.
    if k == 0 || k > BLOCK / 2 || len <= k {
        return Ok(plain::top_k(&metal.read(buffer, len)?, k));
    }
    let Some(memory) = buffer.memory() else { return metal.finish().map(|()| Vec::new()) };
    let bytes = k * 2 * size_of::<u32>();
    let mut results = metal.results.lock().unwrap_or_else(PoisonError::into_inner);
    let staged = metal.staging(&mut results, bytes)?;
    let (mut from, mut len, mut pairs) = (memory.clone(), len, false);
    loop {
        let blocks = len.div_ceil(BLOCK);
        let to = match blocks {
            1 => staged.clone(),
            _ => metal.device.private(blocks * bytes).map_err(error)?,
        };
        let shape = TopKShape { len: len as u32, k: k as u32, pairs: pairs.into() };
        let arguments = [Arg::Bytes(bytes_of(&shape)), Arg::In(&from), Arg::Out(&to)];
        metal.encode(&TOP_K, &arguments, Grid::groups(blocks, 1, 256));
        if blocks == 1 {
            break;
        }
        (from, len, pairs) = (to, blocks * k, true);
    }
    metal.finish()?;
    let mut words = vec![0u32; 2 * k];
    staged.buffer.copy_to(cast_slice_mut(&mut words));
    let found = words.chunks_exact(2).filter(|pair| pair[0] != ABSENT);
    let mut found: Vec<(u32, f32)> = found.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect();
    found.sort_unstable_by(plain::rank);
    Ok(found)
}
