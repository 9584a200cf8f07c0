//! Measures backlogs, lag, dead letters and waiting documents.

use chrono::{DateTime, TimeDelta, Utc};
use metrics::gauge;
use riacho_domain::{StageName, State};
use riacho_service::cron::Cron;
use riacho_store::{QueueFigures, Schedule, SpaceState};
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

/// When the tasks last went well, whichever process ran them, and how long they should have done so again.
async fn report_tasks(job: &Job<'_>) -> Result<(), Error> {
    for schedule in job.janitor.store.schedules().await? {
        let Ok(task) = schedule.task.parse::<TaskName>() else { continue };
        if let Some(at) = schedule.last_success {
            gauge!(names::TASK_LAST_SUCCESS, "task" => task.as_str()).set(seconds(at.timestamp_millis()));
        }
        let overdue = overdue(&schedule, Utc::now()).num_milliseconds();
        gauge!(names::TASK_OVERDUE, "task" => task.as_str()).set(seconds(overdue));
        let is_failing = schedule.last_outcome.as_deref() == Some("failed");
        gauge!(names::TASK_FAILING, "task" => task.as_str()).set(if is_failing { 1.0 } else { 0.0 });
        if task == TaskName::Backup && !job.config().backup.command.is_empty() {
            let age = Utc::now() - schedule.last_success.unwrap_or(schedule.known_since);
            gauge!(names::BACKUP_AGE).set(seconds(age.num_milliseconds()));
        }
    }
    Ok(())
}

/// How long ago the turn was that came after the last run that went well; before the first of these, after the task was known.
/// Nothing for a task that has no turns.
fn overdue(schedule: &Schedule, now: DateTime<Utc>) -> TimeDelta {
    let Some(expression) = &schedule.expression else { return TimeDelta::zero() };
    // The janitor that leads has read it before it wrote it down.
    let Ok(cron) = Cron::parse(expression, &schedule.time_zone) else { return TimeDelta::zero() };
    let due = cron.next(schedule.last_success.unwrap_or(schedule.known_since));
    due.map_or(TimeDelta::zero(), |due| (now - due).max(TimeDelta::zero()))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn overdue_at(expression: Option<&str>, last_success: Option<&str>, now: &str) -> i64 {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let schedule = Schedule {
            task: "orphans".into(),
            describes: None,
            expression: expression.map(str::to_owned),
            time_zone: "Europe/Lisbon".into(),
            known_since: time("2026-07-01T12:00:00Z"),
            last_started: None,
            last_finished: None,
            last_seconds: None,
            last_outcome: None,
            last_summary: None,
            last_success: last_success.map(time),
            last_work: None,
            last_work_summary: None,
            runs: 0,
            failures: 0,
        };
        overdue(&schedule, time(now)).num_seconds()
    }

    #[test]
    fn a_task_is_overdue_from_the_turn_on_after_which_it_has_not_gone_well() {
        let daily = Some("23 3 * * *");
        // The turn is at 02:23 in UTC.
        let success = Some("2026-07-02T02:25:00Z");
        assert_eq!(overdue_at(daily, success, "2026-07-03T02:22:00Z"), 0);
        assert_eq!(overdue_at(daily, success, "2026-07-03T02:53:00Z"), 1800);
        assert_eq!(overdue_at(daily, success, "2026-07-05T02:23:00Z"), 2 * 86_400, "it fails each day");
        assert_eq!(overdue_at(Some("* * * * * *"), success, "2026-07-02T02:55:01Z"), 1800);
    }

    #[test]
    fn a_task_that_never_went_well_is_overdue_from_its_first_turn_on() {
        assert_eq!(overdue_at(Some("23 3 * * *"), None, "2026-07-02T02:00:00Z"), 0);
        assert_eq!(overdue_at(Some("23 3 * * *"), None, "2026-07-02T03:23:00Z"), 3600);
        assert_eq!(overdue_at(None, None, "2026-07-09T00:00:00Z"), 0, "it has no turns");
    }
}
