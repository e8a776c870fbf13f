//! What kernels ask for.

use super::super::program::{COMPUTED, Function, INPUTS};
use super::Checker;
use super::declarations::is_builtin;

/// Types of the numbers that a kernel may ask for.
const COUNTS: [&str; 4] = ["uint", "ushort", "uint32_t", "uint16_t"];

/// Whether an attribute asks for a place or a size in the grid or the threadgroup, a number for each dimension; `None` if it
/// asks for no number.
fn input_is_position(attribute: &str) -> Option<bool> {
    let input = INPUTS.iter().find(|input| input.0 == attribute).map(|input| input.2);
    input.or_else(|| COMPUTED.iter().any(|input| input.0 == attribute).then_some(attribute == "grid_origin"))
}

impl Checker<'_> {
    /// The types of `[[thread_position_in_grid]]` and so on: whole numbers without a sign, one or one for each dimension, and
    /// of those as many in all positions of a kernel.
    pub(super) fn inputs(&mut self, function: &Function) {
        let tokens = &self.program.tokens;
        let mut faults = Vec::new();
        // The width of the first position, with its attribute.
        let mut first: Option<(u8, String)> = None;
        for range in self.program.parameter_ranges(function) {
            let attributes = self.program.attributes_in(range.clone());
            let Some((attribute, is_position)) =
                attributes.iter().find_map(|a| Some((a.name.clone(), input_is_position(&a.name)?)))
            else {
                continue;
            };
            let words: Vec<usize> =
                range.clone().filter(|i| !matches!(&*tokens[*i].text, "const" | "metal" | "::")).collect();
            // `uint3 at`, or without a name; `vec<uint, 3>`, aliases and `unsigned short` are left to whoever sees through them.
            let ([of] | [of, _]) = words[..] else { continue };
            if !is_builtin(&tokens[of]) || matches!(&*tokens[of].text, "unsigned" | "signed") {
                continue;
            }
            let name = &*tokens[of].text;
            let (scalar, width) = match name.as_bytes() {
                [.., digit @ (b'2' | b'3')] => (&name[..name.len() - 1], digit - b'0'),
                _ => (name, 1),
            };
            if !COUNTS.contains(&scalar) || (width > 1 && !is_position) {
                let wanted =
                    if is_position { "'uint' or 'ushort', or a vector of two or three" } else { "'uint' or 'ushort'" };
                faults
                    .push((of, format!("type '{name}' is not valid for attribute '{attribute}': it must be {wanted}")));
            } else if is_position {
                match &first {
                    Some((other, by)) if *other != width => faults.push((
                        of,
                        format!(
                            "expecting input declarations with either all scalar types or all vector types with the same number \
                             of elements: '{attribute}' differs from '{by}'"
                        ),
                    )),
                    Some(_) => {}
                    None => first = Some((width, attribute)),
                }
            }
        }
        for (at, message) in faults {
            self.fault(at, message);
        }
    }
}
