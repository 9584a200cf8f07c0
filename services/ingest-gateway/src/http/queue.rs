//! The pipeline at work: entries of each stage, and the caller's documents by state.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use chrono::{DateTime, SecondsFormat, Utc};
use riacho_domain::StageName;
use riacho_store::Pause;
use riacho_streams::StageFigures;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Read},
    problem::{Problem, ProblemBody},
};
use crate::{sampler::Figures, watchers::Tally};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(info)).routes(routes!(health))
}

/// How old the figures may be that are told to everybody.
const PUBLIC_AGE: Duration = Duration::from_secs(2);

/// The pipeline at work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueBody {
    /// The stages, in flow order.
    stages: Vec<StageBody>,
    /// The caller's documents by the state of their latest version.
    documents: BTreeMap<&'static str, u64>,
    /// Entries that were given up and not yet written down.
    dead_letters: u64,
    /// The caller's dead letters that nobody has resolved, by the stage that gave up.
    unresolved: BTreeMap<String, u64>,
}

/// Entries of one stage, in all lanes and partitions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StageBody {
    /// The stage.
    stage: &'static str,
    /// Entries on its streams.
    backlog: u64,
    /// Entries that nobody has read; unknown while Redis cannot say.
    lag: Option<u64>,
    /// Entries that somebody has in work, or that wait for a retry.
    pending: u64,
    /// Entries that wait for a retry.
    retrying: u64,
    /// Age of the oldest entry, in seconds.
    oldest_age_seconds: f64,
    /// Consumers that live.
    consumers: u64,
    /// Entries settled a second, over the last seconds; unknown at the first look.
    rate_per_second: Option<f64>,
    /// Since when, by whom and why nobody reads; null while it is not paused.
    paused: Option<PausedBody>,
}

impl StageBody {
    /// Says so where there is work and nobody at it.
    fn idle(&self) -> Option<String> {
        let is_idle = self.backlog > 0 && self.consumers == 0;
        is_idle.then(|| format!("{} has work and no consumer", self.stage))
    }
}

/// A pause of a stage.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PausedBody {
    /// Since when.
    since: DateTime<Utc>,
    /// By whom: `key:` with the public part of an API key, or `cli:` with a login.
    by: String,
    /// Why, in their words.
    reason: String,
}

impl From<Pause> for PausedBody {
    fn from(pause: Pause) -> Self {
        let Pause { since, by, reason, .. } = pause;
        Self { since, by, reason }
    }
}

fn stage_bodies(figures: &Figures, paused: &[Pause]) -> Vec<StageBody> {
    figures.stages.iter().map(|(stage, figures, rate)| stage_body(*stage, figures, *rate, paused)).collect()
}

pub(super) fn stage_body(
    stage: StageName,
    figures: &StageFigures,
    rate: Option<f64>,
    paused: &[Pause],
) -> StageBody {
    let paused = paused.iter().find(|pause| pause.stage == stage).cloned();
    StageBody {
        stage: stage.as_str(),
        backlog: figures.backlog,
        lag: figures.lag,
        pending: figures.pending,
        retrying: figures.retrying,
        oldest_age_seconds: figures.oldest_age.as_secs_f64(),
        consumers: figures.consumers_alive,
        rate_per_second: rate,
        paused: paused.map(PausedBody::from),
    }
}

/// Whether work gets done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueHealth {
    /// `healthy`, `degraded` (a stage is paused, or has work and nobody at it) or `unhealthy`
    /// (Redis is away).
    status: &'static str,
    /// What is not as it should be.
    reasons: Vec<String>,
    /// The stages, in flow order; empty while Redis is away.
    stages: Vec<StageBody>,
}

pub(super) async fn partitions(app: &App) -> Result<Vec<u16>, Problem> {
    Ok(app.store().partitions().await?.into_iter().map(|partition| partition.partition).collect())
}

pub(super) fn redis_away(error: &riacho_streams::Error) -> Problem {
    tracing::warn!(%error, "the figures of the streams cannot be read");
    Problem::unavailable("redis is not available")
}

/// Look at the pipeline.
#[utoipa::path(
    get, path = "/api/v1/queue/info", tag = "queue",
    responses(
        (status = 200, description = "Figures.", body = QueueBody),
        (status = 503, description = "Redis is away.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn info(State(app): State<App>, caller: Caller<Read>) -> Result<Json<QueueBody>, Problem> {
    let counts = async { Tally::count(app.store(), &caller.tenant).await.map(Arc::new) };
    Box::pin(read(&app, counts, Duration::ZERO)).await.map(Json)
}

/// The pipeline at work, with figures that are `max_age` old at most.
pub(super) async fn read(
    app: &App,
    counts: impl Future<Output = Result<Arc<Tally>, riacho_store::Error>>,
    max_age: Duration,
) -> Result<QueueBody, Problem> {
    let (partitions, paused) = (partitions(app).await?, app.store().paused_stages().await?);
    let figures = app.sampler().figures(app.streams(), &partitions, max_age);
    let (figures, counts) = tokio::join!(figures, counts);
    let (figures, counts) = (figures.map_err(|error| redis_away(&error))?, counts?);
    Ok(QueueBody {
        stages: stage_bodies(&figures, &paused),
        documents: counts.documents.iter().map(|(state, count)| (state.as_str(), *count)).collect(),
        dead_letters: figures.dead_letters,
        unresolved: counts.unresolved.clone(),
    })
}

/// Ask whether work gets done.
#[utoipa::path(
    get, path = "/api/v1/queue/health", tag = "queue",
    responses((status = 200, description = "Healthy, degraded or unhealthy.", body = QueueHealth)),
)]
async fn health(State(app): State<App>, _: Caller<Read>) -> Result<Json<QueueHealth>, Problem> {
    queue_health(&app, Duration::ZERO).await.map(Json)
}

/// Whether work gets done, by figures that are `max_age` old at most.
async fn queue_health(app: &App, max_age: Duration) -> Result<QueueHealth, Problem> {
    let (partitions, paused) = (partitions(app).await?, app.store().paused_stages().await?);
    let stages = match app.sampler().figures(app.streams(), &partitions, max_age).await {
        Ok(figures) => stage_bodies(&figures, &paused),
        Err(error) => {
            tracing::warn!(%error, "the figures of the streams cannot be read");
            let reasons = vec!["redis is not available".to_owned()];
            return Ok(QueueHealth { status: "unhealthy", reasons, stages: Vec::new() });
        }
    };
    let mut reasons: Vec<String> = stages.iter().filter_map(StageBody::idle).collect();
    reasons.extend(paused.iter().map(|pause| {
        let since = pause.since.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!("{} is paused since {since} by {}", pause.stage, pause.by)
    }));
    Ok(QueueHealth { status: if reasons.is_empty() { "healthy" } else { "degraded" }, reasons, stages })
}

/// Whether work gets done, as everybody may know it: no names, and no reasons in somebody's words.
#[derive(Debug, Serialize)]
pub(super) struct PublicHealth {
    /// As in [`QueueHealth`].
    status: &'static str,
    /// What is not as it should be.
    reasons: Vec<String>,
    /// The stages, in flow order; empty while Redis is away.
    stages: Vec<PublicStage>,
}

/// A stage, as everybody may know it.
#[derive(Debug, Serialize)]
struct PublicStage {
    stage: &'static str,
    backlog: u64,
    consumers: u64,
    is_paused: bool,
}

impl PublicHealth {
    /// By figures of Redis that others may have asked for, so that nobody makes it work by asking.
    pub(super) async fn read(app: &App) -> Result<PublicHealth, Problem> {
        let QueueHealth { status, stages, reasons } = queue_health(app, PUBLIC_AGE).await?;
        if stages.is_empty() {
            return Ok(PublicHealth { status, reasons, stages: Vec::new() });
        }
        let mut reasons: Vec<String> = stages.iter().filter_map(StageBody::idle).collect();
        let paused = stages.iter().filter(|stage| stage.paused.is_some());
        reasons.extend(paused.map(|stage| format!("{} is paused", stage.stage)));
        let public = |stage: StageBody| {
            let StageBody { stage, backlog, consumers, paused, .. } = stage;
            PublicStage { stage, backlog, consumers, is_paused: paused.is_some() }
        };
        Ok(PublicHealth { status, reasons, stages: stages.into_iter().map(public).collect() })
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.status == "unhealthy"
    }
}
