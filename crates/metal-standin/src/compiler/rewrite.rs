//! Writes the program as clang takes it: attributes gone, conversions to vectors as calls, `threadgroup` variables as
//! memory asked from the runtime, structs copyable between address spaces. Nothing moves to another line, and each place
//! of the text that is written knows the token it came from.

mod expressions;
mod structs;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;

use super::clang::UNROLL;
use super::lexer::{Kind, Place, Token, closing, closing_angle, is_vector_name};
use super::program::Program;

/// What clang compiles.
#[derive(Default)]
pub(crate) struct Text {
    pub text: String,
    /// For each line, the columns where tokens start and their places.
    map: Vec<Vec<(u32, Place)>>,
}

impl Text {
    /// The user's place for a line and column of `text`, both counted from 1.
    pub(crate) fn place(&self, line: u32, column: u32) -> Place {
        let row = self.map.get((line as usize).wrapping_sub(1)).map_or(&[][..], |row| row);
        let token = row.iter().rev().find(|(start, _)| *start <= column).or(row.first());
        token.map_or(Place::default(), |(_, place)| *place)
    }

    /// The text with `# LINE "FILE"` where the user's lines do not just follow each other: for debug information.
    /// `origins` are file and number of each of the user's lines.
    pub(crate) fn with_line_markers(&self, origins: &[(&str, u32)]) -> String {
        let mut marked = String::with_capacity(self.text.len() + 256);
        let mut expected = ("", 0);
        for (index, line) in self.text.lines().enumerate() {
            let place = self.place(index as u32 + 1, 1);
            let origin = origins.get((place.line as usize).wrapping_sub(1));
            if let Some(&(file, number)) = origin.filter(|&&origin| origin != expected) {
                let _ = writeln!(marked, "# {number} \"{file}\"");
                expected = (file, number);
            }
            expected.1 += 1;
            marked.push_str(line);
            marked.push('\n');
        }
        marked
    }
}

/// Words that MSL has and C++ has not, or the other way round, where they are not types.
const RENAMED: [(&str, &str); 8] = [
    ("kernel", "__attribute__((always_inline)) inline"),
    ("requires", "requires_"),
    ("concept", "concept_"),
    ("char8_t", "char8_t_"),
    ("co_await", "co_await_"),
    ("consteval", "consteval_"),
    ("linux", "linux_"),
    ("unix", "unix_"),
];

pub(crate) struct Rewriter<'a> {
    program: &'a Program,
    before: BTreeMap<usize, Vec<String>>,
    after: BTreeMap<usize, Vec<String>>,
    replace: HashMap<usize, String>,
    vectors: HashSet<String>,
}

impl<'a> Rewriter<'a> {
    pub(crate) fn new(program: &'a Program) -> Self {
        let names = program.tokens.iter().filter(|t| t.is_name() && is_vector_name(&t.text));
        let mut vectors: HashSet<String> = names.map(|t| t.to_string()).collect();
        vectors.extend(program.type_names.iter().cloned());
        // clang has no conversion between the two.
        vectors.extend(["half".to_string(), "bfloat".to_string()]);
        Rewriter { program, before: BTreeMap::new(), after: BTreeMap::new(), replace: HashMap::new(), vectors }
    }

    /// The whole program.
    pub(crate) fn write(mut self) -> Text {
        for at in 0..self.tokens().len() {
            self.word(at);
            self.conversion(at);
            self.array_parameter(at);
        }
        self.braced_arguments();
        self.choices();
        self.constant_copies();
        self.instances();
        self.function_constants();
        self.structs();
        for range in self.program.functions.iter().map(|f| f.body.clone()) {
            self.threadgroup_variables(range);
        }
        self.emit()
    }

    fn tokens(&self) -> &'a [Token] {
        &self.program.tokens
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens().get(at).is_some_and(|t| t.is(text))
    }

    fn insert_before(&mut self, at: usize, text: impl Into<String>) {
        self.before.entry(at).or_default().push(text.into());
    }

    fn insert_after(&mut self, at: usize, text: impl Into<String>) {
        self.after.entry(at).or_default().push(text.into());
    }

    fn drop(&mut self, range: Range<usize>) {
        for at in range {
            self.replace.insert(at, String::new());
        }
    }

    fn word(&mut self, at: usize) {
        let token = &self.tokens()[at];
        if let Some((_, new)) = RENAMED.iter().find(|(old, _)| token.is_name() && token.is(old)) {
            self.replace.insert(at, (*new).to_string());
        }
        if token.is("\"C\"") && self.is(at.wrapping_sub(1), "extern") {
            // Structs get templates, which C has not; no name goes out of here.
            self.replace.insert(at, "\"C++\"".into());
        }
        if token.kind == Kind::Number {
            let text = token.text.to_ascii_lowercase();
            let hexadecimal = text.starts_with("0x");
            let fraction = if hexadecimal { text.contains('p') } else { text.contains(['.', 'e']) };
            if fraction && !text.ends_with(['f', 'h', 'l']) {
                // There is no double: a literal is a float.
                self.replace.insert(at, format!("{text}f"));
            } else if let Some(digits) = text.strip_suffix("bf").filter(|_| !hexadecimal) {
                self.replace.insert(at, format!("((bfloat){digits}f)"));
            } else if let Some(digits) = text.strip_suffix('h').filter(|_| !hexadecimal) {
                let dot = if digits.contains(['.', 'e']) { "" } else { ".0" };
                self.replace.insert(at, format!("((half){digits}{dot}f)"));
            }
        }
        if token.is(UNROLL) && self.is(at + 1, "(") {
            let close = closing(self.tokens(), at + 1);
            let count = self.program.text(at + 2..close);
            self.drop(at + 1..close + 1);
            self.replace.insert(at, format!("_Pragma(\"unroll({count})\")"));
        }
        if token.kind == Kind::Pragma && token.text.contains("METAL") {
            self.replace.insert(at, String::new());
        }
    }

    /// Instances of kernels are checked with the library, and then made one by one.
    fn instances(&mut self) {
        for range in &self.program.instances {
            for at in range.clone().filter(|at| self.program.tokens[*at].is("kernel")) {
                self.replace.insert(at, String::new());
            }
            self.insert_before(range.start, "MSL_INSTANCE(");
            self.insert_after(range.end - 1, ")");
        }
    }

    /// `constant bool x [[function_constant(3)]];` is declared here and defined in the IR, when its value is known.
    fn function_constants(&mut self) {
        for constant in &self.program.constants {
            let variable = self
                .program
                .variables
                .iter()
                .find(|range| self.tokens()[(*range).clone()].last().is_some_and(|t| t.is(&constant.name)));
            let Some(range) = variable.cloned() else { continue };
            for at in range.clone() {
                if self.is(at, "static") || self.is(at, "const") || self.is(at, "constexpr") {
                    self.drop(at..at + 1);
                }
            }
            self.insert_before(range.start, "extern ");
            self.insert_after(range.end, format!("extern constant bool msl_defined_{};", constant.name));
        }
        for at in 0..self.tokens().len() {
            if self.is(at, "is_function_constant_defined") && self.is(at + 1, "(") {
                let name = &self.tokens()[at + 2].text;
                if self.program.constants.iter().any(|c| *c.name == **name) {
                    let from = if self.is(at.wrapping_sub(1), "::") { at.saturating_sub(2) } else { at };
                    self.drop(from..at);
                    self.replace.insert(at, format!("msl_defined_{name}"));
                    self.drop(at + 1..closing(self.tokens(), at + 1) + 1);
                }
            }
        }
    }

    /// `threadgroup float x[32], y;` in a function is memory that the threads of a threadgroup share.
    fn threadgroup_variables(&mut self, body: Range<usize>) {
        let tokens = self.tokens();
        for at in body.clone() {
            if !self.is(at, "threadgroup") {
                continue;
            }
            let mut start = at;
            while start > body.start && matches!(&*tokens[start - 1].text, "const" | "volatile" | "static") {
                start -= 1;
            }
            if !matches!(&*tokens[start - 1].text, "{" | "}" | ";") && tokens[start - 1].kind != Kind::Pragma {
                continue;
            }
            let Some((variables, end)) = self.declarators(at + 1) else { continue };
            let first = variables[0].start;
            let element = self.program.text(at + 1..first);
            self.drop(start..end + 1);
            let mut text = String::new();
            for variable in variables {
                let name = &tokens[variable.start].text;
                let dimensions = self.program.text(variable.start + 1..variable.end);
                let _ = write!(
                    text,
                    "typedef {element} msl_type_{name} {dimensions}; threadgroup msl_type_{name} &{name} = *(threadgroup \
                     msl_type_{name} *)msl_threadgroup_memory({}, sizeof(msl_type_{name}), alignof(msl_type_{name}));",
                    variable.start
                );
            }
            self.insert_before(at, text);
        }
    }

    /// Names with their dimensions, up to the `;`, if this declares variables and not pointers or references.
    fn declarators(&self, start: usize) -> Option<(Vec<Range<usize>>, usize)> {
        let tokens = self.tokens();
        let mut result = Vec::new();
        let mut at = start;
        loop {
            match tokens.get(at).map(|t| &*t.text)? {
                // `= {0}` says nothing that holds: every thread would write it.
                "=" if self.is(at + 1, "{") => {
                    let close = closing(tokens, at + 1);
                    result.push(self.declarator(at)?..at);
                    at = close + 1;
                    match self.is(at, ";") {
                        true => return Some((result, at)),
                        false => at += 1,
                    }
                    continue;
                }
                "*" | "&" | "=" | "{" | "(" | "&&" => return None,
                "<" => at = closing_angle(tokens, at)?,
                "[" => at = closing(tokens, at),
                "," | ";" => {
                    result.push(self.declarator(at)?..at);
                    if self.is(at, ";") {
                        return Some((result, at));
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// The name before `end` and before its dimensions.
    fn declarator(&self, end: usize) -> Option<usize> {
        let tokens = self.tokens();
        let mut name = end - 1;
        while tokens[name].is("]") {
            let close = name;
            name = (0..close).rev().find(|i| self.is(*i, "[") && closing(tokens, *i) == close)? - 1;
        }
        Some(name)
    }

    fn emit(mut self) -> Text {
        let program = self.program;
        // Kept instantiations are what `Library::compile` checks; attributes are gone from them already.
        let mut text = Text { text: String::new(), map: vec![Vec::new()] };
        let mut column = 1_u32;
        for (at, token) in program.tokens.iter().enumerate() {
            while (text.map.len() as u32) < token.row + 1 {
                text.text.push('\n');
                text.map.push(Vec::new());
                column = 1;
            }
            let place = token.place;
            let mut put = |word: &str, space: bool| {
                if word.is_empty() {
                    return;
                }
                let word_character = |c: char| c.is_alphanumeric() || c == '_';
                let joins = text.text.ends_with(word_character) && word.starts_with(word_character);
                if (space || joins) && column > 1 {
                    text.text.push(' ');
                    column += 1;
                }
                if let Some(row) = text.map.last_mut() {
                    row.push((column, place));
                }
                text.text.push_str(word);
                column += word.len() as u32;
            };
            for word in self.before.remove(&at).unwrap_or_default() {
                put(&word, true);
            }
            let replaced = self.replace.get(&at);
            put(replaced.map_or(&*token.text, |new| new), token.space || replaced.is_some());
            for word in self.after.remove(&at).unwrap_or_default() {
                put(&word, true);
            }
        }
        text.text.push('\n');
        text
    }
}
