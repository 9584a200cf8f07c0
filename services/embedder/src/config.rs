//! The embedder's settings.

use std::time::Duration;

use riacho_stage::BatchLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How chunks are gathered for the embedding model. Section `embedder` of the configuration; the
/// model itself is the section `models`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many batches are embedded at once, of each model. A provider answers more in parallel than the local
    /// model, which uses all cores for one batch.
    pub concurrency: usize,
    /// The most events in a batch.
    pub batch_events: usize,
    /// The most tokens in a batch, over all its events. The model's own limit is kept where it is smaller.
    pub batch_tokens: usize,
    /// How long the first event of a batch waits for more.
    pub linger_ms: u64,
    /// How long all embedding pauses after a failure that only a person can mend, such as a wrong key.
    pub pause_ms: u64,
    /// How long a batch may take.
    pub time_limit_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 2,
            batch_events: 64,
            batch_tokens: 65_536,
            linger_ms: 2,
            pause_ms: 10_000,
            time_limit_seconds: 600,
        }
    }
}

impl Config {
    pub(crate) fn limits(&self) -> BatchLimits {
        BatchLimits {
            max_events: self.batch_events.max(1),
            max_weight: self.batch_tokens.max(1),
            linger: Duration::from_millis(self.linger_ms),
        }
    }

    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms.max(10))
    }

    pub(crate) fn time_limit(&self) -> Duration {
        Duration::from_secs(self.time_limit_seconds.max(1))
    }
}
