//! Limits of single lanes of a stage: how much of one is in work at once, and how much in a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use riacho_domain::{Lane, StageName};
use riacho_streams::Rate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits of single lanes, by stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanesByStage {
    /// Of the extractor.
    pub extract: LaneLimits,
    /// Of the embedder.
    pub embed: LaneLimits,
    /// Of the indexer.
    pub index: LaneLimits,
}

impl LanesByStage {
    pub(crate) fn of(&self, stage: StageName) -> &LaneLimits {
        match stage {
            StageName::Extract => &self.extract,
            StageName::Embed => &self.embed,
            StageName::Index => &self.index,
        }
    }
}

/// Limits of a stage's lanes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaneLimits {
    /// Of the interactive lane.
    pub interactive: LaneLimit,
    /// Of the bulk lane.
    pub bulk: LaneLimit,
    /// Of the background lane.
    pub background: LaneLimit,
}

/// A lane's limits. What is not set is not limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaneLimit {
    /// How many events of the lane one process holds at once, at least 1; for a stage that works in batches, those
    /// that wait for their batch too.
    pub concurrency: Option<usize>,
    /// How many events of the lane all processes together begin in a second, on average; above 0.
    pub per_second: Option<f64>,
}

impl LaneLimit {
    /// A second's worth may come at once, so that a reader need not come by for each event.
    fn rate(&self) -> Option<Rate> {
        let per_second = self.per_second.filter(|rate| *rate > 0.0)?.max(0.000_1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is clamped
        let burst = (per_second.ceil() as u32).max(1);
        Some(Rate { every: Duration::from_secs_f64(1.0 / per_second), burst })
    }
}

/// The limits at work in one process.
pub(crate) struct Lanes([Gate; 3]);

struct Gate {
    places: Option<Arc<Semaphore>>,
    rate: Option<Rate>,
    /// Events that were taken since the rate was last paid for.
    unpaid: AtomicUsize,
}

impl Lanes {
    pub(crate) fn new(limits: &LaneLimits) -> Lanes {
        Lanes([&limits.interactive, &limits.bulk, &limits.background].map(|limit| Gate {
            places: limit.concurrency.map(|places| Arc::new(Semaphore::new(places.max(1)))),
            rate: limit.rate(),
            unpaid: AtomicUsize::new(0),
        }))
    }

    fn gate(&self, lane: Lane) -> &Gate {
        let at = Lane::ALL.iter().position(|known| *known == lane).unwrap_or(0);
        &self.0[at]
    }

    /// The rate of a lane, where it has one, and how many events were taken since this was last asked.
    pub(crate) fn bill(&self, lane: Lane) -> Option<(Rate, usize)> {
        let gate = self.gate(lane);
        gate.rate.map(|rate| (rate, gate.unpaid.swap(0, Ordering::Relaxed)))
    }

    /// A bill that could not be paid stays.
    pub(crate) fn owe(&self, lane: Lane, events: usize) {
        self.gate(lane).unpaid.fetch_add(events, Ordering::Relaxed);
    }

    /// How many more events of each lane may be held.
    pub(crate) fn free(&self) -> [usize; 3] {
        self.0
            .each_ref()
            .map(|gate| gate.places.as_ref().map_or(usize::MAX, |places| places.available_permits()))
    }

    /// Counts an event that was taken; its place, where the lane has places and one is free.
    pub(crate) fn take(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        let gate = self.gate(lane);
        if gate.rate.is_some() {
            gate.unpaid.fetch_add(1, Ordering::Relaxed);
        }
        Arc::clone(gate.places.as_ref()?).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_without_limits_is_free_and_one_with_limits_counts() {
        let bulk = LaneLimit { concurrency: Some(2), per_second: Some(0.5) };
        let lanes = Lanes::new(&LaneLimits { bulk, ..LaneLimits::default() });
        assert!(lanes.take(Lane::Interactive).is_none());
        let held = (lanes.take(Lane::Bulk), lanes.take(Lane::Bulk), lanes.take(Lane::Bulk));
        assert!(held.0.is_some() && held.1.is_some() && held.2.is_none());
        assert_eq!(lanes.free(), [usize::MAX, 0, usize::MAX]);
        drop(held);
        assert_eq!(lanes.free(), [usize::MAX, 2, usize::MAX]);
        let rate = Rate { every: Duration::from_secs(2), burst: 1 };
        assert_eq!(lanes.bill(Lane::Bulk), Some((rate, 3)));
        assert_eq!((lanes.bill(Lane::Bulk), lanes.bill(Lane::Interactive)), (Some((rate, 0)), None));
    }
}
