//! Tokens of the preprocessed program, each with the place in the user's text that it came from.
//!
//! clang's preprocessor keeps lines, but not columns: a macro's expansion is as long as it is. So each line is laid over
//! the user's line, token by token: a token found there has its own column, one that a macro made has the column of the
//! name that follows, which is the macro's.

use std::fmt;
use std::rc::Rc;

/// Where in the user's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Counted from 1; 0 for what has no place.
    pub line: u32,
    /// Counted from 1, in bytes.
    pub column: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Name,
    Number,
    /// A string or a character, with its quotes.
    Text,
    Punctuation,
    /// A whole `#pragma` line.
    Pragma,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub text: Rc<str>,
    pub kind: Kind,
    /// The line of the preprocessed text, from 0.
    pub row: u32,
    /// Whether white space is before it.
    pub space: bool,
    pub place: Place,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        &*self.text == text
    }

    pub(crate) fn is_name(&self) -> bool {
        self.kind == Kind::Name
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Punctuation of more than one character that the passes want whole. `>>` stays two tokens: it may close two templates.
const LONG: [&str; 9] = ["...", "::", "->", "&&", "||", "==", "!=", "<=", "++"];

/// One token at the start of `text`: its kind and length. `text` does not start with white space.
fn one(text: &str) -> (Kind, usize) {
    let bytes = text.as_bytes();
    let first = bytes[0];
    let name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
    if first == b'"' || first == b'\'' {
        let mut at = 1;
        while at < bytes.len() && bytes[at] != first {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        return (Kind::Text, (at + 1).min(bytes.len()));
    }
    if first.is_ascii_digit() || (first == b'.' && bytes.get(1).is_some_and(u8::is_ascii_digit)) {
        let mut at = 1;
        while let Some(&b) = bytes.get(at) {
            let exponent = (b == b'+' || b == b'-')
                && (matches!(bytes[at - 1], b'p' | b'P')
                    || (matches!(bytes[at - 1], b'e' | b'E') && !text.starts_with("0x") && !text.starts_with("0X")));
            if !(name(&b) || b == b'.' || exponent) {
                break;
            }
            at += 1;
        }
        return (Kind::Number, at);
    }
    if name(&first) {
        return (Kind::Name, bytes.iter().position(|b| !name(b)).unwrap_or(bytes.len()));
    }
    let long = LONG.iter().find(|long| text.starts_with(**long));
    (Kind::Punctuation, long.map_or(1, |long| long.len()))
}

/// The tokens of one line without comments: kind, byte range, whether white space is before.
fn line_tokens(line: &str) -> Vec<(Kind, std::ops::Range<usize>, bool)> {
    let mut tokens = Vec::new();
    let (mut at, mut space) = (0, false);
    while let Some(c) = line[at..].chars().next() {
        if c.is_whitespace() {
            at += c.len_utf8();
            space = true;
            continue;
        }
        let (kind, length) = one(&line[at..]);
        let mut end = (at + length).min(line.len());
        while !line.is_char_boundary(end) {
            end += 1;
        }
        tokens.push((kind, at..end, space));
        (at, space) = (end, false);
    }
    tokens
}

/// Tokens of preprocessed text (with its `# LINE "FILE"` markers). Names in the user's text have their place in `source`,
/// whose name in the markers is `file`.
pub(crate) fn tokens(preprocessed: &str, source: &str, file: &str) -> Vec<Token> {
    let lines: Vec<&str> = source.lines().collect();
    let mut result = Vec::new();
    let (mut number, mut inside) = (0_u32, false);
    // The user's line that is laid under, and how far it is used up.
    let mut under = (0, Vec::new(), 0);
    for (row, line) in preprocessed.lines().enumerate() {
        let row = row as u32;
        if let Some(rest) = line.strip_prefix("# ") {
            let mut parts = rest.splitn(2, ' ');
            number = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            inside = parts.next().and_then(|name| name.split('"').nth(1)) == Some(file);
            continue;
        }
        let place = Place { line: if inside { number } else { 0 }, column: 1 };
        number += 1;
        if line.trim_start().starts_with('#') {
            result.push(Token { text: line.trim().into(), kind: Kind::Pragma, row, space: false, place });
            continue;
        }
        if under.0 != place.line {
            let below = lines.get((place.line as usize).wrapping_sub(1)).copied().unwrap_or("");
            under = (place.line, line_tokens(below).into_iter().map(|t| (&below[t.1.clone()], t.1.start)).collect(), 0);
        }
        for (kind, range, space) in line_tokens(line) {
            let text = &line[range];
            let found = under.1[under.2..].iter().position(|(word, _)| *word == text);
            if let Some(ahead) = found {
                under.2 += ahead + 1;
            }
            let column = match found {
                Some(_) => under.1[under.2 - 1].1,
                None => under.1.get(under.2).or(under.1.last()).map_or(0, |(_, start)| *start),
            };
            let place = Place { column: column as u32 + 1, ..place };
            result.push(Token { text: text.into(), kind, row, space, place });
        }
    }
    result
}

/// Names of scalar types, and words that make one.
pub(crate) const SCALARS: [&str; 25] = [
    "void",
    "bool",
    "char",
    "uchar",
    "short",
    "ushort",
    "int",
    "uint",
    "long",
    "ulong",
    "float",
    "half",
    "bfloat",
    "size_t",
    "ptrdiff_t",
    "int8_t",
    "uint8_t",
    "int16_t",
    "uint16_t",
    "int32_t",
    "uint32_t",
    "int64_t",
    "uint64_t",
    "unsigned",
    "signed",
];

/// `float4`, `half2x3`, `packed_uchar4`, `simdgroup_float8x8`…: types whose conversions clang does not know.
pub(crate) fn is_vector_name(name: &str) -> bool {
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

/// Index of the token that closes the bracket at `open`, or `tokens.len()`.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match &*token.text {
            "(" | "[" | "{" if token.kind == Kind::Punctuation => depth += 1,
            ")" | "]" | "}" if token.kind == Kind::Punctuation => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// Index of the `>` that closes the `<` at `open`, if what is between reads like template arguments.
pub(crate) fn closing_angle(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    let mut at = open;
    while at < tokens.len() {
        match &*tokens[at].text {
            "<" => depth += 1,
            ">" => depth -= 1,
            "(" | "[" => at = closing(tokens, at),
            ";" | "{" | "}" | ")" | "]" => return None,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// A bracket without its partner: everything after this file counts on pairs.
pub(crate) fn unbalanced(tokens: &[Token]) -> Option<&Token> {
    let mut open: Vec<&Token> = Vec::new();
    for token in tokens.iter().filter(|t| t.kind == Kind::Punctuation) {
        let partner = match &*token.text {
            "(" | "[" | "{" => {
                open.push(token);
                continue;
            }
            ")" => "(",
            "]" => "[",
            "}" => "{",
            _ => continue,
        };
        if !open.pop().is_some_and(|t| t.is(partner)) {
            return Some(token);
        }
    }
    open.pop()
}
