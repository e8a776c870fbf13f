//! What Apple's compiler refuses and clang would let pass.

use super::Source;
use super::program::{Faults, Program};

/// Everything wrong with the program that its tokens show, in the order of its lines.
pub(crate) fn check(program: &Program, _source: &Source) -> Faults {
    let mut faults = program.faults.clone();
    faults.sort_by_key(|fault| (fault.place.line, fault.place.column));
    faults
}
