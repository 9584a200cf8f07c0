//! The runner's settings.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LanesByStage;

/// How a stage's events are read, run and handed off. Section `stage` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunnerConfig {
    /// How many events (or batches, for a stage that works in batches) run at once.
    pub concurrency: usize,
    /// How many more events (or batches) of the interactive lane run at once, so that none waits for a long run of
    /// another lane to end. 0 turns it off. While all other places are taken, it needs one more connection
    /// to Redis for each partition. The parsers of the extractor have a setting of their own.
    pub interactive_runs: usize,
    /// The partitions that this process reads; all that the database names when there is none here.
    pub partitions: Vec<u16>,
    /// The interactive lane's share of the running time while all lanes have work.
    pub interactive_weight: u32,
    /// The bulk lane's share of the running time while all lanes have work.
    pub bulk_weight: u32,
    /// The background lane's share of the running time while all lanes have work.
    pub background_weight: u32,
    /// Limits of single lanes, for example `stage.lanes.embed.bulk.per_second`.
    pub lanes: LanesByStage,
    /// How long one blocking read of an idle stream lasts. Stopping takes at most this long.
    pub block_ms: u64,
    /// How often a stage looks, in each partition, at the server and at the others of its group. While anything is
    /// pending, due retries are looked for twice as often. Together with `block_ms` and `beat_ms` it says how many
    /// commands an idle deployment sends.
    pub look_ms: u64,
    /// How often this process says that it lives.
    pub beat_ms: u64,
    /// A consumer whose beat did not change for this long is dead, and its entries are claimed.
    pub dead_after_ms: u64,
    /// How long nothing is claimed after the server's run id changed.
    pub restart_grace_ms: u64,
    /// How many times an event runs, the first included. The last time it runs alone.
    pub max_attempts: u32,
    /// How long an event's last run waits for its process to be otherwise idle.
    pub alone_patience_ms: u64,
    /// How long running events may finish after a stop was asked for.
    pub grace_seconds: u64,
    /// How long an event of an unknown newer version waits for a consumer that knows it.
    pub unknown_version_seconds: u64,
    /// A stage pauses after this many permanent failures in a row for one reason; 0 turns it off.
    pub pause_after_failures: u32,
    /// The largest payload, inflated. A larger one is a dead letter.
    pub max_payload_bytes: u64,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            interactive_runs: 1,
            partitions: Vec::new(),
            interactive_weight: 8,
            bulk_weight: 3,
            background_weight: 1,
            lanes: LanesByStage::default(),
            block_ms: 500,
            look_ms: 500,
            beat_ms: 500,
            dead_after_ms: 2_500,
            restart_grace_ms: 10_000,
            max_attempts: 4,
            alone_patience_ms: 5_000,
            grace_seconds: 20,
            unknown_version_seconds: 600,
            pause_after_failures: 10,
            max_payload_bytes: 64 << 20,
        }
    }
}

impl RunnerConfig {
    /// The same settings with another concurrency, since each stage has its own.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    pub(crate) fn weights(&self) -> [u32; 3] {
        // A floor of 1: a lane of weight 0 would starve.
        [self.interactive_weight.max(1), self.bulk_weight.max(1), self.background_weight.max(1)]
    }

    pub(crate) fn block(&self) -> Duration {
        Duration::from_millis(self.block_ms.max(1))
    }

    pub(crate) fn look(&self) -> Duration {
        Duration::from_millis(self.look_ms.max(20))
    }

    pub(crate) fn alone_patience(&self) -> Duration {
        Duration::from_millis(self.alone_patience_ms)
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}
