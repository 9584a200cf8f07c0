//! Removes rows and objects of dead runs, dead versions and deleted documents, with a receipt.
//!
//! Rows first, so that nothing points at an object that is gone; then the objects; then the store
//! marks what was purged. A purge that is cut off is found again and goes on.

use std::time::Duration;

use futures::TryStreamExt;
use riacho_objects::{Key, KeyKind, Objects, Prefix};
use riacho_store::{Purge, PurgeKind, Purged};

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let grace = Duration::from_secs(job.config().purge_grace_seconds);
    let batch = job.config().batch.max(1);
    while job.goes_on() {
        let candidates = job.janitor.store.purge_candidates(grace, batch).await?;
        let found = candidates.len();
        let mut finished = 0;
        for purge in candidates {
            if job.dry_run {
                job.add(counted_as(&purge.kind), 1);
            } else if job.goes_on() && purge_one(job, &purge).await? {
                job.add(counted_as(&purge.kind), 1);
                finished += 1;
            }
        }
        // What was not finished would be found again at once.
        if job.dry_run || found < batch as usize || finished == 0 {
            break;
        }
    }
    Ok(())
}

/// Purges one candidate; false when it is needed again, or must wait for the next run.
async fn purge_one(job: &Job<'_>, purge: &Purge) -> Result<bool, Error> {
    let store = &job.janitor.store;
    let mut purged = Purged::default();
    loop {
        let progress = store.purge_rows(purge, job.config().batch.max(1)).await?;
        purged.chunks += progress.chunks;
        purged.vectors += progress.vectors;
        job.add("chunks", progress.chunks);
        job.add("vectors", progress.vectors);
        if progress.abandoned || !progress.done && !job.goes_on() {
            return Ok(false);
        }
        if progress.done {
            break;
        }
    }
    purged.objects = remove_objects(&job.janitor.objects, purge).await?;
    job.add("objects", purged.objects);
    store.purge_done(purge, purged).await?;
    Ok(true)
}

async fn remove_objects(objects: &Objects, purge: &Purge) -> Result<u64, Error> {
    let Purge { tenant, document, .. } = purge;
    match purge.kind {
        PurgeKind::Document => {
            let mut removed = objects.delete_prefix(&Prefix::texts(tenant, *document)).await?;
            removed += objects.delete_prefix(&Prefix::claims(tenant, *document)).await?;
            // Also those that no row names, because the message was deleted while they were stored.
            removed += objects.delete_prefix(&Prefix::attachments(tenant, *document)).await?;
            Ok(removed + remove_originals(objects, purge).await?)
        }
        PurgeKind::Version(version) | PurgeKind::LostRuns { version, .. } => {
            let texts =
                remove_covered(objects, purge, &Prefix::texts_of_version(tenant, *document, version)).await?;
            let claims = Prefix::claims_of_version(tenant, *document, version);
            Ok(texts + remove_covered(objects, purge, &claims).await?)
        }
    }
}

/// Removes the objects of the runs that the purge is about; a run that began later keeps its own.
async fn remove_covered(objects: &Objects, purge: &Purge, prefix: &Prefix) -> Result<u64, Error> {
    let mut listed = objects.list(prefix);
    let mut removed = 0;
    while let Some(entry) = listed.try_next().await? {
        let covered = match entry.key.kind() {
            KeyKind::Text(_, _, run) | KeyKind::Claim(_, _, run) => purge.covers(run),
            KeyKind::Original(_) | KeyKind::Attachment(..) | KeyKind::Producer => false,
        };
        if covered {
            objects.delete(&entry.key).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

async fn remove_originals(objects: &Objects, purge: &Purge) -> Result<u64, Error> {
    let mut removed = 0;
    for original in &purge.originals {
        match Key::parse(original) {
            Ok(key) => {
                removed += u64::from(objects.exists(&key).await?);
                objects.delete(&key).await?;
            }
            Err(error) => tracing::warn!(key = original, %error, "an original's key cannot be read"),
        }
    }
    Ok(removed)
}

const fn counted_as(kind: &PurgeKind) -> &'static str {
    match kind {
        PurgeKind::Document => "documents",
        PurgeKind::Version(_) => "versions",
        PurgeKind::LostRuns { .. } => "lost_runs",
    }
}
