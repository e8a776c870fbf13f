//! Conversions, braces and choices: expressions that mean another thing to C++, or nothing.

use std::ops::Range;

use super::super::lexer::{Kind, SCALARS, Token, closing, closing_angle, is_vector_name};
use super::Rewriter;

impl Rewriter<'_> {
    /// `static constexpr constant T x = Other<T>::y;`: an object in constant memory is made from a value, not copied.
    pub(super) fn constant_copies(&mut self) {
        let tokens = self.tokens();
        for at in (0..tokens.len()).filter(|at| tokens[*at].is("=") && *at > 1 && tokens[*at - 1].is_name()) {
            let start = (0..at).rev().find(|i| matches!(&*tokens[*i].text, ";" | "{" | "}" | "(" | ",")).unwrap_or(0);
            let end = (at..tokens.len()).find(|i| matches!(&*tokens[*i].text, ";" | "(" | "{")).unwrap_or(at);
            let constant = tokens[start..at].iter().any(|t| t.is("constant"));
            if constant && self.is(end, ";") && tokens[end - 1].is_name() && tokens[at..end].iter().any(|t| t.is("::"))
            {
                self.insert_after(at, "msl::value(");
                self.insert_after(end - 1, ")");
            }
        }
    }

    /// `f({a, b, c})`: clang makes no vector of braces in an argument.
    pub(super) fn braced_arguments(&mut self) {
        let tokens = self.tokens();
        let mut open = Vec::new();
        for at in 0..tokens.len() {
            match &*tokens[at].text {
                "(" | "[" => open.push(at),
                ")" | "]" | "}" => drop(open.pop()),
                "{" => {
                    let call = open.last().copied().filter(|p| self.is(*p, "(") && *p > 0);
                    let call = call.filter(|p| tokens[p - 1].is_name() || self.is(p - 1, ">"));
                    let close = closing(tokens, at);
                    let first = at > 0 && matches!(&*tokens[at - 1].text, "(" | ",");
                    if call.is_some()
                        && first
                        && self.is(at.wrapping_sub(1), if call == Some(at - 1) { "(" } else { "," })
                    {
                        let (mut commas, mut i, mut plain) = (0, at + 1, true);
                        while i < close {
                            match &*tokens[i].text {
                                "(" | "[" => i = closing(tokens, i),
                                "<" => i = closing_angle(tokens, i).unwrap_or(i),
                                "{" | ";" | "." if tokens[i - 1].is("{") || !self.is(i, ".") => plain = false,
                                "," => commas += 1,
                                _ => {}
                            }
                            i += 1;
                        }
                        if plain && (1..=3).contains(&commas) {
                            self.replace.insert(at, "msl::braced(".into());
                            self.replace.insert(close, ")".into());
                        }
                    }
                    open.push(at);
                }
                _ => {}
            }
        }
    }

    /// `c ? x[i] : T(0)`: where the sides look different, one may be in device memory, and they must agree.
    pub(super) fn choices(&mut self) {
        let tokens = self.tokens();
        'choice: for at in (0..tokens.len()).filter(|at| tokens[*at].is("?")) {
            let (mut depth, mut i) = (0, at + 1);
            while i < tokens.len() && !(depth == 0 && self.is(i, ":")) {
                match &*tokens[i].text {
                    "(" | "[" | "{" => i = closing(tokens, i),
                    "?" => depth += 1,
                    ":" => depth -= 1,
                    ";" => continue 'choice,
                    _ => {}
                }
                i += 1;
            }
            let colon = i;
            i += 1;
            while i < tokens.len() && !matches!(&*tokens[i].text, ";" | "," | ")" | "]" | "}" | ":") {
                i = if matches!(&*tokens[i].text, "(" | "[" | "{") { closing(tokens, i) + 1 } else { i + 1 };
            }
            let form = |last: usize| match &*tokens[last].text {
                "]" | ")" => tokens[last].text.to_string(),
                _ => format!("{:?}", tokens[last].kind),
            };
            let plain = |last: usize| tokens[last].kind == Kind::Number || tokens[last].kind == Kind::Text;
            let in_template = i < tokens.len() && self.is(i - 1, ">");
            if i < tokens.len() && !in_template && form(colon - 1) != form(i - 1) && !plain(colon - 1) && !plain(i - 1)
            {
                self.insert_after(at, "msl::value(");
                self.insert_before(colon, ")");
                self.insert_after(colon, "msl::value(");
                self.insert_after(i - 1, ")");
            }
        }
    }

    /// `constant int shape[3]` as a parameter is a pointer; clang has no arrays of other memory there.
    pub(super) fn array_parameter(&mut self, at: usize) {
        let tokens = self.tokens();
        let starts = matches!(&*tokens[at].text, "device" | "constant" | "threadgroup")
            && at > 0
            && matches!(&*tokens[at - 1].text, "(" | "," | "const" | "volatile");
        let mut end = at + 1;
        while starts && end < tokens.len() {
            match &*tokens[end].text {
                "<" => end = closing_angle(tokens, end).unwrap_or(end),
                "[" if tokens[end - 1].is_name() => {
                    let close = closing(tokens, end);
                    if self.is(close + 1, ",") || self.is(close + 1, ")") {
                        self.drop(end..close + 1);
                        self.insert_before(end - 1, "*");
                    }
                    return;
                }
                _ if tokens[end].is_name() || self.is(end, "::") => {}
                _ => return,
            }
            end += 1;
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
    pub(super) fn conversion(&mut self, at: usize) {
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
        // `int2 x(a, b);` in a function.
        if let Some(range) =
            self.vector_type(at).filter(|r| is_vector_name(&self.tokens()[r.start].text) && self.is(r.end + 1, "("))
        {
            let close = closing(self.tokens(), range.end + 1);
            let named = self.tokens()[range.end].is_name() && close > range.end + 2 && self.is(close + 1, ";");
            if named && self.program.functions.iter().any(|f| f.body.contains(&at)) {
                let type_name = self.program.text(range.clone());
                self.insert_after(range.end, format!("= msl::make<{type_name}>"));
            }
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
        let qualifiers = ["device", "thread", "threadgroup", "constant", "const"];
        tokens.first().is_some_and(|t| qualifiers.iter().chain(&SCALARS).any(|word| t.is(word)))
            || self.vector_type(range.start).is_some_and(|r| r.end == range.end)
    }
}
