//! The metrics of this crate.

/// Names, with their descriptions.
pub mod names {
    /// Commands sent to Redis, by command.
    pub const COMMANDS: &str = "riacho_redis_commands_total";
}

/// Describes the metrics to the recorder. Call once, after it is installed.
pub fn describe() {
    metrics::describe_counter!(names::COMMANDS, "Commands sent to Redis.");
}
