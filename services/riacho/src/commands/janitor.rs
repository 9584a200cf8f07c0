//! `riacho janitor`: the service, and its tasks by hand.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use riacho_janitor::{Config, Error, TaskName};
use riacho_service::{Metrics, Resources, cron::Cron};
use riacho_store::{ActOutcome, NewAct, Role, Schedule};
use serde_json::{Value, json};

use super::{Context, serve};
use crate::{
    cli::{Janitor, JanitorCommand, Worker},
    exit::{Failure, Kind},
    output::shorten,
};

pub(super) async fn run(context: &Context, arguments: Janitor) -> anyhow::Result<()> {
    match arguments.command {
        None => serve::worker(context, Worker::Janitor).await,
        Some(JanitorCommand::List) => list(context).await,
        Some(JanitorCommand::Run { task, dry_run }) => {
            let task = task.parse().map_err(|text| Failure::error(Kind::Usage, text))?;
            Box::pin(one(context, task, dry_run)).await
        }
    }
}

/// The tasks with their schedules, and how they went last.
async fn list(context: &Context) -> anyhow::Result<()> {
    let config = context.config()?.janitor;
    let last_runs = context.store(Role::Janitor).await?.schedules().await.map_err(super::store_failure)?;
    let now = Utc::now();
    let rows = TaskName::ALL.iter().map(|task| {
        let last = last_runs.iter().find(|schedule| schedule.task == task.as_str());
        row_of(&config, *task, last, now)
    });
    let header = ["task", "schedule", "next run", "last run", "took", "", "did", "does"];
    context.output.list(&rows.collect::<Vec<_>>(), &header, |row| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let time = |key: &str| super::time(row[key].as_str().and_then(|time| time.parse().ok()));
        vec![
            text("name"),
            text("schedule"),
            time("next_run"),
            time("last_finished"),
            row["last_seconds"].as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s")),
            text("last_outcome"),
            did(row),
            text("describes"),
        ]
    });
    Ok(())
}

/// A task as an object. The schedule is that of this configuration, which is the janitor's where it has the same one.
fn row_of(config: &Config, task: TaskName, last: Option<&Schedule>, now: DateTime<Utc>) -> Value {
    let expression = Some(config.schedule_of(task)).filter(|expression| !expression.is_empty());
    let cron = expression.and_then(|expression| Cron::parse(expression, &config.time_zone).ok());
    json!({
        "name": task.as_str(), "describes": task.describes(), "schedule": expression,
        "time_zone": config.time_zone, "next_run": cron.and_then(|cron| cron.next(now)),
        "last_started": last.and_then(|last| last.last_started),
        "last_finished": last.and_then(|last| last.last_finished),
        "last_seconds": last.and_then(|last| last.last_seconds),
        "last_outcome": last.and_then(|last| last.last_outcome.as_deref()),
        "last_summary": last.and_then(|last| last.last_summary.as_ref()),
        "last_success": last.and_then(|last| last.last_success),
        "last_work": last.and_then(|last| last.last_work),
        "last_work_summary": last.and_then(|last| last.last_work_summary.as_ref()),
        "runs": last.map_or(0, |last| last.runs), "failures": last.map_or(0, |last| last.failures),
    })
}

/// What a task did: why it failed last, else what it did when it last found something to do.
fn did(row: &Value) -> String {
    if let Some(error) = row["last_summary"]["error"].as_str() {
        return shorten(error, 60);
    }
    let counts = row["last_work_summary"].as_object().cloned().unwrap_or_default();
    let counts = counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>();
    if counts.is_empty() { "-".to_owned() } else { shorten(&counts.join(", "), 60) }
}

async fn one(context: &Context, task: TaskName, dry_run: bool) -> anyhow::Result<()> {
    let config = context.config()?;
    let core = config.core();
    // What a task began is ended before the process goes.
    let stop = riacho_service::shutdown_signal().context("cannot listen to signals")?;
    let connecting = Resources::connect(&core, Role::Janitor, Metrics::install()?, &stop);
    // A person waits: a server that is away is said, not waited for.
    let resources = match tokio::time::timeout(super::PATIENCE, connecting).await {
        Ok(Err(riacho_service::Error::Stopped(_))) => return Err(Failure::silent(Kind::Interrupted)),
        connected => connected
            .map_err(|_| Failure::error(Kind::Unreachable, "a server is away; see riacho status"))??,
    };
    let janitor = riacho_janitor::Janitor::new(config.janitor, &core, &resources);
    let (summary, run) = janitor.run_and_tell(task, dry_run, stop).await;
    let mut detail = json!({ "dry_run": dry_run, "did": summary.counts });
    if let Err(error) = &run {
        detail["error"] = json!(error.to_string());
    }
    let outcome = if run.is_ok() { ActOutcome::Ok } else { ActOutcome::Failed };
    let (action, target) = ("janitor.run", task.as_str());
    let act = NewAct { tenant: None, action, target, outcome, detail: &detail };
    let noted = resources.store.acting_as(context.actor()).note_act(&act).await;
    // What was done is said whatever failed afterwards.
    if run.is_ok() || summary.counts.values().any(|count| *count > 0) {
        context.output.result(&summary, || summary.to_string());
    }
    run.map_err(|error| Failure::error(kind_of(&error), format!("task {task}: {error}")))?;
    noted.map_err(super::store_failure).context("the act could not be written down")?;
    match summary.is_stopped {
        true => Err(Failure::error(Kind::Interrupted, "stopped before the end; what was done stays done")),
        false => Ok(()),
    }
}

/// How a process ends whose task failed: with the code of a server that is away where one is, since a later run may go well.
fn kind_of(error: &Error) -> Kind {
    match error {
        Error::Store(riacho_store::Error::SchemaVersion(_)) => Kind::OtherSchema,
        Error::Store(_) | Error::Streams(_) | Error::Objects(_) | Error::Release(_)
            if error.is_retryable() =>
        {
            Kind::Unreachable
        }
        _ => Kind::Failed,
    }
}
