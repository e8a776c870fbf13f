//! What Apple's compiler refuses and clang would let pass.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Source;
use super::lexer::{Kind, Place, SCALARS, Token, closing, closing_angle};
use super::program::{Fault, Faults, Program};
use super::rewrite::Text;

/// Words that MSL has not.
const FORBIDDEN: [(&str, &str); 11] = [
    ("double", "'double' is not supported in Metal"),
    ("goto", "'goto' is not supported in Metal"),
    ("new", "'new' is not supported in Metal: memory is never allocated by a kernel"),
    ("delete", "'delete' is not supported in Metal: memory is never allocated by a kernel"),
    ("virtual", "'virtual' functions are not supported in Metal"),
    ("try", "exceptions ('try') are not supported in Metal"),
    ("throw", "exceptions ('throw') are not supported in Metal"),
    ("typeid", "run-time type information ('typeid') is not supported in Metal"),
    ("dynamic_cast", "run-time type information ('dynamic_cast') is not supported in Metal"),
    ("thread_local", "'thread_local' is not supported in Metal"),
    ("asm", "'asm' is not supported in Metal"),
];

const ADDRESS_SPACES: [&str; 4] = ["device", "constant", "threadgroup", "thread"];

/// `MTLLanguageVersion` 3.1, the first with `bfloat`, and 3.2, the first with lambda expressions.
const METAL_3_1: u32 = 0x3_0001;
const METAL_3_2: u32 = 0x3_0002;

/// Everything wrong with the program that its tokens show, in the order of its lines.
pub(crate) fn check(program: &Program, source: &Source) -> Faults {
    let list = |at: usize| {
        let opens = program.tokens[at].is("template") && program.tokens.get(at + 1).is_some_and(|t| t.is("<"));
        opens.then(|| at..closing_angle(&program.tokens, at + 1).unwrap_or(at))
    };
    let templates = (0..program.tokens.len()).filter_map(list).collect();
    let mut checker = Checker { program, templates, faults: program.faults.clone() };
    for at in 0..program.tokens.len() {
        checker.word(at, source.language_version);
    }
    for function in &program.functions {
        checker.statics(function.body.clone());
        checker.pointers(function.parameters.clone());
        checker.pointers(function.body.clone());
        let head = &program.tokens[function.start..function.name];
        if function.is_kernel && !head.iter().any(|t| t.is("void")) {
            checker.fault(function.name, "a kernel must return 'void'".into());
        }
    }
    for range in &program.variables {
        let tokens = &program.tokens[range.clone()];
        // The name of a variable is no place for a macro's leftovers: `MACRO(x)` without `;` is left to clang.
        if tokens.len() > 1 && !tokens.iter().any(|t| t.is("constant")) && tokens.iter().all(|t| t.kind != Kind::Pragma)
        {
            let name = range.clone().rfind(|i| program.tokens[*i].is_name()).unwrap_or(range.start);
            checker.fault(name, "a variable of program scope must be in the 'constant' address space".into());
        }
    }
    let mut faults = checker.faults;
    faults.sort_by_key(|fault| (fault.place.line, fault.place.column));
    faults
}

struct Checker<'a> {
    program: &'a Program,
    /// Lists of template parameters.
    templates: Vec<Range<usize>>,
    faults: Faults,
}

impl Checker<'_> {
    fn fault(&mut self, at: usize, message: String) {
        self.faults.push(Fault { place: self.program.tokens[at].place, message });
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.program.tokens.get(at).is_some_and(|t| t.is(text))
    }

    fn word(&mut self, at: usize, version: u32) {
        let tokens = &self.program.tokens;
        let token = &tokens[at];
        let previous = at.checked_sub(1).map_or("", |i| &*tokens[i].text);
        if token.is_name() {
            let deleted = token.is("delete") && previous == "=";
            if let Some((_, message)) = FORBIDDEN.iter().find(|(word, _)| token.is(word) && !deleted) {
                self.fault(at, (*message).into());
            }
            let bfloat = token.text.trim_start_matches("packed_").trim_start_matches("simdgroup_");
            let shape = bfloat.strip_prefix("bfloat").map(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'x'));
            if version < METAL_3_1 && shape == Some(true) && !matches!(previous, "struct" | "typedef" | "." | "->") {
                let (major, minor) = (version >> 16, version & 0xffff);
                self.fault(at, format!("'{token}' is not supported in Metal {major}.{minor}: it came with 3.1"));
            }
        }
        // `[&](…) {`, `[=] {`, `[] {`: an expression cannot start with `[`.
        if token.is("[")
            && version < METAL_3_2
            && matches!(previous, "=" | "(" | "," | "return" | "{" | ";" | "?" | ":")
        {
            let close = closing(tokens, at);
            if self.is(close + 1, "(") || self.is(close + 1, "{") {
                self.fault(at, "lambda expressions are not supported in Metal before 3.2".into());
            }
        }
        // `float (*f)(float)`.
        // As a template's argument a function is known when it is compiled, and may be pointed to.
        let declares = token.is("(")
            && !self.templates.iter().any(|t| t.contains(&at))
            && self.is(at + 1, "*")
            && tokens.get(at + 2).is_some_and(Token::is_name);
        if declares && self.is(at + 3, ")") && self.is(at + 4, "(") && self.is_type_name(at.wrapping_sub(1)) {
            self.fault(at + 2, "pointers to functions are not supported in Metal".into());
        }
    }

    /// Whether a token is the name of a type that is certainly one: not a template's parameter.
    fn is_type_name(&self, at: usize) -> bool {
        self.program.tokens.get(at).filter(|t| t.is_name()).is_some_and(|token| {
            let base = token.text.trim_end_matches(['2', '3', '4']);
            SCALARS.contains(&&*token.text)
                || (SCALARS.contains(&base) && base.len() + 1 == token.text.len())
                || self.program.structs.iter().any(|s| !s.name.is_empty() && token.is(&s.name))
        })
    }

    /// `float *p`, `const block &b` without an address space, in parameters and in bodies.
    fn pointers(&mut self, range: Range<usize>) {
        let tokens = &self.program.tokens;
        let mut found = Vec::new();
        for at in range.clone() {
            if !matches!(&*tokens[at].text, "*" | "&") || !self.is_type_name(at.wrapping_sub(1)) {
                continue;
            }
            // `T * name`, `T (…)`: what follows a declared pointer.
            let declares = tokens.get(at + 1).is_some_and(|t| t.is_name() || t.is(")") || t.is("*") || t.is(">"));
            let mut start = at - 1;
            while start > range.start
                && (tokens[start - 1].is_name() || tokens[start - 1].is("::"))
                && !matches!(&*tokens[start - 1].text, "return" | "else" | "typename")
            {
                start -= 1;
            }
            let words = &tokens[start..at];
            // `sizeof(T) * n` never comes here: its `*` follows a parenthesis.
            let qualified = words.iter().any(|t| ADDRESS_SPACES.iter().any(|space| t.is(space)));
            let begins = start == range.start
                || matches!(&*tokens[start - 1].text, "(" | "," | ";" | "{" | "}" | "<" | ")" | ":");
            // The address space may follow the type: `float device *p` has it among the words.
            if declares && begins && !qualified {
                found.push((at, if self.is(at, "*") { "pointer" } else { "reference" }));
            }
        }
        for (at, kind) in found {
            let name = if self.program.tokens[at + 1].is_name() { at + 1 } else { at };
            self.fault(name, format!("{kind} type must have explicit address space qualifier"));
        }
    }

    /// `static` variables of functions that are not constant.
    fn statics(&mut self, body: Range<usize>) {
        for at in body.clone().filter(|at| self.is(*at, "static")).collect::<Vec<_>>() {
            let end = (at..body.end).find(|i| matches!(&*self.program.tokens[*i].text, ";" | "=" | "(" | "{"));
            let words = &self.program.tokens[at..end.unwrap_or(body.end)];
            let method = end.is_some_and(|end| self.is(end, "("));
            if !method && !words.iter().any(|t| t.is("constant") || t.is("threadgroup") || t.is("constexpr")) {
                self.fault(at, "a static variable of a function must be in the 'constant' address space".into());
            }
        }
    }
}

/// Whether functions call each other in a circle, going by their names alone: overloads count as one, so that this may
/// be wrong, and only says whether to look closely.
pub(crate) fn may_recurse(program: &Program) -> bool {
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

/// Recursion in unoptimized IR with line tables: every function with those it calls. A method that calls itself is let
/// pass: Apple's compiler takes the one in MLX (`LoopedElemToLoc::next`, a call in tail position that becomes a loop).
pub(crate) fn recursion(ir: &str, text: &Text) -> Option<Fault> {
    let mut calls: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut debug: HashMap<&str, &str> = HashMap::new();
    let (mut current, mut is_method) = ("", false);
    let symbol = |text: &'static str, line: &str| line.find(text).map(|at| at + text.len());
    for line in ir.lines() {
        if line.starts_with("define ") {
            let Some(at) = symbol("@", line) else { continue };
            current = line[at..].split('(').next().unwrap_or("");
            is_method = line.contains("%this");
            calls.entry(current).or_default();
            if let Some((_, number)) = line.split_once("!dbg ") {
                debug.insert(current, number.split([' ', '{']).next().unwrap_or(""));
            }
        } else if line.contains(" call ")
            && !current.is_empty()
            && let Some(at) = symbol("@", line)
        {
            let callee = line[at..].split('(').next().unwrap_or("");
            if !(is_method && callee == current) {
                calls.entry(current).or_default().insert(callee);
            }
        }
    }
    let found = circle(&calls)?;
    let about =
        ir.lines().find(|line| debug.get(found).is_some_and(|number| line.starts_with(&format!("{number} = "))));
    let field = |name: &str| {
        about.and_then(|a| a.split(name).nth(1)).map(|rest| rest.split([',', '"', ')']).next().unwrap_or(""))
    };
    let line = field("line: ").and_then(|n| n.trim().parse().ok()).unwrap_or(1);
    let name = field("name: \"").unwrap_or(found);
    let place = text.place(line, 1);
    let place = Place { line: place.line, column: place.column.max(1) };
    Some(Fault {
        place,
        message: format!("recursion is not supported in Metal: '{name}' calls itself, or what it calls does"),
    })
}
