//! The figures of the streams as they change: rates, and the samples of the last hour.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_domain::StageName;
use riacho_streams::{StageFigures, Streams};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Over how long a rate is measured, where figures were asked for meanwhile.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// The shortest time that a rate is measured over.
const SHORTEST: Duration = Duration::from_millis(500);
/// How far back the samples reach.
pub(crate) const HISTORY: Duration = Duration::from_secs(3_600);

/// The figures of all stages at a moment.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Before the first of them was asked for.
    begun: Instant,
    /// After the last.
    at: Instant,
    /// Of each stage, in flow order, with what it settled a second lately; no rate where that is not known.
    pub(crate) stages: Vec<(StageName, StageFigures, Option<f64>)>,
    /// Entries that were given up and not yet written down.
    pub(crate) dead_letters: u64,
}

/// What each stage had settled, at moments of the last seconds.
#[derive(Debug, Default)]
struct Past {
    settled: VecDeque<(Instant, BTreeMap<StageName, Option<u64>>)>,
    last: Option<Arc<Figures>>,
}

/// Asks for figures, once for all who want them at the same time.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<Past>);

impl Sampler {
    /// The figures, `max_age` old at most.
    pub(crate) async fn figures(
        &self,
        streams: &Streams,
        partitions: &[u16],
        max_age: Duration,
    ) -> Result<Arc<Figures>, riacho_streams::Error> {
        let asked = Instant::now();
        let mut past = self.0.lock().await;
        // What was begun while this one waited is new enough for everybody.
        let is_fresh = |last: &&Arc<Figures>| last.begun >= asked || last.begun.elapsed() < max_age;
        if let Some(last) = past.last.as_ref().filter(is_fresh) {
            return Ok(Arc::clone(last));
        }
        let begun = Instant::now();
        let mut stages = Vec::new();
        for stage in StageName::ALL {
            stages.push((stage, streams.figures(stage, partitions).await?));
        }
        let mut dead_letters = 0;
        for partition in partitions {
            dead_letters += streams.dead_letter_count(*partition).await?;
        }
        let at = Instant::now();
        let stages = stages.into_iter().map(|(stage, figures)| {
            let rate = past.rate(stage, figures.settled, at);
            (stage, figures, rate)
        });
        let figures = Arc::new(Figures { begun, at, stages: stages.collect(), dead_letters });
        past.remember(&figures);
        Ok(figures)
    }
}

impl Past {
    fn rate(&self, stage: StageName, settled: Option<u64>, now: Instant) -> Option<f64> {
        let earlier = self.settled.iter().find(|(at, _)| now - *at <= RATE_WINDOW + SHORTEST)?;
        rate(*earlier.1.get(&stage)?, settled, now - earlier.0)
    }

    fn remember(&mut self, figures: &Arc<Figures>) {
        let settled = figures.stages.iter().map(|(stage, figures, _)| (*stage, figures.settled)).collect();
        self.settled.push_back((figures.at, settled));
        while self.settled.front().is_some_and(|(at, _)| figures.at - *at > RATE_WINDOW) {
            self.settled.pop_front();
        }
        self.last = Some(Arc::clone(figures));
    }
}

/// What was settled a second between two moments; unknown where the count went back, as when a Redis comes back without its
/// last seconds, or a partition goes.
fn rate(earlier: Option<u64>, later: Option<u64>, between: Duration) -> Option<f64> {
    let count = later?.checked_sub(earlier?)?;
    (between >= SHORTEST).then(|| count as f64 / between.as_secs_f64())
}

/// A sample as Redis keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The stages by name.
    pub(crate) stages: BTreeMap<String, StageSample>,
}

/// A stage in a sample.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StageSample {
    pub(crate) backlog: u64,
    pub(crate) pending: u64,
    pub(crate) retrying: u64,
    pub(crate) consumers: u64,
    pub(crate) oldest_age_seconds: f64,
    /// What it had settled since its streams began.
    pub(crate) settled: Option<u64>,
}

impl StageSample {
    /// What was settled a second since an earlier sample.
    pub(crate) fn rate_since(&self, earlier: &StageSample, between: Duration) -> Option<f64> {
        rate(earlier.settled, self.settled, between)
    }
}

impl From<&Figures> for Sample {
    fn from(figures: &Figures) -> Self {
        let stage = |figures: &StageFigures| StageSample {
            backlog: figures.backlog,
            pending: figures.pending,
            retrying: figures.retrying,
            consumers: figures.consumers_alive,
            oldest_age_seconds: figures.oldest_age.as_secs_f64(),
            settled: figures.settled,
        };
        let stages = figures.stages.iter().map(|(name, of, _)| (name.as_str().to_owned(), stage(of)));
        Self { stages: stages.collect() }
    }
}

/// Writes a sample down at each round moment, until `stop`. All gateways do, and each moment is kept once.
pub(crate) async fn run(app: App, every: Duration, stop: CancellationToken) {
    let keep = u32::try_from(HISTORY.as_secs() / every.as_secs().max(1)).unwrap_or(u32::MAX).max(2);
    loop {
        let taken = stop.run_until_cancelled(take(&app, every, keep)).await;
        let Some(result) = taken else { return };
        if let Err(error) = result {
            tracing::debug!(%error, "a sample of the figures is left out");
            if stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }
}

/// Waits for the next round moment and writes its sample down. The moment is by the clock of Redis: by their own, the samples of a
/// gateway whose clock is behind would be refused for those of one whose clock is ahead.
async fn take(app: &App, every: Duration, keep: u32) -> anyhow::Result<()> {
    let now = app.streams().time().await?;
    let at = every * u32::try_from(now.as_millis() / every.as_millis().max(1) + 1).unwrap_or(u32::MAX);
    tokio::time::sleep(at.saturating_sub(now)).await;
    let partitions: Vec<u16> = app.store().partitions().await?.iter().map(|of| of.partition).collect();
    let figures = app.sampler().figures(app.streams(), &partitions, Duration::from_secs(1)).await?;
    let sample = serde_json::to_vec(&Sample::from(&*figures))?;
    let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    app.streams().add_sample(at, sample.into(), keep).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_settled_meanwhile() {
        let seconds = Duration::from_secs;
        assert_eq!(rate(Some(100), Some(150), seconds(10)), Some(5.0));
        assert_eq!(rate(Some(100), Some(30), seconds(10)), None, "it went back");
        assert_eq!(rate(None, Some(30), seconds(10)), None);
        assert_eq!(rate(Some(1), Some(2), Duration::from_millis(1)), None, "too short to tell");
    }
}
