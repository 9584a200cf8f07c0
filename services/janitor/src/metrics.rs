//! The metrics of this crate.

/// Names, with their descriptions in [`describe`].
pub mod names {
    /// Entries that stand on a stage's streams; for the first stage also the documents that wait.
    pub const STAGE_BACKLOG: &str = "riacho_stage_backlog";
    /// Entries of a stage that were never delivered.
    pub const STAGE_LAG: &str = "riacho_stage_lag";
    /// Whether the server knows a stage's lag.
    pub const STAGE_LAG_KNOWN: &str = "riacho_stage_lag_known";
    /// Entries of a stage that were delivered and not settled.
    pub const STAGE_PENDING: &str = "riacho_stage_pending";
    /// Entries of a stage that wait for a retry.
    pub const STAGE_RETRYING: &str = "riacho_stage_retrying";
    /// Age of a stage's oldest entry.
    pub const STAGE_OLDEST_AGE: &str = "riacho_stage_oldest_age_seconds";
    /// Consumers of a stage, by state.
    pub const STAGE_CONSUMERS: &str = "riacho_stage_consumers";
    /// XLEN less lag and pending.
    pub const STAGE_CONSERVATION_ERROR: &str = "riacho_stage_conservation_error";
    /// Whether a stage is paused.
    pub const STAGE_PAUSED: &str = "riacho_stage_paused";
    /// Bytes on a stage's streams.
    pub const STAGE_BYTES: &str = "riacho_stage_bytes";
    /// Dead letters on their way to PostgreSQL.
    pub const DEAD_LETTER_ENTRIES: &str = "riacho_dead_letter_entries";
    /// Documents that wait in PostgreSQL for their release.
    pub const DOCUMENTS_WAITING: &str = "riacho_documents_waiting";
    /// Age of the document that waits longest.
    pub const WAITING_OLDEST_AGE: &str = "riacho_documents_waiting_oldest_age_seconds";
    /// Documents on the streams, by state.
    pub const DOCUMENTS_IN_FLIGHT: &str = "riacho_documents_in_flight";
    /// Bytes that Redis uses.
    pub const REDIS_MEMORY: &str = "riacho_redis_memory_bytes";
    /// Releases sent, by reason and outcome.
    pub const RELEASES: &str = "riacho_releases_total";
    /// Comparisons of the releases in flight with the streams, by reason.
    pub const CENSUSES: &str = "riacho_censuses_total";
    /// Chunks that embedding spaces lack, by the state of the space.
    pub const SPACE_MISSING: &str = "riacho_space_missing_chunks";
    /// Documents that lack vectors in embedding spaces, by the state of the space.
    pub const SPACE_MISSING_DOCUMENTS: &str = "riacho_space_missing_documents";
    /// Chunks that were filled into embedding spaces, by the state of the space.
    pub const SPACE_FILLED: &str = "riacho_space_filled_chunks_total";
    /// Duration of the janitor's tasks.
    pub const TASK_SECONDS: &str = "riacho_janitor_task_seconds";
    /// Runs of the janitor's tasks, by outcome.
    pub const TASK_RUNS: &str = "riacho_janitor_task_runs_total";
    /// When a task of the janitor last went well.
    pub const TASK_LAST_SUCCESS: &str = "riacho_janitor_task_last_success_timestamp_seconds";
    /// Age of the newest backup.
    pub const BACKUP_AGE: &str = "riacho_backup_age_seconds";
    /// How long the canary's document took from accepted to readable.
    pub const CANARY_SECONDS: &str = "riacho_canary_seconds";
    /// Tenants whose documents wait because a budget of the month is used up.
    pub const TENANTS_OVER_BUDGET: &str = "riacho_tenants_over_budget";
    /// 1 where this process leads.
    pub const LEADER: &str = "riacho_janitor_leader";
}

/// Describes the metrics to the recorder. Call once, after it is installed.
pub fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!(
        names::STAGE_BACKLOG,
        "Entries that stand on the stage's streams; for the first stage also waiting documents."
    );
    describe_gauge!(names::STAGE_LAG, "Entries that were never delivered.");
    describe_gauge!(names::STAGE_LAG_KNOWN, "1 while the server knows the lag.");
    describe_gauge!(names::STAGE_PENDING, "Entries that were delivered and not settled.");
    describe_gauge!(names::STAGE_RETRYING, "Entries that wait for a retry.");
    describe_gauge!(names::STAGE_OLDEST_AGE, "Age of the oldest entry.");
    describe_gauge!(names::STAGE_CONSUMERS, "Consumers, alive or dead.");
    describe_gauge!(names::STAGE_CONSERVATION_ERROR, "XLEN less lag and pending; 0 at rest.");
    describe_gauge!(names::STAGE_PAUSED, "1 while somebody has paused the stage.");
    describe_gauge!(names::STAGE_BYTES, "Bytes of envelopes on the stage's streams.");
    describe_gauge!(names::DEAD_LETTER_ENTRIES, "Dead letters on their way to PostgreSQL.");
    describe_gauge!(names::DOCUMENTS_WAITING, "Documents that wait in PostgreSQL for their release.");
    describe_gauge!(names::WAITING_OLDEST_AGE, "Age of the document that waits longest.");
    describe_gauge!(names::DOCUMENTS_IN_FLIGHT, "Document versions on the streams, by state.");
    describe_gauge!(names::REDIS_MEMORY, "Bytes that Redis uses.");
    describe_counter!(names::RELEASES, "Releases put onto the streams, by reason and outcome.");
    describe_counter!(names::CENSUSES, "Comparisons of the releases in flight with the streams, by reason.");
    describe_gauge!(
        names::SPACE_MISSING,
        "Chunks without a vector in embedding spaces, by the space's state."
    );
    describe_gauge!(
        names::SPACE_MISSING_DOCUMENTS,
        "Documents that lack vectors in embedding spaces, by its state."
    );
    describe_counter!(
        names::SPACE_FILLED,
        "Chunks that were filled into embedding spaces, by the space's state."
    );
    describe_histogram!(names::TASK_SECONDS, "Duration of the janitor's tasks.");
    describe_counter!(names::TASK_RUNS, "Runs of the janitor's tasks, by outcome.");
    describe_gauge!(
        names::TASK_LAST_SUCCESS,
        "When a task of the janitor last went well, in seconds since 1970, whichever process ran it."
    );
    describe_gauge!(
        names::BACKUP_AGE,
        "Age of the newest backup that went well, where backups are configured; before the first, since the task is known."
    );
    describe_gauge!(names::CANARY_SECONDS, "How long the last canary took from accepted to readable.");
    describe_gauge!(names::TENANTS_OVER_BUDGET, "Tenants that have used up a budget of the month.");
    describe_gauge!(names::LEADER, "1 while this process leads the janitors.");
}
