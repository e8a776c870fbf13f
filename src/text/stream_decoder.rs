//! Token bytes become text as they arrive, never showing half a character.

/// Turns a stream of token bytes into text, holding back an incomplete UTF-8 sequence until it is whole.
///
/// A token is a string of bytes and may end in the middle of a character: `🪐` is three tokens in Qwen3. However the bytes are
/// split, the pieces returned by [`push`](Self::push) and [`finish`](Self::finish) join to what
/// [`String::from_utf8_lossy`] makes of all the bytes at once, and each byte is shown as soon as it is certain.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The start of a character that may yet be completed: at most 3 bytes.
    pending: Vec<u8>,
}

impl StreamDecoder {
    // ANCHOR: push
    /// Adds a token's bytes; returns the text that is now certain. Bytes that can no longer become
    /// a character are replaced by U+FFFD at once.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        // EXERCISE: m0.stream_decoder
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    // No length means that the input ended inside a character: wait for the rest of it.
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        let held = rest.len();
        self.pending.drain(..self.pending.len() - held);
        text
        // EXERCISE_END
    }
    // ANCHOR_END: push

    /// The end of the stream: what was held back, an incomplete sequence replaced by U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_split_over_tokens_appears_once_it_is_whole() {
        let mut decoder = StreamDecoder::default();
        let rocket = "🚀".as_bytes();
        assert_eq!(decoder.push(&rocket[..2]), "", "two of the rocket's four bytes");
        assert_eq!(decoder.push(&rocket[2..3]), "", "its third byte");
        assert_eq!(decoder.push(&[rocket[3], b'!']), "🚀!", "its fourth byte and more");
        assert_eq!(decoder.finish(), "");
    }

    #[test]
    fn bytes_that_cannot_become_a_character_are_replaced_at_once() {
        let mut decoder = StreamDecoder::default();
        assert_eq!(decoder.push(&[0xF0, 0x9F]), "");
        assert_eq!(decoder.push(b"a"), "\u{FFFD}a", "a byte that cannot continue what was held back");
        assert_eq!(decoder.push(&[0xC3]), "");
        assert_eq!(decoder.finish(), "\u{FFFD}");
        assert_eq!(decoder.push(b"b"), "b", "a finished decoder starts afresh");
    }

    /// Bytes that are often the start, the middle or the end of a character, so that every kind of breakage occurs.
    fn tricky_byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            any::<u8>(),
            prop::sample::select(b"a\x80\x9F\xA0\xBF\xC1\xC3\xE0\xE2\xED\xF0\xF4\xF5\xFF".to_vec())
        ]
    }

    proptest! {
        #[test]
        fn every_split_gives_the_text_of_the_whole(
            parts in prop::collection::vec(prop::collection::vec(tricky_byte(), 0..5), 0..12)
        ) {
            let mut decoder = StreamDecoder::default();
            let mut text: String = parts.iter().map(|part| decoder.push(part)).collect();
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&parts.concat()).into_owned());
        }
    }
}
