//! The metrics of the store.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Names of metrics.
pub mod names {
    /// Seconds of a transaction with its retries, by name and outcome.
    pub const TRANSACTION_SECONDS: &str = "riacho_database_transaction_seconds";
    /// Transactions run again after a deadlock or serialization failure, by name.
    pub const RETRIES: &str = "riacho_database_retries_total";
    /// Connections of the pool, by state.
    pub const POOL_CONNECTIONS: &str = "riacho_database_pool_connections";
    /// Seconds from a document's acceptance to its being searchable.
    pub const DOCUMENT_SECONDS: &str = "riacho_document_seconds";
    /// Writes whose release was no longer current, by the function that wrote.
    pub const SUPERSEDED: &str = "riacho_superseded_total";
    /// Chunks written.
    pub const CHUNKS_WRITTEN: &str = "riacho_chunks_written_total";
    /// Seconds of a search in the database, by mode.
    pub const SEARCH_SECONDS: &str = "riacho_search_seconds";
}

/// Describes all metrics of the store to the recorder.
pub fn describe() {
    describe_histogram!(
        names::TRANSACTION_SECONDS,
        Unit::Seconds,
        "seconds of a database transaction with its retries"
    );
    describe_counter!(names::RETRIES, "transactions run again after a deadlock or serialization failure");
    describe_gauge!(names::POOL_CONNECTIONS, "connections of the pool");
    describe_histogram!(names::DOCUMENT_SECONDS, Unit::Seconds, "seconds from acceptance to searchable");
    describe_counter!(names::SUPERSEDED, "writes whose release was no longer current");
    describe_counter!(names::CHUNKS_WRITTEN, "chunks written");
    describe_histogram!(names::SEARCH_SECONDS, Unit::Seconds, "seconds of a search in the database");
}
