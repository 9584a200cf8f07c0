//! Why a document failed or an entry became a dead letter.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A stable code for the reason of a failure. The message beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// The file is protected with a password.
    Encrypted,
    /// The file's structure is damaged.
    Corrupt,
    /// The file, or what it unpacks to, is over a limit.
    TooLarge,
    /// The file unpacks to far more than its size.
    Bomb,
    /// The parser did not finish in time.
    Timeout,
    /// The parser needed more memory than it may have.
    Memory,
    /// No parser for this type.
    Unsupported,
    /// The file has no text.
    Empty,
    /// The pages are images, and recognition is off.
    NeedsOcr,
    /// The parser crashed.
    ParserCrashed,
    /// The original is no longer stored.
    OriginalGone,
    /// The bytes differ from the hash that was promised.
    HashMismatch,
    /// The embedding provider refused the request for good.
    ProviderRefused,
    /// The entry could not be decoded.
    Undecodable,
    /// The envelope is of a version that no consumer knows.
    UnknownVersion,
    /// The entry ended its process each time it ran.
    Poison,
    /// A transient failure stayed through all attempts.
    AttemptsExhausted,
    /// The handler panicked.
    Panicked,
    /// The document was released too often without finishing.
    Stalled,
    /// The document's deadline passed.
    DeadlineExceeded,
    /// A state that should not occur; the message says which.
    Internal,
}

impl ReasonCode {
    /// All codes.
    pub const ALL: [ReasonCode; 21] = [
        ReasonCode::Encrypted,
        ReasonCode::Corrupt,
        ReasonCode::TooLarge,
        ReasonCode::Bomb,
        ReasonCode::Timeout,
        ReasonCode::Memory,
        ReasonCode::Unsupported,
        ReasonCode::Empty,
        ReasonCode::NeedsOcr,
        ReasonCode::ParserCrashed,
        ReasonCode::OriginalGone,
        ReasonCode::HashMismatch,
        ReasonCode::ProviderRefused,
        ReasonCode::Undecodable,
        ReasonCode::UnknownVersion,
        ReasonCode::Poison,
        ReasonCode::AttemptsExhausted,
        ReasonCode::Panicked,
        ReasonCode::Stalled,
        ReasonCode::DeadlineExceeded,
        ReasonCode::Internal,
    ];

    /// The code, as it stands in rows, answers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ReasonCode::Encrypted => "encrypted",
            ReasonCode::Corrupt => "corrupt",
            ReasonCode::TooLarge => "too_large",
            ReasonCode::Bomb => "bomb",
            ReasonCode::Timeout => "timeout",
            ReasonCode::Memory => "memory",
            ReasonCode::Unsupported => "unsupported",
            ReasonCode::Empty => "empty",
            ReasonCode::NeedsOcr => "needs_ocr",
            ReasonCode::ParserCrashed => "parser_crashed",
            ReasonCode::OriginalGone => "original_gone",
            ReasonCode::HashMismatch => "hash_mismatch",
            ReasonCode::ProviderRefused => "provider_refused",
            ReasonCode::Undecodable => "undecodable",
            ReasonCode::UnknownVersion => "unknown_version",
            ReasonCode::Poison => "poison",
            ReasonCode::AttemptsExhausted => "attempts_exhausted",
            ReasonCode::Panicked => "panicked",
            ReasonCode::Stalled => "stalled",
            ReasonCode::DeadlineExceeded => "deadline_exceeded",
            ReasonCode::Internal => "internal",
        }
    }

    /// Reads a code; one that this build does not know is `internal`.
    #[must_use]
    pub fn parse(text: &str) -> ReasonCode {
        ReasonCode::ALL.into_iter().find(|code| code.as_str() == text).unwrap_or(ReasonCode::Internal)
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
