//! NFC: one spelling for each character, so that `é` and `e` + `◌́` become the same tokens.

use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The text in Unicode Normalization Form C; borrowed if it is in that form already, as nearly all text is.
pub fn nfc(text: &str) -> Cow<'_, str> {
    if is_surely_nfc(text) {
        return Cow::Borrowed(text);
    }
    let normalized: String = text.nfc().collect();
    if normalized == text { Cow::Borrowed(text) } else { Cow::Owned(normalized) }
}

/// Looks up only the characters that can matter: all below U+0300 (UTF-8: bytes below 0xCC) are starters that stay as they
/// are unless a mark follows, and an ASCII character ends whatever came before it.
fn is_surely_nfc(text: &str) -> bool {
    let mut rest = text;
    while let Some(start) = rest.bytes().position(|byte| byte >= 0xCC) {
        let run = &rest[start..];
        let length = run.bytes().position(|byte| byte.is_ascii()).unwrap_or(run.len());
        if is_nfc_quick(run[..length].chars()) != IsNormalized::Yes {
            return false;
        }
        rest = &run[length..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The short cut must never call a text normalized that is not.
        #[test]
        fn equals_the_full_normalization(text in "[a~é\u{300}\u{301}\u{323}\u{338}>\u{C5}\u{212B}각\u{1100}\u{1161}\u{11A8}क़ー\u{3099}か🚀]{0,12}") {
            prop_assert_eq!(nfc(&text), text.nfc().collect::<String>());
        }
    }
}
