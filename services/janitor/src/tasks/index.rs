//! Builds the vector indexes of tenants of which many vectors stand outside, counts the frequent words of large tenants, and
//! removes the vectors of spaces that were given up.

use std::time::Duration;

use riacho_domain::SpaceId;
use riacho_store::{IndexBuilt, SpaceState, drop_space};

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    let (mut spaces, missing) = (store.spaces().await?, store.missing(None).await?);
    // While a space is built, an index would soon be too small.
    spaces.retain(|space| match space.state {
        SpaceState::Live | SpaceState::Standby | SpaceState::Fallback => true,
        SpaceState::Building => space.is_seeded && !missing.contains_key(&space.id),
        SpaceState::Retired => false,
    });
    spaces.sort_by_key(|space| space.state != SpaceState::Live);
    if job.dry_run {
        for space in spaces {
            job.add("indexes", store.due_indexes(space.id).await?.len() as u64);
        }
        job.add("word_counts", store.words_due().await?);
        return remove_retired(job).await;
    }
    // What fails keeps nothing else waiting.
    let mut outcome = Ok(());
    for space in spaces {
        let built = tokio::select! {
            built = store.build_indexes(&job.janitor.database, space.id) => built,
            // A build may take longer than anybody waits for a process to stop.
            () = job.stopped() => return outcome,
        };
        match built {
            Ok(built) => built.iter().for_each(|index| told(job, space.id, index)),
            Err(error) => outcome = outcome.and(Err(error.into())),
        }
    }
    match store.count_words().await {
        Ok(tenants) => job.add("word_counts", tenants),
        Err(error) => outcome = outcome.and(Err(error.into())),
    }
    remove_retired(job).await.and(outcome)
}

fn told(job: &Job<'_>, space: SpaceId, index: &IndexBuilt) {
    tracing::info!(
        space,
        tenant = %index.tenant,
        vectors = index.vectors,
        seconds = index.took.as_secs_f64(),
        "vector index built"
    );
    job.add("indexes", 1);
}

async fn remove_retired(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    for space in store.spaces_to_drop(Duration::from_secs(job.config().purge_grace_seconds)).await? {
        let dropped = job.dry_run || drop_space(&job.janitor.database, space).await?;
        if dropped {
            job.add("spaces", 1);
        }
        if dropped && !job.dry_run {
            store.forget_gaps(space).await?;
            tracing::info!(space, "the vectors of a space that was given up are removed");
        }
    }
    Ok(())
}
