//! Writes the program as clang takes it: attributes gone, conversions to vectors as calls, `threadgroup` variables as
//! memory asked from the runtime, structs copyable between address spaces. Nothing moves to another line, and each place
//! of the text that is written knows the token it came from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;

use super::clang::UNROLL;
use super::lexer::{Kind, Place, Token, closing, closing_angle};
use super::program::{Program, Struct};

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
    pub(crate) fn with_line_markers(&self, file: &str) -> String {
        let mut marked = String::with_capacity(self.text.len() + 256);
        let mut expected = 0;
        for (index, line) in self.text.lines().enumerate() {
            let place = self.place(index as u32 + 1, 1);
            if place.line != 0 && place.line != expected {
                let _ = writeln!(marked, "# {} \"{file}\"", place.line);
                expected = place.line;
            }
            expected += 1;
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

/// `float4`, `half2x3`, `packed_uchar4`, `simdgroup_float8x8`…: types whose conversions clang does not know.
fn is_vector_name(name: &str) -> bool {
    let name = name.strip_prefix("packed_").unwrap_or(name);
    let scalars =
        ["float", "half", "bfloat", "bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong"];
    scalars.iter().any(|scalar| {
        name.strip_prefix(scalar).is_some_and(|rest| {
            let width = |b: &u8| (b'2'..=b'4').contains(b);
            matches!(rest.as_bytes(), [n] if width(n))
                || matches!(rest.as_bytes(), [c, b'x', r] if width(c) && width(r))
        })
    })
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
        }
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

    /// The type written at `at`: its tokens, if its conversions must become calls.
    fn vector_type(&self, at: usize) -> Option<Range<usize>> {
        let mut name = at;
        if self.is(at, "metal") && self.is(at + 1, "::") {
            name = at + 2;
        }
        let token = self.tokens().get(name)?;
        if token.is("vec") && self.is(name + 1, "<") {
            return Some(at..closing_angle(self.tokens(), name + 1)? + 1);
        }
        (token.is_name() && self.vectors.contains(&*token.text)).then_some(at..name + 1)
    }

    /// `T(…)`, `(T)x` and `static_cast<T>(x)` become `msl::make<T>(…)`.
    fn conversion(&mut self, at: usize) {
        let previous = at.checked_sub(1).map_or("", |i| &*self.tokens()[i].text);
        if self.is(at, "static_cast") && self.is(at + 1, "<") {
            if let Some(range) = self.vector_type(at + 2).filter(|r| self.is(r.end, ">")) {
                let _ = range;
                self.replace.insert(at, "msl::make".to_string());
            }
            return;
        }
        if self.is(at, "(") {
            let Some(range) = self.vector_type(at + 1).filter(|r| self.is(r.end, ")")) else { return };
            let before = at.checked_sub(1).map(|i| &self.tokens()[i]);
            let call = before.is_some_and(|t| {
                (t.is_name() && !matches!(&*t.text, "return" | "else" | "do" | "case"))
                    || t.is(")")
                    || t.is("]")
                    || t.is(">")
            });
            // `>` may be an operator: a cast follows it only if something to cast follows the parenthesis.
            let operand = range.end + 1;
            if (call && previous != ">") || !self.starts_operand(operand) {
                return;
            }
            let end = self.operand(operand);
            self.replace.insert(at, "msl::make<".to_string());
            self.replace.insert(range.end, ">(".to_string());
            self.insert_after(end, ")");
            return;
        }
        if matches!(previous, "::" | "." | "->" | "operator" | "~") {
            return;
        }
        if let Some(range) = self.vector_type(at).filter(|r| self.is(r.end, "(")) {
            // `float4 (&x)[2]`, `T (*f)(int)`: a declarator.
            let inner = range.end + 1;
            let declarator = (self.is(inner, "&") || self.is(inner, "*"))
                && self.tokens().get(inner + 1).is_some_and(Token::is_name)
                && self.is(inner + 2, ")")
                && (self.is(inner + 3, "[") || self.is(inner + 3, "("));
            let new_name = self.tokens()[at].is_name() && matches!(previous, "struct" | "class" | "typename");
            if !declarator && !new_name {
                self.insert_before(at, "msl::make<");
                self.insert_after(range.end - 1, ">");
            }
        }
    }

    fn starts_operand(&self, at: usize) -> bool {
        self.tokens().get(at).is_some_and(|t| match t.kind {
            Kind::Name => !matches!(&*t.text, "const" | "volatile" | "device" | "threadgroup" | "constant" | "thread"),
            Kind::Number | Kind::Text => true,
            Kind::Punctuation => matches!(&*t.text, "(" | "-" | "+" | "!" | "~" | "*" | "&" | "::" | "++"),
            Kind::Pragma => false,
        })
    }

    /// The last token of the operand of a cast that starts at `at`.
    fn operand(&self, mut at: usize) -> usize {
        let tokens = self.tokens();
        while tokens.get(at).is_some_and(|t| matches!(&*t.text, "-" | "+" | "!" | "~" | "*" | "&" | "++")) {
            at += 1;
        }
        if self.is(at, "(") {
            let close = closing(tokens, at);
            // A cast's operand goes on; so does `(a)` if it is called or subscripted, below.
            if self.is_type(at + 1..close) && self.starts_operand(close + 1) && !self.is(close + 1, "-") {
                return self.operand(close + 1);
            }
            at = close;
        }
        loop {
            let next = tokens.get(at + 1).map_or("", |t| &*t.text);
            match next {
                "::" | "." | "->" => {
                    at += if self.is(at + 2, "template") { 3 } else { 2 };
                }
                "(" | "[" | "{" if next != "{" || tokens[at].is_name() || tokens[at].is(">") => {
                    at = closing(tokens, at + 1);
                }
                "<" if tokens[at].is_name() => match closing_angle(tokens, at + 1) {
                    Some(close) if self.is(close + 1, "(") || self.is(close + 1, "::") => at = close,
                    _ => return at,
                },
                "++" => at += 1,
                _ => return at.min(tokens.len() - 1),
            }
        }
    }

    /// Whether tokens in parentheses are a type, so that the parentheses are a cast.
    fn is_type(&self, range: Range<usize>) -> bool {
        let tokens = &self.tokens()[range.clone()];
        let words = [
            "device",
            "thread",
            "threadgroup",
            "constant",
            "const",
            "unsigned",
            "float",
            "half",
            "bfloat",
            "bool",
            "char",
            "uchar",
            "short",
            "ushort",
            "int",
            "uint",
            "long",
            "ulong",
            "size_t",
            "uint8_t",
            "int8_t",
            "uint16_t",
            "int16_t",
            "uint32_t",
            "int32_t",
            "uint64_t",
            "int64_t",
        ];
        tokens.first().is_some_and(|t| words.iter().any(|word| t.is(word)))
            || self.vector_type(range.start).is_some_and(|r| r.end == range.end)
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
                    let from = if self.is(at.wrapping_sub(1), "::") { at - 2 } else { at };
                    self.drop(from..at);
                    self.replace.insert(at, format!("msl_defined_{name}"));
                    self.drop(at + 1..closing(self.tokens(), at + 1) + 1);
                }
            }
        }
    }

    fn structs(&mut self) {
        for index in 0..self.program.structs.len() {
            let found = self.program.structs[index].clone();
            self.structure(&found, index);
        }
    }

    /// Copies between address spaces for a struct, unless it has its own.
    fn structure(&mut self, found: &Struct, index: usize) {
        let name = match (found.name.is_empty(), found.is_typedef) {
            (false, _) => found.name.clone(),
            (true, true) => {
                let name = format!("msl_struct_{index}");
                self.insert_after(found.keyword, name.clone());
                name
            }
            (true, false) => return,
        };
        let tokens = self.tokens();
        let body = &tokens[found.body.start + 1..found.body.end];
        let own_constructor = body.windows(2).any(|w| w[0].is(&name) && w[1].is("("));
        let own_copy = body.windows(2).any(|w| w[0].is("operator") && w[1].is("="))
            || body.windows(6).any(|w| {
                w[0].is(&name) && w[1].is("(") && w[2..].iter().any(|t| t.is("&")) && w[2..].iter().any(|t| t.is(&name))
            });
        self.qualified_methods(found, &name);
        if own_copy {
            return;
        }
        let anonymous_union = self.program.structs.iter().any(|inner| {
            inner.name.is_empty()
                && inner.keyword > found.body.start
                && inner.body.end < found.body.end
                && self.is(inner.body.end + 1, ";")
        });
        let is_class = self.is(found.keyword, "class");
        if self.is(found.keyword, "union") {
            return;
        }
        // With constructors of ours a struct is no aggregate any more: `S s = {1, 2}` wants one for its fields.
        let mut own = String::new();
        if !own_constructor {
            let initialized = self.initialized_by_braces(&name);
            match self.fields(found) {
                Some(fields) if fields.len() > 1 || initialized => {
                    let parameters: Vec<String> = fields
                        .iter()
                        .enumerate()
                        .map(|(i, f)| format!("{} msl_{}{}", f.0, f.1, if i > 0 { &*f.2 } else { "" }))
                        .collect();
                    let values: Vec<String> = fields.iter().map(|f| format!("{0}(msl_{0})", f.1)).collect();
                    if !fields.is_empty() {
                        own = format!("constexpr {name}({}) : {} {{}} ", parameters.join(", "), values.join(", "));
                    }
                }
                None if initialized => {
                    return self.insert_after(found.body.start, format!("MSL_ASSIGNMENTS({name})"));
                }
                _ => {}
            }
            own += &format!("{name}() = default; ");
        }
        let constructors = if anonymous_union { "MSL_UNION_CONSTRUCTORS" } else { "MSL_CONSTRUCTORS" };
        let (public, private) = if is_class { ("public: ", "private: ") } else { ("", "") };
        // A constant field forbids assignment.
        let fixed =
            self.fields(found).is_some_and(|f| f.iter().any(|f| f.0.starts_with("const ") && !f.0.ends_with('*')));
        let assignments = if fixed { String::new() } else { format!("MSL_ASSIGNMENTS({name})") };
        let text = format!("{public}{own}{constructors}({name}) {assignments} {private}");
        self.insert_after(found.body.start, text);
    }

    /// Methods for objects in other memory, `float get() const device { return x; }`, become C++23's
    /// `float get(this const device NAME &self) { return self.x; }`. Constructors there are never wanted: objects come
    /// to `device` memory by assignment.
    fn qualified_methods(&mut self, found: &Struct, name: &str) {
        let tokens = self.tokens();
        let members = self.member_names(found);
        let mut start = found.body.start + 1;
        let mut at = start;
        while at < found.body.end {
            match &*tokens[at].text {
                ";" | "}" | ":" if !self.is(at, ":") || matches!(&*tokens[at - 1].text, "public" | "private") => {
                    start = at + 1
                }
                "{" => {
                    at = closing(tokens, at);
                    start = at + 1;
                }
                "<" if self.is(at - 1, "template") => at = closing_angle(tokens, at).unwrap_or(at),
                "(" if !self.is(at - 1, "__attribute__") && !self.is(at - 1, "alignas") => {
                    let close = closing(tokens, at);
                    let mut after = close + 1;
                    if self.is(after, "(") {
                        after = closing(tokens, after) + 1; // operator()(…)
                    }
                    let open = if after == close + 1 { at } else { close + 1 };
                    let mut words = Vec::new();
                    let last = after;
                    while matches!(
                        &*tokens[after].text,
                        "const" | "volatile" | "device" | "constant" | "threadgroup" | "thread"
                    ) {
                        words.push(tokens[after].to_string());
                        after += 1;
                    }
                    let elsewhere = words.iter().any(|w| matches!(&**w, "device" | "constant" | "threadgroup"));
                    let mut end = after;
                    while !matches!(&*tokens[end].text, "{" | ";") {
                        end = if self.is(end, "(") { closing(tokens, end) + 1 } else { end + 1 };
                    }
                    if self.is(end, "{") {
                        let body = end..closing(tokens, end);
                        end = body.end;
                        if elsewhere && !tokens[at - 1].is(name) {
                            self.drop(last..after);
                            let comma = if self.is(open + 1, ")") { "" } else { ", " };
                            self.insert_after(open, format!("this {} {name} &self{comma}", words.join(" ")));
                            for i in body {
                                let bare = !matches!(&*tokens[i - 1].text, "." | "->" | "::");
                                if self.is(i, "this") {
                                    self.replace.insert(i, "(&self)".into());
                                } else if bare && members.contains(&*tokens[i].text) {
                                    self.replace.insert(i, format!("self.{}", tokens[i]));
                                }
                            }
                        }
                    }
                    if elsewhere && tokens[at - 1].is(name) {
                        self.drop(start..end + 1);
                    }
                    at = end;
                    start = end + 1;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Names of the fields of a struct.
    fn member_names(&self, found: &Struct) -> HashSet<&'a str> {
        let tokens = self.tokens();
        let mut names = HashSet::new();
        let mut at = found.body.start + 1;
        while at < found.body.end {
            match &*tokens[at].text {
                "(" | "[" => at = closing(tokens, at),
                "{" => at = closing(tokens, at),
                _ if tokens[at].is_name() && matches!(&*tokens[at + 1].text, ";" | "=" | "[" | ",") => {
                    names.insert(&*tokens[at].text);
                }
                _ => {}
            }
            at += 1;
        }
        names
    }

    /// Whether `NAME x = {…}`, `NAME x{…}` or `NAME{…}` stands somewhere.
    fn initialized_by_braces(&self, name: &str) -> bool {
        let tokens = self.tokens();
        (1..tokens.len()).any(|at| {
            if !tokens[at].is(name) || matches!(&*tokens[at - 1].text, "struct" | "class" | "union") {
                return false;
            }
            let mut next = at + 1;
            if self.is(next, "<") {
                next = closing_angle(tokens, next).map_or(next, |close| close + 1);
            }
            if tokens.get(next).is_some_and(Token::is_name) {
                next += 1;
            }
            while self.is(next, "[") {
                next = closing(tokens, next) + 1;
            }
            self.is(next, "{") || (self.is(next, "=") && self.is(next + 1, "{"))
        })
    }

    /// Type, name and default (`= …`) of each field, if all are plain.
    fn fields(&self, found: &Struct) -> Option<Vec<(String, String, String)>> {
        let tokens = self.tokens();
        let mut result = Vec::new();
        if tokens[found.keyword..found.body.start].iter().any(|t| t.is(":")) {
            return None;
        }
        let mut at = found.body.start + 1;
        while at < found.body.end {
            let start = at;
            if matches!(&*tokens[at].text, "public" | "private" | "protected") {
                at += 2;
                continue;
            }
            let mut equals = None;
            let mut function = false;
            while at < found.body.end && !self.is(at, ";") {
                match &*tokens[at].text {
                    "struct" | "union" | "class" | "enum" if self.structs_at(at) => return None,
                    "(" => {
                        function |= equals.is_none();
                        at = closing(tokens, at);
                    }
                    "<" => at = closing_angle(tokens, at).unwrap_or(at),
                    "=" if equals.is_none() => equals = Some(at),
                    "{" => {
                        if !function && equals.is_none() {
                            return None;
                        }
                        at = closing(tokens, at);
                        if function {
                            break;
                        }
                    }
                    "[" | ":" | "," if equals.is_none() && !function && !self.is(start, "using") => {
                        if !self.is(at, ",") {
                            return None;
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
            let end = equals.unwrap_or(at);
            let words = &tokens[start..end];
            let skipped = ["using", "typedef", "static", "friend", "static_assert", "template"];
            let other = words.first().is_none_or(|t| skipped.iter().any(|word| t.is(word)) || t.kind == Kind::Pragma);
            if !function && !other {
                let default = equals.map_or(" = {}".to_string(), |e| format!(" {}", self.program.text(e..at)));
                // `float x, *y;` would want more care than it is worth.
                let names: Vec<usize> = (start..end).filter(|i| self.is(*i + 1, ",") || *i + 1 == end).collect();
                let first = *names.first()?;
                if names.len() > 1 && tokens[first + 1..end].iter().any(|t| t.is("*") || t.is("&") || t.is("<")) {
                    return None;
                }
                let type_name = self.program.text(start..first);
                result.extend(names.iter().map(|i| (type_name.clone(), tokens[*i].to_string(), default.clone())));
            }
            at += 1;
        }
        Some(result)
    }

    /// Whether a struct with a body starts at this keyword.
    fn structs_at(&self, at: usize) -> bool {
        self.program.structs.iter().any(|s| s.keyword == at) || self.is(at, "enum")
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
            let Some(variables) = self.declarators(at + 1) else { continue };
            let (first, end) = (variables[0].start, variables[variables.len() - 1].end);
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
    fn declarators(&self, start: usize) -> Option<Vec<Range<usize>>> {
        let tokens = self.tokens();
        let mut result = Vec::new();
        let mut at = start;
        loop {
            match tokens.get(at).map(|t| &*t.text)? {
                "*" | "&" | "=" | "{" | "(" | "&&" => return None,
                "<" => at = closing_angle(tokens, at)?,
                "[" => at = closing(tokens, at),
                "," | ";" => {
                    let mut name = at - 1;
                    while tokens[name].is("]") {
                        let close = name;
                        name = (start..close).rev().find(|i| self.is(*i, "[") && closing(tokens, *i) == close)? - 1;
                    }
                    result.push(name..at);
                    if self.is(at, ";") {
                        return Some(result);
                    }
                }
                _ => {}
            }
            at += 1;
        }
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
