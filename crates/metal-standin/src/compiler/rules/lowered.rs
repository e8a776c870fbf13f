//! What the program's tokens do not tell and clang's IR does: recursion, calls of kernels, casts between address spaces.

use std::collections::{HashMap, HashSet};

use super::super::lexer::{Place, closing};
use super::super::program::{Fault, Program};
use super::super::rewrite::Text;
use super::ADDRESS_SPACES;

/// What to look for in the IR of a program.
pub(crate) struct Questions {
    /// Names of kernels, and where they are declared.
    kernels: Vec<(String, Place)>,
}

/// What only the IR can tell, if the tokens look like something of that kind. Making IR takes time, so not every program's is.
pub(crate) fn may_refuse(program: &Program) -> Option<Questions> {
    let kernels = || program.functions.iter().filter(|f| f.is_kernel).map(|f| &program.tokens[f.name]);
    let is = |at: usize, text: &str| program.tokens.get(at).is_some_and(|t| t.is(text));
    let calls = |body: &std::ops::Range<usize>| {
        body.clone().any(|at| {
            let free = !matches!(&*program.tokens[at - 1].text, "." | "->");
            free && (is(at + 1, "(") || is(at + 1, "<")) && kernels().any(|name| is(at, &name.text))
        })
    };
    let bodies = program.functions.iter().map(|f| &f.body).chain(program.structs.iter().map(|s| &s.body));
    let suspicious = may_recurse(program) || bodies.clone().any(calls) || may_cast(program);
    suspicious.then(|| Questions { kernels: kernels().map(|t| (t.to_string(), t.place)).collect() })
}

/// Whether there is a cast to a pointer of another address space than that of what is cast, going by names: `(device T *)x` is
/// none if `x` is declared in `device` memory before, and may be one if not.
fn may_cast(program: &Program) -> bool {
    let tokens = &program.tokens;
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|t| t.is(text));
    // The names that were declared last in each space: `device const uchar *row`, `threadgroup float4 tile[64]`.
    let mut spaces: HashMap<&str, &str> = HashMap::new();
    for at in 0..tokens.len() {
        let Some(space) = ADDRESS_SPACES.iter().find(|space| is(at, space)) else { continue };
        let mut end = at + 1;
        let mut pointer = false;
        while end < tokens.len() && (tokens[end].is_name() || matches!(&*tokens[end].text, "*" | "&" | "::")) {
            pointer |= is(end, "*") || is(end, "&");
            end += 1;
        }
        let cast = pointer && is(end, ")") && !tokens[end - 1].is_name();
        if !cast {
            if end > at + 1 && tokens[end - 1].is_name() {
                spaces.insert(&tokens[end - 1].text, space);
            }
            continue;
        }
        // What is cast: the first name after signs and parentheses, and those of casts in it.
        let mut name = end + 1;
        while name < tokens.len() && !tokens[name].is_name() && matches!(&*tokens[name].text, "(" | "&" | "*") {
            name += 1;
        }
        let Some(operand) = tokens.get(name).filter(|t| t.is_name()) else { continue };
        let nested = ADDRESS_SPACES.iter().any(|word| operand.is(word)) || operand.is("const");
        if (nested && !operand.is(space)) || (!nested && spaces.get(&*operand.text) != Some(space)) {
            return true;
        }
    }
    false
}

/// Whether functions call each other in a circle, going by their names alone: overloads count as one, so that this may
/// be wrong, and only says whether to look closely.
fn may_recurse(program: &Program) -> bool {
    let name = |at: usize| &*program.tokens[at].text;
    let mut calls: HashMap<&str, HashSet<&str>> = HashMap::new();
    for function in &program.functions {
        let called = function
            .body
            .clone()
            .filter(|at| program.tokens[*at].is_name() && (name(at + 1) == "(" || name(at + 1) == "<"));
        calls.entry(name(function.name)).or_default().extend(called.map(name));
    }
    for found in &program.structs {
        // A method: any name before a parenthesis; what it calls is taken for all of the struct.
        for at in found.body.clone().filter(|at| program.tokens[*at].is_name() && name(at + 1) == "(") {
            let after = closing(&program.tokens, at + 1) + 1;
            let open = (after..found.body.end).take(4).find(|i| name(*i) == "{");
            if let Some(open) = open {
                let body = open..closing(&program.tokens, open);
                let called = body.filter(|i| program.tokens[*i].is_name() && name(i + 1) == "(").map(name);
                calls.entry(name(at)).or_default().extend(called);
            }
        }
    }
    circle(&calls).is_some()
}

/// A node on a circle of a graph, if it has one.
fn circle<'a>(calls: &HashMap<&'a str, HashSet<&'a str>>) -> Option<&'a str> {
    // What is left when nodes that call nobody are taken away, again and again, lies on circles or leads to one.
    let mut left: HashMap<&str, HashSet<&str>> = calls.clone();
    loop {
        let names: HashSet<&str> = left.keys().copied().collect();
        for called in left.values_mut() {
            called.retain(|name| names.contains(name));
        }
        let before = left.len();
        left.retain(|_, called| !called.is_empty());
        if left.len() == before {
            break;
        }
    }
    // Of these, one that reaches itself.
    let reaches = |start: &str| {
        let (mut seen, mut open) = (HashSet::new(), vec![start]);
        while let Some(name) = open.pop() {
            for next in &left[name] {
                if *next == start {
                    return true;
                }
                if seen.insert(*next) {
                    open.push(next);
                }
            }
        }
        false
    };
    let mut names: Vec<&str> = left.keys().copied().collect();
    names.sort_unstable();
    names.into_iter().find(|name| reaches(name))
}

/// A function of the IR.
#[derive(Default)]
struct Function<'a> {
    lines: Vec<&'a str>,
    /// Its number among the IR's descriptions.
    about: &'a str,
    is_method: bool,
}

/// The symbol that a line calls.
fn callee(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" call ").filter(|_| line.starts_with("  "))?;
    rest.split_once('@').and_then(|(_, name)| name.split('(').next())
}

/// The number behind `!dbg `.
fn debug(line: &str) -> &str {
    line.split_once("!dbg ").map_or("", |(_, number)| number.split([' ', ',', '{']).next().unwrap_or(""))
}

/// Whether nothing is left to do after the call in line `at` but to return: the call becomes a loop.
fn is_tail(lines: &[&str], at: usize) -> bool {
    let mut next = at + 1;
    // Each step is one line, and no line is needed twice on the way to a `ret`.
    for _ in 0..lines.len() {
        let Some(line) = lines.get(next).map(|line| line.trim()) else { return false };
        next += 1;
        let operation = line.split_once(" = ").filter(|(name, _)| name.starts_with('%')).map_or(line, |(_, rest)| rest);
        match operation.split(' ').next().unwrap_or("") {
            "ret" => return true,
            "br" => {
                let Some(label) = operation.strip_prefix("br label %").map(|rest| rest.split(',').next().unwrap_or(""))
                else {
                    return false;
                };
                let start =
                    lines.iter().position(|line| line.strip_prefix(label).is_some_and(|rest| rest.starts_with(':')));
                let Some(start) = start else { return false };
                next = start + 1;
            }
            "store" | "load" | "phi" | "" => {}
            _ if operation.contains("@llvm.lifetime") || operation.contains("@llvm.memcpy") => {}
            _ => return false,
        }
    }
    false
}

/// What is wrong in unoptimized IR with line tables. A method that calls itself last of all is let pass: Apple's compiler takes
/// the one in MLX (`LoopedElemToLoc::next`, which becomes a loop).
pub(crate) fn check(ir: &str, text: &Text, questions: &Questions) -> Option<Fault> {
    let mut functions: HashMap<&str, Function<'_>> = HashMap::new();
    let mut about: HashMap<&str, &str> = HashMap::new();
    let mut order = Vec::new();
    let mut current = "";
    for line in ir.lines() {
        if line.starts_with("define ") {
            let Some((_, rest)) = line.split_once('@') else { continue };
            current = rest.split('(').next().unwrap_or("");
            order.push(current);
            let is_method = line.contains("%this");
            functions.insert(current, Function { lines: Vec::new(), about: debug(line), is_method });
        } else if line.starts_with('}') {
            current = "";
        } else if let Some(function) = functions.get_mut(current) {
            function.lines.push(line);
        } else if let Some((number, rest)) = line.split_once(" = ").filter(|_| line.starts_with('!')) {
            about.insert(number, rest);
        }
    }
    let field = |number: &str, name: &str| {
        let described = about.get(number).and_then(|about| about.split_once(name));
        described.map_or("", |(_, rest)| rest.split([',', '"', ')']).next().unwrap_or(""))
    };
    let place = |number: &str| {
        let count = |name: &str| field(number, name).trim().parse().ok();
        let place = text.place(count("line: ").unwrap_or(1), count("column: ").unwrap_or(1));
        Place { line: place.line, column: place.column.max(1) }
    };
    let name = |function: &Function<'_>| field(function.about, "name: \"").to_string();
    // A function of the program, not of the library.
    let is_ours = |function: &Function<'_>| field(field(function.about, "file: "), "filename: \"").contains("<stdin>");
    let is_kernel = |function: &Function<'_>| {
        let (name, line) = (name(function), place(function.about).line);
        let name = name.split('<').next().unwrap_or("");
        questions.kernels.iter().any(|kernel| kernel.0 == name && kernel.1.line == line)
    };
    let mut calls: HashMap<&str, HashSet<&str>> = HashMap::new();
    for symbol in &order {
        let function = &functions[symbol];
        let called = calls.entry(symbol).or_default();
        for (at, line) in function.lines.iter().enumerate() {
            if let Some(to) = callee(line) {
                if !(function.is_method && to == *symbol && is_tail(&function.lines, at)) {
                    called.insert(to);
                }
                if let Some(other) = functions.get(to).filter(|other| is_ours(other) && is_kernel(other)) {
                    let message = format!("'{}' is a kernel: functions cannot call it", name(other));
                    return Some(Fault { place: place(debug(line)), message });
                }
            }
            if line.contains(" = addrspacecast ") && is_ours(function) {
                let message = "a cast cannot change the address space of a pointer or reference".to_string();
                return Some(Fault { place: place(debug(line)), message });
            }
        }
    }
    let found = circle(&calls)?;
    let function = &functions[found];
    let message =
        format!("recursion is not supported in Metal: '{}' calls itself, or what it calls does", name(function));
    Some(Fault { place: place(function.about), message })
}
