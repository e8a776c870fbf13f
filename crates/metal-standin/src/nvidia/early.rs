//! PTX whose kernel may be on the GPU before the kernels in front of it have ended.
//!
//! Such a kernel waits (`griddepcontrol.wait`) where it first touches memory that others write. What comes before that wait
//! overlaps with the end of the kernel in front: finding out who it is and reading its arguments, and, where a buffer is written
//! by nobody in the same command buffer, reading that too. A layer's weights are such a buffer, and they are most of what
//! decoding reads, so a matrix is on its way while the vector that it is multiplied with is still being computed.
//!
//! Where the waits go is found as a compiler would: registers that addresses are made of are traced back to the parameters
//! they come from, and on every path the first instruction that is not known to be harmless gets a wait in front of it. A
//! path without one waits before it returns, so that a kernel never ends before those that it follows. Without an early start
//! both instructions do nothing.

use std::collections::{HashMap, HashSet};

/// PTX of one kernel, taken apart.
pub struct Ptx<'a> {
    /// Lines up to and with the `{` of the body, and behind its instructions.
    head: &'a [&'a str],
    body: &'a [&'a str],
    tail: &'a [&'a str],
    /// For each 64-bit register the parameters that it comes from.
    origins: HashMap<&'a str, Origin>,
}

/// Where an address may come from.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Origin {
    /// Bit `i`: the parameter of that number.
    parameters: u64,
    /// Or from anywhere: it was itself read from memory.
    anywhere: bool,
}

/// Instructions that touch no memory but a thread's or a threadgroup's own, or that nobody writes. What is not here is taken for
/// one that does.
const HARMLESS: &[&str] = &[
    ".",
    "ld.param.",
    "ld.shared.",
    "st.shared.",
    "ld.volatile.shared.",
    "st.volatile.shared.",
    "atom.shared.",
    "red.shared.",
    "ld.local.",
    "st.local.",
    "ld.const.",
    "bar.",
    "barrier.",
    "shfl.",
    "vote.",
    "activemask.",
    "redux.",
    "bra",
    "mov.",
    "cvta.",
    "cvt.",
    "add.",
    "sub.",
    "mul.",
    "mad.",
    "fma.",
    "div.",
    "rem.",
    "shl.",
    "shr.",
    "shf.",
    "and.",
    "or.",
    "xor.",
    "not.",
    "neg.",
    "abs.",
    "min.",
    "max.",
    "setp.",
    "set.",
    "selp.",
    "slct.",
    "bfe.",
    "bfi.",
    "prmt.",
    "lop3.",
    "popc.",
    "clz.",
    "brev.",
    "ex2.",
    "lg2.",
    "rcp.",
    "sqrt.",
    "rsqrt.",
    "sin.",
    "cos.",
    "tanh.",
    "copysign.",
    "testp.",
    "mma.",
];
/// As a parameter: the thread's own stack.
const STACK: u64 = 1 << 63;
/// Ways to continue that are not followed here.
const OTHER_BRANCHES: [&str; 3] = ["brx.", "call", "trap"];
const WAIT: &str = "\tgriddepcontrol.wait;";
const LET_NEXT_START: &str = "\tgriddepcontrol.launch_dependents;";

/// An instruction without its predicate, its comment and its semicolon; empty for what is none.
fn instruction(line: &str) -> &str {
    let line = line.split("//").next().unwrap_or("").trim();
    let line =
        if line.starts_with('@') { line.split_once(char::is_whitespace).map_or("", |(_, rest)| rest) } else { line };
    line.trim().trim_end_matches(';').trim_end()
}

fn label(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix('$')?;
    line.trim_start().split_once(':').map(|(name, _)| name)
}

/// Names of 64-bit registers.
fn registers(operands: &str) -> impl Iterator<Item = &str> {
    let name = |c: char| c == '%' || c == '_' || c.is_ascii_alphanumeric();
    operands.split(move |c| !name(c)).filter(|word| word.starts_with("%rd") || word.starts_with("%SP"))
}

impl<'a> Ptx<'a> {
    /// Takes the only kernel of `lines` apart; `None` if that is not what they are.
    pub fn new(lines: &'a [&'a str]) -> Option<Ptx<'a>> {
        let start = lines.iter().position(|line| line.trim_end() == "{")? + 1;
        let end = start + lines[start..].iter().position(|line| line.trim_end() == "}")?;
        let mut ptx =
            Ptx { head: &lines[..start], body: &lines[start..end], tail: &lines[end..], origins: HashMap::new() };
        if ptx.tail.iter().any(|line| line.trim_end() == "{") {
            return None;
        }
        ptx.find_origins();
        Some(ptx)
    }

    fn find_origins(&mut self) {
        loop {
            let mut changed = false;
            for line in self.body {
                let Some((name, operands)) = instruction(line).split_once(char::is_whitespace) else { continue };
                let several = operands.trim_start().starts_with('{');
                let Some((to, from)) = operands.split_once(if several { '}' } else { ',' }) else { continue };
                let origin = if name.starts_with("ld.param.") {
                    let digits = from.trim().trim_end_matches(']').rsplit('_').next().and_then(|n| n.parse().ok());
                    match digits {
                        Some(number @ 0..63) => Origin { parameters: 1 << number, anywhere: false },
                        _ => Origin { parameters: 0, anywhere: true },
                    }
                } else if name.starts_with("ld.") {
                    Origin { parameters: 0, anywhere: true }
                } else {
                    self.origin(from)
                };
                // Stores and branches have no result; what they name is none the worse for it.
                for register in registers(to) {
                    let known = self.origins.entry(register).or_default();
                    let both = Origin {
                        parameters: known.parameters | origin.parameters,
                        anywhere: known.anywhere | origin.anywhere,
                    };
                    changed |= *known != both;
                    *known = both;
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn origin(&self, operands: &str) -> Origin {
        let mut all = Origin::default();
        for register in registers(operands) {
            let origin = self.origins.get(register).copied().unwrap_or_default();
            all.parameters |= if register.starts_with("%SP") { STACK } else { origin.parameters };
            all.anywhere |= origin.anywhere;
        }
        all
    }

    /// Of an instruction that reads or writes memory.
    fn origin_of_address(&self, text: &str) -> Origin {
        let address = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        match address.map(|(address, _)| self.origin(address)) {
            Some(origin) if origin.parameters != 0 => origin,
            _ => Origin { parameters: 0, anywhere: true },
        }
    }

    /// Bit `i`: memory that parameter `i` points to may be written. All bits, if that is not known.
    pub fn written(&self) -> u64 {
        let mut written = 0;
        for line in self.body {
            let text = instruction(line);
            let writes = ["st.", "atom.", "red.", "cp.", "wmma.store."].iter().any(|start| text.starts_with(start));
            if OTHER_BRANCHES.iter().any(|start| text.starts_with(start)) {
                return u64::MAX;
            }
            if writes && !HARMLESS.iter().any(|start| text.starts_with(start)) {
                let origin = self.origin_of_address(text);
                if origin.anywhere {
                    return u64::MAX;
                }
                written |= origin.parameters;
            }
        }
        written & !STACK
    }

    /// Whether an instruction may run while kernels in front still do; `constant` has the parameters whose memory no kernel of
    /// the command buffer writes.
    fn is_harmless(&self, text: &str, constant: u64) -> bool {
        if text.is_empty() || HARMLESS.iter().any(|start| text.starts_with(start)) {
            return true;
        }
        let origin = self.origin_of_address(text);
        let reads = text.starts_with("ld.") && origin.parameters & !(constant | STACK) == 0;
        let own = text.starts_with("st.") && origin.parameters == STACK;
        (reads || own) && !origin.anywhere
    }

    /// The text, with waits on every path, and the kernel behind let in at once: it waits, too.
    pub fn with_early_start(&self, constant: u64) -> String {
        let waits = self.waits(constant);
        let length = |lines: &[&str]| lines.iter().map(|line| line.len() + 1).sum::<usize>();
        let mut text = String::with_capacity(length(self.head) + length(self.body) + length(self.tail) + 256);
        let mut push = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        self.head.iter().for_each(|line| push(line));
        let mut begun = false;
        for (at, line) in self.body.iter().enumerate() {
            let code = instruction(line);
            // Behind the declarations, of which more may follow in blocks of their own.
            if !begun && !code.is_empty() && !code.starts_with('.') {
                push(LET_NEXT_START);
                begun = true;
            }
            if waits.contains(&at) {
                push(WAIT);
            }
            push(line);
        }
        self.tail.iter().for_each(|line| push(line));
        text
    }

    /// The lines that a wait stands in front of.
    fn waits(&self, constant: u64) -> HashSet<usize> {
        let code: Vec<&str> = self.body.iter().map(|line| instruction(line)).collect();
        let first = code.iter().position(|text| !text.is_empty() && !text.starts_with('.')).unwrap_or(0);
        if code.iter().any(|text| OTHER_BRANCHES.iter().any(|start| text.starts_with(start))) {
            return HashSet::from([first]);
        }
        // Blocks begin at labels and behind branches.
        let mut starts = vec![first];
        for at in first + 1..code.len() {
            if label(self.body[at]).is_some() || ends_block(code[at - 1]) {
                starts.push(at);
            }
        }
        let block_of: HashMap<&str, usize> =
            starts.iter().enumerate().filter_map(|(block, &at)| Some((label(self.body[at])?, block))).collect();
        let end_of = |block: usize| starts.get(block + 1).copied().unwrap_or(code.len());

        // Of each block: the first line that needs a wait in front, if none was before; and the blocks behind it.
        let mut needs = vec![None; starts.len()];
        let mut before = vec![Vec::new(); starts.len()];
        for block in 0..starts.len() {
            let lines = starts[block]..end_of(block);
            needs[block] = lines.clone().find(|&at| {
                let returns = code[at] == "ret" || code[at] == "exit";
                label(self.body[at]).is_none() && (returns || !self.is_harmless(code[at], constant))
            });
            let last = lines.end - 1;
            let always = !self.body[last].trim_start().starts_with('@');
            if code[last].starts_with("bra") {
                let target = code[last].split_whitespace().last().and_then(|name| block_of.get(name));
                match target {
                    Some(&to) => before[to].push(block),
                    None => return HashSet::from([first]),
                }
            }
            let leaves = always && ends_block(code[last]);
            if !leaves && block + 1 < starts.len() {
                before[block + 1].push(block);
            }
        }
        // A block has waited if all that lead to it have, or wait in themselves.
        let mut waited = vec![true; starts.len()];
        waited[0] = false;
        loop {
            let next: Vec<bool> = (0..starts.len())
                .map(|block| block > 0 && before[block].iter().all(|&from| waited[from] || needs[from].is_some()))
                .collect();
            if next == waited {
                break;
            }
            waited = next;
        }
        (0..starts.len()).filter(|&block| !waited[block]).filter_map(|block| needs[block]).collect()
    }
}

fn ends_block(text: &str) -> bool {
    text.starts_with("bra") || text == "ret" || text == "exit"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a shape (0), then a weight (1), then in a loop an input (2), and writes an output (3).
    const KERNEL: &str = "\
.visible .entry k(\n\t.param .u64 k_param_0\n)\n{\n\t.reg .b32 \t%r<2>;\n\n// %bb.0:\n\
\tmov.u32 \t%r1, %tid.x;\n\
\tsetp.ge.u32 \t%p1, %r1, 9;\n\
\t@%p1 bra \t$L1;\n\
// %bb.1:\n\
\tld.param.u64 \t%rd1, [k_param_0];\n\
\tld.param.u64 \t%rd2, [k_param_1];\n\
\tld.param.u64 \t%rd3, [k_param_2];\n\
\tld.param.u64 \t%rd4, [k_param_3];\n\
\tld.global.nc.u32 \t%r2, [%rd1+4];\n\
\tmul.wide.u32 \t%rd5, %r2, 4;\n\
\tadd.s64 \t%rd6, %rd2, %rd5;\n\
\tld.global.v4.u32 \t{%r3, %r4, %r5, %r6}, [%rd6];\n\
$L2:                              // the loop\n\
\tadd.s64 \t%rd7, %rd3, %rd5;\n\
\tld.global.f32 \t%f1, [%rd7];\n\
\tsetp.ne.u32 \t%p2, %r2, 0;\n\
\t@%p2 bra \t$L2;\n\
// %bb.3:\n\
\tst.global.f32 \t[%rd4], %f1;\n\
$L1:\n\
\tret;\n\
}\n";

    fn early(text: &str, constant: u64) -> Vec<String> {
        let lines: Vec<&str> = text.lines().collect();
        Ptx::new(&lines).unwrap().with_early_start(constant).lines().map(|line| line.trim().into()).collect()
    }

    /// What stands behind each wait.
    fn waits(lines: &[String]) -> Vec<&str> {
        let behind = |at: usize| lines[at + 1].split_whitespace().next().unwrap();
        (0..lines.len()).filter(|&at| lines[at] == WAIT.trim()).map(behind).collect()
    }

    #[test]
    fn a_kernel_waits_before_it_looks_at_what_others_write() {
        // The shape and the weight are read before; threads that are too many wait before they return.
        let lines = early(KERNEL, 0b0011);
        assert_eq!(waits(&lines), ["ld.global.f32", "ret;"]);
        let at = |what: &str| lines.iter().position(|line| line.contains(what)).unwrap();
        assert!(at("ld.global.v4") < at("griddepcontrol.wait"), "{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.contains("launch_dependents")).count(), 1);
        assert!(at("launch_dependents") < at("mov.u32"));
        // A weight that is written in the same command buffer is waited for, and no wait stands in the loop then.
        let lines = early(KERNEL, 0b0001);
        assert_eq!(waits(&lines), ["ld.global.v4.u32", "ret;"]);
        let lines = early(KERNEL, 0);
        assert_eq!(waits(&lines), ["ld.global.nc.u32", "ret;"]);
    }

    #[test]
    fn what_is_written_is_known() {
        let lines: Vec<&str> = KERNEL.lines().collect();
        assert_eq!(Ptx::new(&lines).unwrap().written(), 0b1000);
        let other = KERNEL.replace("st.global.f32 \t[%rd4]", "atom.global.add.u32 %r9, [%rd7+8]");
        let lines: Vec<&str> = other.lines().collect();
        assert_eq!(Ptx::new(&lines).unwrap().written(), 0b0100);
        // An address that was read from memory may be anything's.
        let other = KERNEL.replace("mul.wide.u32 \t%rd5, %r2, 4", "ld.global.u64 \t%rd4, [%rd1]");
        let lines: Vec<&str> = other.lines().collect();
        assert_eq!(Ptx::new(&lines).unwrap().written(), u64::MAX);
        let called = KERNEL.replace("st.global.f32 \t[%rd4], %f1", "call.uni f");
        let lines: Vec<&str> = called.lines().collect();
        assert_eq!(Ptx::new(&lines).unwrap().written(), u64::MAX);
        assert_eq!(waits(&early(&called, 0b0011)), ["mov.u32"]);
    }

    #[test]
    fn an_address_of_two_parameters_is_both() {
        let text = KERNEL.replace("add.s64 \t%rd6, %rd2, %rd5", "selp.b64 \t%rd6, %rd2, %rd3, %p1");
        assert_eq!(waits(&early(&text, 0b0011)), ["ld.global.v4.u32", "ret;"]);
        assert_eq!(waits(&early(&text, 0b0111)), ["st.global.f32", "ret;"]);
    }
}
