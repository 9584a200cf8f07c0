//! The states of a document version and the legal steps between them.
//!
//! The same table stands in SQL (`schemas/postgres`), where a trigger enforces it; a test of
//! `riacho-store` compares the two.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a document version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A presigned upload was handed out; no bytes yet.
    AwaitingUpload,
    /// Accepted; waits in PostgreSQL for its release.
    Waiting,
    /// Its release is fixed; the entry is being put onto the stream.
    Releasing,
    /// On the extractor's stream, or being extracted.
    Extracting,
    /// Its run is sealed; chunks are being embedded.
    Embedding,
    /// Some of its chunks are written, and none waits for its vector any more as far as is known.
    Indexing,
    /// Searchable, or superseded by a newer version that is.
    Ready,
    /// Ended with a reason.
    Failed,
    /// Ended by a command, or superseded before it was ready.
    Cancelled,
    /// Its time to live, or its upload's, ran out.
    Expired,
}

impl State {
    /// All states.
    pub const ALL: [State; 10] = [
        State::AwaitingUpload,
        State::Waiting,
        State::Releasing,
        State::Extracting,
        State::Embedding,
        State::Indexing,
        State::Ready,
        State::Failed,
        State::Cancelled,
        State::Expired,
    ];

    /// The name, as it stands in rows, answers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::AwaitingUpload => "awaiting_upload",
            State::Waiting => "waiting",
            State::Releasing => "releasing",
            State::Extracting => "extracting",
            State::Embedding => "embedding",
            State::Indexing => "indexing",
            State::Ready => "ready",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
        }
    }

    /// Whether the version has a release on the streams (or being put there).
    #[must_use]
    pub const fn is_in_flight(self) -> bool {
        matches!(self, State::Releasing | State::Extracting | State::Embedding | State::Indexing)
    }

    /// Whether nothing more happens without a command.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, State::Ready | State::Failed | State::Cancelled | State::Expired)
    }

    /// Whether a version may go from this state to `next`.
    ///
    /// Forward along the pipeline (a stage may be skipped, because small documents pass faster than
    /// their states are written), from anything unfinished to an end, and back to `waiting` or
    /// `releasing` by a new release.
    #[must_use]
    pub fn may_become(self, next: State) -> bool {
        use State::{
            AwaitingUpload, Cancelled, Embedding, Expired, Extracting, Failed, Indexing, Ready, Releasing,
            Waiting,
        };
        match self {
            AwaitingUpload => matches!(next, Waiting | Releasing | Cancelled | Expired | Failed),
            Waiting => matches!(next, Releasing | Cancelled | Expired | Failed),
            Releasing | Extracting | Embedding | Indexing => match next {
                Waiting | Releasing | Failed | Cancelled | Expired | Ready => true,
                Extracting | Embedding | Indexing => self < next,
                AwaitingUpload => false,
            },
            Ready => matches!(next, Expired | Waiting | Releasing),
            Failed | Cancelled => matches!(next, Waiting | Releasing | Expired),
            Expired => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("unknown document state {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unfinished_state_can_end() {
        for state in State::ALL.into_iter().filter(|s| !s.is_terminal()) {
            assert!(state.may_become(State::Failed) && state.may_become(State::Cancelled), "{state}");
        }
    }

    #[test]
    fn entries_only_move_forward() {
        assert!(State::Releasing.may_become(State::Embedding));
        assert!(!State::Embedding.may_become(State::Extracting));
        assert!(!State::Ready.may_become(State::Failed));
        assert!(!State::Expired.may_become(State::Waiting));
    }

    #[test]
    fn names_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>(), Ok(state));
        }
    }
}
