//! What Apple's compiler refuses and clang would let pass.

mod declarations;
mod kernels;
mod lowered;

use std::ops::Range;

use super::Source;
use super::lexer::{Kind, Token, closing, closing_angle};
use super::program::{Fault, Faults, Program};
use declarations::Alias;

pub(crate) use lowered::{check as check_lowered, may_refuse as may_refuse_lowered};

/// These rules: what they accepted is remembered as long as they are the same.
pub(crate) const TEXT: [&str; 4] = [
    include_str!("rules.rs"),
    include_str!("rules/declarations.rs"),
    include_str!("rules/kernels.rs"),
    include_str!("rules/lowered.rs"),
];

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
    let aliases = declarations::aliases(program);
    let mut checker = Checker { program, templates, aliases, faults: program.faults.clone() };
    for at in 0..program.tokens.len() {
        checker.word(at, source.language_version);
        checker.name(at);
    }
    for function in &program.functions {
        checker.statics(function.body.clone());
        checker.pointers(function.start..function.parameters.start);
        checker.pointers(function.parameters.clone());
        checker.pointers(function.body.clone());
        if function.is_kernel {
            checker.inputs(function);
        }
        let head = &program.tokens[function.start..function.name];
        if function.is_kernel && !head.iter().any(|t| t.is("void")) {
            checker.fault(function.name, "a kernel must return 'void'".into());
        }
    }
    for found in &program.structs {
        checker.pointers(found.body.clone());
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
    // A struct inside a function, or inside another struct, was looked through twice.
    faults.dedup_by(|a, b| a.place == b.place && a.message == b.message);
    faults
}

struct Checker<'a> {
    program: &'a Program,
    /// Lists of template parameters.
    templates: Vec<Range<usize>>,
    aliases: Vec<Alias>,
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
        if token.kind == Kind::Number {
            let text = token.text.to_ascii_lowercase();
            let fraction = if text.starts_with("0x") { text.contains('p') } else { text.contains(['.', 'e']) };
            if fraction && text.ends_with('l') {
                self.fault(
                    at,
                    "'long double' is not supported in Metal: a literal ends with 'f' or 'h', or with nothing".into(),
                );
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
