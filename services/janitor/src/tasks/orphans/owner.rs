//! Whether the object store is the deployment's own. A database that was set up anew, or the settings of another deployment,
//! would else take every object for one that no row knows.
//!
//! The store names its deployment in an object at its root. One that names none yet is taken over where most of its objects
//! are known to the database, and so is an empty one.

use futures::StreamExt;
use riacho_objects::{Entry, KeyKind, OWNER_OBJECT};

use super::Known;
use crate::{Error, Janitor, job::Job};

/// So many objects are looked at to say whose a store is that does not say it itself.
const LOOKED_AT: usize = 10_000;

/// Refuses a store of another deployment, and takes over one that names none; a dry run only looks.
pub(super) async fn check(job: &Job<'_>) -> Result<(), Error> {
    let janitor = job.janitor;
    let ours = janitor.store.deployment().await?.to_string();
    if let Some(owner) = janitor.objects.owner().await? {
        return is_ours(&owner, &ours);
    }
    let (known, looked_at) = known_of(janitor, job.config().batch.max(1) as usize).await?;
    if known * 2 < looked_at {
        return Err(Error::Foreign(format!(
            "the object store names no deployment, and of {looked_at} objects that were looked at this database knows {known}: nothing \
             was removed. Where it is the store of this deployment nevertheless, store the text {ours} in it as {OWNER_OBJECT}"
        )));
    }
    if job.dry_run {
        return Ok(());
    }
    take_over(janitor, &ours).await
}

/// Takes over a store that names no deployment and has no objects, so that a new one is known from its first day.
pub(crate) async fn take_over_if_empty(janitor: Janitor) {
    let taken = async {
        if janitor.objects.owner().await?.is_none() && janitor.objects.list_all().next().await.is_none() {
            let ours = janitor.store.deployment().await?.to_string();
            take_over(&janitor, &ours).await?;
        }
        Ok::<_, Error>(())
    };
    // The task does the same later, and says what is wrong.
    if let Err(error) = taken.await {
        tracing::debug!(%error, "the object store was not looked at");
    }
}

async fn take_over(janitor: &Janitor, ours: &str) -> Result<(), Error> {
    janitor.objects.set_owner(ours).await?;
    tracing::info!("the object store names this deployment from now on");
    // Another one may have been faster.
    is_ours(&janitor.objects.owner().await?.unwrap_or_default(), ours)
}

fn is_ours(owner: &str, ours: &str) -> Result<(), Error> {
    if owner == ours {
        return Ok(());
    }
    // The text is from outside: an id has 36 characters, none of which controls a terminal.
    let owner: String = owner.chars().filter(|c| c.is_ascii_graphic()).take(36).collect();
    Err(Error::Foreign(format!(
        "the object store belongs to deployment {owner:?} and the database to {ours}: nothing was removed. Where it is the store of \
         this deployment nevertheless, store the text {ours} in it as {OWNER_OBJECT}"
    )))
}

/// How many of the objects the database knows, and of how many. What producers stored says nothing.
async fn known_of(janitor: &Janitor, batch: usize) -> Result<(usize, usize), Error> {
    let (mut known, mut looked_at) = (0, 0);
    let ours = |entry: &Result<Entry, _>| {
        let is_told = entry.as_ref().map_or(true, |entry| entry.key.kind() != KeyKind::Producer);
        std::future::ready(is_told)
    };
    let mut groups = janitor.objects.list_all().filter(ours).take(LOOKED_AT).chunks(batch);
    while let Some(group) = groups.next().await {
        let group = group.into_iter().collect::<Result<Vec<Entry>, _>>()?;
        let found = Known::ask(&janitor.store, &group).await?;
        looked_at += group.len();
        known += group.iter().filter(|entry| found.has(&entry.key)).count();
    }
    Ok((known, looked_at))
}
