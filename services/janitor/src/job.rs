//! A janitor, and one run of a task.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use riacho_objects::Objects;
use riacho_service::{CoreConfig, Resources, outward::Outward};
use riacho_store::{Limits, Store, TaskRun};
use riacho_streams::Streams;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, TaskName, census::Watch, filler::Filler, metrics::names, tasks};

/// Runs of frequent tasks that found nothing to do are written down this often only.
const IDLE_NOTES: Duration = Duration::from_secs(10);

/// What tasks work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Janitor {
    pub(crate) config: Config,
    pub(crate) database: riacho_store::Config,
    pub(crate) store: Store,
    pub(crate) streams: Streams,
    pub(crate) objects: Objects,
    pub(crate) watch: Watch,
    pub(crate) filler: Filler,
    outward: Arc<OnceLock<Outward>>,
    outbound_allow: Arc<[String]>,
    notes: Arc<Mutex<HashMap<TaskName, Notes>>>,
    /// What a tenant may use unless something else is set for it.
    pub(crate) limits: Limits,
}

/// What was written down of a task's runs.
#[derive(Debug)]
struct Notes {
    last: Instant,
    /// Runs since then.
    unwritten: u64,
}

/// What a run of a task did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The task.
    pub task: TaskName,
    /// Whether it only looked.
    pub dry_run: bool,
    /// How much of what.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was stopped between two steps.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_stopped: bool,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:", self.task, if self.dry_run { " (dry run)" } else { "" })?;
        let mut separator = " ";
        for (what, count) in self.counts.iter().filter(|(_, count)| **count > 0) {
            write!(f, "{separator}{what} {count}")?;
            separator = ", ";
        }
        if separator == " " { f.write_str(" nothing to do") } else { Ok(()) }
    }
}

impl Janitor {
    /// A janitor on connections of the janitor's role.
    #[must_use]
    pub fn new(config: Config, core: &CoreConfig, resources: &Resources) -> Self {
        let watch = Watch::new(Duration::from_secs(config.census_after_seconds.max(1)));
        Self {
            watch,
            filler: Filler::new(&core.models, resources.clone()),
            outward: Arc::default(),
            outbound_allow: core.http.outbound_allow.clone().into(),
            notes: Arc::default(),
            limits: core.limits,
            config,
            database: core.database.clone(),
            store: resources.store.clone(),
            streams: resources.streams.clone(),
            objects: resources.objects.clone(),
        }
    }

    /// The client for addresses that tenants name, made when it is needed for the first time.
    pub(crate) fn outward(&self) -> Result<&Outward, Error> {
        if let Some(outward) = self.outward.get() {
            return Ok(outward);
        }
        let limit = Duration::from_secs(self.config.webhooks.time_limit_seconds.max(1));
        let made = Outward::new(&self.outbound_allow, limit, limit)?;
        Ok(self.outward.get_or_init(|| made))
    }

    /// Runs a task once, to its end; with `dry_run` it only counts. Being the leader is not needed.
    ///
    /// # Errors
    /// When it could not be finished. What it did until then stays done.
    pub async fn run_task(&self, task: TaskName, dry_run: bool) -> Result<Summary, Error> {
        self.run_until(task, dry_run, CancellationToken::new()).await
    }

    /// [`Janitor::run_task`] that ends between two steps after `stop`.
    pub(crate) async fn run_until(
        &self,
        task: TaskName,
        dry_run: bool,
        stop: CancellationToken,
    ) -> Result<Summary, Error> {
        let (summary, result) = self.run_and_tell(task, dry_run, stop).await;
        result.map(|()| summary)
    }

    /// Runs a task once, until its end or a step's end after `stop`, and says what was done, also where it failed.
    pub async fn run_and_tell(
        &self,
        task: TaskName,
        dry_run: bool,
        stop: CancellationToken,
    ) -> (Summary, Result<(), Error>) {
        let start = Instant::now();
        let job = Job {
            janitor: self,
            dry_run,
            stop,
            is_stopped: AtomicBool::new(false),
            counts: Mutex::default(),
        };
        let result = tasks::run(task, &job).await;
        let is_stopped = job.is_stopped.into_inner();
        let counts = job.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let seconds = start.elapsed().as_secs_f64();
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        ::metrics::histogram!(names::TASK_SECONDS, "task" => task.as_str(), "outcome" => outcome)
            .record(seconds);
        let summary = Summary { task, dry_run, counts, seconds, is_stopped };
        if !dry_run {
            ::metrics::counter!(names::TASK_RUNS, "task" => task.as_str(), "outcome" => outcome).increment(1);
            self.write_down(&summary, &result).await;
        }
        (summary, result)
    }

    /// The schedule's row is for people: a task that went well is not undone because it cannot be written.
    async fn write_down(&self, summary: &Summary, result: &Result<(), Error>) {
        let did_something = summary.counts.values().any(|count| *count > 0);
        let is_idle = result.is_ok() && !did_something && summary.task.is_frequent();
        let Some(runs) = self.runs_to_write(summary.task, is_idle) else { return };
        let report = report(summary, result);
        let run = TaskRun {
            task: summary.task.as_str(),
            is_ok: result.is_ok(),
            did_something,
            took: Duration::from_secs_f64(summary.seconds),
            summary: &report,
            runs,
        };
        if let Err(error) = self.store.task_finished(&run).await {
            tracing::debug!(task = run.task, %error, "the schedule's row was not written");
        }
    }

    /// How many runs are to be written down with the one that just ended; none: nothing yet.
    fn runs_to_write(&self, task: TaskName, is_idle: bool) -> Option<u64> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match notes.get_mut(&task) {
            Some(noted) if is_idle && now - noted.last < IDLE_NOTES => {
                noted.unwritten += 1;
                None
            }
            noted => {
                let runs = noted.map_or(0, |noted| noted.unwritten) + 1;
                notes.insert(task, Notes { last: now, unwritten: 0 });
                Some(runs)
            }
        }
    }
}

/// What a run did, for its row.
pub(crate) fn report(summary: &Summary, result: &Result<(), Error>) -> serde_json::Value {
    let mut counts = summary.counts.clone();
    counts.retain(|_, count| *count > 0);
    match result {
        Ok(()) => json!(counts),
        Err(error) => json!({ "error": error.to_string(), "counts": counts }),
    }
}

/// One run of a task.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) janitor: &'a Janitor,
    pub(crate) dry_run: bool,
    stop: CancellationToken,
    is_stopped: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Job<'_> {
    /// Counts what was done, or would be.
    pub(crate) fn add(&self, what: &'static str, count: u64) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += count;
    }

    /// Whether another step may begin.
    pub(crate) fn goes_on(&self) -> bool {
        let is_stopped = self.stop.is_cancelled();
        self.is_stopped.fetch_or(is_stopped, Ordering::Relaxed);
        !is_stopped
    }

    /// Waits until no other step may begin. Cancel safe.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn config(&self) -> &Config {
        &self.janitor.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_one_line() {
        let counts = BTreeMap::from([("chunks", 120), ("documents", 3), ("objects", 0)]);
        let mut summary =
            Summary { task: TaskName::Purge, dry_run: false, counts, seconds: 0.5, is_stopped: false };
        assert_eq!(summary.to_string(), "purge: chunks 120, documents 3");
        summary.counts.clear();
        summary.dry_run = true;
        assert_eq!(summary.to_string(), "purge (dry run): nothing to do");
    }
}
