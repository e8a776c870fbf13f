//! The classes of characters that the Qwen pattern tells apart.

use std::sync::LazyLock;

/// What a character is to the pre-tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CharClass {
    /// Everything else: punctuation, symbols, marks, controls, unassigned.
    Other,
    /// `\p{L}`: General_Category L.
    Letter,
    /// `\p{N}`: General_Category N.
    Number,
    /// `\s` other than the two below: White_Space.
    Space,
    /// `\r` and `\n`.
    Newline,
}

/// The class of every character up to the last letter or number; those above are [`CharClass::Other`].
///
/// One byte a character (202 KiB, of which a text touches few pages) makes the class of a Chinese character one load.
/// Letters and numbers come from `regex-syntax`'s tables.
static CLASSES: LazyLock<Vec<CharClass>> = LazyLock::new(|| {
    let mut classes = Vec::new();
    for (pattern, class) in [(r"\p{L}", CharClass::Letter), (r"\p{N}", CharClass::Number)] {
        let hir = regex_syntax::parse(pattern).expect("a category is a valid pattern");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(ranges)) = hir.kind() else {
            unreachable!("a category is a class of characters");
        };
        for range in ranges.iter() {
            let (start, end) = (range.start() as usize, range.end() as usize);
            if classes.len() <= end {
                classes.resize(end + 1, CharClass::Other);
            }
            classes[start..=end].fill(class);
        }
    }
    for space in ('\0'..='\u{3000}').filter(|char| char.is_whitespace()) {
        classes[space as usize] = CharClass::Space;
    }
    classes[usize::from(b'\r')] = CharClass::Newline;
    classes[usize::from(b'\n')] = CharClass::Newline;
    classes
});

/// The table of classes, for [`class_of`]; made on first use.
pub fn classes() -> &'static [CharClass] {
    &CLASSES
}

/// The class of a character.
pub fn class_of(classes: &[CharClass], char: char) -> CharClass {
    classes.get(char as usize).copied().unwrap_or(CharClass::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    /// Every character's class, against the regular expression engine (Oniguruma) of `tokenizers`.
    #[test]
    fn classes_are_the_oracles() {
        let differing = |pattern: &str, wanted: &dyn Fn(CharClass) -> bool| {
            let all: String = ('\0'..=char::MAX).collect();
            let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Removed, true).unwrap();
            let mut text = PreTokenizedString::from(all.as_str());
            split.pre_tokenize(&mut text).unwrap();
            let matched = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let theirs: std::collections::HashSet<char> = matched.iter().flat_map(|(text, ..)| text.chars()).collect();
            let differs = |char: &char| theirs.contains(char) != wanted(class_of(classes(), *char));
            ('\0'..=char::MAX).filter(differs).collect::<Vec<_>>()
        };
        assert_eq!(differing(r"\p{L}+", &|class| class == CharClass::Letter), []);
        assert_eq!(differing(r"\p{N}+", &|class| class == CharClass::Number), []);
        assert_eq!(differing(r"\s+", &|class| matches!(class, CharClass::Space | CharClass::Newline)), []);
    }
}
