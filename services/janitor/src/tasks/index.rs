//! Builds a larger vector index where many vectors stand outside of it.

use riacho_store::build_index;

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let Some(space) = job.janitor.store.live_space().await? else { return Ok(()) };
    if job.dry_run {
        return Ok(());
    }
    let built = tokio::select! {
        built = build_index(&job.janitor.database, space.id) => built?,
        // A build may take longer than anybody waits for a process to stop.
        () = job.stopped() => None,
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
    Ok(())
}
