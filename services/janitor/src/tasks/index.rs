//! Builds larger vector indexes where many vectors stand outside, and removes the vectors of spaces that
//! were given up.

use std::time::Duration;

use riacho_store::{SpaceState, build_index, drop_space};

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
    for space in spaces.into_iter().filter(|_| !job.dry_run) {
        let built = tokio::select! {
            built = build_index(&job.janitor.database, space.id) => built?,
            // A build may take longer than anybody waits for a process to stop.
            () = job.stopped() => return Ok(()),
        };
        if let Some(built) = built {
            tracing::info!(
                space = space.id,
                up_to = built.up_to,
                seconds = built.took.as_secs_f64(),
                "vector index built"
            );
            job.add("indexes", 1);
        }
    }
    remove_retired(job).await
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
