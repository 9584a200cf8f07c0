//! The metrics of the runner.

/// Names, with their descriptions.
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

/// Describes the metrics to the recorder. Call once, after it is installed.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(names::PROCESSED, "Events that ended a run, by stage and outcome.");
    describe_histogram!(
        names::WAIT,
        Unit::Seconds,
        "From being added to the first start of an event, by stage and lane."
    );
    describe_histogram!(names::PROCESS, Unit::Seconds, "One run of an event or batch, by stage and lane.");
    describe_counter!(names::REDELIVERIES, "Events that were delivered again, by reason.");
    describe_counter!(names::DEAD_LETTERS, "Events that were given up, by reason.");
    describe_counter!(names::SUPERSEDED, "Events whose release was not current any more.");
    describe_counter!(names::FENCED, "Results that came after another consumer had taken the event.");
    describe_counter!(names::FULL, "Handoffs that had to wait for a full stream.");
    describe_gauge!(names::PAUSED, "1 while a stage pauses after permanent failures in a row.");
}
