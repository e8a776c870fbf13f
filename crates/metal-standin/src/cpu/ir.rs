//! The pass over a kernel's LLVM IR, in text.
//!
//! Always: the two functions that kernels call become jumps through a table that the executor fills; threadgroup arrays
//! become visible symbols, listed in a second table; and what the compiler said about the processor is dropped, so that
//! clang's `-march` decides.
//!
//! When checking: before every access to `device` (address space 1), `constant` (2) or `threadgroup` (3) memory a call
//! with address, size, kind and line; threadgroup arrays get a gap behind them, where an index one too far lands.
//! The pass wants the code as it was written: an optimiser may read early what is read only under a condition,
//! and that looks like a race. So the compiler hands out IR before optimisation, `-O0` here does no more than inline the
//! header's `always_inline` functions, and clang optimises what this pass returns.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// `kind` of `msl_access`: the low bits say what is done, the next ones the address space.
pub const READ: u32 = 0;
/// A store.
pub const WRITE: u32 = 1;
/// An atomic operation, load or store.
pub const ATOMIC: u32 = 2;
/// A copy of many bytes, among them perhaps the padding of a structure.
pub const COPY: u32 = 4;
/// An atomic operation that also reads.
pub const UPDATE: u32 = 8;
/// Address spaces start at this bit.
pub const SPACE: u32 = 4;

/// Functions that kernels may call without being given them; the executor supplies their addresses in this order.
pub const HOOKS: [&str; 5] = ["msl_barrier", "msl_simd_exchange", "msl_access", "msl_line", "msl_lane"];

/// Rewrites the IR of one kernel; with `checked`, instruments it. `entry` is the symbol of its entry point.
pub fn rewrite(text: &str, entry: &str, checked: bool) -> Result<String, String> {
    let lines = if checked { Lines::new(text, entry) } else { Lines::default() };
    let mut out = String::with_capacity(text.len() + text.len() / 2 + 4096);
    let defines = text.lines().filter(|line| line.starts_with("define"));
    let defined: HashSet<&str> =
        defines.filter_map(|line| line.split(' ').rfind(|word| word.starts_with('#'))).collect();
    let mut arrays = Vec::new();
    let mut waits = false;
    for line in text.lines() {
        if line.starts_with("declare") && HOOKS.iter().any(|hook| line.contains(&format!("@{hook}("))) {
            waits = true;
            continue;
        }
        if let Some((group, _)) = line.strip_prefix("attributes ").and_then(|rest| rest.split_once(" = { ")) {
            // A call that threads meet in must stay under the conditions that it was written under, at every level.
            let convergent = if defined.contains(group) { "{ convergent " } else { "{ " };
            writeln!(out, "{}", without_processor(line).replacen("{ ", convergent, 1)).expect("a string");
            continue;
        }
        if line.starts_with('@')
            && let Some(array) = Array::parse(line)
        {
            out.push_str(&array.definition(line, checked));
            arrays.push(array);
            continue;
        }
        if checked && line.starts_with("  ") {
            instrument(line.trim_start(), &lines, &mut out).map_err(|why| format!("{why} in `{}`", line.trim()))?;
        }
        out.push_str(line);
        out.push('\n');
    }
    write_tables(&mut out, &arrays, checked);
    // Whether the kernel has barriers or exchanges: without them its threads need no fibers.
    writeln!(out, "@msl_waits = constant i8 {}", u8::from(waits)).expect("a string");
    Ok(out)
}

/// A variable in `threadgroup` or (program scope) `constant` memory.
struct Array {
    name: String,
    space: u32,
    kind: String,
}

impl Array {
    /// `@name = internal addrspace(3) global [32 x float] zeroinitializer, align 16`.
    fn parse(line: &str) -> Option<Array> {
        let (name, rest) = line.split_once(" = ").filter(|(_, rest)| !rest.starts_with("external "))?;
        let (_, rest) = rest.split_once("addrspace(")?;
        let (space, rest) = rest.split_once(") ")?;
        let rest = ["externally_initialized ", "global ", "constant "]
            .iter()
            .fold(rest, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        let space = space.parse().ok().filter(|space| (2..=3).contains(space))?;
        Some(Array { name: name.into(), space, kind: leading_type(rest).into() })
    }

    /// A threadgroup array: visible, so that nothing is concluded from what this module stores there (each thread runs
    /// this code); a constant: as it was.
    fn definition(&self, line: &str, checked: bool) -> String {
        if self.space != 3 {
            return format!("{line}\n");
        }
        let align = line.rsplit_once(", align ").map_or("16", |(_, align)| align);
        let kind = if checked { format!("{{ {}, [64 x i8] }}", self.kind) } else { self.kind.clone() };
        format!("{} = hidden addrspace(3) global {kind} zeroinitializer, align {align}\n", self.name)
    }
}

/// An attribute group without the processor that it was compiled for.
fn without_processor(line: &str) -> String {
    let mut kept = line.to_string();
    for key in ["\"target-cpu\"=\"", "\"target-features\"=\"", "\"tune-cpu\"=\""] {
        if let Some(start) = kept.find(key)
            && let Some(length) = kept[start + key.len()..].find('"')
        {
            kept.replace_range(start..start + key.len() + length + 1, "");
        }
    }
    kept
}

/// The hooks' table and the functions that jump through it; the arrays' table.
fn write_tables(out: &mut String, arrays: &[Array], checked: bool) {
    let mut hook = |index: usize, result: &str, name: &str, parameters: &str, prologue: &str, arguments: &str| {
        let (keep, give) = if result == "void" { ("", "ret void") } else { ("%r = ", "ret i32 %r") };
        write!(
            out,
            "define internal {result} @{name}({parameters}) alwaysinline convergent {{\n{prologue}  \
             %f = load ptr, ptr getelementptr ([{count} x ptr], ptr @msl_hooks, i32 0, i32 {index})\n  \
             {keep}call {result} %f({arguments}) convergent nomerge\n  {give}\n}}\n",
            count = HOOKS.len(),
        )
        .expect("a string");
    };
    hook(0, "void", "msl_barrier", "i32 %scope, i32 %flags", "", "i32 %scope, i32 %flags");
    let arguments = "ptr %mine, ptr %all, i32 %bytes";
    hook(1, "i32", "msl_simd_exchange", arguments, "", arguments);
    // The compiler replaces this one when it has inlined all of the kernel.
    hook(4, "i32", "msl_lane", "", "", "");
    if checked {
        for space in 1..=3 {
            let pointer = format!("ptr addrspace({space}) %p, i64 %size, i32 %kind, i32 %line");
            let cast = format!("  %q = addrspacecast ptr addrspace({space}) %p to ptr\n");
            let arguments = "ptr %q, i64 %size, i32 %kind, i32 %line";
            hook(2, "void", &format!("msl_access_{space}"), &pointer, &cast, arguments);
        }
        hook(3, "void", "msl_line", "i32 %line", "", "i32 %line");
    }
    // Conversions to bfloat, for processors without an instruction: the run-time library of older compilers lacks it.
    if out.contains("bfloat") {
        out.push_str(BFLOAT);
    }
    let row = "{ ptr, i64, i64, ptr }";
    let mut rows = Vec::new();
    for (index, Array { name, space, kind }) in arrays.iter().enumerate() {
        let label = name.trim_start_matches('@').trim_matches('"');
        writeln!(out, "@msl_name.{index} = private constant [{} x i8] c\"{label}\\00\"", label.len() + 1)
            .expect("a string");
        rows.push(format!(
            "{row} {{ ptr addrspacecast (ptr addrspace({space}) {name} to ptr), i64 {}, i64 {space}, ptr @msl_name.{index} }}",
            size_of(kind)
        ));
    }
    rows.push(format!("{row} zeroinitializer"));
    writeln!(out, "@msl_arrays = constant [{} x {row}] [{}]", rows.len(), rows.join(", ")).expect("a string");
    writeln!(out, "@msl_hooks = global [{} x ptr] zeroinitializer", HOOKS.len()).expect("a string");
}

/// Round to nearest even, NaN kept quiet.
const BFLOAT: &str = "
define linkonce_odr hidden bfloat @__truncsfbf2(float %x) {
  %b = bitcast float %x to i32
  %top = lshr i32 %b, 16
  %odd = and i32 %top, 1
  %bias = add i32 %odd, 32767
  %sum = add i32 %b, %bias
  %rounded = lshr i32 %sum, 16
  %quiet = or i32 %top, 64
  %nan = fcmp uno float %x, 0.0
  %choice = select i1 %nan, i32 %quiet, i32 %rounded
  %short = trunc i32 %choice to i16
  %r = bitcast i16 %short to bfloat
  ret bfloat %r
}
@llvm.compiler.used = appending global [1 x ptr] [ptr @__truncsfbf2], section \"llvm.metadata\"
";

/// Writes the calls that go before `line`, if it touches memory that is checked.
fn instrument(line: &str, lines: &Lines, out: &mut String) -> Result<(), String> {
    let instruction = match line.split_once(" = ") {
        Some((result, rest)) if result.starts_with('%') => rest,
        _ => line,
    };
    let (operation, rest) = instruction.split_once(' ').unwrap_or((instruction, ""));
    let source_line = || lines.of(line);
    let mut access = |pointer: Option<(u32, &str)>, size: &str, kind: u32| {
        if let Some((space, operand)) = pointer {
            let kind = kind | space << SPACE;
            let at = source_line();
            writeln!(
                out,
                "  call void @msl_access_{space}(ptr addrspace({space}) {operand}, i64 {size}, i32 {kind}, i32 {at})"
            )
            .expect("a string");
        }
    };
    let modifiers = ["atomic ", "volatile ", "weak "];
    let plain = modifiers.iter().fold(rest, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
    let atomic = if rest.starts_with("atomic ") { ATOMIC } else { 0 };
    match operation {
        "load" | "store" => {
            let parts = split(plain);
            let kind = if operation == "load" { READ } else { WRITE };
            let pointer = parts.get(1).and_then(|part| pointer(part));
            access(pointer, &size_of(leading_type(parts[0])), kind | atomic);
        }
        "atomicrmw" => {
            let parts = split(plain);
            let at = parts[0].find("ptr ").ok_or("no pointer")?;
            let size = size_of(leading_type(parts.get(1).ok_or("no operand")?));
            access(pointer(&parts[0][at..]), &size, WRITE | ATOMIC | UPDATE);
        }
        "cmpxchg" => {
            let parts = split(plain);
            let size = size_of(leading_type(parts.get(1).ok_or("no operand")?));
            access(pointer(parts[0]), &size, WRITE | ATOMIC | UPDATE);
        }
        "call" | "tail" if line.contains("@llvm.mem") => {
            let arguments = line.split_once('(').and_then(|_| arguments(line)).ok_or("arguments not understood")?;
            let [to, from, size, ..] = arguments[..] else { return Err("too few arguments".into()) };
            let (_, size) = size.rsplit_once(' ').ok_or("no size")?;
            if !line.contains("@llvm.memset") {
                access(pointer(from), size, READ | COPY);
            }
            access(pointer(to), size, WRITE | COPY);
        }
        "call" | "tail" if line.contains("@msl_barrier(") || line.contains("@msl_simd_exchange(") => {
            writeln!(out, "  call void @msl_line(i32 {})", source_line()).expect("a string");
        }
        "call" | "tail" if line.contains("@llvm.masked.") && line.contains("ptr addrspace(") => {
            return Err("vectorised code cannot be checked".into());
        }
        _ => {}
    }
    Ok(())
}

/// The arguments of the called intrinsic.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let start = line.find("@llvm.").and_then(|name| Some(name + line[name..].find('(')? + 1))?;
    let end = start + matching(&line[start..])?;
    Some(split(&line[start..end]))
}

/// Where the bracket closes that was opened before `text`.
fn matching(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b')' | b']' | b'}' | b'>' if depth == 0 => return Some(at),
            b')' | b']' | b'}' | b'>' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Pieces between commas that are in no bracket.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b')' | b']' | b'}' | b'>' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

/// The type that `text` starts with: a word, or brackets; `ptr addrspace(1)` whole.
fn leading_type(text: &str) -> &str {
    let end = match text.as_bytes().first() {
        Some(b'[' | b'{' | b'<') => 1 + matching(&text[1..]).map_or(text.len() - 1, |at| at + 1),
        _ => text.find([' ', ',']).unwrap_or(text.len()),
    };
    match text[..end] == *"ptr" && text[end..].starts_with(" addrspace(") {
        true => &text[..text.find(')').map_or(end, |at| at + 1)],
        false => &text[..end],
    }
}

/// The operand of `ptr addrspace(N) ATTRIBUTES OPERAND ORDERING`, if N is a checked space.
fn pointer(text: &str) -> Option<(u32, &str)> {
    let (space, mut rest) = text.strip_prefix("ptr addrspace(")?.split_once(") ")?;
    let space = space.parse().ok().filter(|space| (1..=3).contains(space))?;
    loop {
        let word = rest.split(' ').next()?;
        if word.starts_with(['%', '@']) {
            return Some((space, word));
        }
        if ["getelementptr", "inttoptr", "addrspacecast"].contains(&word) {
            let open = rest.find('(')?;
            return Some((space, &rest[..open + 1 + matching(&rest[open + 1..])? + 1]));
        }
        if word == "null" || word == "undef" || word == "poison" {
            return Some((space, word));
        }
        rest = rest.get(word.len() + 1..)?;
    }
}

/// Bytes that a value of this type takes when it is stored, as an IR constant.
fn size_of(kind: &str) -> String {
    fn bits(kind: &str) -> Option<u64> {
        match kind {
            "half" | "bfloat" => Some(16),
            "float" => Some(32),
            "double" | "ptr" => Some(64),
            _ if kind.starts_with("ptr ") => Some(64),
            _ => kind.strip_prefix('i')?.parse().ok(),
        }
    }
    let vector = || {
        let (count, element) = kind.strip_prefix('<')?.strip_suffix('>')?.split_once(" x ")?;
        Some(count.trim().parse::<u64>().ok()? * bits(element)?)
    };
    match bits(kind).or_else(vector) {
        Some(bits) => bits.div_ceil(8).to_string(),
        None => format!("ptrtoint (ptr getelementptr ({kind}, ptr null, i32 1) to i64)"),
    }
}

/// Debug locations: from `!dbg !N` to a line of the program.
#[derive(Default)]
struct Lines {
    /// Metadata number to the line of the program, not of the header whose function was inlined there.
    lines: HashMap<u32, u32>,
}

impl Lines {
    fn new(text: &str, entry: &str) -> Lines {
        let nodes: HashMap<u32, &str> = text
            .lines()
            .filter_map(|line| line.strip_prefix('!')?.split_once(" = "))
            .filter_map(|(number, node)| Some((number.parse().ok()?, node)))
            .collect();
        let file_name = |node: u32| {
            let file = nodes.get(&reference(nodes.get(&node)?, "file: !")?)?;
            let name = file.split_once("filename: \"")?.1.split_once('"')?.0;
            Some(name.rsplit('/').next().unwrap_or(name))
        };
        let definition = text.lines().find(|line| line.starts_with("define") && line.contains(&format!("@{entry}(")));
        let program = definition.and_then(|line| file_name(reference(line, "!dbg !")?));
        let line_of = |mut number: u32| {
            let mut line = None;
            while let Some(node) = nodes.get(&number).filter(|node| node.contains("!DILocation(")) {
                line = reference(node, "line: ").or(line);
                let here = reference(node, "scope: !").and_then(file_name);
                match reference(node, "inlinedAt: !") {
                    Some(outer) if here != program => number = outer,
                    _ => break,
                }
            }
            line
        };
        Lines { lines: nodes.keys().filter_map(|&number| Some((number, line_of(number)?))).collect() }
    }

    /// The line of an instruction, 0 if it has none.
    fn of(&self, instruction: &str) -> u32 {
        reference(instruction, "!dbg !").and_then(|number| self.lines.get(&number).copied()).unwrap_or(0)
    }
}

/// The number behind `key`.
fn reference(text: &str, key: &str) -> Option<u32> {
    let rest = &text[text.find(key)? + key.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}
