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
use tokio::sync::Semaphore;

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
    /// Checks the limits; answers the key that is wrong below `stage.lanes`, and why.
    ///
    /// # Errors
    /// A limit that cannot be kept.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        for stage in StageName::ALL {
            let LaneLimits { interactive, bulk, background } = self.of(stage);
            for (lane, limit) in Lane::ALL.into_iter().zip([interactive, bulk, background]) {
                limit.check().map_err(|wrong| (format!("{stage}.{lane}"), wrong))?;
            }
        }
        Ok(())
    }

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
    /// How many events of the lane one process runs at once, at least 1; for a stage that works in batches, those
    /// that wait for their batch too.
    #[schemars(range(min = 1))]
    pub concurrency: Option<usize>,
    /// How many events of the lane all processes together begin in a second, on average, retries too; above 0.
    #[schemars(range(min = 0.001))]
    pub per_second: Option<f64>,
}

impl LaneLimit {
    fn check(&self) -> Result<(), &'static str> {
        match (self.concurrency, self.per_second) {
            (Some(0), _) => Err("concurrency must be at least 1"),
            (_, Some(rate)) if !(0.001..=1e6).contains(&rate) => {
                Err("per_second must be from 0.001 to 1000000")
            }
            _ => Ok(()),
        }
    }

    /// A second's worth may come at once, so that a reader need not come by for each event.
    fn rate(&self) -> Option<Rate> {
        let per_second = self.per_second?.max(0.001);
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
        &self.0[lane.index()]
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

    /// The places of a lane where it has some.
    pub(crate) fn places(&self, lane: Lane) -> Option<Arc<Semaphore>> {
        self.gate(lane).places.clone()
    }

    /// How many more events of each lane may run.
    pub(crate) fn free(&self) -> [usize; 3] {
        self.0
            .each_ref()
            .map(|gate| gate.places.as_ref().map_or(usize::MAX, |places| places.available_permits()))
    }

    /// Counts an event that was taken.
    pub(crate) fn count(&self, lane: Lane) {
        let gate = self.gate(lane);
        if gate.rate.is_some() {
            gate.unpaid.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        let check = |concurrency, per_second| {
            let background = LaneLimit { concurrency, per_second };
            let embed = LaneLimits { background, ..LaneLimits::default() };
            LanesByStage { embed, ..LanesByStage::default() }.check()
        };
        assert_eq!(check(Some(1), Some(0.5)), Ok(()));
        assert!(check(Some(0), None).is_err_and(|(key, _)| key == "embed.background"));
        assert!([0.0, -1.0, f64::NAN].into_iter().all(|rate| check(None, Some(rate)).is_err()));
    }

    #[test]
    fn a_lane_without_limits_is_free_and_one_with_limits_counts() {
        let bulk = LaneLimit { concurrency: Some(2), per_second: Some(0.5) };
        let lanes = Lanes::new(&LaneLimits { bulk, ..LaneLimits::default() });
        assert!(lanes.places(Lane::Interactive).is_none());
        let place = lanes.places(Lane::Bulk).map(Semaphore::try_acquire_owned);
        assert_eq!(lanes.free(), [usize::MAX, 1, usize::MAX]);
        drop(place);
        assert_eq!(lanes.free(), [usize::MAX, 2, usize::MAX]);
        for lane in [Lane::Bulk, Lane::Bulk, Lane::Bulk, Lane::Interactive] {
            lanes.count(lane);
        }
        let rate = Rate { every: Duration::from_secs(2), burst: 1 };
        assert_eq!(lanes.bill(Lane::Bulk), Some((rate, 3)));
        assert_eq!((lanes.bill(Lane::Bulk), lanes.bill(Lane::Interactive)), (Some((rate, 0)), None));
    }
}
