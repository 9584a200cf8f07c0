//! Forgets what was kept for a while only.

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        job.add("rows", store.due_figures().await?.housekeeping);
        return Ok(());
    }
    job.add("rows", store.housekeep().await?);
    for tenant in store.remove_deleted_tenants().await? {
        tracing::info!(%tenant, "nothing is left of a deleted tenant");
        job.add("tenants", 1);
    }
    Ok(())
}
