//! The byte alphabet: `tokenizer.json` spells every byte as one printable character.
//!
//! A vocabulary entry is a string of bytes, often not valid UTF-8 and often with spaces in it, but a JSON key has to be
//! text. GPT-2's answer, which every byte-level BPE file still uses: printable ASCII and Latin-1 bytes stand for
//! themselves; the other 68 (controls, space, 0x7F to 0xA0, 0xAD) take U+0100, U+0101, … in order. So a space is
//! written `Ġ` (U+0120) and a newline `Ċ` (U+010A).

// ANCHOR: alphabet
/// Whether a byte is spelled as the character of the same number.
const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The last character of the alphabet: 68 bytes are spelled from U+0100 on.
const LAST: usize = 0x100 + 68 - 1;

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            chars[byte] = byte as u8 as char;
        } else {
            chars[byte] = char::from_u32(next).expect("U+0100 to U+0143 are characters");
            next += 1;
        }
        byte += 1;
    }
    chars
};
// ANCHOR_END: alphabet

/// The inverse of [`CHARS`]; `u16::MAX` for a character outside the alphabet.
const BYTES: [u16; LAST + 1] = {
    let mut bytes = [u16::MAX; LAST + 1];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = byte as u16;
        byte += 1;
    }
    bytes
};

/// The character that spells a byte.
pub fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte that a character spells; `None` for a character outside the alphabet.
pub fn byte_of(char: char) -> Option<u8> {
    BYTES.get(char as usize).and_then(|&byte| u8::try_from(byte).ok())
}

/// Spells bytes: `" hi"` becomes `"Ġhi"`.
pub fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char_of(byte)).collect()
}

/// Appends the bytes that `spelled` stands for; if a character is outside the alphabet, returns it.
pub fn unspell(spelled: &str, bytes: &mut Vec<u8>) -> Result<(), char> {
    // EXERCISE: m0.unspell
    for char in spelled.chars() {
        bytes.push(byte_of(char).ok_or(char)?);
    }
    Ok(())
    // EXERCISE_END
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect;

    /// The three spellings that everyone who has opened such a file remembers, and that all 256 are distinct.
    #[test]
    fn every_byte_has_its_own_character() {
        assert_eq!(spell(b" \n\0~\xAD\xFF"), "ĠĊĀ~Ń\u{FF}");
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('\u{144}'), None);
    }

    #[test]
    fn characters_become_the_bytes_that_they_stand_for() {
        let bytes_of = |spelled| {
            let mut bytes = Vec::new();
            unspell(spelled, &mut bytes).map(|()| bytes)
        };
        expect::same("unspell(\"Ġhi\")", &bytes_of("Ġhi").unwrap(), &[32, 104, 105]);
        // One character, one byte: the two bytes of `é` in UTF-8 are spelled by two characters.
        expect::same("unspell(\"Ã©\")", &bytes_of("Ã©").unwrap(), "é".as_bytes());
        // U+0121 is the 34th of the 68 and stands for 0x7F, the first byte after printable ASCII.
        expect::same("unspell(\"ġ\")", &bytes_of("ġ").unwrap(), &[0x7F]);
        // A space is no character of the alphabet.
        assert_eq!(bytes_of("a b"), Err(' '), "unspell(\"a b\")");
    }
}
