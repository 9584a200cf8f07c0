//! The metrics of the store.

use riacho_domain::{Metric, ReasonCode};

/// Names of metrics.
pub mod names {
    /// Seconds of a transaction with its retries, by name and outcome.
    pub const TRANSACTION_SECONDS: &str = "riacho_database_transaction_seconds";
    /// Transactions run again after a deadlock or serialization failure, by name.
    pub const RETRIES: &str = "riacho_database_retries_total";
    /// Connections of the pool, by role and state.
    pub const POOL_CONNECTIONS: &str = "riacho_database_pool_connections";
    /// Calls that wait for a connection of the pool, by role.
    pub const POOL_WAITING: &str = "riacho_database_pool_waiting";
    /// Seconds from a document's acceptance to its being searchable.
    pub const DOCUMENT_SECONDS: &str = "riacho_document_seconds";
    /// Document versions that failed, by reason.
    pub const DOCUMENTS_FAILED: &str = "riacho_documents_failed_total";
    /// Writes whose release was no longer current, by the function that wrote.
    pub const SUPERSEDED: &str = "riacho_superseded_writes_total";
    /// Chunks written.
    pub const CHUNKS_WRITTEN: &str = "riacho_chunks_written_total";
    /// Seconds of a search in the database, by mode.
    pub const SEARCH_SECONDS: &str = "riacho_search_seconds";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::histogram(
        names::TRANSACTION_SECONDS,
        &["name", "outcome"],
        "Time of a database transaction with its retries, by name and outcome (ok, error).",
    ),
    Metric::counter(
        names::RETRIES,
        &["name"],
        "Database transactions that ran again after a deadlock or serialization failure, by name.",
    ),
    Metric::gauge(
        names::POOL_CONNECTIONS,
        &["role", "state"],
        "Connections of the pool to PostgreSQL, by role and state (idle, busy).",
    ),
    Metric::gauge(
        names::POOL_WAITING,
        &["role"],
        "Calls that wait for a connection of the pool to PostgreSQL, by role.",
    ),
    Metric::histogram(
        names::DOCUMENT_SECONDS,
        &[],
        "Time from a document's acceptance to its being searchable. Its count is the number of versions that became ready.",
    ),
    Metric::counter(
        names::DOCUMENTS_FAILED,
        &["reason"],
        "Document versions that failed, by the reason that their status shows.",
    ),
    Metric::counter(
        names::SUPERSEDED,
        &["write"],
        "Writes to the database whose release was no longer current, by the function that wrote. No error.",
    ),
    Metric::counter(names::CHUNKS_WRITTEN, &[], "Chunks that were written with their vectors."),
    Metric::histogram(names::SEARCH_SECONDS, &["mode"], "Time of a search in the database, by mode."),
];

/// Makes the series of failed versions begin at 0. A rate is made of differences, so of a series that begins with its first
/// value a rate misses that: what a process does before it is first asked.
pub fn begin() {
    let reasons = ReasonCode::ALL.into_iter().map(ReasonCode::as_str).chain(["unknown"]);
    for reason in reasons {
        metrics::counter!(names::DOCUMENTS_FAILED, "reason" => reason).increment(0);
    }
}

/// Versions failed.
pub(crate) fn failed(reason: &str, versions: u64) {
    if versions > 0 {
        metrics::counter!(names::DOCUMENTS_FAILED, "reason" => known(reason)).increment(versions);
    }
}

/// The reason of a dead letter is what an entry says, and a label is from a fixed set.
fn known(reason: &str) -> &'static str {
    ReasonCode::ALL.into_iter().map(ReasonCode::as_str).find(|known| *known == reason).unwrap_or("unknown")
}
