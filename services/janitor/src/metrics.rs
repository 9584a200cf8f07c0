//! The metrics of this crate.

use riacho_domain::Metric;

/// The names.
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
    pub const STAGE_PAUSED: &str = "riacho_stage_pause_requested";
    /// When the stages were last measured.
    pub const FIGURES_TIMESTAMP: &str = "riacho_figures_timestamp_seconds";
    /// Bytes on a stage's streams.
    pub const STAGE_BYTES: &str = "riacho_stage_bytes";
    /// Dead letters on their way to PostgreSQL.
    pub const DEAD_LETTER_ENTRIES: &str = "riacho_dead_letter_entries";
    /// Dead letters in PostgreSQL that nobody has dealt with.
    pub const DEAD_LETTERS_OPEN: &str = "riacho_dead_letters_open";
    /// Documents that wait in PostgreSQL for their release.
    pub const DOCUMENTS_WAITING: &str = "riacho_documents_waiting";
    /// Age of the document that waits longest.
    pub const WAITING_OLDEST_AGE: &str = "riacho_documents_waiting_oldest_age_seconds";
    /// Documents on the streams, by state.
    pub const DOCUMENTS_IN_FLIGHT: &str = "riacho_documents_in_flight";
    /// Bytes that Redis uses.
    pub const REDIS_MEMORY: &str = "riacho_redis_memory_bytes";
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
    /// How long a task should have gone well.
    pub const TASK_OVERDUE: &str = "riacho_janitor_task_overdue_seconds";
    /// Whether a task's last run failed.
    pub const TASK_FAILING: &str = "riacho_janitor_task_failing";
    /// Age of the newest backup.
    pub const BACKUP_AGE: &str = "riacho_backup_age_seconds";
    /// How long the canary's document took from accepted to readable.
    pub const CANARY_SECONDS: &str = "riacho_canary_seconds";
    /// Tenants whose documents wait because a budget of the month is used up.
    pub const TENANTS_OVER_BUDGET: &str = "riacho_tenants_over_budget";
    /// 1 where this process leads.
    pub const LEADER: &str = "riacho_janitor_leader";
}

/// What this crate measures. Every janitor measures the queue, so that the figures do not end with a leader:
/// take the largest of several, never their sum.
pub const METRICS: &[Metric] = &[
    Metric::gauge(
        names::STAGE_BACKLOG,
        &["stage"],
        "Entries on the stage's streams, in all partitions and lanes; for the first stage also the documents that wait in \
         PostgreSQL. What scales a stage.",
    ),
    Metric::gauge(names::STAGE_LAG, &["stage"], "Entries of the stage that were never delivered."),
    Metric::gauge(
        names::STAGE_LAG_KNOWN,
        &["stage"],
        "1 while Redis knows the stage's lag; 0 while it is worked out from the backlog.",
    ),
    Metric::gauge(
        names::STAGE_PENDING,
        &["stage"],
        "Entries of the stage that were delivered and not settled.",
    ),
    Metric::gauge(names::STAGE_RETRYING, &["stage"], "Entries of the stage that wait for a retry."),
    Metric::gauge(names::STAGE_OLDEST_AGE, &["stage"], "Age of the oldest entry on the stage's streams."),
    Metric::gauge(
        names::STAGE_CONSUMERS,
        &["stage", "state"],
        "Consumers of the stage, by state (alive, dead).",
    ),
    Metric::gauge(
        names::STAGE_CONSERVATION_ERROR,
        &["stage"],
        "Length of the stage's streams less lag and pending: 0 at rest.",
    ),
    Metric::gauge(names::STAGE_PAUSED, &["stage"], "1 while somebody has paused the stage."),
    Metric::gauge(names::STAGE_BYTES, &["stage"], "Bytes of envelopes on the stage's streams."),
    Metric::gauge(names::DEAD_LETTER_ENTRIES, &[], "Dead letters on their way to PostgreSQL."),
    Metric::gauge(
        names::DEAD_LETTERS_OPEN,
        &[],
        "Dead letters in PostgreSQL that were neither replayed nor discarded.",
    ),
    Metric::gauge(names::DOCUMENTS_WAITING, &[], "Documents that wait in PostgreSQL for their release."),
    Metric::gauge(names::WAITING_OLDEST_AGE, &[], "Age of the document that waits longest for its release."),
    Metric::gauge(
        names::DOCUMENTS_IN_FLIGHT,
        &["state"],
        "Document versions that are released and not ended, by state.",
    ),
    Metric::gauge(names::REDIS_MEMORY, &[], "Memory that Redis uses."),
    Metric::counter(
        names::CENSUSES,
        &["reason"],
        "Comparisons of the releases in flight with the streams, by reason.",
    ),
    Metric::gauge(
        names::SPACE_MISSING,
        &["state"],
        "Chunks without a vector in embedding spaces, by the state of the space.",
    ),
    Metric::gauge(
        names::SPACE_MISSING_DOCUMENTS,
        &["state"],
        "Documents that lack vectors in embedding spaces, by the state of the space.",
    ),
    Metric::counter(
        names::SPACE_FILLED,
        &["state"],
        "Chunks that were filled into embedding spaces, by the state of the space.",
    ),
    Metric::gauge(
        names::FIGURES_TIMESTAMP,
        &[],
        "When this process last measured the stages, in seconds since 1970. Figures of stages that are older are not to be believed.",
    ),
    Metric::histogram(
        names::TASK_SECONDS,
        &["task", "outcome"],
        "Time of one run of a janitor's task, by task and outcome (ok, failed).",
    ),
    Metric::counter(
        names::TASK_RUNS,
        &["task", "outcome"],
        "Runs of the janitor's tasks, by task and outcome (ok, failed).",
    ),
    Metric::gauge(
        names::TASK_LAST_SUCCESS,
        &["task"],
        "When a task of the janitor last went well, in seconds since 1970, whichever process ran it.",
    ),
    Metric::gauge(
        names::TASK_OVERDUE,
        &["task"],
        "How long ago the turn of a task was, by its schedule, after which it has not gone well; 0 while it is not its turn.",
    ),
    Metric::gauge(
        names::TASK_FAILING,
        &["task"],
        "1 while the last run of a task is one that failed, whichever process ran it.",
    ),
    Metric::gauge(
        names::BACKUP_AGE,
        &[],
        "Age of the newest backup that went well, where the janitor makes them; before the first, since the task is known.",
    ),
    Metric::gauge(names::CANARY_SECONDS, &[], "How long the last canary took from accepted to readable."),
    Metric::gauge(names::TENANTS_OVER_BUDGET, &[], "Tenants that have used up a budget of the month."),
    Metric::gauge(names::LEADER, &[], "1 while this process leads the janitors."),
];
