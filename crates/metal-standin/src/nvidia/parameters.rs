//! A kernel's parameters, one after the other as its entry point declares them.

use crate::compiler::{Argument, ArgumentKind};

/// What a dispatch gives to its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// One for each parameter, in order; the driver reads the lower half where that has 32 bits.
    pub values: Vec<u64>,
    /// Dynamic shared memory for the threadgroup arguments.
    pub shared: u32,
}

/// Addresses of buffers (`address_of` answers by index), offsets of threadgroup arguments (`lengths` by index) in dynamic
/// shared memory, then the threads in the grid.
pub fn parameters(
    arguments: &[Argument],
    mut address_of: impl FnMut(u32) -> Result<u64, String>,
    lengths: &[u32],
    threads: [u32; 3],
) -> Result<Parameters, String> {
    let mut found = Parameters { values: Vec::with_capacity(arguments.len() + 3), shared: 0 };
    for argument in arguments {
        found.values.push(match argument.kind {
            ArgumentKind::Device | ArgumentKind::Constant => address_of(argument.index)?,
            ArgumentKind::Threadgroup => {
                let start = found.shared;
                let length = lengths.get(argument.index as usize).copied().unwrap_or(0);
                found.shared = length
                    .checked_next_multiple_of(16)
                    .and_then(|length| start.checked_add(length))
                    .ok_or_else(|| format!("threadgroup memory {} of {length} bytes", argument.index))?;
                u64::from(start)
            }
        });
    }
    found.values.extend(threads.map(u64::from));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(kind: ArgumentKind, index: u32) -> Argument {
        Argument { name: format!("a{index}"), kind, index }
    }

    #[test]
    fn parameters_are_in_the_order_of_arguments() {
        use ArgumentKind::{Constant, Device, Threadgroup};
        let arguments =
            [argument(Threadgroup, 1), argument(Device, 0), argument(Threadgroup, 0), argument(Constant, 3)];
        let found = parameters(&arguments, |index| Ok(0x1000 + u64::from(index)), &[40, 100], [7, 8, 9]).unwrap();
        assert_eq!(found.values, [0, 0x1000, 112, 0x1003, 7, 8, 9]);
        assert_eq!(found.shared, 112 + 48);
    }

    #[test]
    fn an_unbound_buffer_and_too_much_threadgroup_memory_are_errors() {
        let unbound = parameters(&[argument(ArgumentKind::Device, 2)], |index| Err(format!("{index}")), &[], [1; 3]);
        assert_eq!(unbound.err().unwrap(), "2");
        let large = [argument(ArgumentKind::Threadgroup, 0), argument(ArgumentKind::Threadgroup, 1)];
        assert!(parameters(&large, |_| Ok(0), &[u32::MAX - 20, 64], [1; 3]).is_err());
    }
}
