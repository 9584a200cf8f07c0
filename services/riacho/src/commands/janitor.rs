//! `riacho janitor`: the service, and its tasks by hand.

use anyhow::Context as _;
use riacho_janitor::TaskName;
use riacho_service::{Metrics, Resources};
use riacho_store::Role;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Context, serve};
use crate::{
    cli::{Janitor, JanitorCommand, Worker},
    exit::{Failure, Kind},
};

pub(super) async fn run(context: &Context, arguments: Janitor) -> anyhow::Result<()> {
    match arguments.command {
        None => serve::worker(context, Worker::Janitor).await,
        Some(JanitorCommand::List) => list(context).await,
        Some(JanitorCommand::Run { task, dry_run }) => {
            let task = task.parse().map_err(|text| Failure::error(Kind::Usage, text))?;
            one(context, task, dry_run).await
        }
    }
}

/// The tasks with their schedules, and how they went last.
async fn list(context: &Context) -> anyhow::Result<()> {
    let schedules = context.config()?.janitor.schedules;
    let last_runs = context.store(Role::Janitor).await?.schedules().await.map_err(super::store_failure)?;
    let rows = TaskName::ALL.iter().map(|task| {
        let last = last_runs.iter().find(|schedule| schedule.task == task.as_str());
        json!({
            "name": task.as_str(), "describes": task.describes(), "schedule": schedules.of(*task),
            "last_finished": last.and_then(|last| last.last_finished),
            "last_outcome": last.and_then(|last| last.last_outcome.as_deref()),
            "runs": last.map_or(0, |last| last.runs), "failures": last.map_or(0, |last| last.failures),
        })
    });
    context.output.list(&rows.collect::<Vec<_>>(), &["task", "schedule", "last run", "", "does"], |row| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        vec![text("name"), text("schedule"), text("last_finished"), text("last_outcome"), text("describes")]
    });
    Ok(())
}

async fn one(context: &Context, task: TaskName, dry_run: bool) -> anyhow::Result<()> {
    let config = context.config()?;
    let core = config.core();
    let patience = CancellationToken::new();
    let connecting = Resources::connect(&core, Role::Janitor, Metrics::install()?, &patience);
    // A person waits: a server that is away is said, not waited for.
    let resources = tokio::time::timeout(super::PATIENCE, connecting)
        .await
        .map_err(|_| Failure::error(Kind::Unreachable, "a server is away; see riacho status"))??;
    let janitor = riacho_janitor::Janitor::new(config.janitor, &core, &resources);
    let summary = janitor.run_task(task, dry_run).await.with_context(|| format!("task {task}"))?;
    context.output.result(&summary, || summary.to_string());
    Ok(())
}
