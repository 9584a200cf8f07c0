//! Removes rows and objects of dead runs, dead versions, deleted documents and deleted files, with a receipt.
//!
//! Of a deleted document first the entries on the streams, of which nothing may come any more, then the rows, so that
//! nothing points at an object that is gone; then the objects; then the store marks what was purged. A purge that is cut
//! off is found again and goes on.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::TryStreamExt;
use riacho_domain::DocumentId;
use riacho_objects::{Key, KeyKind, Objects, Prefix};
use riacho_store::{Purge, PurgeKind, Purged};

use riacho_traces::attributes;

use crate::{Error, job::Job, told};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let grace = Duration::from_secs(job.config().purge_grace_seconds);
    let batch = job.config().batch.max(1);
    while job.goes_on() {
        let candidates = job.janitor.store.purge_candidates(grace, batch).await?;
        let found = candidates.len();
        if job.dry_run {
            candidates.iter().for_each(|purge| job.add(counted_as(&purge.kind), 1));
            break;
        }
        let (documents, versions): (Vec<Purge>, Vec<Purge>) =
            candidates.into_iter().partition(|purge| purge.kind == PurgeKind::Document);
        // Those that do not need Redis do not wait for it.
        let mut finished = purge_all(job, &versions, &HashMap::new()).await?;
        let entries = remove_entries(job, &documents).await?;
        finished += purge_all(job, &documents, &entries).await?;
        // What was not finished would be found again at once.
        if found < batch as usize || finished == 0 {
            break;
        }
    }
    purge_files(job, grace, batch).await
}

/// Removes deleted files of which no document is left: first the object, then the row.
async fn purge_files(job: &Job<'_>, grace: Duration, batch: u32) -> Result<(), Error> {
    let (store, objects) = (&job.janitor.store, &job.janitor.objects);
    while job.goes_on() {
        let purges = store.file_purges(grace, batch).await?;
        if job.dry_run {
            job.add("files", purges.len() as u64);
            break;
        }
        for purge in &purges {
            let mut removed = 0;
            match Key::parse(&purge.object_key) {
                Ok(key) => {
                    removed = u64::from(objects.exists(&key).await?);
                    objects.delete(&key).await?;
                }
                Err(error) => {
                    tracing::warn!(object_key = purge.object_key, %error, "a file's key cannot be read")
                }
            }
            store.file_purged(purge, removed).await?;
            job.add("files", 1);
            job.add("objects", removed);
        }
        if purges.len() < batch as usize {
            break;
        }
    }
    Ok(())
}

/// Purges candidates, of which so many entries were removed; says how many were finished.
async fn purge_all(
    job: &Job<'_>,
    candidates: &[Purge],
    entries: &HashMap<DocumentId, u64>,
) -> Result<u64, Error> {
    let mut finished = 0;
    for purge in candidates {
        let entries = entries.get(&purge.document).copied().unwrap_or(0);
        if job.goes_on() && purge_one(job, purge, entries).await? {
            job.add(counted_as(&purge.kind), 1);
            finished += 1;
        }
    }
    Ok(finished)
}

/// Removes what documents have on the streams, all of them in one walk. What is deleted is handed on by no stage, so
/// entries are rare here: of stages that are away or stand still, and of events that wait for their next attempt.
async fn remove_entries(job: &Job<'_>, documents: &[Purge]) -> Result<HashMap<DocumentId, u64>, Error> {
    let documents: HashSet<DocumentId> = documents.iter().map(|purge| purge.document).collect();
    let mut removed = HashMap::new();
    if documents.is_empty() {
        return Ok(removed);
    }
    for partition in job.janitor.store.partitions().await? {
        let of_partition = job.janitor.streams.remove_documents(partition.partition, &documents).await?;
        for (document, entries) in of_partition {
            job.add("entries", entries);
            *removed.entry(document).or_default() += entries;
        }
    }
    Ok(removed)
}

/// Purges one candidate; false when it is needed again, or must wait for the next run.
async fn purge_one(job: &Job<'_>, purge: &Purge, entries: u64) -> Result<bool, Error> {
    let store = &job.janitor.store;
    let mut span = told::purging(purge);
    let mut purged = Purged { entries, ..Purged::default() };
    loop {
        let progress = store.purge_rows(purge, job.config().batch.max(1)).await?;
        purged.chunks += progress.chunks;
        purged.vectors += progress.vectors;
        job.add("chunks", progress.chunks);
        job.add("vectors", progress.vectors);
        if progress.abandoned || !progress.done && !job.goes_on() {
            span.set(attributes::OUTCOME, if progress.abandoned { "abandoned" } else { "interrupted" });
            return Ok(false);
        }
        if progress.done {
            break;
        }
    }
    purged.objects = remove_objects(&job.janitor.objects, purge).await?;
    job.add("objects", purged.objects);
    let receipt = store.purge_done(purge, purged).await?;
    told::purged(purge, &purged);
    job.add("dead_letters", receipt.map_or(0, |receipt| receipt.purged.dead_letters));
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
            Err(error) => tracing::warn!(object_key = original, %error, "an original's key cannot be read"),
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
