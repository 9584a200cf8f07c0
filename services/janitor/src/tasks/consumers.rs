//! Deletes consumers that are gone and hold nothing: every process has a new name, so names pile up.

use std::time::Duration;

use futures::future::join_all;
use riacho_domain::StageName;

use crate::{Error, job::Job};

/// A gateway that did not look at a tenant's intake for so long is gone, or has nothing to lose.
const INTAKE_IDLE: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let streams = &job.janitor.streams;
    let partitions: Vec<u16> = job.janitor.store.partitions().await?.iter().map(|p| p.partition).collect();
    if job.dry_run {
        for stage in StageName::ALL {
            job.add("without_beat", streams.figures(stage, &partitions).await?.consumers_dead);
        }
        return Ok(());
    }
    // Each takes seconds, because a consumer is gone only when its beat stays the same for a while.
    let all = partitions.iter().flat_map(|partition| StageName::ALL.map(|stage| (*partition, stage)));
    let deleted =
        join_all(all.map(|(partition, stage)| streams.delete_gone_consumers(partition, stage))).await;
    job.add("consumers", deleted.iter().filter_map(|deleted| deleted.as_ref().ok()).sum());
    if let Some(Err(error)) = deleted.into_iter().find(Result::is_err) {
        return Err(error.into());
    }
    for tenant in job.janitor.store.active_tenants().await? {
        job.add("intake_consumers", streams.delete_idle_intake_consumers(&tenant, INTAKE_IDLE).await?);
    }
    Ok(())
}
