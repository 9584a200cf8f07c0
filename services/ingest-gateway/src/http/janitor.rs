//! The janitor's tasks: when they run, how they went, and runs by hand.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use chrono::{DateTime, Utc};
use riacho_service::cron::Cron;
use riacho_store::{RequestedRun, Schedule};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Operate},
    extract::{IdPath, JsonBody},
    problem::{Problem, ProblemBody},
};

/// For how long a request waits for the run that it asked for.
const WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(tasks)).routes(routes!(run)).routes(routes!(run_of))
}

/// The tasks of the janitor.
#[derive(Debug, Serialize, ToSchema)]
struct TasksBody {
    /// The tasks, by name; none before a janitor has led.
    tasks: Vec<TaskBody>,
}

/// A task of the janitor, and how it went.
#[derive(Debug, Serialize, ToSchema)]
struct TaskBody {
    /// Its name.
    name: String,
    /// What it does, in a line.
    describes: String,
    /// Its cron expression, with an optional first field for seconds; null where it runs by hand only.
    schedule: Option<String>,
    /// The time zone of the expression.
    time_zone: String,
    /// When it runs next.
    next_run: Option<DateTime<Utc>>,
    /// When it last began.
    last_started: Option<DateTime<Utc>>,
    /// When it last ended. Of tasks that run every few seconds, a run that found nothing to do may show some seconds later.
    last_finished: Option<DateTime<Utc>>,
    /// How long that took, in seconds.
    last_seconds: Option<f64>,
    /// `ok` or `failed`.
    last_outcome: Option<String>,
    /// What it did: how much of what, or `error` with what was done until then in `counts`.
    last_summary: Option<Value>,
    /// When it last ended well.
    last_success: Option<DateTime<Utc>>,
    /// When it last found something to do.
    last_work: Option<DateTime<Utc>>,
    /// What it did then.
    last_work_summary: Option<Value>,
    /// How often it ran.
    runs: u64,
    /// How often it failed.
    failures: u64,
}

impl TaskBody {
    /// None of a task that the janitor does not have any more.
    fn of(schedule: Schedule, now: DateTime<Utc>) -> Option<TaskBody> {
        let cron = schedule.expression.as_deref();
        let cron = cron.and_then(|expression| Cron::parse(expression, &schedule.time_zone).ok());
        Some(TaskBody {
            name: schedule.task,
            describes: schedule.describes?,
            next_run: cron.and_then(|cron| cron.next(now)),
            schedule: schedule.expression,
            time_zone: schedule.time_zone,
            last_started: schedule.last_started,
            last_finished: schedule.last_finished,
            last_seconds: schedule.last_seconds,
            last_outcome: schedule.last_outcome,
            last_summary: schedule.last_summary,
            last_success: schedule.last_success,
            last_work: schedule.last_work,
            last_work_summary: schedule.last_work_summary,
            runs: schedule.runs,
            failures: schedule.failures,
        })
    }
}

/// A run that was asked for.
#[derive(Debug, Serialize, ToSchema)]
struct RunBody {
    /// Its id.
    id: Uuid,
    /// The task.
    task: String,
    /// Whether it only looks.
    dry_run: bool,
    /// `queued`, `running`, `ok`, `failed`, or `expired` where no janitor took it up within ten minutes.
    state: &'static str,
    /// The public part of the key that asked.
    requested_by: String,
    /// When.
    requested_at: DateTime<Utc>,
    /// When it ended.
    finished_at: Option<DateTime<Utc>>,
    /// How long it took.
    seconds: Option<f64>,
    /// What it did, or would do: how much of what, or `error` with what was done until then in `counts`.
    summary: Option<Value>,
}

impl From<RequestedRun> for RunBody {
    fn from(run: RequestedRun) -> Self {
        let state = run.state.as_str();
        let RequestedRun {
            id, task, dry_run, requested_by, requested_at, finished_at, seconds, summary, ..
        } = run;
        Self { id, task, dry_run, state, requested_by, requested_at, finished_at, seconds, summary }
    }
}

/// How to run a task.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct RunRequest {
    /// Only say what would be done.
    dry_run: bool,
}

/// List the janitor's tasks, with their next and last runs.
#[utoipa::path(
    get, path = "/api/v1/janitor/tasks", tag = "janitor",
    responses(
        (status = 200, description = "The tasks.", body = TasksBody),
        (status = 403, description = "The key is no operator's.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn tasks(State(app): State<App>, _: Caller<Operate>) -> Result<Json<TasksBody>, Problem> {
    let (schedules, now) = (app.store().schedules().await?, Utc::now());
    Ok(Json(TasksBody { tasks: schedules.into_iter().filter_map(|one| TaskBody::of(one, now)).collect() }))
}

/// Run a task now, or say with `dry_run` what it would do.
///
/// The janitor that leads runs it, within a second. A run that ends within five seconds is answered with what it did; for
/// a longer one, or while no janitor leads, ask at `Location` again.
#[utoipa::path(
    post, path = "/api/v1/janitor/tasks/{task}/run", tag = "janitor", request_body = RunRequest,
    params(("task" = String, Path, description = "Name of the task.")),
    responses(
        (status = 200, description = "It has ended, well or not.", body = RunBody),
        (status = 202, description = "It waits or runs.", body = RunBody, headers(("Location" = String, description = "Where to ask how it went."))),
        (status = 404, description = "No such task.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn run(
    State(app): State<App>,
    caller: Caller<Operate>,
    Path(task): Path<String>,
    JsonBody(request): JsonBody<RunRequest>,
) -> Result<(StatusCode, HeaderMap, Json<RunBody>), Problem> {
    let mut run = caller.store(&app).request_run(&task, request.dry_run, &caller.key_id).await?;
    tracing::info!(task, dry_run = request.dry_run, key = caller.key_id, "a run of a task is asked for");
    let (start, wait) = (Instant::now(), WAIT.min(app.config().request_timeout() / 3));
    while !run.state.is_over() && start.elapsed() < wait {
        tokio::time::sleep(LOOK).await;
        run = app.store().requested_run(run.id).await?.ok_or_else(|| Problem::not_found("run"))?;
    }
    let status = if run.state.is_over() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/janitor/runs/{}", run.id)) {
        headers.insert(header::LOCATION, location);
    }
    Ok((status, headers, Json(run.into())))
}

/// See how a run went that was asked for. Runs are forgotten after 30 days.
#[utoipa::path(
    get, path = "/api/v1/janitor/runs/{id}", tag = "janitor", params(("id" = Uuid, Path, description = "The run.")),
    responses(
        (status = 200, description = "The run.", body = RunBody),
        (status = 404, description = "No such run.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn run_of(
    State(app): State<App>,
    _: Caller<Operate>,
    IdPath(id): IdPath,
) -> Result<Json<RunBody>, Problem> {
    let run = app.store().requested_run(id).await?;
    run.map(|run| Json(run.into())).ok_or_else(|| Problem::not_found("run"))
}
