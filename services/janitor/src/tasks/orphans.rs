//! Removes objects that no row knows: of uploads whose transaction failed, of stages that crashed.
//!
//! Only what is older than any upload takes is looked at, so an object whose row is about to be
//! written is left alone, and the rows are asked again right before an object goes. Producers' objects are the producers'
//! own. A store of another deployment is left alone altogether.

mod owner;

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use riacho_objects::{Entry, Key, KeyKind};
use riacho_store::Store;

pub(crate) use self::owner::take_over_if_empty;

use super::failures::Failures;
use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    owner::check(job).await?;
    let age = Duration::from_secs(job.config().orphan_age_seconds);
    let older_than = Utc::now() - age;
    let mut objects = job.janitor.objects.list_all();
    let (mut group, mut failures) = (Vec::new(), Failures::default());
    while let Some(entry) = objects.next().await {
        let entry = entry?;
        if entry.last_modified < older_than {
            group.push(entry);
        }
        if group.len() >= job.config().batch.max(1) as usize {
            look_at(job, std::mem::take(&mut group), older_than, &mut failures).await?;
            if !job.goes_on() || failures.are_too_many() {
                return failures.into_result();
            }
        }
    }
    look_at(job, group, older_than, &mut failures).await?;
    let objects = &job.janitor.objects;
    let abandoned = match job.dry_run {
        true => objects.count_abandoned(age).await?,
        false => objects.remove_abandoned(age).await?,
    };
    job.add("abandoned_uploads", abandoned);
    failures.into_result()
}

async fn look_at(
    job: &Job<'_>,
    group: Vec<Entry>,
    older_than: DateTime<Utc>,
    failures: &mut Failures,
) -> Result<(), Error> {
    let known = Known::ask(&job.janitor.store, &group).await?;
    for entry in group.iter().filter(|entry| !known.has(&entry.key)) {
        let is_orphan = match job.dry_run {
            true => true,
            false => match remove(job, entry, older_than).await {
                Err(Error::Objects(error)) if !failures.are_too_many() => {
                    failures.add(&error.into());
                    false
                }
                removed => removed?,
            },
        };
        if is_orphan {
            failures.go_on();
            job.add("bytes", entry.size);
            job.add(counted_as(&entry.key), 1);
        }
    }
    Ok(())
}

/// Removes an object that no row knew, unless its row has come meanwhile or the key was written again.
async fn remove(job: &Job<'_>, entry: &Entry, older_than: DateTime<Utc>) -> Result<bool, Error> {
    let objects = &job.janitor.objects;
    match objects.head(&entry.key).await {
        Ok(now) if now.last_modified >= older_than => return Ok(false),
        Ok(_) => {}
        Err(riacho_objects::Error::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // Others of the group may have taken long, so what the rows said then is old.
    if Known::ask(&job.janitor.store, std::slice::from_ref(entry)).await?.has(&entry.key) {
        return Ok(false);
    }
    objects.delete(&entry.key).await?;
    Ok(true)
}

/// What the rows know of a group of objects.
struct Known {
    originals: HashSet<String>,
    versions: HashSet<(riacho_domain::DocumentId, riacho_domain::Version)>,
}

impl Known {
    async fn ask(store: &Store, group: &[Entry]) -> Result<Known, Error> {
        let (mut originals, mut versions) = (Vec::new(), Vec::new());
        for entry in group {
            match entry.key.kind() {
                KeyKind::Original(_) | KeyKind::Attachment(..) => originals.push(entry.key.to_string()),
                KeyKind::Text(document, version, _) | KeyKind::Claim(document, version, _) => {
                    versions.push((document, version));
                }
                KeyKind::Producer => {}
            }
        }
        Ok(Known {
            originals: store.known_objects(&originals).await?,
            versions: store.known_versions(&versions).await?,
        })
    }

    fn has(&self, key: &Key) -> bool {
        match key.kind() {
            KeyKind::Original(_) | KeyKind::Attachment(..) => self.originals.contains(key.as_str()),
            KeyKind::Text(document, version, _) | KeyKind::Claim(document, version, _) => {
                self.versions.contains(&(document, version))
            }
            KeyKind::Producer => true,
        }
    }
}

fn counted_as(key: &Key) -> &'static str {
    match key.kind() {
        KeyKind::Original(_) => "originals",
        KeyKind::Attachment(..) => "attachments",
        KeyKind::Text(..) => "texts",
        KeyKind::Claim(..) => "claims",
        KeyKind::Producer => "producers",
    }
}
