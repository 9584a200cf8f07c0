//! Ends documents past their time to live.

use super::step_by_step;
use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        job.add("documents", store.due_figures().await?.documents);
        return Ok(());
    }
    step_by_step(job, "documents", |limit| store.expire_documents(limit)).await
}
