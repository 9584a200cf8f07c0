//! Ends documents and files past their time to live, and empties collections that were deleted or that nobody uses any more.

use super::step_by_step;
use crate::{Error, job::Job, told};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        let due = store.due_figures().await?;
        job.add("documents", due.documents + due.in_collections);
        job.add("files", due.files);
        return Ok(());
    }
    step_by_step(job, "documents", |limit| async move {
        let expired = store.expire_documents(limit).await?;
        expired.iter().for_each(told::expired);
        Ok(expired.len() as u64)
    })
    .await?;
    step_by_step(job, "files", |limit| store.expire_files(limit)).await?;
    step_by_step(job, "documents", |limit| store.empty_collections(limit)).await
}
