//! What the source pass knows of a program: its attributes, kernels, function constants, structs and types, found by
//! walking declarations. Bodies of functions are not understood here; clang understands them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::lexer::{Kind, Place, Token, closing, closing_angle};
use super::{Argument, ArgumentKind};

/// An error at a place of the user's text.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub place: Place,
    pub message: String,
}

pub(crate) type Faults = Vec<Fault>;

/// `[[name(arguments)]]`, taken out of the token stream.
#[derive(Clone, Debug)]
pub(crate) struct Attribute {
    /// Index of the token that followed it.
    pub at: usize,
    pub name: String,
    pub arguments: Vec<Token>,
}

/// Where the value of a kernel's parameter comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A buffer or threadgroup memory; whether it is a reference, and whether nothing else reaches its memory.
    Bound { argument: Argument, reference: bool, unaliased: bool, read_only: bool },
    /// A field of `msl_thread`, and whether that is three numbers.
    Input { field: &'static str, vector: bool },
    /// An expression of the entry point.
    Computed(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub origin: Origin,
    /// The function constant that says whether it exists: `[[function_constant(name)]]`.
    pub condition: Option<String>,
}

/// A kernel that can be built: a plain one, or an instance of a template.
#[derive(Clone, Debug)]
pub(crate) struct KernelFunction {
    /// Its name in Metal.
    pub name: String,
    /// What calls it: `scale::run<float, 4>`.
    pub callee: String,
    pub parameters: Vec<Parameter>,
    pub max_threads: u32,
}

/// `constant bool x [[function_constant(3)]];`
#[derive(Clone, Debug)]
pub(crate) struct FunctionConstant {
    pub name: String,
    pub index: u32,
    pub type_name: String,
}

/// A struct, class or union with a body.
#[derive(Clone, Debug)]
pub(crate) struct Struct {
    /// Empty for an anonymous one.
    pub name: String,
    /// Index of the keyword.
    pub keyword: usize,
    /// From `{` to `}`.
    pub body: Range<usize>,
    /// `typedef struct { … } name`.
    pub is_typedef: bool,
}

/// A function with a body.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: usize,
    /// From the first token of its declaration.
    pub start: usize,
    /// From `(` to `)`.
    pub parameters: Range<usize>,
    /// From `{` to `}`.
    pub body: Range<usize>,
    pub is_kernel: bool,
    pub is_template: bool,
}

#[derive(Default)]
pub(crate) struct Program {
    pub tokens: Vec<Token>,
    pub attributes: Vec<Attribute>,
    pub kernels: Vec<KernelFunction>,
    pub constants: Vec<FunctionConstant>,
    /// Functions of namespace scope.
    pub functions: Vec<Function>,
    /// Every struct, local ones too.
    pub structs: Vec<Struct>,
    /// Declarations of variables at namespace scope.
    pub variables: Vec<Range<usize>>,
    /// `template kernel …;` instantiations of kernels.
    pub instances: Vec<Range<usize>>,
    /// Names that stand for types: template parameters, aliases, typedefs.
    pub type_names: HashSet<String>,
    pub faults: Faults,
    templates: HashMap<String, (usize, String)>,
}

/// Thread indices a kernel may ask for: attribute, field of `msl_thread`, three numbers.
pub(crate) const INPUTS: [(&str, &str, bool); 13] = [
    ("thread_position_in_grid", "thread_position_in_grid", true),
    ("threadgroup_position_in_grid", "threadgroup_position_in_grid", true),
    ("thread_position_in_threadgroup", "thread_position_in_threadgroup", true),
    ("threads_per_grid", "threads_per_grid", true),
    ("threads_per_threadgroup", "threads_per_threadgroup", true),
    ("dispatch_threads_per_threadgroup", "dispatch_threads_per_threadgroup", true),
    ("threadgroups_per_grid", "threadgroups_per_grid", true),
    ("thread_index_in_threadgroup", "thread_index_in_threadgroup", false),
    ("thread_index_in_simdgroup", "thread_index_in_simdgroup", false),
    ("simdgroup_index_in_threadgroup", "simdgroup_index_in_threadgroup", false),
    ("simdgroups_per_threadgroup", "simdgroups_per_threadgroup", false),
    ("threads_per_simdgroup", "threads_per_simdgroup", false),
    ("thread_execution_width", "threads_per_simdgroup", false),
];

/// Inputs that are computed from those.
pub(crate) const COMPUTED: [(&str, &str); 5] = [
    ("quadgroup_index_in_threadgroup", "msl::scalar_input(msl_t->thread_index_in_threadgroup / 4)"),
    ("thread_index_in_quadgroup", "msl::scalar_input(msl_t->thread_index_in_threadgroup % 4)"),
    ("quadgroups_per_threadgroup", "msl::scalar_input(msl_t->simdgroups_per_threadgroup * 8)"),
    (
        "dispatch_simdgroups_per_threadgroup",
        "msl::scalar_input((msl_t->dispatch_threads_per_threadgroup[0] * msl_t->dispatch_threads_per_threadgroup[1] * \
         msl_t->dispatch_threads_per_threadgroup[2] + 31) / 32)",
    ),
    ("grid_origin", "msl::scalar_input(0)"),
];

impl Program {
    pub(crate) fn parse(tokens: Vec<Token>) -> Program {
        let mut program = Program::default();
        program.strip_attributes(tokens);
        program.find_types();
        let end = program.tokens.len();
        program.declarations(0, end, "");
        program.resolve_kernels();
        program
    }

    pub(crate) fn fault(&mut self, at: usize, message: impl Into<String>) {
        let place = self.tokens.get(at).or(self.tokens.last()).map_or(Place::default(), |t| t.place);
        self.faults.push(Fault { place, message: message.into() });
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is(text))
    }

    /// The tokens as text, as they were spaced.
    pub(crate) fn text(&self, range: Range<usize>) -> String {
        let mut text = String::new();
        for token in &self.tokens[range] {
            if token.space && !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&token.text);
        }
        text
    }

    fn strip_attributes(&mut self, tokens: Vec<Token>) {
        let mut at = 0;
        while at < tokens.len() {
            let opens = tokens[at].is("[") && tokens.get(at + 1).is_some_and(|t| t.is("["));
            let end = if opens { closing(&tokens, at) } else { 0 };
            if !opens || end >= tokens.len() {
                self.tokens.push(tokens[at].clone());
                at += 1;
                continue;
            }
            let (mut i, last) = (at + 2, closing(&tokens, at + 1));
            while i < last {
                if tokens[i].is_name() && !tokens.get(i + 1).is_some_and(|t| t.is("::")) {
                    let mut attribute =
                        Attribute { at: self.tokens.len(), name: tokens[i].to_string(), arguments: Vec::new() };
                    if tokens[i + 1].is("(") {
                        let close = closing(&tokens, i + 1).min(last);
                        attribute.arguments = tokens[i + 2..close].to_vec();
                        i = close;
                    }
                    self.attributes.push(attribute);
                }
                i += 1;
            }
            at = end + 1;
        }
    }

    /// Names of types and structs, wherever they are declared.
    fn find_types(&mut self) {
        for at in 0..self.tokens.len() {
            let token = &self.tokens[at];
            if token.kind != Kind::Name {
                continue;
            }
            match &*token.text {
                "typename" | "class" => {
                    let name = if self.is(at + 1, "...") { at + 2 } else { at + 1 };
                    if self.tokens.get(name).is_some_and(Token::is_name)
                        && [",", ">", "="].iter().any(|next| self.is(name + 1, next))
                    {
                        self.type_names.insert(self.tokens[name].to_string());
                    }
                }
                "using" if self.is(at + 2, "=") => {
                    self.type_names.insert(self.tokens[at + 1].to_string());
                }
                "typedef" => {
                    let mut end = at;
                    while end < self.tokens.len() && !self.is(end, ";") {
                        end = if self.is(end, "{") { closing(&self.tokens, end) } else { end + 1 };
                    }
                    if self.tokens.get(end.wrapping_sub(1)).is_some_and(Token::is_name) {
                        self.type_names.insert(self.tokens[end - 1].to_string());
                    }
                }
                _ => {}
            }
            if matches!(&*self.tokens[at].text, "struct" | "class" | "union") && !self.is(at.wrapping_sub(1), "enum") {
                let mut open = at + 1;
                while self.tokens.get(open).is_some_and(|t| t.is_name() || matches!(&*t.text, "::" | "<" | ":" | "(")) {
                    open = match &*self.tokens[open].text {
                        "(" => closing(&self.tokens, open) + 1,
                        "<" => closing_angle(&self.tokens, open).map_or(open + 1, |close| close + 1),
                        ":" => (open..self.tokens.len()).find(|i| self.is(*i, "{")).unwrap_or(self.tokens.len()),
                        _ => open + 1,
                    };
                }
                if self.is(open, "{") {
                    let mut named = at + 1;
                    while matches!(self.tokens.get(named).map(|t| &*t.text), Some("alignas" | "__attribute__")) {
                        named = closing(&self.tokens, named + 1) + 1;
                    }
                    let name = if named < open { self.tokens[named].to_string() } else { String::new() };
                    let body = open..closing(&self.tokens, open);
                    let is_typedef = at > 0 && self.is(at - 1, "typedef");
                    self.structs.push(Struct { name, keyword: at, body, is_typedef });
                }
            }
        }
    }

    /// Declarations of one namespace.
    fn declarations(&mut self, mut at: usize, end: usize, path: &str) {
        while at < end {
            if self.is(at, ";") || self.tokens[at].kind == Kind::Pragma || self.is(at, "}") {
                at += 1;
            } else if self.is(at, "namespace") || (self.is(at, "inline") && self.is(at + 1, "namespace")) {
                let open = (at..end).find(|i| self.is(*i, "{") || self.is(*i, ";")).unwrap_or(end);
                if self.is(open, "{") {
                    let first = if self.is(at, "inline") { at + 2 } else { at + 1 };
                    let name = self.text(first..open);
                    let inner = if name.is_empty() { path.to_string() } else { format!("{path}{name}::") };
                    let close = closing(&self.tokens, open);
                    self.declarations(open + 1, close, &inner);
                    at = close + 1;
                } else {
                    at = open + 1;
                }
            } else if self.is(at, "extern") && self.is(at + 2, "{") {
                let close = closing(&self.tokens, at + 2);
                self.declarations(at + 3, close, path);
                at = close + 1;
            } else {
                at = self.declaration(at, end, path);
            }
        }
    }

    /// One declaration; the index after it.
    fn declaration(&mut self, start: usize, end: usize, path: &str) -> usize {
        let mut at = start;
        let mut is_template = false;
        while self.is(at, "template") && self.is(at + 1, "<") {
            is_template = true;
            at = closing_angle(&self.tokens, at + 1).map_or(at + 2, |close| close + 1);
        }
        if self.is(at, "template") {
            let stop = (at..end).find(|i| self.is(*i, ";")).map_or(end, |stop| stop + 1);
            self.instances.push(start..stop);
            return stop;
        }
        let first = at;
        if first >= end {
            return end;
        }
        let is_other = matches!(&*self.tokens[first].text, "using" | "typedef" | "static_assert" | "friend");
        let mut parameters: Option<Range<usize>> = None;
        let (mut is_type, mut is_variable) = (false, false);
        while at < end && !self.is(at, ";") {
            match &*self.tokens[at].text {
                "struct" | "class" | "union" | "enum" => is_type = true,
                "(" => {
                    let close = closing(&self.tokens, at);
                    let before = &self.tokens[at.saturating_sub(1)];
                    let names =
                        before.is_name() || before.is(">") || self.tokens[first..at].iter().any(|t| t.is("operator"));
                    let words = ["decltype", "__attribute__", "alignas", "noexcept", "static_assert"];
                    if parameters.is_none() && !is_variable && names && !words.iter().any(|word| before.is(word)) {
                        parameters = Some(at..close);
                    }
                    at = close;
                }
                "[" => at = closing(&self.tokens, at),
                "<" => at = closing_angle(&self.tokens, at).unwrap_or(at),
                "=" if !self.is(at.wrapping_sub(1), "operator") => is_variable = true,
                "{" => {
                    let close = closing(&self.tokens, at);
                    if let (Some(range), false) = (&parameters, is_variable) {
                        self.function(start, range.clone(), at..close, is_template, path);
                        return close + 1;
                    }
                    at = close;
                }
                _ => {}
            }
            at += 1;
        }
        if !is_other && parameters.is_none() && (!is_type || is_variable) && !is_template {
            self.variables.push(start..at);
            self.function_constant(start..at);
        }
        at + 1
    }

    fn function(&mut self, start: usize, parameters: Range<usize>, body: Range<usize>, is_template: bool, path: &str) {
        let name = parameters.start - 1;
        let is_kernel = self.tokens[start..name].iter().any(|t| t.is("kernel"))
            || self.attributes.iter().any(|a| a.name == "kernel" && a.at >= start && a.at <= name);
        if is_kernel {
            self.templates.insert(self.tokens[name].to_string(), (self.functions.len(), path.to_string()));
        }
        self.functions.push(Function { name, start, parameters, body, is_kernel, is_template });
    }

    fn function_constant(&mut self, range: Range<usize>) {
        let Some(at) = self
            .attributes
            .iter()
            .position(|a| a.name == "function_constant" && a.at > range.start && a.at <= range.end)
        else {
            return;
        };
        let attribute = self.attributes[at].clone();
        let name = attribute.at - 1;
        let Some(index) = constant_expression(&attribute.arguments) else {
            return self.fault(name, "the index of a function constant must be a number");
        };
        if let Some(other) = self.constants.iter().find(|c| c.index == index) {
            let message = format!("function constant index {index} is already that of '{}'", other.name);
            return self.fault(name, message);
        }
        let type_name = self.tokens[name.saturating_sub(1)].to_string();
        self.constants.push(FunctionConstant { name: self.tokens[name].to_string(), index, type_name });
    }

    /// Attributes of tokens `range`: those that come after its first token and up to its end.
    pub(crate) fn attributes_in(&self, range: Range<usize>) -> Vec<Attribute> {
        self.attributes.iter().filter(|a| a.at > range.start && a.at <= range.end).cloned().collect()
    }

    fn resolve_kernels(&mut self) {
        for index in 0..self.functions.len() {
            let function = self.functions[index].clone();
            if function.is_kernel && !function.is_template {
                let path = self.templates.get(&*self.tokens[function.name].text).map_or("", |t| &t.1).to_string();
                let name = self.tokens[function.name].to_string();
                let host = self.host_name(function.start, function.name).unwrap_or_else(|| name.clone());
                self.kernel(&function, host, format!("{path}{name}"), function.name);
            }
        }
        for range in std::mem::take(&mut self.instances) {
            let mut at = range.start + 1;
            let mut found = None;
            while at < range.end {
                if self.is(at, "decltype") || self.is(at, "__attribute__") {
                    at = closing(&self.tokens, at + 1);
                } else if let Some((function, path)) = self.templates.get(&*self.tokens[at].text) {
                    found = Some((at, *function, path.clone()));
                    break;
                }
                at += 1;
            }
            let Some((name, function, path)) = found else { continue };
            let last =
                if self.is(name + 1, "<") { closing_angle(&self.tokens, name + 1).unwrap_or(name) } else { name };
            let callee = format!("{path}{}", self.text(name..last + 1));
            let function = self.functions[function].clone();
            match self.host_name(range.start, name) {
                Some(host) => self.kernel(&function, host, callee, name),
                None => self.fault(name, "an instance of a kernel template wants a name: [[host_name(\"…\")]]"),
            }
            self.instances.push(range);
        }
    }

    /// `[[host_name("…")]]` between two tokens.
    fn host_name(&self, start: usize, end: usize) -> Option<String> {
        let attribute = self.attributes.iter().find(|a| a.name == "host_name" && a.at >= start && a.at <= end)?;
        Some(attribute.arguments.iter().map(|t| t.text.trim_matches('"')).collect())
    }

    fn kernel(&mut self, function: &Function, name: String, callee: String, at: usize) {
        if self.kernels.iter().any(|k| k.name == name) {
            return self.fault(at, format!("there is another kernel named '{name}'"));
        }
        let max_threads = self
            .attributes
            .iter()
            .find(|a| {
                a.name == "max_total_threads_per_threadgroup" && a.at >= function.start && a.at <= function.body.start
            })
            .and_then(|a| constant_expression(&a.arguments))
            .unwrap_or(1024);
        let parameters = self.parameters(function);
        self.kernels.push(KernelFunction { name, callee, parameters, max_threads });
    }

    /// The tokens of each of a function's parameters, without the commas between them.
    pub(crate) fn parameter_ranges(&self, function: &Function) -> Vec<Range<usize>> {
        let (open, close) = (function.parameters.start, function.parameters.end);
        let mut ranges = Vec::new();
        let (mut start, mut at) = (open + 1, open + 1);
        while at < close {
            match &*self.tokens[at].text {
                "(" | "[" | "{" => at = closing(&self.tokens, at),
                "<" => at = closing_angle(&self.tokens, at).unwrap_or(at),
                "," => {
                    ranges.push(start..at);
                    start = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        if start < close && !(close == start + 1 && self.is(start, "void")) {
            ranges.push(start..close);
        }
        ranges
    }

    fn parameters(&mut self, function: &Function) -> Vec<Parameter> {
        let ranges = self.parameter_ranges(function);
        // Explicit indices first: the implicit ones take what is left, in order.
        let mut used: Vec<(ArgumentKind, u32)> = Vec::new();
        let mut parsed = Vec::new();
        for range in &ranges {
            let index = self.explicit_index(range, &mut used);
            parsed.push(index);
        }
        let mut parameters = Vec::new();
        for (range, explicit) in ranges.into_iter().zip(parsed) {
            if let Some(origin) = self.origin(range.clone(), explicit, &mut used) {
                let condition = self
                    .attributes_in(range)
                    .into_iter()
                    .find(|a| a.name == "function_constant")
                    .map(|a| a.arguments.iter().map(|t| t.to_string()).collect());
                parameters.push(Parameter { origin, condition });
            }
        }
        parameters
    }

    /// The index of `[[buffer(i)]]` or `[[threadgroup(i)]]`.
    fn explicit_index(&mut self, range: &Range<usize>, used: &mut Vec<(ArgumentKind, u32)>) -> Option<u32> {
        let attributes = self.attributes_in(range.clone());
        let attribute = attributes.iter().find(|a| a.name == "buffer" || a.name == "threadgroup")?;
        let at = range.end - 1;
        let kind = if attribute.name == "buffer" { ArgumentKind::Device } else { ArgumentKind::Threadgroup };
        let Some(index) = constant_expression(&attribute.arguments) else {
            self.fault(at, format!("the index of [[{}(…)]] must be a number", attribute.name));
            return Some(0);
        };
        if index > 30 {
            self.fault(at, format!("'{}' attribute index {index} is out of range: it must be 0 to 30", attribute.name));
        } else if used.contains(&(kind, index)) && !attributes.iter().any(|a| a.name == "function_constant") {
            self.fault(at, format!("'{}' index {index} is used by another argument of this kernel", attribute.name));
        }
        used.push((kind, index));
        Some(index)
    }

    fn origin(
        &mut self,
        range: Range<usize>,
        explicit: Option<u32>,
        used: &mut Vec<(ArgumentKind, u32)>,
    ) -> Option<Origin> {
        let attributes = self.attributes_in(range.clone());
        for attribute in &attributes {
            if let Some(input) = INPUTS.iter().find(|i| i.0 == attribute.name) {
                return Some(Origin::Input { field: input.1, vector: input.2 });
            }
            if let Some(input) = COMPUTED.iter().find(|i| i.0 == attribute.name) {
                return Some(Origin::Computed(input.1));
            }
        }
        let tokens = &self.tokens[range.clone()];
        let has = |text: &str| tokens.iter().any(|t| t.is(text));
        let name_at = tokens.iter().rposition(|t| t.is_name()).map_or(range.start, |i| range.start + i);
        let (reference, pointer) = (has("&"), has("*") || has("["));
        let kind = match () {
            _ if has("device") => ArgumentKind::Device,
            _ if has("constant") => ArgumentKind::Constant,
            _ if has("threadgroup") => ArgumentKind::Threadgroup,
            _ => {
                let name = self.tokens[name_at].to_string();
                let message = if reference || pointer {
                    format!(
                        "kernel argument '{name}' is a pointer or reference without an address space: it must be in \
                         'device', 'constant' or 'threadgroup' memory"
                    )
                } else {
                    format!(
                        "kernel argument '{name}' is neither a buffer nor a built-in input: it needs an attribute such as \
                         [[thread_position_in_grid]]"
                    )
                };
                self.fault(name_at, message);
                return None;
            }
        };
        if !reference && !pointer {
            let name = self.tokens[name_at].to_string();
            self.fault(name_at, format!("kernel argument '{name}' must be a pointer or a reference"));
            return None;
        }
        let unaliased = has("restrict") || has("__restrict") || has("__restrict__") || kind == ArgumentKind::Constant;
        let read_only = has("const") || kind == ArgumentKind::Constant;
        let name = self.tokens[name_at].to_string();
        let table = if kind == ArgumentKind::Threadgroup { kind } else { ArgumentKind::Device };
        let index = explicit.unwrap_or_else(|| (0..).find(|i| !used.contains(&(table, *i))).unwrap_or(0));
        if explicit.is_none() {
            used.push((table, index));
        }
        Some(Origin::Bound { argument: Argument { name, kind, index }, reference, unaliased, read_only })
    }
}

/// The value of `3`, `BASE + 3` (its macros expanded), `(2 * 4)`.
pub(crate) fn constant_expression(tokens: &[Token]) -> Option<u32> {
    fn sum(tokens: &mut std::slice::Iter<'_, Token>, product_only: bool) -> Option<i64> {
        let mut value = match tokens.next()? {
            t if t.is("(") => sum(tokens, false)?,
            t => {
                let digits = t.text.trim_end_matches(['u', 'U', 'l', 'L']);
                match digits.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(hex, 16).ok()?,
                    None => digits.parse().ok()?,
                }
            }
        };
        loop {
            let mut ahead = tokens.clone();
            match ahead.next().map(|t| t.text.clone()).as_deref() {
                Some("*") => {
                    *tokens = ahead;
                    value = value.checked_mul(factor(tokens)?)?;
                }
                Some("+") if !product_only => {
                    *tokens = ahead;
                    value = value.checked_add(sum(tokens, true)?)?;
                }
                Some("-") if !product_only => {
                    *tokens = ahead;
                    value = value.checked_sub(sum(tokens, true)?)?;
                }
                Some(")") if !product_only => {
                    *tokens = ahead;
                    return Some(value);
                }
                _ => return Some(value),
            }
        }
    }
    fn factor(tokens: &mut std::slice::Iter<'_, Token>) -> Option<i64> {
        match tokens.next()? {
            t if t.is("(") => sum(tokens, false),
            t => t.text.trim_end_matches(['u', 'U']).parse().ok(),
        }
    }
    let mut rest = tokens.iter();
    let value = sum(&mut rest, false)?;
    if rest.next().is_some() { None } else { u32::try_from(value).ok() }
}
