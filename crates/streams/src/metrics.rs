//! The metrics of this crate.

use riacho_domain::Metric;

/// The names.
pub mod names {
    /// Commands sent to Redis, by command.
    pub const COMMANDS: &str = "riacho_redis_commands_total";
}

/// What this crate measures.
pub const METRICS: &[Metric] =
    &[Metric::counter(names::COMMANDS, &["command"], "Commands sent to Redis, by command.")];
