//! Bootstrap of every service: configuration, telemetry, health, the operations endpoints, signals
//! and connections.
//!
//! A service is a section of the configuration and a `run` function; everything around that is here,
//! once. Nothing here knows a particular service.

pub mod config;
pub mod cron;
pub mod health;
pub mod letters;
mod limits;
pub mod metrics;
pub mod ops;
pub mod outward;
mod probe;
pub mod release;
mod resources;
mod signals;
pub mod spend;
pub mod telemetry;

pub use config::CoreConfig;
pub use health::Health;
pub use probe::{check_known_model, check_model};
pub use resources::{Resources, share_limits};
pub use riacho_stage::FOREGROUND;
pub use signals::shutdown_signal;
pub use telemetry::Metrics;

/// Why a service could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// Logs or metrics could not be set up.
    #[error("telemetry: {0}")]
    Telemetry(String),
    /// A server answered in a way that waiting does not mend.
    #[error("{name}: {reason}")]
    Dependency {
        /// Which server.
        name: &'static str,
        /// What it said.
        reason: String,
    },
    /// Stopped before everything was connected.
    #[error("stopped while waiting for {0}")]
    Stopped(&'static str),
}

impl Error {
    /// Whether a later try may go well.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
