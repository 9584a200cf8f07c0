//! What a janitor remembers of the spaces that it fills: models, rates and pauses. Nothing of it is
//! needed to go on after a crash.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_domain::SpaceId;
use riacho_models::{Models, Prices};
use riacho_service::{Resources, spend::Ledger};
use riacho_store::FillMark;
use tokio::sync::{Mutex, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::Error;

/// The most chunks of one step: what a crash may make the model be asked for again.
pub(crate) const BATCH: u32 = 256;

/// For how many milliseconds a call waits for its turn at a provider's limits before it is put off.
const TURN: u64 = 1_000;

/// The models and the courses of all spaces. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Filler {
    section: Arc<riacho_models::Config>,
    resources: Resources,
    models: Arc<OnceCell<Models>>,
    courses: Arc<Mutex<HashMap<SpaceId, Course>>>,
    /// What the models cost.
    pub(crate) ledger: Ledger,
}

/// How the filling of one space goes.
#[derive(Debug, Default)]
pub(crate) struct Course {
    pub(crate) bucket: Bucket,
    /// Nothing is tried before.
    pub(crate) paused_until: Option<Instant>,
    /// Whether the model has embedded known texts.
    pub(crate) is_verified: bool,
    /// Batches in a row that failed although the model embeds known texts.
    pub(crate) failures: u32,
    /// What is to be reached, so that all is in the space which was searchable then.
    pub(crate) mark: Option<FillMark>,
    /// Whether something was missing at the last look.
    pub(crate) is_filling: bool,
}

impl Filler {
    /// Calls of a model wait briefly for their provider's limits: other spaces are to be filled meanwhile.
    pub(crate) fn new(section: &riacho_models::Config, resources: Resources) -> Self {
        let ledger = Ledger::new(resources.store.clone(), Prices::new(&section.prices));
        let section = Arc::new(section.waiting_at_most(TURN));
        Self { section, resources, models: Arc::default(), courses: Arc::default(), ledger }
    }

    /// The models, read when they are needed for the first time.
    pub(crate) async fn models(&self) -> Result<&Models, Error> {
        let load = || async {
            let section = Arc::clone(&self.section);
            // Reading a local model's files blocks.
            let loaded = tokio::task::spawn_blocking(move || Models::load(&section)).await;
            let models = loaded.map_err(|error| Error::Panicked(error.to_string()))??;
            // A run that is to stop does not wait for its call.
            let stop = CancellationToken::new();
            models.all().for_each(|model| self.resources.share_limits(&**model, &stop));
            Ok(models)
        };
        self.models.get_or_try_init(load).await
    }

    /// Takes up the course of a space; whoever else wants one waits.
    pub(crate) async fn courses(&self) -> tokio::sync::MutexGuard<'_, HashMap<SpaceId, Course>> {
        self.courses.lock().await
    }
}

impl Course {
    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }
}

/// Chunks that may be taken: as many a second as the rate says, and at most those of a second at once.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    level: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// How many chunks may be taken now; an error says when to ask again. The rate is not 0.
    pub(crate) fn allowance(&mut self, rate: u32, now: Instant) -> Result<u32, Duration> {
        let a_second = f64::from(rate);
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.level = (self.level + elapsed.as_secs_f64() * a_second).min(a_second);
        // A few steps a second: large enough to be worth a round trip, small enough to be even.
        let worth = f64::from((rate / 4).clamp(1, BATCH));
        if self.level < worth {
            return Err(Duration::from_secs_f64((worth - self.level) / a_second));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 1 to BATCH
        Ok(self.level.min(f64::from(BATCH)) as u32)
    }

    /// Takes chunks that were allowed.
    pub(crate) fn take(&mut self, chunks: u32) {
        self.level -= f64::from(chunks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_the_rate_and_a_second_of_it() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let (mut now, mut taken) = (start, 0);
        while now < start + Duration::from_secs(10) {
            match bucket.allowance(40, now) {
                Ok(chunks) => {
                    bucket.take(chunks);
                    taken += chunks;
                }
                Err(wait) => now += wait.max(Duration::from_millis(1)),
            }
        }
        assert!((390..=400).contains(&taken), "{taken}");
        now += Duration::from_secs(3600);
        assert_eq!(bucket.allowance(40, now), Ok(40), "an hour without work is no hour's worth");
    }

    #[test]
    fn a_slow_rate_comes_to_one_chunk_at_a_time_and_a_fast_one_to_a_batch() {
        let (mut slow, mut fast, now) = (Bucket::default(), Bucket::default(), Instant::now());
        assert_eq!(slow.allowance(1, now), Err(Duration::from_secs(1)));
        assert_eq!(slow.allowance(1, now + Duration::from_secs(5)), Ok(1));
        assert!(fast.allowance(100_000, now).is_err());
        assert_eq!(fast.allowance(100_000, now + Duration::from_secs(1)), Ok(BATCH));
    }
}
