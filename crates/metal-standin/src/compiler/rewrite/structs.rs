//! Structs: copied between address spaces, and with methods for objects in each.

use std::collections::HashSet;

use super::super::lexer::{Kind, Token, closing, closing_angle};
use super::super::program::Struct;
use super::Rewriter;

impl<'a> Rewriter<'a> {
    pub(super) fn structs(&mut self) {
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
        // `S(…)`, and `S<T>(…)` where only a declaration can be: the parentheses of its own constructors.
        let constructors = (found.body.start + 1..found.body.end).filter_map(|at| {
            let arguments =
                self.is(at + 1, "<") && matches!(&*tokens[at - 1].text, "constexpr" | ";" | "{" | "}" | ")");
            let next = if arguments { closing_angle(tokens, at + 1).unwrap_or(at) } else { at };
            (tokens[at].is(&name) && self.is(next + 1, "(")).then_some(next + 1)
        });
        // `S() = default` alone leaves it an aggregate.
        let defaulted = |at: &usize| self.is(at + 1, ")") && tokens[at + 2..].iter().take(4).any(|t| t.is("default"));
        let constructors: Vec<usize> = constructors.collect();
        let own_default = constructors.iter().any(defaulted);
        let own_constructor = !constructors.iter().all(defaulted);
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
            if !own_default {
                own += &format!("{name}() = default; ");
            }
        }
        let constructors = if anonymous_union { "MSL_UNION_CONSTRUCTORS" } else { "MSL_CONSTRUCTORS" };
        let (public, private) = if is_class { ("public: ", "private: ") } else { ("", "") };
        let local = self.program.functions.iter().any(|f| f.body.contains(&found.keyword));
        let kind = if local { "MSL_LOCAL_ASSIGNMENTS" } else { "MSL_ASSIGNMENTS" };
        // A constant field forbids assignment.
        let fixed =
            self.fields(found).is_some_and(|f| f.iter().any(|f| f.0.starts_with("const ") && !f.0.ends_with('*')));
        let assignments = if fixed { String::new() } else { format!("{kind}({name})") };
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
                "(" if self.is(at - 1, "__attribute__") || self.is(at - 1, "alignas") => at = closing(tokens, at),
                "(" => {
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
                    // `NAME<T>() device = default`: a constructor's name has no arguments in C++23.
                    let head = if self.is(at - 1, ">") {
                        (start..at).rev().find(|i| self.is(*i, name) && closing_angle(tokens, *i + 1) == Some(at - 1))
                    } else {
                        None
                    };
                    if let Some(head) = head {
                        self.drop(head + 1..at);
                    }
                    let is_constructor = head.is_some() || tokens[at - 1].is(name);
                    let elsewhere = words.iter().any(|w| matches!(&**w, "device" | "constant" | "threadgroup"));
                    let mut end = after;
                    while end < found.body.end && !matches!(&*tokens[end].text, "{" | ";") {
                        end = if self.is(end, "(") { closing(tokens, end) + 1 } else { end + 1 };
                    }
                    if self.is(end, "{") {
                        let body = end..closing(tokens, end);
                        end = body.end;
                        if elsewhere && !is_constructor {
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
                    if elsewhere && is_constructor {
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
                "(" | "[" | "{" => at = closing(tokens, at),
                "<" => at = closing_angle(tokens, at).unwrap_or(at),
                "using" => {
                    while !self.is(at, ";") {
                        at += 1
                    }
                }
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
            (self.is(next, "{") && !self.program.structs.iter().any(|s| s.body.start == next))
                || (self.is(next, "=") && self.is(next + 1, "{"))
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
            let (mut equals, mut function, mut names) = (None, false, Vec::new());
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
                        names.push(at - 1);
                    }
                    _ => {}
                }
                at += 1;
            }
            let end = equals.unwrap_or(at);
            let words = &tokens[start..end];
            let skipped = ["using", "typedef", "static", "friend", "static_assert", "template"];
            let other = words.is_empty()
                || words.iter().any(|t| skipped.iter().any(|word| t.is(word)) || t.kind == Kind::Pragma);
            if !function && !other {
                let default = equals.map_or(" = {}".to_string(), |e| format!(" {}", self.program.text(e..at)));
                // `float x, *y;` would want more care than it is worth.
                names.push(end - 1);
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
}
