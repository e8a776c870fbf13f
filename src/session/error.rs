//! [`SessionError`].

use crate::backend::BackendError;
use crate::weights::{SourceError, WeightsError};

/// What can go wrong between a model and its text.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The model's files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer or the chat template.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Text was given to a model without a tokenizer.
    #[error("{model} has no {part}; give token ids instead of text")]
    NoTokenizer {
        /// The model's name.
        model: String,
        /// Where its tokenizer would be.
        part: &'static str,
    },
    /// The tensors in the files are not those that the configuration calls for.
    #[error("{model}: the weights do not match the configuration\n{report}")]
    Mismatch {
        /// The model's name.
        model: String,
        /// Every missing, unexpected and mis-shaped tensor.
        report: String,
    },
    /// The device or its memory.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// There is nothing to continue.
    #[error("the prompt is empty: it must hold at least one token")]
    EmptyPrompt,
    /// A token id that the model has no embedding for.
    #[error("token id {id} (at index {index} of the prompt) is outside the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Where it stands.
        index: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// More tokens than the context holds. Nothing has been computed.
    #[error(
        "{needed} tokens do not fit into a context of {context} tokens; shorten the prompt or raise --context (the \
         model was made for {model_context})"
    )]
    ContextTooLong {
        /// Tokens asked for.
        needed: usize,
        /// The session's limit.
        context: usize,
        /// What the model was made for.
        model_context: usize,
    },
    /// A benchmark at a depth that the model's context does not hold. Nothing has been computed.
    #[error(
        "a depth of {depth} and {tokens} tokens more do not fit: {model} was made for a context of {context}; {}",
        match context.checked_sub(*tokens) {
            Some(most) => format!("choose a depth of at most {most}"),
            None => format!("choose at most {context} tokens"),
        }
    )]
    DepthBeyondModel {
        /// Tokens in the cache.
        depth: usize,
        /// Tokens measured there.
        tokens: usize,
        /// What the model was made for.
        context: usize,
        /// The model's name.
        model: String,
    },
    /// A context longer than the model was made for.
    #[error("a context of {context} tokens was asked for, and {model} was made for {model_context}")]
    ContextBeyondModel {
        /// Asked for.
        context: usize,
        /// `max_position_embeddings`.
        model_context: usize,
        /// The model's name.
        model: String,
    },
    /// Wrong sampling parameters, or logits that nothing can be drawn from.
    #[error(transparent)]
    Sampling(#[from] super::sampling::SamplingError),
    /// The caller asked to stop in the middle of a prompt.
    #[error("interrupted after {done} of {total} prompt tokens")]
    Interrupted {
        /// Tokens that are in the cache.
        done: usize,
        /// Tokens asked for.
        total: usize,
    },
}
