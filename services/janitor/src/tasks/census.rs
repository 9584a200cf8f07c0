//! Finds what Redis lost and releases it again.
//!
//! The releases that PostgreSQL has in flight are compared with those that stand on the streams. The first
//! are read before the second, and a stage writes its effect before it takes its entry away, so a release that
//! is nowhere is lost, or ended meanwhile; which of the two, its row says when the new release is written.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use riacho_domain::{ReasonCode, ReleaseId};
use riacho_service::{
    metrics::names::RELEASES,
    release::{By, send},
};
use riacho_store::{InFlight, Lost, Release};

use super::each_partition;
use crate::{Error, census::Why, job::Job, metrics::names, told};

/// At most so many releases of a partition are compared in one census, the oldest first.
const COMPARED_MAX: u32 = 100_000;

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let pace = Pace::new(job.config().lost_per_second);
    let pace = &pace;
    each_partition(job, |partition| watch(job, partition, pace)).await
}

/// How many releases are released again in a second, over all partitions: what was lost all at once would fill the
/// streams.
struct Pace {
    per_second: f64,
    /// When the next ones may go.
    next: Mutex<Instant>,
}

impl Pace {
    fn new(per_second: u32) -> Pace {
        Pace { per_second: f64::from(per_second.max(1)), next: Mutex::new(Instant::now()) }
    }

    /// Waits until these may go.
    async fn wait_for(&self, releases: usize) {
        let (now, due) = (Instant::now(), Duration::from_secs_f64(releases as f64 / self.per_second));
        let wait = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*next).max(now);
            *next = begin + due;
            begin - now
        };
        tokio::time::sleep(wait).await;
    }
}

/// Looks at a partition, and takes a census where there is a reason to.
async fn watch(job: &Job<'_>, partition: u16, pace: &Pace) -> Result<(), Error> {
    let janitor = job.janitor;
    let road = janitor.streams.road(partition).await?;
    let Some(why) = janitor.watch.needs(partition, &road, Instant::now()) else {
        janitor.watch.note(partition, road);
        return Ok(());
    };
    let mut in_flight = janitor.store.in_flight(partition, COMPARED_MAX).await?;
    if why == Why::Age {
        in_flight.retain(|release| release.since >= janitor.watch.after());
    }
    let known = in_flight.len();
    let lost = if known == 0 { Vec::new() } else { missing(job, partition, in_flight).await? };
    if known > 0 && !job.dry_run {
        metrics::counter!(names::CENSUSES, "reason" => why.as_str()).increment(1);
    }
    job.add("compared", known as u64);
    job.add("lost", lost.len() as u64);
    if job.dry_run {
        return Ok(());
    }
    let how = if matches!(why, Why::Age | Why::FollowUpOfAge) { Lost::Stall } else { Lost::Loss };
    let again = release_again(job, &lost, how, pace).await?;
    if known > 0 {
        // What is missing on the streams and is not released again came to its end meanwhile.
        let (reason, missing) = (why.as_str(), lost.len());
        tracing::info!(partition, reason, in_flight = known, missing, released_again = again, "census");
    }
    // Only now: what could not be finished is begun anew.
    janitor.watch.done(partition, road, why, (known, lost.len()), Instant::now());
    Ok(())
}

/// Those of the releases that have no entry.
async fn missing(job: &Job<'_>, partition: u16, in_flight: Vec<InFlight>) -> Result<Vec<Release>, Error> {
    let there: HashSet<ReleaseId> = job.janitor.streams.releases_on(partition).await?;
    let releases = in_flight.into_iter().map(|release| release.release);
    Ok(releases.filter(|release| !there.contains(&release.release)).collect())
}

/// Releases again what is still current, and says how many that were.
async fn release_again(job: &Job<'_>, lost: &[Release], how: Lost, pace: &Pace) -> Result<usize, Error> {
    let janitor = job.janitor;
    let batch = usize::try_from(job.config().release_batch.max(1)).unwrap_or(1);
    let reason = if how == Lost::Stall { "stalled" } else { "lost" };
    let mut released = 0;
    for some in lost.chunks(batch) {
        if !job.goes_on() {
            break;
        }
        pace.wait_for(some.len()).await;
        if !job.goes_on() {
            break;
        }
        let again = janitor.store.release_lost(some, how).await?;
        again.failed.iter().for_each(|one| told::failed(one, ReasonCode::Stalled));
        job.add("failed", again.failed.len() as u64);
        released += again.plans.len();
        // What cannot be sent now stays `releasing`, and the task `release` sends it.
        let by = By { service: "janitor", reason };
        for sent in send(by, &janitor.store, &janitor.streams, &again.plans).await {
            let outcome = if sent.is_ok() { "released" } else { "left" };
            metrics::counter!(RELEASES, "reason" => reason, "outcome" => outcome).increment(1);
            job.add(if sent.is_ok() { "released" } else { "unsent" }, 1);
        }
    }
    Ok(released)
}
