//! A kernel's parameters, packed as the driver wants them: in order, each aligned to its size.

use crate::compiler::{Argument, ArgumentKind};

/// What a dispatch gives to its kernel.
pub struct Packed {
    /// The parameter buffer.
    pub bytes: Vec<u8>,
    /// Dynamic shared memory for the threadgroup arguments.
    pub shared: u32,
}

/// Packs the arguments in order of declaration: addresses of buffers (`address_of` answers by index), offsets of
/// threadgroup arguments (`lengths` by index) in dynamic shared memory, then the threads in the grid.
pub fn pack(
    arguments: &[Argument],
    address_of: impl Fn(u32) -> Result<u64, String>,
    lengths: &[u32],
    threads: [u32; 3],
) -> Result<Packed, String> {
    let mut packed = Packed { bytes: Vec::with_capacity(arguments.len() * 8 + 12), shared: 0 };
    for argument in arguments {
        match argument.kind {
            ArgumentKind::Device | ArgumentKind::Constant => {
                packed.bytes.resize(packed.bytes.len().next_multiple_of(8), 0);
                packed.bytes.extend(address_of(argument.index)?.to_le_bytes());
            }
            ArgumentKind::Threadgroup => {
                packed.bytes.extend(packed.shared.to_le_bytes());
                let length = lengths.get(argument.index as usize).copied().unwrap_or(0);
                packed.shared = length
                    .checked_next_multiple_of(16)
                    .and_then(|length| packed.shared.checked_add(length))
                    .ok_or_else(|| format!("threadgroup memory {} of {length} bytes", argument.index))?;
            }
        }
    }
    for extent in threads {
        packed.bytes.extend(extent.to_le_bytes());
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(kind: ArgumentKind, index: u32) -> Argument {
        Argument { name: format!("a{index}"), kind, index }
    }

    #[test]
    fn parameters_are_aligned_to_their_size() {
        use ArgumentKind::{Constant, Device, Threadgroup};
        let arguments =
            [argument(Threadgroup, 1), argument(Device, 0), argument(Threadgroup, 0), argument(Constant, 3)];
        let packed = pack(&arguments, |index| Ok(0x1000 + u64::from(index)), &[40, 100], [7, 8, 9]).unwrap();
        let words: Vec<u32> = packed.bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        // Offset 0, padding, address of buffer 0, offset 112, padding, address of buffer 3, the grid.
        assert_eq!(words, [0, 0, 0x1000, 0, 112, 0, 0x1003, 0, 7, 8, 9]);
        assert_eq!(packed.shared, 112 + 48);
    }

    #[test]
    fn an_unbound_buffer_and_too_much_threadgroup_memory_are_errors() {
        let unbound = pack(&[argument(ArgumentKind::Device, 2)], |index| Err(format!("{index}")), &[], [1; 3]);
        assert_eq!(unbound.err().unwrap(), "2");
        let large = [argument(ArgumentKind::Threadgroup, 0), argument(ArgumentKind::Threadgroup, 1)];
        assert!(pack(&large, |_| Ok(0), &[u32::MAX - 20, 64], [1; 3]).is_err());
    }
}
