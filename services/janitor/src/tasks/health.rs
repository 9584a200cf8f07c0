//! Measures backlogs, lag, dead letters and waiting documents.

use chrono::Utc;
use metrics::gauge;
use riacho_domain::{StageName, State};
use riacho_store::{QueueFigures, SpaceState};
use riacho_streams::StageFigures;

use crate::{Error, TaskName, job::Job, metrics::names};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let (store, streams) = (&job.janitor.store, &job.janitor.streams);
    let queue = store.queue_figures().await?;
    report_queue(&queue);
    job.add("waiting", queue.waiting);
    let paused = store.paused_stages().await?;
    for stage in StageName::ALL {
        let is_paused = paused.iter().any(|pause| pause.stage == stage);
        gauge!(names::STAGE_PAUSED, "stage" => stage.as_str()).set(if is_paused { 1.0 } else { 0.0 });
    }
    let partitions: Vec<u16> = store.partitions().await?.iter().map(|p| p.partition).collect();
    for stage in StageName::ALL {
        let figures = streams.figures(stage, &partitions).await?;
        // The backlog is what scales a stage, and the first one's begins in PostgreSQL.
        let before = if stage == StageName::Extract { queue.releasable } else { 0 };
        report_stage(stage.as_str(), &figures, before);
        job.add(stage.as_str(), figures.backlog);
    }
    gauge!(names::FIGURES_TIMESTAMP).set(seconds(Utc::now().timestamp_millis()));
    let mut dead = 0;
    for partition in partitions {
        dead += streams.dead_letter_count(partition).await?;
    }
    gauge!(names::DEAD_LETTER_ENTRIES).set(number(dead));
    job.add("dead_letters", dead);
    gauge!(names::DEAD_LETTERS_OPEN).set(number(store.open_dead_letters().await?));
    gauge!(names::REDIS_MEMORY).set(number(streams.memory().await?.used));
    report_tasks(job).await?;
    report_spaces(job).await
}

/// When the tasks last went well, whichever process ran them.
async fn report_tasks(job: &Job<'_>) -> Result<(), Error> {
    for schedule in job.janitor.store.schedules().await? {
        let Ok(task) = schedule.task.parse::<TaskName>() else { continue };
        if let Some(at) = schedule.last_success {
            gauge!(names::TASK_LAST_SUCCESS, "task" => task.as_str()).set(seconds(at.timestamp_millis()));
        }
        if task == TaskName::Backup && !job.config().backup.command.is_empty() {
            let age = Utc::now() - schedule.last_success.unwrap_or(schedule.known_since);
            gauge!(names::BACKUP_AGE).set(seconds(age.num_milliseconds()));
        }
    }
    Ok(())
}

/// Times are far below 2^53 milliseconds, up to which this is exact.
#[allow(clippy::cast_precision_loss)]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1e3
}

async fn report_spaces(job: &Job<'_>) -> Result<(), Error> {
    let store = &job.janitor.store;
    let (spaces, missing) = (store.spaces().await?, store.missing(None).await?);
    for state in [SpaceState::Live, SpaceState::Standby, SpaceState::Building] {
        let lacking = spaces.iter().filter(|space| space.state == state).filter_map(|s| missing.get(&s.id));
        let (chunks, documents) =
            lacking.fold((0, 0), |sum, one| (sum.0 + one.chunks, sum.1 + one.documents));
        gauge!(names::SPACE_MISSING, "state" => state.as_str()).set(number(chunks));
        gauge!(names::SPACE_MISSING_DOCUMENTS, "state" => state.as_str()).set(number(documents));
    }
    Ok(())
}

fn report_queue(queue: &QueueFigures) {
    gauge!(names::DOCUMENTS_WAITING).set(number(queue.waiting));
    gauge!(names::WAITING_OLDEST_AGE).set(queue.oldest_waiting.unwrap_or_default().as_secs_f64());
    // A state that no version is in has no row, and its figure is 0 then.
    for state in State::ALL.into_iter().filter(|state| state.is_in_flight()) {
        let count = queue.unfinished.iter().find(|(found, _)| *found == state).map_or(0, |(_, count)| *count);
        gauge!(names::DOCUMENTS_IN_FLIGHT, "state" => state.as_str()).set(number(count));
    }
}

fn report_stage(stage: &'static str, figures: &StageFigures, before: u64) {
    let set = |name: &'static str, value: f64| gauge!(name, "stage" => stage).set(value);
    set(names::STAGE_BACKLOG, number(figures.backlog + before));
    set(names::STAGE_LAG_KNOWN, if figures.lag.is_some() { 1.0 } else { 0.0 });
    set(names::STAGE_LAG, number(figures.lag.unwrap_or(figures.backlog.saturating_sub(figures.pending))));
    set(names::STAGE_PENDING, number(figures.pending));
    set(names::STAGE_RETRYING, number(figures.retrying));
    set(names::STAGE_OLDEST_AGE, figures.oldest_age.as_secs_f64());
    set(names::STAGE_BYTES, number(figures.bytes));
    let error = figures.conservation_error;
    set(names::STAGE_CONSERVATION_ERROR, number(error.unsigned_abs()) * if error < 0 { -1.0 } else { 1.0 });
    for (state, count) in [("alive", figures.consumers_alive), ("dead", figures.consumers_dead)] {
        gauge!(names::STAGE_CONSUMERS, "stage" => stage, "state" => state).set(number(count));
    }
}

/// Counts are far below 2^53, up to which this is exact.
#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}
