//! What can go wrong with a model, told apart by what the caller should do.

use std::{path::PathBuf, time::Duration};

/// A failed call of a model. No message contains a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The provider asks to come later. Not the text's fault.
    #[error("the embedding provider is at its rate limit")]
    RateLimited {
        /// How long to wait, where it is known.
        retry_after: Option<Duration>,
    },
    /// Others come first: the turn at the provider's limits is further away than the call waits, or the time for it is over.
    /// Nothing was sent, and nothing is wrong with the provider.
    #[error("the turn at the embedding provider's limits is too far away")]
    TurnTooFar {
        /// How far it was.
        wait: Duration,
    },
    /// The request waited for its turn, and the process should wait no longer. Nothing was sent.
    #[error("the process stops, or needs a quiet moment")]
    Interrupted,
    /// The provider failed or did not answer; the same call may succeed later.
    #[error("the embedding provider did not answer: {reason}")]
    Transient {
        /// What happened.
        reason: String,
    },
    /// A text is refused for good.
    #[error("the embedding model refused the text: {reason}")]
    Rejected {
        /// The index of the text, where it is known.
        item: Option<usize>,
        /// Why.
        reason: String,
    },
    /// The configuration cannot work: no text will be embedded until it is changed.
    #[error("the embedding model is not configured right: {reason}")]
    Misconfigured {
        /// What is wrong.
        reason: String,
    },
    /// The answer makes no sense: wrong count, dimension or order.
    #[error("the embedding provider's answer cannot be used: {reason}")]
    Protocol {
        /// What is wrong.
        reason: String,
    },
    /// The local model's files are missing or damaged.
    #[error("the local model cannot be read from {path:?}: {reason}")]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Error::RateLimited { .. }
                | Error::TurnTooFar { .. }
                | Error::Interrupted
                | Error::Transient { .. }
        )
    }

    /// Whether the texts are the cause. Any other error says nothing about them.
    #[must_use]
    pub fn is_about_the_text(&self) -> bool {
        matches!(self, Error::Rejected { .. })
    }

    /// How long to wait, as far as it is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::RateLimited { retry_after } => *retry_after,
            Error::TurnTooFar { wait } => Some(*wait),
            _ => None,
        }
    }

    /// The error's name in labels.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Error::RateLimited { .. } => "rate_limited",
            Error::TurnTooFar { .. } => "turn_too_far",
            Error::Interrupted => "interrupted",
            Error::Transient { .. } => "transient",
            Error::Rejected { .. } => "rejected",
            Error::Misconfigured { .. } => "misconfigured",
            Error::Protocol { .. } => "protocol",
            Error::Files { .. } => "files",
        }
    }
}
