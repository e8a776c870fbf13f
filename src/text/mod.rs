//! Text becomes token ids and back: NFC, pre-tokenizer, byte-level BPE, added tokens, chat template.
//!
//! What happens to `"Hello<|im_end|>"`, in reading order:
//!
//! 1. `added_tokens` cuts the text at tokens that are matched as they are: `Hello`, `<|im_end|>`.
//! 2. `nfc` gives each character one spelling.
//! 3. `pre_tokenizer` cuts what is left into pieces, roughly words, by the classes of `char_class`.
//! 4. `bpe` merges the bytes of each piece into tokens; `vocabulary` knows which bytes a token stands for.
//!
//! [`Tokenizer`] holds these together. `tokenizer_json` and `byte_alphabet` read the file that describes them;
//! [`Trace`] shows every step; [`StreamDecoder`] goes the way back, token by token; [`ChatTemplate`] makes one text of a
//! conversation.

mod added_tokens;
mod bpe;
mod byte_alphabet;
mod char_class;
mod chat_template;
mod error;
mod nfc;
mod parts;
mod pre_tokenizer;
mod stream_decoder;
mod tokenizer;
mod tokenizer_json;
mod trace;
mod vocabulary;

pub use chat_template::{ChatTemplate, Message, RenderOptions};
pub use error::TextError;
pub use parts::TokenKind;
pub use stream_decoder::StreamDecoder;
pub use tokenizer::{Encoding, Tokenizer};
pub use trace::{MergeStep, Trace, TracePart};
