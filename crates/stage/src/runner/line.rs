//! What the runner's tasks share while one stage runs in one process.

use std::{
    collections::HashSet,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use riacho_domain::{Lane, StageName};
use riacho_proto::v1::envelope::Payload;
use riacho_streams::{Beat, Entry, Settlement, Streams};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use crate::{Claims, EventMeta, RunnerConfig};

/// The delivery count from which on an event has begun its last run, alone in its process. Whoever
/// finds an event of a dead consumer with such a count knows that this run ended the process.
pub(super) const LAST_RUN: u32 = 1_000_000;

/// One stage in one process.
pub(super) struct Line {
    pub(super) streams: Streams,
    pub(super) claims: Claims,
    pub(super) config: RunnerConfig,
    pub(super) stage: StageName,
    pub(super) time_limit: Duration,
    pub(super) consumer: Arc<str>,
    pub(super) beat: Arc<Beat>,
    /// Nothing is read or started any more.
    pub(super) stop: CancellationToken,
    /// What runs is cancelled and handed back.
    pub(super) cancel: CancellationToken,
    /// Nothing is waited for any more.
    pub(super) over: CancellationToken,
    /// A permit for each event that may be held.
    pub(super) room: Arc<Semaphore>,
    pub(super) held: Held,
    pub(super) breaker: Breaker,
    pub(super) outage: Outage,
    /// The server is near its memory limit.
    pub(super) memory_is_tight: AtomicBool,
    /// The newest envelope version that a consumer which lives can read.
    pub(super) newest_version: AtomicU32,
    pub(super) work: mpsc::UnboundedSender<Work>,
    pub(super) settle: mpsc::UnboundedSender<Settling>,
}

/// A decoded event that waits for its run.
pub(super) struct Work {
    pub(super) entry: Entry,
    pub(super) meta: EventMeta,
    /// As it stood in the envelope: compressed, perhaps, or a claim check.
    pub(super) payload: Payload,
    /// None where a read delivered more than was asked for; then the run waits for one.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// An entry on its way to be settled.
pub(super) struct Settling {
    pub(super) partition: u16,
    pub(super) settlement: Settlement,
    /// How it ended, for the metrics.
    pub(super) outcome: &'static str,
    /// Whether the entry stands in [`Held`].
    pub(super) is_held: bool,
    /// How long it waited for a full stream the last time.
    pub(super) waited: Duration,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Line {
    /// Whether an event's next run is its last, alone in its process.
    pub(super) fn is_last_run(&self, deliveries: u32) -> bool {
        deliveries >= self.config.max_attempts.max(1)
    }

    /// The delivery count to leave behind so that this delivery is no attempt.
    pub(super) fn uncounted(&self, deliveries: u32) -> u32 {
        deliveries.min(self.config.max_attempts.max(1)).saturating_sub(1)
    }

    /// Why nothing should be read now.
    pub(super) fn is_paused(&self) -> bool {
        // The last stage only takes away from the memory, so it goes on.
        let is_tight = self.memory_is_tight.load(Ordering::Relaxed) && self.stage.next().is_some();
        is_tight || self.breaker.is_open()
    }

    /// Runs a task that ends with the line at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        tokio::spawn(async move { over.run_until_cancelled(task).await });
    }

    /// Queues a settlement; the finisher answers for it.
    pub(super) fn settle(&self, settling: Settling) {
        // The finisher ends after everything else; a closed queue means the process is ending.
        let _ = self.settle.send(settling);
    }

    /// Waits, unless the stop comes first.
    pub(super) async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(duration) => {}
        }
    }
}

/// The entries that this process holds, from reading to the answer of their settlement.
#[derive(Default)]
pub(super) struct Held {
    entries: Mutex<HashSet<(u16, Lane, String)>>,
    changed: Notify,
}

impl Held {
    /// Adds an entry; false where it is held already.
    pub(super) fn insert(&self, partition: u16, lane: Lane, id: &str) -> bool {
        self.lock().insert((partition, lane, id.to_owned()))
    }

    pub(super) fn contains(&self, partition: u16, lane: Lane, id: &str) -> bool {
        self.lock().contains(&(partition, lane, id.to_owned()))
    }

    pub(super) fn remove(&self, partition: u16, lane: Lane, id: &str) {
        let is_empty = {
            let mut entries = self.lock();
            entries.remove(&(partition, lane, id.to_owned()));
            entries.is_empty()
        };
        if is_empty {
            self.changed.notify_waiters();
        }
    }

    /// Waits until nothing is held.
    pub(super) async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(u16, Lane, String)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the beginning and the end of a time without Redis, and nothing between.
pub(super) struct Outage {
    stage: StageName,
    is_on: AtomicBool,
}

impl Outage {
    pub(super) fn new(stage: StageName) -> Self {
        Self { stage, is_on: AtomicBool::new(false) }
    }

    pub(super) fn begins(&self, error: &riacho_streams::Error) {
        if !self.is_on.swap(true, Ordering::Relaxed) {
            tracing::warn!(stage = %self.stage, %error, "the streams cannot be used");
        }
    }

    pub(super) fn is_over(&self) {
        if self.is_on.load(Ordering::Relaxed) && self.is_on.swap(false, Ordering::Relaxed) {
            tracing::info!(stage = %self.stage, "the streams can be used again");
        }
    }
}

/// Waits that double up to a second.
pub(super) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const LAST: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(super) fn reset(&mut self) {
        self.0 = Self::FIRST;
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LAST);
        wait
    }
}
