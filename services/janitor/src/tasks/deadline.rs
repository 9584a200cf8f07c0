//! Fails documents whose deadline passed, so that nothing is in flight for ever.

use super::step_by_step;
use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        job.add("documents", store.due_figures().await?.overdue);
        return Ok(());
    }
    step_by_step(job, "documents", |limit| store.fail_overdue(limit)).await
}
