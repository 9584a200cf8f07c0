//! The one error type of the store, and which of its kinds pass by themselves.

use std::sync::Arc;

use riacho_domain::{SpaceId, State};
use tokio_postgres::error::SqlState;

use crate::{Quota, Space};

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// PostgreSQL is away, starting, out of connections or failing over. Trying again later helps.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A command that the present state does not allow.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// What was named is not there, or is another tenant's.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The tenant has documents that this space has and the live one lacks: the search needs the query's vector in it too.
    #[error("the search needs the query's vector in the fallback space {} as well", .0.id)]
    NeedsFallback(Box<Space>),
    /// Input that can never be stored or asked as it is.
    #[error("{0}")]
    Invalid(String),
    /// The schema is not the one that this build works with.
    #[error("{0}")]
    SchemaVersion(String),
    /// The configuration or the rights of the login are wrong.
    #[error("{0}")]
    Setup(String),
    /// Anything else that PostgreSQL answered.
    #[error("the database refused: {0}")]
    Database(String, #[source] Arc<tokio_postgres::Error>),
    /// A row that contradicts what the store wrote itself.
    #[error("unexpected row: {0}")]
    Row(String),
}

/// A command that the present state of things does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// There is one of that name already.
    #[error("this {0} exists already")]
    Exists(&'static str),
    /// A collection that still has documents.
    #[error("the collection still has documents")]
    NotEmpty,
    /// The same Idempotency-Key came with another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// The tenant is suspended or being deleted.
    #[error("the tenant is not active")]
    TenantNotActive,
    /// No embedding space is live.
    #[error("there is no live embedding space; run `riacho migrate`")]
    NoLiveSpace,
    /// The original is past its retention.
    #[error("the original is no longer stored, upload the document again")]
    OriginalGone,
    /// Retry of a version that did not fail.
    #[error("a document that is {0} cannot be retried, only one that failed or was cancelled")]
    NothingToRetry(State),
    /// Cancel of a version that has ended.
    #[error("a document that is {0} cannot be cancelled")]
    NothingToCancel(State),
    /// Completion of an upload that nobody waits for.
    #[error("no upload is awaited, the document is {0}")]
    NoUploadAwaited(State),
    /// Another document of the tenant has the external id.
    #[error("another document has this external id")]
    ExternalIdTaken,
    /// A space that lacks vectors cannot be searched instead of another one.
    #[error("the embedding space is not complete: {}", incomplete(*is_counted, *documents, *chunks, *refused))]
    SpaceIncomplete {
        /// Whether all documents were looked at.
        is_counted: bool,
        /// Documents that lack vectors.
        documents: u64,
        /// Chunks that are still to be embedded.
        chunks: u64,
        /// Documents of which the model refuses chunks.
        refused: u64,
    },
    /// The space is searched.
    #[error("the embedding space is live; switch to another one first")]
    SpaceLive,
    /// The space was given up.
    #[error("the embedding space was given up; make one of the same model with `riacho space create`")]
    SpaceRetired,
    /// The space is the fallback.
    #[error(
        "the embedding space is the fallback; first `riacho space fallback none`, or make another one the fallback"
    )]
    SpaceFallback,
    /// Documents are in the fallback space only.
    #[error(
        "{documents} documents are in the fallback space {space} and not in the live one, and would be found by words only; they are filled into the live one when their tenants' budgets allow"
    )]
    FallbackInUse {
        /// The space.
        space: SpaceId,
        /// Documents of it that the live space lacks, and those on their way.
        documents: u64,
    },
    /// A webhook that is told nothing.
    #[error("the webhook is disabled; enable it first")]
    WebhookDisabled,
    /// The tenant has as much of something as it may have.
    #[error("the tenant's quota of {0} is used up")]
    OverQuota(Quota),
}

fn incomplete(is_counted: bool, documents: u64, chunks: u64, refused: u64) -> String {
    if !is_counted {
        return "the documents are still being looked through".to_owned();
    }
    let mut text = format!("{chunks} chunks of {documents} documents are missing");
    if refused > 0 {
        text.push_str(&format!(", and its model refuses chunks of {refused} of them"));
    }
    text
}

impl Error {
    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unavailable(_)) || self.is_collision()
    }

    /// The SQL state when PostgreSQL answered with an error.
    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            Error::Database(_, source) => source.code(),
            _ => None,
        }
    }

    /// Whether the transaction lost against another one and is simply to be run again.
    pub(crate) fn is_collision(&self) -> bool {
        matches!(self.code(), Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::T_R_SERIALIZATION_FAILURE)
    }

    /// Whether the data itself is what PostgreSQL refuses, so that the same data is refused each time.
    pub(crate) fn is_of_the_data(&self) -> bool {
        // Class 22: values that are none of their type. Class 23: constraints. Class 54: too large.
        let refused = |code: &SqlState| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class));
        matches!(self, Error::Invalid(_)) || self.code().is_some_and(refused)
    }

    /// The name of the violated constraint or unique index, if that is what happened.
    pub(crate) fn constraint(&self) -> Option<&str> {
        match self {
            Error::Database(_, source) => source.as_db_error()?.constraint(),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            let text = chain(&error);
            return if is_ours(&error) {
                Error::Database(text, Arc::new(error))
            } else {
                Error::Unavailable(text)
            };
        };
        let text = format!("{} ({})", answer.message(), answer.code().code());
        if passes_by_itself(answer.code()) {
            return Error::Unavailable(text);
        }
        match *answer.code() {
            SqlState::UNTRANSLATABLE_CHARACTER
            | SqlState::CHARACTER_NOT_IN_REPERTOIRE
            | SqlState::PROGRAM_LIMIT_EXCEEDED => Error::Invalid(text),
            _ => Error::Database(text, Arc::new(error)),
        }
    }
}

/// Whether an error without an answer of the server is a mistake of ours (a parameter or a column of
/// the wrong type) and not the connection's. The kind is private, so its text has to tell.
fn is_ours(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    !error.is_closed()
        && ["error serializing", "error deserializing", "invalid column", "query returned"]
            .iter()
            .any(|start| text.starts_with(start))
}

/// The error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Answers of a server that is starting, stopping, full, failing over or too slow.
fn passes_by_itself(code: &SqlState) -> bool {
    // Class 08: connection exceptions. Class 53: no memory, disk or connections. 57P01 to 57P05:
    // shutdown, crash, starting, dropped, idle. 57014: a statement over its time. 25006: a primary
    // that became a standby. 55P03: a lock not available in time. 25P03: this client was silent in a transaction for too long.
    let text = code.code();
    text.starts_with("08")
        || text.starts_with("53")
        || text.starts_with("57P")
        || matches!(text, "57014" | "25006" | "25P03" | "55P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_away_or_full_is_worth_another_try() {
        for code in ["08006", "53300", "57P03", "57P01", "57014", "25006", "25P03"] {
            assert!(passes_by_itself(&SqlState::from_code(code)), "{code}");
        }
        for code in ["23505", "42501", "22021", "42P01"] {
            assert!(!passes_by_itself(&SqlState::from_code(code)), "{code}");
        }
    }
}
