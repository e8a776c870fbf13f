//! The tokenizer: added tokens, NFC, pieces, merges, one after the other.

use super::added_tokens::{AddedToken, AddedTokens, Part};
use super::bpe::{Bpe, Scratch};
use super::nfc::nfc;
use super::pre_tokenizer::Pieces;
use super::tokenizer_json::{AddedTokenJson, TokenizerJson, parse};
use super::vocabulary::{SHORT, ShortKey, Vocabulary};
use super::{TextError, byte_alphabet};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// A byte-level BPE tokenizer of the Qwen family, read from `tokenizer.json`.
///
/// Every byte has a token, so any text can be encoded and nothing is lost: decoding gives the text back, in NFC.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    bpe: Bpe,
    added: AddedTokens,
    /// Whether text is brought into NFC first.
    nfc: bool,
}

/// A text as tokens, with the place of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The byte range of each token in [`normalized`](Self::normalized), or in the text itself if that is `None`. The
    /// ranges follow each other without gaps. A range may begin or end inside a character.
    pub spans: Vec<Range<usize>>,
    /// The text in NFC, if that differs from the text given.
    pub normalized: Option<String>,
}

/// The most recent pieces of one text that took more than a look-up, by hash of their bytes: a name that a text uses once, it
/// uses again. A newer piece replaces an older one of the same hash, so no text can make this slow.
struct Recent {
    /// The piece and where its ids are in the output.
    slots: Vec<(ShortKey, Range<usize>)>,
}

/// From this many bytes on, a text is worth the table of tokens that need no merging. A prompt is answered sooner without.
const LONG_TEXT: usize = 4096;

impl Tokenizer {
    /// Reads `tokenizer.json`; `file` is the name used in errors.
    pub fn from_json(json: &[u8], file: &str) -> Result<Tokenizer, TextError> {
        let invalid = |message| TextError::Invalid { file: file.to_string(), message };
        parse(json).and_then(Tokenizer::build).map_err(invalid)
    }

    pub(super) fn build(file: TokenizerJson) -> Result<Tokenizer, String> {
        let (vocab, merges) = (&file.model.vocab.0, &file.model.merges);
        let mut vocabulary = Vocabulary::with_room(vocab.len() + file.added_tokens.len());
        if let Some(token) = file.added_tokens.iter().find(|token| token.content.is_empty()) {
            return Err(format!("token {} is empty", token.id));
        }
        let added = file.added_tokens.iter();
        let added =
            added.map(|token| AddedToken { id: token.id, content: token.content.clone(), special: token.special });
        let added = AddedTokens::new(added.collect());
        // The added tokens that the vocabulary lists too, with the ids that it gives them.
        let mut listed = HashMap::new();
        let mut bytes = Vec::new();
        for (spelled, id) in vocab {
            bytes.clear();
            let outside = byte_alphabet::unspell(&spelled.0, &mut bytes);
            if added.get(&spelled.0).is_some() {
                if listed.insert(&*spelled.0, *id).is_some() {
                    return Err(format!("the vocabulary lists {:?} twice", spelled.0));
                }
                // An added token is written as it is, not in the byte alphabet.
                if bytes != spelled.0.as_bytes() {
                    continue;
                }
            }
            outside.map_err(|char| {
                format!("token {id} {:?} holds {char:?}, which is not in the byte alphabet", spelled.0)
            })?;
            vocabulary.insert(*id, &bytes)?;
        }
        let bpe = Bpe::new(&vocabulary, merges.pairs()?)?;

        for AddedTokenJson { id, content, .. } in &file.added_tokens {
            match listed.get(content.as_str()) {
                Some(other) if other != id => {
                    return Err(format!("added token {content:?} has id {id}, but the vocabulary gives it {other}"));
                }
                Some(_) if vocabulary.get(content.as_bytes()) == Some(*id) => {}
                _ => vocabulary.name(*id, content.as_bytes())?,
            }
        }
        let tokens = vocab.len() + file.added_tokens.len() - listed.len();
        if let Some(gap) = vocabulary.first_gap().filter(|gap| *gap < tokens) {
            return Err(format!("no token has id {gap}: the {tokens} tokens must have the ids 0 to {}", tokens - 1));
        }
        vocabulary.truncate(tokens);

        Ok(Tokenizer { vocabulary, bpe, added, nfc: file.nfc() })
    }

    // ANCHOR: encode
    /// Token ids of `text`. Added tokens (`<|im_start|>`, `<think>`, …) match whole.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        // English takes about four and a half bytes a token.
        let mut ids = Vec::with_capacity(text.len() / 4 + 8);
        let mut recent = Recent::for_text(text);
        let mut scratch = Scratch::default();
        let whole = if text.len() < LONG_TEXT { &[] } else { self.bpe.whole() };
        for part in self.added.split(text) {
            match part {
                Part::Added(token) => ids.push(token.id),
                Part::Text(text) => self.encode_part(&self.normalize(text), whole, &mut recent, &mut scratch, &mut ids),
            }
        }
        ids
    }
    // ANCHOR_END: encode

    /// Appends the ids of a normalized text without added tokens. A piece that is one of the `whole` tokens needs no merging.
    fn encode_part(&self, text: &str, whole: &[bool], recent: &mut Recent, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let is_whole = |id: u32| whole.get(id as usize) == Some(&true);
        for piece in Pieces::new(text) {
            if piece.len() > SHORT {
                match self.vocabulary.get_long(&bytes[piece.clone()]) {
                    Some(id) if is_whole(id) => ids.push(id),
                    _ => self.bpe.encode(&bytes[piece], scratch, ids),
                }
                continue;
            }
            let key = ShortKey::new(bytes, piece.clone());
            match self.vocabulary.get_short(key) {
                Some(id) if is_whole(id) => ids.push(id),
                _ => {
                    let slot = recent.slot(key);
                    if slot.0 == key {
                        ids.extend_from_within(slot.1.clone());
                    } else {
                        let start = ids.len();
                        self.bpe.encode(&bytes[piece], scratch, ids);
                        *slot = (key, start..ids.len());
                    }
                }
            }
        }
    }

    /// The ids of `text`, and the place of each token in it.
    pub fn encode_with_spans(&self, text: &str) -> Encoding {
        let ids = self.encode(text);
        let mut end = 0;
        // The tokens' bytes join to the normalized text, so their lengths are enough to place them.
        let spans = ids.iter().map(|&id| {
            let start = end;
            end += self.token_bytes(id).map_or(0, <[u8]>::len);
            start..end
        });
        Encoding { spans: spans.collect(), ids, normalized: self.normalized(text) }
    }

    /// What the tokens of `text` decode to, if that is not `text` itself: all but the added tokens in NFC.
    pub fn normalized(&self, text: &str) -> Option<String> {
        let normalize = |part| match part {
            Part::Added(token) => Cow::Borrowed(token.content.as_str()),
            Part::Text(text) => self.normalize(text),
        };
        let normalized: String = self.added.split(text).map(normalize).collect();
        (normalized != text).then_some(normalized)
    }

    /// The parts of a text: added tokens, and what lies between them.
    pub(super) fn parts<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Part<'a>> {
        self.added.split(text)
    }

    /// The added tokens, in no particular order.
    pub(super) fn added(&self) -> impl Iterator<Item = &AddedToken> {
        self.added.iter()
    }

    /// The merges.
    pub(super) fn bpe(&self) -> &Bpe {
        &self.bpe
    }

    /// A part that is not an added token, normalized.
    pub(super) fn normalize<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.nfc { nfc(text) } else { Cow::Borrowed(text) }
    }

    /// The exact bytes of `ids`, added tokens included as their text.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, TextError> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for &id in ids {
            let unknown = TextError::UnknownId { id, vocab_size: self.vocab_size() };
            bytes.extend_from_slice(self.token_bytes(id).ok_or(unknown)?);
        }
        Ok(bytes)
    }

    /// The bytes of one token; `None` if no token has this id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The id of the token whose text is exactly `text`: an added token, else a vocabulary entry.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let added = self.added.get(text).map(|token| token.id);
        added.or_else(|| self.vocabulary.get(text.as_bytes()))
    }

    /// Whether this id is an added token marked `special` (not shown to people).
    pub fn is_special(&self, id: u32) -> bool {
        self.added.iter().any(|token| token.id == id && token.special)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }
}

impl Recent {
    /// Memory in proportion to the text, up to 16,384 pieces.
    fn for_text(text: &str) -> Recent {
        let slots = (text.len() / 16).next_power_of_two().clamp(1, 1 << 14);
        Recent { slots: vec![(ShortKey::EMPTY, 0..0); slots] }
    }

    fn slot(&mut self, key: ShortKey) -> &mut (ShortKey, Range<usize>) {
        let at = key.hash() as usize & (self.slots.len() - 1);
        &mut self.slots[at]
    }
}
