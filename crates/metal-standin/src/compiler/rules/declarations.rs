//! Names and types of what is declared.

use std::ops::Range;

use super::super::lexer::{SCALARS, Token, closing, closing_angle, is_vector_name};
use super::super::program::Program;
use super::ADDRESS_SPACES;
use super::Checker;

/// Scalar types that C++ has not; the others are words that clang takes for no name.
const SCALARS_OF_METAL: [&str; 6] = ["half", "bfloat", "uchar", "ushort", "uint", "ulong"];

/// A name that stands for a type without an address space, and the tokens where it does: a template's parameter, or
/// `typedef float F;`.
pub(super) struct Alias {
    name: String,
    scope: Range<usize>,
}

/// Names of types, where they certainly are that.
pub(super) fn aliases(program: &Program) -> Vec<Alias> {
    let tokens = &program.tokens;
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|t| t.is(text));
    let mut found = Vec::new();
    let mut open = Vec::new();
    for at in 0..tokens.len() {
        match &*tokens[at].text {
            "{" => open.push(at),
            "}" => drop(open.pop()),
            "template" if is(at + 1, "<") => {
                let Some(close) = closing_angle(tokens, at + 1) else { continue };
                let mut end = close + 1;
                while end < tokens.len() && !matches!(&*tokens[end].text, "{" | ";") {
                    end = match &*tokens[end].text {
                        "(" | "[" => closing(tokens, end) + 1,
                        _ => end + 1,
                    };
                }
                let end = if is(end, "{") { closing(tokens, end) } else { end };
                for i in (at + 2..close).filter(|i| is(*i, "typename") || is(*i, "class")) {
                    let named = tokens.get(i + 1).is_some_and(Token::is_name);
                    if named
                        && matches!(&*tokens[i - 1].text, "<" | ",")
                        && [",", ">", "="].iter().any(|t| is(i + 2, t))
                    {
                        found.push(Alias { name: tokens[i + 1].to_string(), scope: at..end });
                    }
                }
            }
            "typedef" | "using" => {
                let Some(end) = (at..tokens.len()).find(|i| is(*i, ";")) else { continue };
                let (name, words) =
                    if is(at, "using") && is(at + 2, "=") { (at + 1, at + 3..end) } else { (end - 1, at + 1..end - 1) };
                let simple = |t: &Token| t.is("const") || is_builtin(t) || program.is_struct(t);
                if tokens[name].is_name() && !words.is_empty() && tokens[words].iter().all(simple) {
                    let scope = open.last().map_or(tokens.len(), |open| closing(tokens, *open));
                    found.push(Alias { name: tokens[name].to_string(), scope: end..scope });
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a token is the name of a type of the language.
pub(super) fn is_builtin(token: &Token) -> bool {
    token.is_name() && (SCALARS.contains(&&*token.text) || is_vector_name(&token.text))
}

impl Program {
    fn is_struct(&self, token: &Token) -> bool {
        token.is_name() && self.structs.iter().any(|s| !s.name.is_empty() && token.is(&s.name))
    }
}

impl Checker<'_> {
    /// Whether a token is the name of a type that is certainly one.
    pub(super) fn is_type_name(&self, at: usize) -> bool {
        self.program.tokens.get(at).is_some_and(|t| is_builtin(t) || self.program.is_struct(t))
    }

    fn is_alias(&self, at: usize) -> bool {
        let previous = at.checked_sub(1).and_then(|i| self.program.tokens.get(i));
        let qualified = previous.is_some_and(|t| matches!(&*t.text, "::" | "." | "->"));
        !qualified && self.aliases.iter().any(|a| a.scope.contains(&at) && self.is(at, &a.name))
    }

    /// `uint half = 0;`, `float *half`, `float uint(float x)`: names of types are no names for anything else.
    pub(super) fn name(&mut self, at: usize) {
        let tokens = &self.program.tokens;
        let token = &tokens[at];
        let builtin = SCALARS_OF_METAL.iter().any(|name| token.is(name))
            || (is_vector_name(&token.text) && !token.text.starts_with("packed_"));
        if !token.is_name() || !builtin || at == 0 {
            return;
        }
        let next = tokens.get(at + 1).map_or("", |t| &*t.text);
        let declares = match &*tokens[at - 1].text {
            "*" | "&" => matches!(next, ";" | "=" | "," | ")" | "[" | ":"),
            "," => next == ";",
            _ => {
                (self.is_type_name(at - 1) || self.is_alias(at - 1) || self.is(at - 1, "auto"))
                    && matches!(next, ";" | "=" | "," | ")" | "[" | ":" | "(" | "{")
            }
        };
        let start = (0..at).rev().find(|i| matches!(&*tokens[*i].text, ";" | "{" | "}")).map_or(0, |i| i + 1);
        // A program may say again what the library says: `typedef unsigned int uint;`.
        if declares && !self.is(start, "typedef") && !self.is(start, "using") {
            self.fault(at, format!("'{token}' is a type: nothing else can have this name"));
        }
    }

    /// `float *p`, `const block &b`, `T *p`, `float (&p)[4]` without an address space, where something is declared. Not
    /// refused, as programs that Apple's compiler takes have them: `device T *&p`, and `float p[4]` as a parameter.
    pub(super) fn pointers(&mut self, range: Range<usize>) {
        let tokens = &self.program.tokens;
        let mut found = Vec::new();
        for at in range.clone() {
            let array = self.is(at, "(")
                && matches!(tokens.get(at + 1).map(|t| &*t.text), Some("*" | "&"))
                && tokens.get(at + 2).is_some_and(Token::is_name)
                && self.is(at + 3, ")")
                && self.is(at + 4, "[");
            let before = at.wrapping_sub(1);
            let (certain, alias) = (self.is_type_name(before), self.is_alias(before));
            if !(array || matches!(&*tokens[at].text, "*" | "&")) || before < range.start || !(certain || alias) {
                continue;
            }
            // `T * name`, `T (…)`: what follows a declared pointer.
            let declares =
                tokens.get(at + 1).is_some_and(|t| t.is_name() || (certain && (t.is(")") || t.is("*") || t.is(">"))));
            let mut start = before;
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
                || matches!(&*tokens[start - 1].text, "(" | "," | ";" | "{" | "}" | "<" | ")" | ":" | ">");
            // The address space may follow the type: `float device *p` has it among the words.
            if (declares || array) && begins && !qualified {
                let symbol = if array { at + 1 } else { at };
                found.push((symbol, if self.is(symbol, "*") { "pointer" } else { "reference" }));
            }
        }
        for (at, kind) in found {
            let name = if self.program.tokens[at + 1].is_name() { at + 1 } else { at };
            self.fault(name, format!("{kind} type must have explicit address space qualifier"));
        }
    }
}
