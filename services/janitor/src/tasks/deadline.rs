//! Fails documents whose deadline passed, so that nothing is in flight for ever. The time for which a stage was paused does not
//! count, and while one is, nothing fails.

use riacho_domain::ReasonCode;

use super::step_by_step;
use crate::{Error, job::Job, told};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        job.add("documents", store.due_figures().await?.overdue);
        return Ok(());
    }
    job.add("prolonged", store.settle_pauses().await?);
    step_by_step(job, "documents", |limit| async move {
        let failed = store.fail_overdue(limit).await?;
        failed.iter().for_each(|one| told::failed(one, ReasonCode::DeadlineExceeded));
        Ok(failed.len() as u64)
    })
    .await
}
