//! What is done to LLVM IR in text, between clang's front end and its optimizer.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use super::{ConstantValue, Target};

/// Function constants with their values, threadgroup variables, NVIDIA's address spaces and entry point. Everything is
/// inlined into the entry point, as on Apple's GPUs.
pub(crate) fn prepare<'a>(
    ir: &str,
    entry: &str,
    constants: &[(String, Option<ConstantValue>)],
    target: Target,
    name_of: &dyn Fn(usize) -> &'a str,
) -> String {
    let mut result = String::with_capacity(ir.len());
    let mut variables: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let mut declared = HashSet::new();
    for line in ir.lines() {
        let mut line = line.to_string();
        if target == Target::Nvidia {
            line = line.replace("addrspace(2)", "addrspace(1)");
            while let Some(at) = line.find(".p2") {
                if !line[at + 3..].starts_with(['.', 'i', '(']) {
                    break;
                }
                line.replace_range(at..at + 3, ".p1");
            }
            if line.starts_with("define ") {
                line = line.replace(&format!(" void @{entry}("), &format!(" ptx_kernel void @{entry}("));
            }
        }
        if line.starts_with("define ") && !line.contains("@msl_entry_") && !line.contains("@msl_present_") {
            // Nobody else calls it: once inlined it is gone.
            for linkage in ["linkonce_odr ", "weak_odr ", "dso_local ", "internal ", "available_externally "] {
                line = line.replacen(linkage, "", 1);
            }
            line = line.replacen("define ", "define internal ", 1).replace(" comdat", "");
        }
        if let Some(attributes) = line.strip_prefix("attributes #").filter(|l| !l.contains("noinline")) {
            line = format!("attributes #{}", attributes.replacen("= { ", "= { alwaysinline ", 1));
        }
        if line.starts_with("declare ") {
            let name = line.split('@').nth(1).and_then(|rest| rest.split('(').next()).unwrap_or("").to_string();
            if matches!(&*name, "msl_threadgroup_memory" | "msl_dynamic_threadgroup_memory") || !declared.insert(name) {
                continue;
            }
        }
        if let Some(defined) = function_constant(&line, constants) {
            line = defined;
        } else if let Some((result, call)) = line.split_once(" = ").filter(|(_, c)| c.contains("@msl_")) {
            if let Some(arguments) = call.split("@msl_threadgroup_memory(").nth(1) {
                let mut numbers = arguments.split(',').map(|a| {
                    let digits: String = a.chars().rev().skip_while(|c| !c.is_ascii_digit()).collect();
                    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
                    digits.chars().rev().collect::<String>().parse::<u32>().unwrap_or(0)
                });
                let mut number = || numbers.next().unwrap_or(0);
                let (variable, bytes, align) = (number(), number(), number());
                let name = format!("msl.threadgroup.{variable}.{bytes}.{}", name_of(variable as usize));
                line = format!("{result} = getelementptr i8, ptr addrspace(3) @{name}, i64 0");
                variables.insert(name, (bytes, align.max(16)));
            } else if call.contains("@msl_dynamic_threadgroup_memory(") {
                line = format!("{result} = getelementptr i8, ptr addrspace(3) @msl_dynamic, i64 0");
            }
        }
        result.push_str(&line);
        result.push('\n');
    }
    for (name, (bytes, align)) in variables {
        let _ = writeln!(result, "@{name} = internal addrspace(3) global [{bytes} x i8] undef, align {align}");
    }
    if result.contains("@msl_dynamic,") {
        result.push_str("@msl_dynamic = external addrspace(3) global [0 x i8], align 16\n");
    }
    result
}

/// `msl_lane()` becomes a load from `msl_thread`, the entry point's second argument.
pub(crate) fn resolve_lane(ir: &str) -> String {
    if !ir.contains("@msl_lane()") {
        return ir.to_string();
    }
    const OFFSET: usize = 4 * (7 * 3 + 1); // thread_index_in_simdgroup
    let mut result = String::with_capacity(ir.len());
    let mut lines = ir.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("declare ") && line.contains("@msl_lane(") {
            continue;
        }
        match line.split_once(" = ").filter(|(_, call)| call.contains("@msl_lane()")) {
            Some((name, _)) => {
                let _ = writeln!(result, "{name} = load i32, ptr %msl.lane, align 4");
            }
            None => {
                result.push_str(line);
                result.push('\n');
            }
        }
        if line.starts_with("define ") {
            if let Some(label) = lines.next_if(|next| next.contains(':') && !next.starts_with(' ')) {
                let _ = writeln!(result, "{label}");
            }
            let _ = writeln!(result, "  %msl.lane = getelementptr i8, ptr %1, i64 {OFFSET}");
        }
    }
    result
}

/// `@x = external … constant i8` with the value it is given.
fn function_constant(line: &str, constants: &[(String, Option<ConstantValue>)]) -> Option<String> {
    let (name, rest) = line.strip_prefix('@')?.split_once(" = external ")?;
    let value = match name.strip_prefix("msl_defined_") {
        Some(of) => {
            let (_, value) = constants.iter().find(|(constant, _)| constant == of)?;
            u8::from(value.is_some()).to_string()
        }
        None => match constants.iter().find(|(constant, _)| constant == name)?.1? {
            ConstantValue::Bool(v) => u8::from(v).to_string(),
            ConstantValue::Short(v) => v.to_string(),
            ConstantValue::UShort(v) => v.to_string(),
            ConstantValue::Int(v) => v.to_string(),
            ConstantValue::UInt(v) => v.to_string(),
            ConstantValue::Float(v) => format!("0x{:016X}", f64::from(v).to_bits()),
        },
    };
    // `addrspace(2) constant i8, align 1` or, for what is not constant to C++, `addrspace(2) global …`.
    let (space, rest) = rest.split_once(' ').filter(|(word, _)| word.starts_with("addrspace")).or_else(|| {
        let at = rest.find("addrspace")?;
        rest[at..].split_once(' ')
    })?;
    let type_name = rest.trim_start_matches("constant ").trim_start_matches("global ").split(',').next()?;
    Some(format!("@{name} = internal {space} constant {type_name} {value}"))
}

/// Threadgroup variables that the optimized code still declares: number and bytes.
pub(crate) fn threadgroup_variables(code: &str) -> Vec<(usize, u32)> {
    let variable = |line: &str| {
        let declares = (line.starts_with('@') && line.contains(" = ")) || line.contains(".shared ");
        // `msl.threadgroup.42.128.sums`, and PTX's `msl_$_threadgroup_$_42_$_128_$_sums`.
        let (_, rest) = line.split_once("msl.threadgroup.").or_else(|| line.split_once("msl_$_threadgroup_$_"))?;
        let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        let pair = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        declares.then_some(pair)
    };
    code.lines().filter_map(variable).collect()
}

/// Names that the optimized IR uses and nobody defines.
pub(crate) fn undefined(ir: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in ir.lines() {
        let external = line.starts_with('@') && line.contains(" = external ");
        if (external || line.starts_with("declare "))
            && let Some(rest) = line.split('@').nth(1)
        {
            names.push(rest.split([' ', '(']).next().unwrap_or("").to_string());
        }
    }
    names
}
