//! Ends presigned uploads that never came, and removes originals and files past their retention.
//!
//! Texts and chunks stay, so a document without its original is searched as before; a retry that
//! needs the original says that it is gone. A file is removed when it has been in no collection for that long.

use std::time::Duration;

use riacho_objects::Key;

use super::step_by_step;
use crate::{Error, job::Job, told};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    if job.dry_run {
        return look(job).await;
    }
    step_by_step(job, "uploads", |limit| async move {
        let expired = store.expire_uploads(limit).await?;
        expired.iter().for_each(told::upload_expired);
        Ok(expired.len() as u64)
    })
    .await?;
    let retention = retention(job);
    remove_originals(job, retention).await?;
    step_by_step(job, "files", |limit| store.forget_unused_files(retention, limit)).await
}

/// That of tenants which have none of their own.
fn retention(job: &Job<'_>) -> Option<Duration> {
    job.config().original_retention_seconds.map(Duration::from_secs)
}

async fn look(job: &Job<'_>) -> Result<(), Error> {
    job.add("uploads", job.janitor.store.due_figures().await?.uploads);
    let past = job.janitor.store.retention_figures(retention(job)).await?;
    job.add("originals", past.originals);
    job.add("files", past.files);
    Ok(())
}

async fn remove_originals(job: &Job<'_>, retention: Option<Duration>) -> Result<(), Error> {
    let (store, objects) = (&job.janitor.store, &job.janitor.objects);
    let batch = job.config().batch.max(1);
    while job.goes_on() {
        let originals = store.originals_past(retention, batch).await?;
        let found = originals.len();
        for original in originals {
            // The row first: a reader that still sees the key finds the object, or a row that says
            // why there is none. A crash in between leaves an orphan, which has its own task.
            if !store.original_purged(&original).await? {
                continue;
            }
            match Key::parse(&original.object_key) {
                Ok(key) => objects.delete(&key).await?,
                Err(error) => {
                    tracing::warn!(object_key = original.object_key, %error, "an original's key cannot be read")
                }
            }
            job.add("originals", 1);
        }
        if found < batch as usize {
            break;
        }
    }
    Ok(())
}
