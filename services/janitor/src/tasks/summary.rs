//! The last 24 hours in numbers, of all tenants together and of each.

use chrono::{Duration, Utc};
use riacho_store::{Day, NewEvent, TenantDay};
use serde_json::json;

use super::canary;
use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let to = Utc::now();
    let from = to - Duration::hours(24);
    let mut tenants = job.janitor.store.day(Day { from, to }).await?;
    tenants.retain(|day| day.tenant.as_str() != canary::TENANT);
    let sum = |of: fn(&TenantDay) -> u64| tenants.iter().map(of).sum::<u64>();
    let (accepted, ready, failed) = (sum(|day| day.accepted), sum(|day| day.ready), sum(|day| day.failed));
    let (chunks, bytes, deleted) = (sum(|day| day.chunks), sum(|day| day.bytes), sum(|day| day.deleted));
    let (dead_letters, unfinished) = (sum(|day| day.dead_letters), sum(|day| day.unfinished));
    for (what, count) in [
        ("tenants", tenants.len() as u64),
        ("accepted", accepted),
        ("bytes", bytes),
        ("ready", ready),
        ("chunks", chunks),
        ("failed", failed),
        ("deleted", deleted),
        ("dead_letters", dead_letters),
        ("unfinished", unfinished),
    ] {
        job.add(what, count);
    }
    if !job.dry_run {
        for day in &tenants {
            let data = json!({ "from": from, "to": to, "numbers": day });
            let event = NewEvent { tenant: &day.tenant, event: "summary", data: &data };
            job.add("webhooks", job.janitor.store.tell_webhooks(&event).await?);
        }
        tracing::info!(
            tenants = tenants.len(),
            accepted,
            bytes,
            ready,
            chunks,
            failed,
            deleted,
            dead_letters,
            unfinished,
            "the last 24 hours"
        );
    }
    Ok(())
}
