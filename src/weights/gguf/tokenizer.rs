//! The tokenizer and the chat template as GGUF keys.

use super::{Gguf, Header, Value};
use crate::text::{TextError, TokenKind, Tokenizer};
use crate::weights::{SharedBytes, SourceError, WeightsError};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
/// The token that ends a text.
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
/// The token that begins a text.
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const TEMPLATE: &str = "tokenizer.chat_template";

/// The end of a turn and of a text in the Qwen family: ggml, too, knows them by their text, since the format has room for
/// one end token and the models have two.
const END_TEXTS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// Kinds of tokens, and their numbers.
const KINDS: [(TokenKind, i64); 4] =
    [(TokenKind::Normal, 1), (TokenKind::Control, 3), (TokenKind::UserDefined, 4), (TokenKind::Unused, 5)];

impl Gguf {
    /// Whether there is a tokenizer in the file.
    pub fn has_tokenizer(&self) -> bool {
        self.value(TOKENS).is_some()
    }

    /// The tokenizer. Unused tokens at the end, which only fill up the embedding's rows, are left out.
    pub fn tokenizer(&self) -> Result<Tokenizer, SourceError> {
        for (key, supported) in [(MODEL, "gpt2"), (PRE, "qwen2")] {
            match self.text(key)? {
                Some(found) if found == supported => {}
                _ => {
                    let found = self.value(key).map_or("nothing".into(), |value| value.to_string());
                    let message =
                        format!("found {found}, expected `{supported}`: the byte-level BPE of the Qwen family");
                    return Err(self.error(key, message).into());
                }
            }
        }
        if self.flag("tokenizer.ggml.add_bos_token")? == Some(true) {
            let message = "found true, expected false: no Qwen model begins its texts with a token";
            return Err(self.error("tokenizer.ggml.add_bos_token", message).into());
        }
        let tokens = self.tokens()?;
        let missing = |key| self.error(key, "the key is missing");
        let merges = self.texts(MERGES)?.ok_or_else(|| missing(MERGES))?;
        let used = tokens.iter().rposition(|token| token.1 != TokenKind::Unused).map_or(0, |last| last + 1);
        let tokenizer = Tokenizer::from_parts(&tokens[..used], &merges);
        // Megabytes that nobody reads again.
        for key in [TOKENS, TYPES, MERGES] {
            if let Some(Value::Array(array)) = self.value(key) {
                self.bytes.slice(array.bytes.clone()).as_ref().map(SharedBytes::release);
            }
        }
        Ok(tokenizer.map_err(|message| TextError::Invalid { file: self.file.to_string(), message })?)
    }

    /// The tokens with their kinds, by id.
    fn tokens(&self) -> Result<Vec<(&str, TokenKind)>, WeightsError> {
        let tokens = self.texts(TOKENS)?.ok_or_else(|| self.error(TOKENS, "the key is missing"))?;
        let types = self.integers(TYPES)?.ok_or_else(|| self.error(TYPES, "the key is missing"))?;
        if types.len() != tokens.len() {
            let message = format!("there are {} types for {} tokens", types.len(), tokens.len());
            return Err(self.error(TYPES, message));
        }
        let kind = |(id, (token, number)): (usize, (&'_ str, i64))| match KINDS.iter().find(|row| row.1 == number) {
            Some(&(kind, _)) => Ok(kind),
            None => {
                let message = format!("token {id} {token:?} is of type {number}, expected 1, 3, 4 or 5");
                Err(self.error(TYPES, message))
            }
        };
        tokens.into_iter().zip(types).enumerate().map(|item| Ok((item.1.0, kind(item)?))).collect()
    }

    /// The tokens that end a text.
    pub fn end_tokens(&self) -> Result<Vec<u32>, WeightsError> {
        let mut ids: Vec<u32> = self.u32(EOS)?.into_iter().collect();
        if self.has_tokenizer() {
            // The few control tokens lie at the end.
            let tokens = self.tokens()?;
            for text in END_TEXTS {
                let found = tokens.iter().rposition(|token| *token == (text, TokenKind::Control));
                ids.extend(found.map(|id| id as u32).filter(|id| !ids.contains(id)));
            }
        }
        Ok(ids)
    }

    /// The chat template after its name in errors, if there is one.
    pub fn chat_template_text(&self) -> Result<Option<(String, String)>, WeightsError> {
        Ok(self.text(TEMPLATE)?.map(|text| (format!("{}: {TEMPLATE}", self.file), text.to_string())))
    }
}

/// What a model's tokenizer files say, to be written.
pub struct TokenizerFiles<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Rows of the embedding: the tokens are filled up to as many, as ggml expects one for each.
    pub rows: usize,
    /// Tokens that end a text; the first is the one that has a key.
    pub end_tokens: &'a [u32],
    /// The token that begins a text.
    pub bos_token: Option<u32>,
    /// The chat template's text.
    pub chat_template: Option<&'a str>,
}

/// Writes that there is no tokenizer: token ids can be used without one.
pub fn write_none(header: &mut Header) {
    header.text(MODEL, "none");
}

/// Writes the tokenizer's keys.
pub fn write(header: &mut Header, files: &TokenizerFiles) {
    let mut tokens: Vec<(String, TokenKind)> = files.tokenizer.tokens().collect();
    let padding = tokens.len()..files.rows;
    tokens.extend(padding.map(|id| (format!("[PAD{id}]"), TokenKind::Unused)));
    let number = |kind| KINDS.iter().find(|row| row.0 == kind).map_or(1, |row| row.1 as i32);

    header.text(MODEL, "gpt2");
    header.text(PRE, "qwen2");
    header.texts(TOKENS, tokens.iter().map(|token| token.0.as_str()));
    header.i32s(TYPES, tokens.iter().map(|token| number(token.1)));
    let merges: Vec<String> = files.tokenizer.merges().collect();
    header.texts(MERGES, merges.iter().map(String::as_str));
    if let Some(&end) = files.end_tokens.first() {
        header.u32(EOS, end);
    }
    if let Some(id) = files.tokenizer.token_id("<|endoftext|>") {
        header.u32(PADDING, id);
    }
    if let Some(bos) = files.bos_token {
        header.u32(BOS, bos);
    }
    header.flag("tokenizer.ggml.add_bos_token", false);
    if let Some(template) = files.chat_template {
        header.text(TEMPLATE, template);
    }
}
