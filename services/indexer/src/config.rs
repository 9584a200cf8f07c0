//! The indexer's settings.

use std::time::Duration;

use riacho_stage::BatchLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How chunks with vectors are gathered into transactions. Section `indexer` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many transactions are written at once. One large transaction after the other is faster than
    /// several side by side until PostgreSQL has cores to spare.
    pub concurrency: usize,
    /// The most events in a transaction.
    pub batch_events: usize,
    /// The most bytes of texts and vectors in a transaction.
    pub batch_bytes: usize,
    /// How long the first event of a batch waits for more.
    pub linger_ms: u64,
    /// How long a transaction may take, with its retries.
    pub time_limit_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 1,
            batch_events: 128,
            batch_bytes: 4 << 20,
            linger_ms: 3,
            time_limit_seconds: 120,
        }
    }
}

impl Config {
    pub(crate) fn limits(&self) -> BatchLimits {
        BatchLimits {
            max_events: self.batch_events.max(1),
            max_weight: self.batch_bytes.max(1),
            linger: Duration::from_millis(self.linger_ms),
        }
    }

    pub(crate) fn time_limit(&self) -> Duration {
        Duration::from_secs(self.time_limit_seconds.max(1))
    }
}
