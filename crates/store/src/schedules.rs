//! The janitor's tasks: when they run, how they went, and runs that somebody asked for.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Store,
    transaction::{Param, Scope},
};

/// A run that no janitor took up for this long is not run any more: nobody expects it.
const REQUEST_LASTS: Duration = Duration::from_secs(600);

/// A task as the janitor that leads knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTask<'a> {
    /// Its name.
    pub task: &'a str,
    /// What it does, in a line.
    pub describes: &'a str,
    /// The cron expression; none where it runs by hand only.
    pub expression: Option<&'a str>,
    /// The time zone of the expression.
    pub time_zone: &'a str,
}

/// How a run of a task went.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRun<'a> {
    /// The task.
    pub task: &'a str,
    /// Whether it went well.
    pub is_ok: bool,
    /// Whether it found something to do.
    pub did_something: bool,
    /// How long it took.
    pub took: Duration,
    /// What it did.
    pub summary: &'a Value,
    /// How many runs this stands for: those before it that were idle and not written down, and itself.
    pub runs: u64,
}

/// A janitor's task: when it runs, and how it went.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The task.
    pub task: String,
    /// What it does, in a line; none where the janitor that led last does not have the task.
    pub describes: Option<String>,
    /// The cron expression; none where it runs by hand only.
    pub expression: Option<String>,
    /// The time zone of the expression.
    pub time_zone: String,
    /// Since when it is known.
    pub known_since: DateTime<Utc>,
    /// When it last began.
    pub last_started: Option<DateTime<Utc>>,
    /// When it last ended.
    pub last_finished: Option<DateTime<Utc>>,
    /// How long that took, in seconds.
    pub last_seconds: Option<f64>,
    /// `ok` or `failed`.
    pub last_outcome: Option<String>,
    /// What it did.
    pub last_summary: Option<Value>,
    /// When it last ended well.
    pub last_success: Option<DateTime<Utc>>,
    /// When it last found something to do.
    pub last_work: Option<DateTime<Utc>>,
    /// What it did then.
    pub last_work_summary: Option<Value>,
    /// How often it ran.
    pub runs: u64,
    /// How often it failed.
    pub failures: u64,
}

/// How far a run is that somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// No janitor has taken it up.
    Queued,
    /// A janitor runs it.
    Running,
    /// It ended well.
    Ok,
    /// It failed.
    Failed,
    /// No janitor took it up in time, and none will.
    Expired,
}

impl RunState {
    /// The name, as it stands in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Running => "running",
            RunState::Ok => "ok",
            RunState::Failed => "failed",
            RunState::Expired => "expired",
        }
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        !matches!(self, RunState::Queued | RunState::Running)
    }
}

/// A run that somebody asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestedRun {
    /// Its id.
    pub id: Uuid,
    /// The task.
    pub task: String,
    /// Whether it only looks.
    pub dry_run: bool,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// How far it is.
    pub state: RunState,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// What it did.
    pub summary: Option<Value>,
}

impl RequestedRun {
    fn read(row: &Row) -> Result<Self, Error> {
        let (is_started, outcome): (bool, Option<String>) =
            (row.try_get("is_started")?, row.try_get("outcome")?);
        let state = match (outcome.as_deref(), is_started) {
            (Some("ok"), _) => RunState::Ok,
            (Some(_), _) => RunState::Failed,
            (None, true) => RunState::Running,
            (None, false) if row.try_get("is_late")? => RunState::Expired,
            (None, false) => RunState::Queued,
        };
        Ok(Self {
            id: row.try_get("id")?,
            task: row.try_get("task")?,
            dry_run: row.try_get("dry_run")?,
            requested_by: row.try_get("requested_by")?,
            requested_at: row.try_get("requested_at")?,
            state,
            finished_at: row.try_get("finished_at")?,
            seconds: row.try_get("seconds")?,
            summary: row.try_get("summary")?,
        })
    }
}

impl Store {
    /// Writes down which tasks there are and when they run.
    pub async fn plan_tasks(&self, tasks: &[PlannedTask<'_>]) -> Result<(), Error> {
        let names: Vec<&str> = tasks.iter().map(|task| task.task).collect();
        let describes: Vec<&str> = tasks.iter().map(|task| task.describes).collect();
        let expressions: Vec<Option<&str>> = tasks.iter().map(|task| task.expression).collect();
        let zones: Vec<&str> = tasks.iter().map(|task| task.time_zone).collect();
        self.transaction(Scope::all("plan_tasks"), |tx| {
            let (names, describes, expressions, zones) = (&names, &describes, &expressions, &zones);
            async move {
                tx.execute(PLAN, &[names, describes, expressions, zones]).await?;
                tx.execute(FORGET, &[names]).await.map(drop)
            }
        })
        .await
    }

    /// Notes how a run of a task went.
    pub async fn task_finished(&self, run: &TaskRun<'_>) -> Result<(), Error> {
        let (seconds, runs) = (run.took.as_secs_f64(), i64::try_from(run.runs).unwrap_or(i64::MAX));
        let params: [Param<'_>; 6] =
            [&run.task, &run.is_ok, run.summary, &seconds, &run.did_something, &runs];
        self.single(Scope::all("task_finished").relaxed(), TASK_FINISHED, &params).await?;
        Ok(())
    }

    /// Notes that a run of a task begins, so that nobody makes up for it, also where it never tells how it ended.
    pub async fn task_begins(&self, task: &str) -> Result<(), Error> {
        self.single(Scope::all("task_begins"), TASK_BEGINS, &[&task]).await?;
        Ok(())
    }

    /// The tasks and how they went, by name.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, Error> {
        let rows = self.single(Scope::all("schedules"), SCHEDULES, &[]).await?;
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        rows.iter()
            .map(|row| {
                Ok(Schedule {
                    task: row.try_get("task")?,
                    describes: row.try_get("describes")?,
                    expression: row.try_get("expression")?,
                    time_zone: row.try_get("time_zone")?,
                    known_since: row.try_get("known_since")?,
                    last_started: row.try_get("last_started")?,
                    last_finished: row.try_get("last_finished")?,
                    last_seconds: row.try_get("last_seconds")?,
                    last_outcome: row.try_get("last_outcome")?,
                    last_summary: row.try_get("last_summary")?,
                    last_success: row.try_get("last_success")?,
                    last_work: row.try_get("last_work")?,
                    last_work_summary: row.try_get("last_work_summary")?,
                    runs: unsigned(row.try_get("runs")?),
                    failures: unsigned(row.try_get("failures")?),
                })
            })
            .collect()
    }

    /// Asks the janitor that leads for a run of a task.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the janitor that led last does not have the task.
    pub async fn request_run(&self, task: &str, dry_run: bool, by: &str) -> Result<RequestedRun, Error> {
        let id = Uuid::now_v7();
        let params: [Param<'_>; 4] = [&id, &task, &dry_run, &by];
        let asked = self.single(Scope::all("request_run"), REQUEST, &params).await?;
        if asked.is_empty() {
            return Err(Error::NotFound("task"));
        }
        self.requested_run(id).await?.ok_or_else(|| Error::Row("a run that was not written".into()))
    }

    /// A run that somebody asked for.
    pub async fn requested_run(&self, id: Uuid) -> Result<Option<RequestedRun>, Error> {
        let params: [Param<'_>; 2] = [&id, &REQUEST_LASTS.as_secs_f64()];
        let rows = self.single(Scope::all("requested_run"), RUN, &params).await?;
        rows.first().map(RequestedRun::read).transpose()
    }

    /// Takes up the oldest run that somebody asked for and nobody has taken up.
    pub async fn take_run(&self) -> Result<Option<RequestedRun>, Error> {
        let rows = self.single(Scope::all("take_run"), TAKE_RUN, &[&REQUEST_LASTS.as_secs_f64()]).await?;
        rows.first().map(RequestedRun::read).transpose()
    }

    /// Notes how a run went that was taken up, also where another janitor took its end for granted meanwhile.
    pub async fn run_finished(
        &self,
        id: Uuid,
        is_ok: bool,
        took: Duration,
        summary: &Value,
    ) -> Result<(), Error> {
        let params: [Param<'_>; 4] = [&id, &is_ok, &took.as_secs_f64(), summary];
        self.single(Scope::all("run_finished"), RUN_FINISHED, &params).await?;
        Ok(())
    }

    /// Ends the runs that a janitor took up which does not lead any more. Answers how many.
    pub async fn abandon_runs(&self) -> Result<u64, Error> {
        Ok(self.single(Scope::all("abandon_runs"), ABANDON_RUNS, &[]).await?.len() as u64)
    }
}

const PLAN: &str = "-- store::schedules::plan_tasks
INSERT INTO schedules AS s (task, describes, expression, time_zone)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (task) DO UPDATE SET describes = excluded.describes, expression = excluded.expression, time_zone = excluded.time_zone";

const FORGET: &str = "-- store::schedules::plan_tasks
UPDATE schedules SET describes = NULL, expression = NULL WHERE task <> ALL ($1::text[]) AND describes IS NOT NULL";

const TASK_FINISHED: &str = "-- store::schedules::task_finished
INSERT INTO schedules AS s (task, last_started, last_finished, last_outcome, last_summary, last_seconds, runs, failures,
                            last_success, last_work, last_work_summary)
VALUES ($1, clock_timestamp() - make_interval(secs => $4), clock_timestamp(), CASE WHEN $2 THEN 'ok' ELSE 'failed' END, $3, $4,
        $6, CASE WHEN $2 THEN 0 ELSE 1 END, CASE WHEN $2 THEN clock_timestamp() END, CASE WHEN $5 THEN clock_timestamp() END,
        CASE WHEN $5 THEN $3::jsonb END)
ON CONFLICT (task) DO UPDATE
SET last_started = excluded.last_started, last_finished = excluded.last_finished, last_outcome = excluded.last_outcome,
    last_summary = excluded.last_summary, last_seconds = excluded.last_seconds,
    runs = s.runs + excluded.runs, failures = s.failures + excluded.failures,
    last_success = coalesce(excluded.last_success, s.last_success), last_work = coalesce(excluded.last_work, s.last_work),
    last_work_summary = coalesce(excluded.last_work_summary, s.last_work_summary)";

const TASK_BEGINS: &str = "-- store::schedules::task_begins
INSERT INTO schedules (task, last_started) VALUES ($1, clock_timestamp())
ON CONFLICT (task) DO UPDATE SET last_started = excluded.last_started";

const SCHEDULES: &str = "-- store::schedules::schedules
SELECT task, describes, expression, time_zone, known_since, last_started, last_finished, last_seconds, last_outcome, last_summary,
       last_success, last_work, last_work_summary, runs, failures
FROM schedules ORDER BY task";

const REQUEST: &str = "-- store::schedules::request_run
INSERT INTO janitor_runs (id, task, dry_run, requested_by)
SELECT $1, task, $3, $4 FROM schedules WHERE task = $2 AND describes IS NOT NULL
RETURNING id";

macro_rules! run_columns {
    () => {
        "r.id, r.task, r.dry_run, r.requested_by, r.requested_at, r.started_at IS NOT NULL AS is_started, r.finished_at, r.outcome,
         r.seconds, r.summary"
    };
}

const RUN: &str = concat!(
    "-- store::schedules::requested_run
SELECT ",
    run_columns!(),
    ", r.requested_at < now() - make_interval(secs => $2) AS is_late FROM janitor_runs AS r WHERE r.id = $1"
);

const TAKE_RUN: &str = concat!(
    "-- store::schedules::take_run
UPDATE janitor_runs AS r SET started_at = now()
FROM (SELECT id FROM janitor_runs
      WHERE finished_at IS NULL AND started_at IS NULL AND requested_at > now() - make_interval(secs => $1)
      ORDER BY requested_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS oldest
WHERE r.id = oldest.id
RETURNING ",
    run_columns!(),
    ", false AS is_late"
);

const RUN_FINISHED: &str = "-- store::schedules::run_finished
UPDATE janitor_runs SET finished_at = now(), outcome = CASE WHEN $2 THEN 'ok' ELSE 'failed' END, seconds = $3, summary = $4
WHERE id = $1 AND (finished_at IS NULL OR summary ->> 'error' = 'the janitor that ran it went away') RETURNING id";

const ABANDON_RUNS: &str = "-- store::schedules::abandon_runs
UPDATE janitor_runs SET finished_at = now(), outcome = 'failed',
    summary = '{\"error\": \"the janitor that ran it went away\"}'::jsonb
WHERE finished_at IS NULL AND started_at IS NOT NULL RETURNING id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[
    PLAN,
    FORGET,
    TASK_BEGINS,
    TASK_FINISHED,
    SCHEDULES,
    REQUEST,
    RUN,
    TAKE_RUN,
    RUN_FINISHED,
    ABANDON_RUNS,
];
