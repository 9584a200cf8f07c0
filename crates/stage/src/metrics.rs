//! The metrics of the runner.

use riacho_domain::Metric;

/// The names.
pub mod names {
    /// Events that ended a run, by stage and outcome.
    pub const PROCESSED: &str = "riacho_events_processed_total";
    /// Seconds from being added to the first start, by stage and lane.
    pub const WAIT: &str = "riacho_event_wait_seconds";
    /// Seconds of one run, by stage and lane.
    pub const PROCESS: &str = "riacho_event_process_seconds";
    /// Events that were delivered again, by stage and reason.
    pub const REDELIVERIES: &str = "riacho_redeliveries_total";
    /// Events that were given up, by stage and reason.
    pub const DEAD_LETTERS: &str = "riacho_dead_letters_total";
    /// Events whose release was not current any more, by stage.
    pub const SUPERSEDED: &str = "riacho_superseded_total";
    /// Results that came after another consumer had taken the event, by stage.
    pub const FENCED: &str = "riacho_fenced_total";
    /// Handoffs that had to wait for a full stream, by stage.
    pub const FULL: &str = "riacho_handoffs_full_total";
    /// 1 while a stage pauses after failing for good many times in a row.
    pub const PAUSED: &str = "riacho_stage_paused";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        names::PROCESSED,
        &["stage", "outcome"],
        "Events that ended a run, by stage and outcome (emitted and ended are the good ones).",
    ),
    Metric::histogram(
        names::WAIT,
        &["stage", "lane"],
        "Time from an event's being added to its first start, by stage and lane.",
    ),
    Metric::histogram(
        names::PROCESS,
        &["stage", "lane"],
        "Time of one run of an event or of a batch, by stage and lane.",
    ),
    Metric::counter(
        names::REDELIVERIES,
        &["stage", "reason"],
        "Events that were delivered again, by stage and reason.",
    ),
    Metric::counter(
        names::DEAD_LETTERS,
        &["stage", "reason"],
        "Events that were given up and became dead letters, by stage and reason.",
    ),
    Metric::counter(
        names::SUPERSEDED,
        &["stage"],
        "Events whose release was not current any more, by stage. No error.",
    ),
    Metric::counter(
        names::FENCED,
        &["stage"],
        "Results that came after another consumer had taken the event, by stage.",
    ),
    Metric::counter(
        names::FULL,
        &["stage"],
        "Handoffs that had to wait because the next stream is at its limit, by stage.",
    ),
    Metric::gauge(
        names::PAUSED,
        &["stage"],
        "1 while this process pauses the stage after permanent failures in a row.",
    ),
];
