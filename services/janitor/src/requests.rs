//! Runs of tasks that somebody asked for over HTTP: rows, which the janitor that leads takes up.

use std::{sync::Arc, time::Duration};

use riacho_store::RequestedRun;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Janitor, TaskName, job::report, leader::sleep, schedule::Timetable};

/// How often is looked for new ones.
const LOOK: Duration = Duration::from_millis(500);
/// At most so many run at once: a long one keeps others waiting no longer than it has to.
const AT_ONCE: usize = 4;

/// Takes up what is asked for, until `stop`; returns when what runs has ended.
pub(crate) async fn serve(janitor: Janitor, timetable: Arc<Timetable>, stop: CancellationToken) {
    let mut running = JoinSet::new();
    // While the database is away the other loops tell of it.
    while !stop.is_cancelled() && !begin(&janitor, &timetable).await {
        sleep(LOOK, &stop).await;
    }
    while !stop.is_cancelled() {
        while running.len() < AT_ONCE
            && let Ok(Some(request)) = janitor.store.take_run().await
        {
            running.spawn(one(janitor.clone(), request, stop.clone()));
        }
        sleep(LOOK, &stop).await;
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}

/// Writes down which tasks there are, and ends what another janitor left. False: try again.
async fn begin(janitor: &Janitor, timetable: &Timetable) -> bool {
    janitor.store.plan_tasks(&timetable.planned()).await.is_ok() && janitor.store.abandon_runs().await.is_ok()
}

async fn one(janitor: Janitor, request: RequestedRun, stop: CancellationToken) {
    let dry_run = request.dry_run;
    let (is_ok, took, report) = match request.task.parse::<TaskName>() {
        Ok(task) => {
            tracing::info!(task = task.as_str(), dry_run, by = request.requested_by, "a run was asked for");
            let (summary, result) = janitor.run_and_tell(task, dry_run, stop).await;
            // A run by the schedule goes on at its next turn; this one was to go to its end.
            let stopped = "the janitor stopped before the end of the run; what was done stays done";
            let report = match result.is_ok() && summary.is_stopped {
                true => json!({ "error": stopped, "counts": summary.counts }),
                false => report(&summary, &result),
            };
            (result.is_ok() && !summary.is_stopped, Duration::from_secs_f64(summary.seconds), report)
        }
        // A janitor of another version planned it.
        Err(error) => (false, Duration::ZERO, json!({ "error": error })),
    };
    if let Err(error) = janitor.store.run_finished(request.id, is_ok, took, &report).await {
        tracing::warn!(task = request.task, %error, "how a run went that was asked for could not be written");
    }
}
