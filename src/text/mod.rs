//! Text becomes token ids and back: NFC, pre-tokenizer, byte-level BPE, added tokens, chat template.

/// A byte-level BPE tokenizer of the Qwen family, read from `tokenizer.json`.
pub struct Tokenizer {}

/// What can be wrong with a tokenizer's file, a template, or ids to decode.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// `tokenizer.json` is not valid, or asks for something that `fs` does not support.
    #[error("{file}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// What was found, what was expected.
        message: String,
    },
    /// An id that no token has.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// One more than the largest id.
        vocab_size: usize,
    },
    /// The chat template failed to compile or to render.
    #[error("chat template: {0}")]
    Template(String),
}

impl Tokenizer {
    /// Reads `tokenizer.json`; `file` is the name used in errors.
    pub fn from_json(_json: &[u8], _file: &str) -> Result<Tokenizer, TextError> {
        todo!()
    }

    /// Token ids of `text`. Added tokens (`<|im_start|>`, `<think>`, …) match whole.
    pub fn encode(&self, _text: &str) -> Vec<u32> {
        todo!()
    }

    /// The exact bytes of `ids`, added tokens included as their text.
    pub fn decode(&self, _ids: &[u32]) -> Result<Vec<u8>, TextError> {
        todo!()
    }

    /// The bytes of one token; `None` if no token has this id.
    pub fn token_bytes(&self, _id: u32) -> Option<&[u8]> {
        todo!()
    }

    /// The id of the token whose text is exactly `text`: an added token, else a vocabulary entry.
    pub fn token_id(&self, _text: &str) -> Option<u32> {
        todo!()
    }

    /// Whether this id is an added token marked `special` (not shown to people).
    pub fn is_special(&self, _id: u32) -> bool {
        todo!()
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
}

/// Turns a stream of token bytes into text, holding back an incomplete UTF-8 sequence until it is whole.
#[derive(Default)]
pub struct StreamDecoder {}

impl StreamDecoder {
    /// Adds a token's bytes; returns the text that is now certain.
    pub fn push(&mut self, _bytes: &[u8]) -> String {
        todo!()
    }

    /// The end of the stream: what was held back, incomplete sequences replaced by U+FFFD.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}

/// One message of a conversation, as chat templates see it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A model's chat template (Jinja).
pub struct ChatTemplate {}

/// What a template is told besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// `None` leaves it to the template; `Some(false)` asks for an answer without thinking.
    pub enable_thinking: Option<bool>,
    /// Tool descriptions, as JSON values; empty for none.
    pub tools: Vec<serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles a template; `file` is the name used in errors.
    pub fn new(_source: &str, _file: &str) -> Result<ChatTemplate, TextError> {
        todo!()
    }

    /// The prompt text for a conversation.
    pub fn render(&self, _messages: &[Message], _options: &RenderOptions) -> Result<String, TextError> {
        todo!()
    }
}
