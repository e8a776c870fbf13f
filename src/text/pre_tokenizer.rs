//! The pre-tokenizer cuts text into pieces that BPE never merges across: roughly, words with their leading space.
//!
//! `tokenizer.json` gives the cut as a regular expression. A general engine interprets that pattern a character at a
//! time; the matcher below is the pattern written as code, which is where most of this tokenizer's speed comes from.
//! It can only be right for the one pattern it was written for, so loading compares the file's pattern with
//! [`QWEN_PATTERN`] and refuses any other.

use super::char_class::{CharClass, class_of, classes};

// ANCHOR: pattern
/// The Qwen family's pattern. At each position the first alternative that matches wins:
///
/// | alternative | in words | function |
/// | --- | --- | --- |
/// | `(?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d)` | an English contraction | `contraction` |
/// | `[^\r\n\p{L}\p{N}]?\p{L}+` | a word, with one leading space or symbol | `letters` |
/// | `\p{N}` | one digit: numbers are never merged | |
/// | ` ?[^\s\p{L}\p{N}]+[\r\n]*` | punctuation, with a leading space and the line's end | `symbols` |
/// | `\s*[\r\n]+` | white space up to its last line break | `white_space` |
/// | `\s+(?!\S)` | white space, leaving one for the word that follows | `white_space` |
/// | `\s+` | that one, if the word could not take it | `white_space` |
pub const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
// ANCHOR_END: pattern

/// Cuts a text into pieces, left to right. The pieces join to the text: nothing is dropped.
pub struct Pieces<'a> {
    text: &'a str,
    classes: &'static [CharClass],
    position: usize,
}

impl<'a> Pieces<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a str) -> Pieces<'a> {
        Pieces { text, classes: classes(), position: 0 }
    }

    /// The class of the character at `at` and where the next one starts; `None` at the end of the text.
    #[inline(always)]
    fn class_at(&self, at: usize) -> Option<(CharClass, usize)> {
        let byte = *self.text.as_bytes().get(at)?;
        if byte < 0x80 {
            return Some((class_of(self.classes, byte as char), at + 1));
        }
        let char = self.text[at..].chars().next()?;
        Some((class_of(self.classes, char), at + char.len_utf8()))
    }

    /// The end of the run of characters from `at` on that satisfy `wanted`.
    #[inline(always)]
    fn run(&self, mut at: usize, wanted: impl Fn(CharClass) -> bool) -> usize {
        while let Some((class, next)) = self.class_at(at)
            && wanted(class)
        {
            at = next;
        }
        at
    }

    /// The end of the piece that starts at `start`, which must be before the end of the text.
    #[inline(always)]
    fn piece_end(&self, start: usize) -> Option<usize> {
        let (class, second) = self.class_at(start)?;
        Some(match class {
            CharClass::Letter => self.letters(second),
            CharClass::Number => second,
            CharClass::Newline => self.white_space(start),
            CharClass::Space | CharClass::Other => {
                if let Some(end) = self.contraction(start) {
                    return Some(end);
                }
                match self.class_at(second) {
                    Some((CharClass::Letter, third)) => self.letters(third),
                    _ if class == CharClass::Other => self.symbols(second),
                    Some((CharClass::Other, third)) if self.text.as_bytes()[start] == b' ' => self.symbols(third),
                    _ => self.white_space(start),
                }
            }
        })
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`: the end of a contraction at `start`.
    #[inline(always)]
    fn contraction(&self, start: usize) -> Option<usize> {
        let rest = &self.text.as_bytes()[start..];
        if rest[0] != b'\'' {
            return None;
        }
        let lower = |at: usize| rest.get(at).map_or(0, u8::to_ascii_lowercase);
        match (lower(1), lower(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(start + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(start + 3),
            // Ignoring case, `s` is also `ſ` (U+017F, the long s): the only such letter among these.
            (0xC5, 0xBF) => Some(start + 3),
            _ => None,
        }
    }

    /// `\p{L}*`
    #[inline(always)]
    fn letters(&self, at: usize) -> usize {
        self.run(at, |class| class == CharClass::Letter)
    }

    /// `[^\s\p{L}\p{N}]*[\r\n]*`
    #[inline(always)]
    fn symbols(&self, at: usize) -> usize {
        let end = self.run(at, |class| class == CharClass::Other);
        self.run(end, |class| class == CharClass::Newline)
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`, in one pass over the run of white space at `start`.
    fn white_space(&self, start: usize) -> usize {
        let (mut end, mut last_start, mut after_newline) = (start, start, None);
        while let Some((class, next)) = self.class_at(end) {
            match class {
                CharClass::Space => {}
                CharClass::Newline => after_newline = Some(next),
                _ => break,
            }
            (last_start, end) = (end, next);
        }
        match after_newline {
            Some(after) => after,
            // The run ends the text, or is a single character: all of it.
            None if end == self.text.len() || last_start == start => end,
            // The character before the word belongs to the word's piece.
            None => last_start,
        }
    }
}

impl Iterator for Pieces<'_> {
    /// The byte range of a piece.
    type Item = std::ops::Range<usize>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let start = self.position;
        self.position = self.piece_end(start)?;
        Some(start..self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    #[test]
    fn white_space_is_cut_as_the_pattern_cuts_it() {
        for (text, expected) in [
            ("a b", &["a", " b"][..]),
            // All but the last space; that one belongs to the word.
            ("a   b", &["a", "  ", " b"]),
            // Nothing follows that could take it.
            ("a   ", &["a", "   "]),
            // Up to the last line break, and not further.
            ("a \n\n  b", &["a", " \n\n", " ", " b"]),
            ("a\n ", &["a", "\n", " "]),
            // A digit takes no space: the one space is a piece of its own.
            ("a 1", &["a", " ", "1"]),
            ("a  1", &["a", " ", " ", "1"]),
        ] {
            let found: Vec<&str> = Pieces::new(text).map(|piece| &text[piece]).collect();
            expect::same(&format!("pieces of {text:?}"), &found, expected);
        }
    }
}
