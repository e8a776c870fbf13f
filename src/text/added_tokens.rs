//! Added tokens, such as `<|im_start|>` and `<think>`: found in the text as they are, before anything else looks at it.

/// One added token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether it is a control mark that people are not shown.
    pub special: bool,
}

/// All added tokens of a tokenizer.
pub struct AddedTokens {
    /// By first byte of their text, in each list the longest first.
    by_first_byte: Vec<Vec<AddedToken>>,
    /// Whether a token starts with this byte: all that most bytes of a text are asked.
    starts: [bool; 256],
}

/// A part of a text: an added token, or what lies between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text to be normalized, cut into pieces and merged.
    Text(&'a str),
    /// An added token.
    Added(&'a AddedToken),
}

impl AddedTokens {
    /// Collects tokens, whose texts are distinct and not empty.
    pub fn new(tokens: Vec<AddedToken>) -> AddedTokens {
        let mut by_first_byte = vec![Vec::new(); 256];
        for token in tokens {
            by_first_byte[usize::from(token.content.as_bytes()[0])].push(token);
        }
        for list in &mut by_first_byte {
            list.sort_by_key(|token: &AddedToken| std::cmp::Reverse(token.content.len()));
        }
        let starts = std::array::from_fn(|byte| !by_first_byte[byte].is_empty());
        AddedTokens { by_first_byte, starts }
    }

    /// All tokens, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.by_first_byte.iter().flatten()
    }

    /// The token whose text is exactly `text`.
    pub fn get(&self, text: &str) -> Option<&AddedToken> {
        let first = *text.as_bytes().first()?;
        self.by_first_byte[usize::from(first)].iter().find(|token| token.content == text)
    }

    /// Cuts a text at its added tokens: the leftmost first, and where several start, the longest.
    pub fn split<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Part<'a>> {
        let mut rest = text;
        let mut found = None;
        std::iter::from_fn(move || {
            if let Some(token) = found.take() {
                return Some(Part::Added(token));
            }
            if rest.is_empty() {
                return None;
            }
            let Some((at, token)) = self.find(rest) else {
                return Some(Part::Text(std::mem::take(&mut rest)));
            };
            let before = &rest[..at];
            rest = &rest[at + token.content.len()..];
            if before.is_empty() {
                return Some(Part::Added(token));
            }
            found = Some(token);
            Some(Part::Text(before))
        })
    }

    /// The leftmost longest token in `text`, and where.
    fn find(&self, text: &str) -> Option<(usize, &AddedToken)> {
        let bytes = text.as_bytes();
        let mut at = 0;
        loop {
            at += bytes[at..].iter().position(|&byte| self.starts[usize::from(byte)])?;
            let rest = &bytes[at..];
            let mut candidates = self.by_first_byte[usize::from(rest[0])].iter();
            if let Some(token) = candidates.find(|token| rest.starts_with(token.content.as_bytes())) {
                return Some((at, token));
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token inside a longer one, one glued to text, two in a row, and one that almost starts.
    #[test]
    fn leftmost_longest() {
        let added = |id, content: &str| AddedToken { id, content: content.to_string(), special: false };
        let tokens = AddedTokens::new(vec![added(0, "<a>"), added(1, "<a><b>"), added(2, "é")]);
        let parts: Vec<_> = tokens.split("x<a><a><b><aéy").collect();
        let (a, ab, e) = (tokens.get("<a>").unwrap(), tokens.get("<a><b>").unwrap(), tokens.get("é").unwrap());
        use Part::{Added, Text};
        assert_eq!(parts, [Text("x"), Added(a), Added(ab), Text("<a"), Added(e), Text("y")]);
        assert_eq!(tokens.split("").count(), 0);
    }
}
