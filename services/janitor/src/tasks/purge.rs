//! Removes rows and objects of dead runs, dead versions, deleted documents and deleted files, with a receipt.
//!
//! Of a deleted document first the entries on the streams, of which nothing may come any more, then the rows, so that
//! nothing points at an object that is gone; then the objects; then the store marks what was purged. A purge that is cut
//! off is found again and goes on. An object that cannot be removed keeps its own document, and nothing else.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::TryStreamExt;
use riacho_domain::DocumentId;
use riacho_objects::{Key, KeyKind, Objects, Prefix};
use riacho_store::{Purge, PurgeKind, PurgeOf, Purged};

use riacho_traces::attributes;

use super::failures::Failures;
use crate::{Error, job::Job, told};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let grace = Duration::from_secs(job.config().purge_grace_seconds);
    if job.dry_run {
        return look(job, grace).await;
    }
    let mut failures = Failures::default();
    // Those that do not need Redis do not wait for it.
    purge_all(job, &[PurgeOf::Versions, PurgeOf::LostRuns], grace, &mut failures).await?;
    let documents = purge_all(job, &[PurgeOf::Documents], grace, &mut failures).await;
    let files = purge_files(job, grace, &mut failures).await;
    documents.and(files).and(failures.into_result())
}

async fn look(job: &Job<'_>, grace: Duration) -> Result<(), Error> {
    let due = job.janitor.store.purge_figures(grace).await?;
    job.add("documents", due.documents);
    job.add("versions", due.versions);
    job.add("lost_runs", due.lost_runs);
    job.add("files", due.files);
    Ok(())
}

/// Purges what there is of some kinds, step by step. What failed is left for the next run.
async fn purge_all(
    job: &Job<'_>,
    kinds: &[PurgeOf],
    grace: Duration,
    failures: &mut Failures,
) -> Result<(), Error> {
    let (store, batch) = (&job.janitor.store, job.config().batch.max(1));
    failures.go_on();
    let mut failed = HashSet::new();
    while job.goes_on() && !failures.are_too_many() {
        // What failed is found again each time, ahead of the others.
        let limit = batch.saturating_add(u32::try_from(failed.len()).unwrap_or(u32::MAX));
        let mut candidates = store.purge_candidates(kinds, grace, limit).await?;
        let is_full = candidates.len() >= limit as usize;
        candidates.retain(|purge| !failed.contains(&(purge.document, purge.kind)));
        let entries = remove_entries(job, &candidates).await?;
        let mut decided = 0;
        for purge in &candidates {
            if !job.goes_on() || failures.are_too_many() {
                break;
            }
            let entries = entries.get(&purge.document).copied().unwrap_or(0);
            match purge_one(job, purge, entries).await {
                Ok(true) => {
                    failures.go_on();
                    job.add(counted_as(&purge.kind), 1);
                    decided += 1;
                }
                Ok(false) => {}
                Err(Error::Objects(error)) => {
                    tracing::warn!(tenant = %purge.tenant, document = %purge.document, %error, "not purged; trying again on schedule");
                    failures.add(&error.into());
                    failed.insert((purge.document, purge.kind));
                    decided += 1;
                }
                Err(error) => return Err(error),
            }
        }
        // What is neither finished nor failed would be found again at once.
        if !is_full || decided == 0 {
            break;
        }
    }
    Ok(())
}

/// Removes deleted files of which no document is left: first the object, then the row.
async fn purge_files(job: &Job<'_>, grace: Duration, failures: &mut Failures) -> Result<(), Error> {
    let (store, batch) = (&job.janitor.store, job.config().batch.max(1));
    failures.go_on();
    let mut failed = HashSet::new();
    while job.goes_on() && !failures.are_too_many() {
        let limit = batch.saturating_add(u32::try_from(failed.len()).unwrap_or(u32::MAX));
        let mut purges = store.file_purges(grace, limit).await?;
        let is_full = purges.len() >= limit as usize;
        purges.retain(|purge| !failed.contains(&purge.file));
        for purge in &purges {
            if !job.goes_on() || failures.are_too_many() {
                break;
            }
            match remove_original(&job.janitor.objects, &purge.object_key).await {
                Ok(removed) => {
                    store.file_purged(purge, removed).await?;
                    failures.go_on();
                    job.add("files", 1);
                    job.add("objects", removed);
                }
                Err(error) => {
                    tracing::warn!(tenant = %purge.tenant, object_key = purge.object_key, %error, "a file was not purged; trying again on schedule");
                    failures.add(&error);
                    failed.insert(purge.file);
                }
            }
        }
        if !is_full {
            break;
        }
    }
    Ok(())
}

/// Removes what documents have on the streams, all of them in one walk. What is deleted is handed on by no stage, so
/// entries are rare here: of stages that are away or stand still, and of events that wait for their next attempt.
async fn remove_entries(job: &Job<'_>, candidates: &[Purge]) -> Result<HashMap<DocumentId, u64>, Error> {
    let deleted = candidates.iter().filter(|purge| purge.kind == PurgeKind::Document);
    let documents: HashSet<DocumentId> = deleted.map(|purge| purge.document).collect();
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
        removed += remove_original(objects, original).await?;
    }
    Ok(removed)
}

/// Removes an object of which a row has the key; says how many there were.
async fn remove_original(objects: &Objects, object_key: &str) -> Result<u64, Error> {
    match Key::parse(object_key) {
        Ok(key) => {
            let removed = u64::from(objects.exists(&key).await?);
            objects.delete(&key).await?;
            Ok(removed)
        }
        Err(error) => {
            tracing::warn!(object_key, %error, "the key of an original cannot be read");
            Ok(0)
        }
    }
}

const fn counted_as(kind: &PurgeKind) -> &'static str {
    match kind {
        PurgeKind::Document => "documents",
        PurgeKind::Version(_) => "versions",
        PurgeKind::LostRuns { .. } => "lost_runs",
    }
}
