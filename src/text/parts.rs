//! A tokenizer as a list of tokens and a list of merges: how GGUF stores it.

use super::tokenizer_json::{AddedTokenJson, ModelJson, Spelled, TokenizerJson, VocabJson};
use super::{Tokenizer, byte_alphabet};
use std::borrow::Cow;
use std::collections::HashSet;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Made by merging; spelled in the byte alphabet.
    Normal,
    /// An added token that people are not shown.
    Control,
    /// An added token that is text.
    UserDefined,
    /// An id that no text becomes.
    Unused,
}

impl Tokenizer {
    /// A tokenizer of the Qwen family from its tokens by id, and its merges as `"a b"` by rank. An unused token is one
    /// that has bytes and is never made. Says what is wrong with parts that make no tokenizer.
    pub fn from_parts(tokens: &[(&str, TokenKind)], merges: &[&str]) -> Result<Tokenizer, String> {
        let (mut vocab, mut added, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for (id, &(text, kind)) in tokens.iter().enumerate() {
            let id = u32::try_from(id).map_err(|_| "more tokens than 32 bits can count".to_string())?;
            match kind {
                TokenKind::Normal => vocab.push((Spelled(Cow::Borrowed(text)), id)),
                _ if !seen.insert(text) => return Err(format!("added token {id} {text:?} is given twice")),
                _ => added.push(AddedTokenJson::new(id, text, kind == TokenKind::Control)),
            }
        }
        Tokenizer::build(TokenizerJson::new(added, ModelJson::new(VocabJson(vocab), merges)?))
    }

    /// Every token by id: normal ones spelled in the byte alphabet, added ones as they are.
    pub fn tokens(&self) -> impl Iterator<Item = (String, TokenKind)> {
        let added: std::collections::HashMap<u32, _> = self.added().map(|token| (token.id, token)).collect();
        (0..self.vocab_size() as u32).map(move |id| match added.get(&id) {
            Some(token) if token.special => (token.content.clone(), TokenKind::Control),
            Some(token) => (token.content.clone(), TokenKind::UserDefined),
            None => (byte_alphabet::spell(self.token_bytes(id).unwrap_or_default()), TokenKind::Normal),
        })
    }

    /// Every merge by rank, as `"a b"` in the byte alphabet.
    pub fn merges(&self) -> impl Iterator<Item = String> {
        let spell = |id| byte_alphabet::spell(self.token_bytes(id).unwrap_or_default());
        self.bpe().parts().iter().map(move |&(left, right, _)| format!("{} {}", spell(left), spell(right)))
    }
}
