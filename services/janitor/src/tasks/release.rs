//! Puts waiting documents onto the streams, and sends again what may not have arrived.

use std::time::Duration;

use riacho_service::{
    metrics::names,
    release::{By, Sent, send},
};
use riacho_store::{ReleaseCaps, ReleasePlan};

use crate::{Error, job::Job};

/// Counts what waits because of the caps.
pub(crate) const KEPT_WAITING: &str = "kept_waiting";

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let janitor = job.janitor;
    let config = job.config();
    let limit = config.release_batch.max(1);
    let stale_after = Duration::from_secs(config.stale_releasing_seconds);
    let stale = janitor.store.stale_releasing(stale_after, limit).await?;
    if job.dry_run {
        job.add("stale", stale.len() as u64);
        job.add("waiting", janitor.store.queue_figures().await?.waiting);
        return Ok(());
    }
    let caps = ReleaseCaps { per_tenant: config.in_flight_per_tenant, total: config.in_flight };
    // First, because it needs no Redis: the gateways go on accepting while that is away.
    janitor.store.hold_tenants(caps).await?;
    // One server that is away, of several, does not keep the others waiting.
    let sent_again = if stale.is_empty() { Ok(true) } else { send_all(job, stale, "stale").await };
    let waiting = janitor.store.queue_figures().await?.waiting;
    if waiting > 0 {
        // What is taken while Redis is away would only become stale.
        janitor.streams.ping().await?;
        release_waiting(job, limit, caps, waiting).await?;
        janitor.store.hold_tenants(caps).await?;
    }
    sent_again.map(|_| ())
}

/// Releases as long as something waits that the caps allow.
async fn release_waiting(job: &Job<'_>, limit: u32, caps: ReleaseCaps, waiting: u64) -> Result<(), Error> {
    let mut left = waiting;
    while job.goes_on() {
        let plans = job.janitor.store.release_waiting(limit, caps).await?;
        let taken = plans.len();
        left = left.saturating_sub(taken as u64);
        let all_fitted = taken == 0 || send_all(job, plans, "waiting").await?;
        if taken < limit as usize || !all_fitted {
            break;
        }
    }
    job.add(KEPT_WAITING, left);
    Ok(())
}

/// Sends releases; false when a stream was full.
async fn send_all(job: &Job<'_>, plans: Vec<ReleasePlan>, reason: &'static str) -> Result<bool, Error> {
    let janitor = job.janitor;
    let mut all_fitted = true;
    let mut failed = None;
    let by = By { service: "janitor", reason };
    for sent in send(by, &janitor.store, &janitor.streams, &plans).await {
        let (outcome, counted_as) = match sent {
            Ok(Sent::Released) if reason == "stale" => ("released", "sent_again"),
            Ok(Sent::Released) => ("released", "released"),
            Ok(Sent::Full) => {
                all_fitted = false;
                ("full", "put_back")
            }
            Err(error) => {
                failed.get_or_insert(error);
                ("left", "unsent")
            }
        };
        metrics::counter!(names::RELEASES, "reason" => reason, "outcome" => outcome).increment(1);
        job.add(counted_as, 1);
    }
    failed.map_or(Ok(all_fitted), |error| Err(error.into()))
}
