//! The entry point of a kernel: what calls it with the arguments that an executor gives.

use std::fmt::Write as _;

use super::program::{KernelFunction, Origin};
use super::{ArgumentKind, Target};

/// The symbol of a kernel's entry point.
pub(crate) fn entry_name(kernel: &str) -> String {
    let clean: String = kernel.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("msl_entry_{clean}")
}

/// C++ text of the entry point; its names start with `msl_`, as a kernel may be called `t`. `present` says of each parameter whether it exists with these function constants.
pub(crate) fn entry_point(kernel: &KernelFunction, present: &[bool], target: Target) -> String {
    let (mut parameters, mut arguments) = (Vec::new(), Vec::new());
    for (number, (parameter, present)) in kernel.parameters.iter().zip(present).enumerate() {
        arguments.push(match &parameter.origin {
            Origin::Bound { argument, reference, unaliased, read_only } => {
                let (space, word) = match argument.kind {
                    ArgumentKind::Device => ("device", "device char"),
                    ArgumentKind::Constant => ("constant", "constant char"),
                    ArgumentKind::Threadgroup => ("threadgroup", "threadgroup char"),
                };
                let form = if *reference { "reference" } else { "argument" };
                let address = match (target, argument.kind) {
                    _ if !present => "nullptr".to_string(),
                    (Target::Cpu, ArgumentKind::Threadgroup) => {
                        format!("*({word} *const *)&msl_b->threadgroup_memory[{}]", argument.index)
                    }
                    (Target::Cpu, _) => format!("*({word} *const *)&msl_b->buffer[{}]", argument.index),
                    (Target::Nvidia, ArgumentKind::Threadgroup) => {
                        parameters.push(format!("uint msl_a{number}"));
                        format!("msl_dynamic_threadgroup_memory() + msl_a{number}")
                    }
                    (Target::Nvidia, _) => {
                        let constant = if *read_only { "const " } else { "" };
                        let alone = if *unaliased { "__restrict " } else { "" };
                        parameters.push(format!("{constant}{word} *{alone}msl_a{number}"));
                        format!("({word} *)msl_a{number}")
                    }
                };
                format!("msl::{space}_{form}{{{address}}}")
            }
            Origin::Input { field, vector: true } => format!("msl::vector_input(msl_t->{field})"),
            Origin::Input { field, vector: false } => format!("msl::scalar_input(msl_t->{field})"),
            Origin::Computed(expression) => (*expression).to_string(),
        });
    }
    let call = format!("{}({});", kernel.callee, arguments.join(", "));
    let entry = entry_name(&kernel.name);
    let mut text = String::new();
    let _ = match target {
        Target::Cpu => {
            writeln!(
                text,
                "MSL_ENTRY {entry}(const msl::bindings *msl_b, const msl::thread_indices *msl_t) {{ {call} }}"
            )
        }
        Target::Nvidia => {
            parameters.push("uint msl_gx, uint msl_gy, uint msl_gz".into());
            writeln!(
                text,
                "MSL_ENTRY {entry}({}) {{ msl::thread_indices msl_i, *msl_t = &msl_i; msl::read_indices(msl_i, msl_gx, msl_gy, \
                 msl_gz); if (msl::outside_grid(msl_i)) return; {call} }}",
                parameters.join(", ")
            )
        }
    };
    text
}
