//! Forgets what was kept for a while only.

use riacho_domain::StageName;

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        job.add("rows", store.housekeep_due().await?);
        job.add("late_tenants", store.tenants_with_late().await?.len() as u64);
        job.add("tenants", store.tenants_to_remove().await?);
        return remove_drained(job).await;
    }
    job.add("rows", store.housekeep().await?);
    for tenant in store.delete_what_came_late().await? {
        tracing::info!(%tenant, "what a deleted tenant had left is deleted");
        job.add("late_tenants", 1);
    }
    for tenant in store.remove_deleted_tenants().await? {
        tracing::info!(%tenant, "nothing is left of a deleted tenant");
        job.add("tenants", 1);
    }
    remove_drained(job).await
}

/// Removes partitions that were to be drained and are. Stages that run read them on until they are restarted, which
/// does no harm.
async fn remove_drained(job: &Job<'_>) -> Result<(), Error> {
    let (store, streams) = (&job.janitor.store, &job.janitor.streams);
    for partition in store.partitions().await?.into_iter().filter(|partition| !partition.active) {
        let number = partition.partition;
        let mut left = streams.dead_letter_count(number).await?;
        for stage in StageName::ALL {
            left += streams.figures(stage, &[number]).await?.backlog;
        }
        if left > 0 {
            continue;
        }
        if job.dry_run {
            job.add("partitions", u64::from(store.is_drained(number).await?));
        } else if store.remove_drained(number).await? {
            tracing::info!(partition = number, "a partition is drained, and removed");
            job.add("partitions", 1);
        }
    }
    Ok(())
}
