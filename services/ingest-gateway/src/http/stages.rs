//! One stage: its backlog by lane and partition, its consumers, and pausing it.

use std::time::Duration;

use axum::{Json, extract::State};
use riacho_store::{MAX_PAUSE_REASON, Pause};
use riacho_streams::{ConsumerFigures, LaneBacklog};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Operate, Read},
    extract::{JsonBody, StagePath},
    problem::{Problem, ProblemBody},
    queue::{PausedBody, StageBody, partitions, redis_away, stage_body},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stage)).routes(routes!(pause)).routes(routes!(resume))
}

/// A stage in detail.
#[derive(Debug, Serialize, ToSchema)]
struct StageDetail {
    /// The stage as a whole.
    #[serde(flatten)]
    stage: StageBody,
    /// What stands in each lane, by partition.
    lanes: Vec<LaneBody>,
    /// The consumers, those that live first; null where the key is no operator's, since names tell of hosts.
    consumer_list: Option<Vec<ConsumerBody>>,
}

/// What stands in a lane of a partition.
#[derive(Debug, Serialize, ToSchema)]
struct LaneBody {
    /// The partition.
    partition: u16,
    /// The lane.
    lane: &'static str,
    /// Entries on its stream.
    backlog: u64,
    /// Entries that nobody has read; unknown while Redis cannot say.
    lag: Option<u64>,
    /// Entries that somebody has in work, or that wait for a retry.
    pending: u64,
    /// Entries that wait for a retry.
    retrying: u64,
    /// Age of the oldest entry, in seconds.
    oldest_age_seconds: f64,
    /// Bytes of its entries.
    bytes: u64,
}

impl From<LaneBacklog> for LaneBody {
    fn from(one: LaneBacklog) -> Self {
        let LaneBacklog { partition, lane, backlog, lag, pending, retrying, oldest_age, bytes } = one;
        let (lane, oldest_age_seconds) = (lane.as_str(), oldest_age.as_secs_f64());
        Self { partition, lane, backlog, lag, pending, retrying, oldest_age_seconds, bytes }
    }
}

/// A consumer of the stage's group.
#[derive(Debug, Serialize, ToSchema)]
struct ConsumerBody {
    /// Its name: host, process and a random part; or `retry:` with a delay, for what waits for a retry.
    name: String,
    /// `alive`, `dead`, or `retry`, which is no process.
    state: &'static str,
    /// Entries that it holds.
    pending: u64,
    /// How long ago it last asked for entries, in seconds.
    idle_seconds: f64,
}

impl From<ConsumerFigures> for ConsumerBody {
    fn from(one: ConsumerFigures) -> Self {
        let ConsumerFigures { name, state, pending, idle } = one;
        Self { name, state: state.as_str(), pending, idle_seconds: idle.as_secs_f64() }
    }
}

/// Whether a stage is paused.
#[derive(Debug, Serialize, ToSchema)]
struct PauseBody {
    /// The stage.
    stage: &'static str,
    /// Since when, by whom and why; null while it is not paused.
    paused: Option<PausedBody>,
}

/// Why a stage is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct PauseRequest {
    /// For those who wonder; at most 500 characters.
    reason: String,
}

/// Look at a stage: its backlog by lane and partition, and its consumers.
#[utoipa::path(
    get, path = "/api/v1/queue/stages/{stage}", tag = "queue",
    params(("stage" = String, Path, description = "`extract`, `embed` or `index`.")),
    responses(
        (status = 200, description = "The stage.", body = StageDetail),
        (status = 404, description = "No such stage.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Redis is away.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn stage(
    State(app): State<App>,
    caller: Caller<Read>,
    StagePath(stage): StagePath,
) -> Result<Json<StageDetail>, Problem> {
    let (partitions, paused) = (partitions(&app).await?, app.store().paused_stages().await?);
    let streams = app.streams();
    let all = app.sampler().figures(streams, &partitions, Duration::ZERO);
    let all = all.await.map_err(|error| redis_away(&error))?;
    let found = all.stages.iter().find(|(name, ..)| *name == stage);
    let (_, figures, rate) = found.ok_or_else(|| Problem::not_found("stage"))?;
    let lanes = streams.lane_backlogs(stage, &partitions).await.map_err(|error| redis_away(&error))?;
    let consumer_list = match caller.is_operator {
        true => {
            let all =
                streams.consumer_figures(stage, &partitions).await.map_err(|error| redis_away(&error))?;
            Some(all.into_iter().map(ConsumerBody::from).collect())
        }
        false => None,
    };
    let lanes = lanes.into_iter().map(LaneBody::from).collect();
    Ok(Json(StageDetail { stage: stage_body(stage, figures, *rate, &paused), lanes, consumer_list }))
}

/// Pause a stage: within about a second, none of its replicas reads anything. What they hold is finished.
///
/// What waits stays on the streams; no deadline passes meanwhile. One that is paused already stays as it is.
#[utoipa::path(
    post, path = "/api/v1/queue/stages/{stage}/pause", tag = "queue", request_body = PauseRequest,
    params(("stage" = String, Path, description = "`extract`, `embed` or `index`.")),
    responses(
        (status = 200, description = "It is paused.", body = PauseBody),
        (status = 403, description = "The key is no operator's.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such stage.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn pause(
    State(app): State<App>,
    caller: Caller<Operate>,
    StagePath(stage): StagePath,
    JsonBody(request): JsonBody<PauseRequest>,
) -> Result<Json<PauseBody>, Problem> {
    let reason = request.reason.trim();
    if reason.chars().count() > MAX_PAUSE_REASON || reason.chars().any(char::is_control) {
        let message =
            format!("must be at most {MAX_PAUSE_REASON} characters, none of them a control character");
        return Err(Problem::field("reason", message));
    }
    let store = caller.store(&app);
    let pause = store.pause_stage(stage, caller.actor().as_str(), reason).await?;
    tracing::info!(%stage, by = pause.by, reason, "a stage is paused");
    Ok(Json(PauseBody { stage: stage.as_str(), paused: Some(pause.into()) }))
}

/// Let a stage read again. One that is not paused stays as it is.
#[utoipa::path(
    post, path = "/api/v1/queue/stages/{stage}/resume", tag = "queue",
    params(("stage" = String, Path, description = "`extract`, `embed` or `index`.")),
    responses(
        (status = 200, description = "It reads.", body = PauseBody),
        (status = 403, description = "The key is no operator's.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such stage.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn resume(
    State(app): State<App>,
    caller: Caller<Operate>,
    StagePath(stage): StagePath,
) -> Result<Json<PauseBody>, Problem> {
    let by = caller.actor();
    if let Some(Pause { since, .. }) = caller.store(&app).resume_stage(stage, by.as_str()).await? {
        let paused = (chrono::Utc::now() - since).to_std().unwrap_or(Duration::ZERO);
        tracing::info!(%stage, by = by.as_str(), seconds = paused.as_secs(), "a stage is resumed");
    }
    Ok(Json(PauseBody { stage: stage.as_str(), paused: None }))
}
