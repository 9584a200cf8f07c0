//! The crate's error.

use crate::{chunk::UnknownTokenizer, extracted::Failure};

/// Why a document was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document itself is the reason; trying again changes nothing.
    #[error(transparent)]
    Document(#[from] Failure),
    /// A parser's process could not be started.
    #[error("a parser's process cannot be started: {0}")]
    Spawn(std::io::Error),
    /// The parser's process was ended from outside, twice.
    #[error("the parser's process was ended by signal {0}")]
    Interrupted(i32),
    /// The version asks for a tokenizer that this build lacks.
    #[error(transparent)]
    Tokenizer(#[from] UnknownTokenizer),
}

impl Error {
    /// Whether the same document may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Spawn(_) | Error::Interrupted(_))
    }
}
