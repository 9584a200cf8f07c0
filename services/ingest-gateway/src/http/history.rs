//! What the figures of the pipeline were in the last hour.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Read},
    problem::{Problem, ProblemBody},
    queue::redis_away,
};
use crate::sampler::{HISTORY, Sample, StageSample};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(history))
}

/// The figures of the last hour.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryBody {
    /// Seconds between two samples; nothing where none are taken.
    every_seconds: Option<u64>,
    /// The samples, the oldest first. Where none could be taken, there is a gap.
    samples: Vec<SampleBody>,
}

/// The figures at a moment.
#[derive(Debug, Serialize, ToSchema)]
struct SampleBody {
    /// The moment.
    at: DateTime<Utc>,
    /// The stages by name.
    stages: BTreeMap<String, StageSampleBody>,
}

/// The figures of a stage at a moment.
#[derive(Debug, Serialize, ToSchema)]
struct StageSampleBody {
    /// Entries on its streams.
    backlog: u64,
    /// Entries that somebody had in work, or that waited for a retry.
    pending: u64,
    /// Entries that waited for a retry.
    retrying: u64,
    /// Consumers that lived.
    consumers: u64,
    /// Age of the oldest entry.
    oldest_age_seconds: f64,
    /// Entries that were settled a second since the sample before; unknown for the first.
    rate_per_second: Option<f64>,
}

impl StageSampleBody {
    fn new(sample: &StageSample, rate_per_second: Option<f64>) -> Self {
        let StageSample { backlog, pending, retrying, consumers, oldest_age_seconds, .. } = *sample;
        Self { backlog, pending, retrying, consumers, oldest_age_seconds, rate_per_second }
    }
}

/// Look at the pipeline's last hour.
///
/// Redis keeps the samples, so they begin anew with a Redis that lost its data.
#[utoipa::path(
    get, path = "/api/v1/queue/history", tag = "queue",
    responses(
        (status = 200, description = "Samples.", body = HistoryBody),
        (status = 503, description = "Redis is away.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn history(State(app): State<App>, _: Caller<Read>) -> Result<Json<HistoryBody>, Problem> {
    let now = app.streams().time().await.map_err(|error| redis_away(&error))?;
    let since = now.saturating_sub(HISTORY);
    let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let kept = app.streams().samples(since).await.map_err(|error| redis_away(&error))?;
    // A sample that another version wrote otherwise is left out.
    let read = kept.iter().filter_map(|(at, json)| Some((*at, serde_json::from_slice(json).ok()?)));
    let mut before: Option<(u64, Sample)> = None;
    let mut samples = Vec::new();
    for (at, sample) in read {
        let sample: Sample = sample;
        let stages = sample.stages.iter().map(|(name, stage)| {
            let rate = before.as_ref().and_then(|(then, earlier)| {
                stage.rate_since(earlier.stages.get(name)?, Duration::from_millis(at.saturating_sub(*then)))
            });
            (name.clone(), StageSampleBody::new(stage, rate))
        });
        let moment = i64::try_from(at).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
        samples.push(SampleBody { at: moment, stages: stages.collect() });
        before = Some((at, sample));
    }
    Ok(Json(HistoryBody { every_seconds: app.config().history().map(|every| every.as_secs()), samples }))
}
