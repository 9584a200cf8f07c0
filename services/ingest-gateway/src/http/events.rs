//! Server-sent events: the pipeline as it works, and one document on its way.
//!
//! Both are made by looking again and telling what changed: PostgreSQL and the streams are the truth, so an event that got lost is
//! made up for by the next look, whichever gateway answers.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use riacho_domain::TenantId;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Read},
    extract::DocumentPath,
    problem::{Problem, ProblemBody},
    queue, status,
};
use crate::{places::Full, watchers::Watcher};

/// Between two looks at the streams.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at a document.
const LOOK_AT_DOCUMENT: Duration = Duration::from_millis(500);
/// The longest that nothing is sent. Proxies end connections that are silent.
const SILENCE: Duration = Duration::from_secs(15);
/// After so long a client has to come again, and show its key again.
const AT_MOST: Duration = Duration::from_secs(900);

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// They last: no time limit.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(queue_events)).routes(routes!(document_events))
}

/// What is sent, and where its end is.
struct Step {
    event: Option<Event>,
    is_last: bool,
}

impl Step {
    fn problem(problem: &Problem) -> Step {
        let event = Event::default().event("problem").data(problem.detail().replace(['\r', '\n'], " "));
        Step { event: Some(event), is_last: false }
    }
}

/// Watch the pipeline.
///
/// An event `queue` each second, with what `/api/v1/queue/info` answers. While it cannot be read, an event `problem`.
#[utoipa::path(
    get, path = "/api/v1/queue/events", tag = "queue",
    responses(
        (status = 200, description = "Events.", body = String, content_type = "text/event-stream"),
        (status = 429, description = "Too many of this tenant are watching.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Too many are watching.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn queue_events(State(app): State<App>, caller: Caller<Read>) -> Result<Response, Problem> {
    let place = Arc::new(enter(&app, &caller.tenant)?);
    let (tenant, key) = (caller.tenant, caller.key_id);
    let watch = Watch { app, key, place: Arc::clone(&place), every: LOOK };
    let look = move |app: App, _: Option<String>| {
        let (tenant, place) = (tenant.clone(), Arc::clone(&place));
        async move {
            let max_age = LOOK.mul_f32(0.9);
            let counts = place.tally(app.store(), &tenant, max_age);
            let step = match Box::pin(queue::read(&app, counts, max_age)).await {
                Ok(body) => Step { event: json_event("queue", &body), is_last: false },
                Err(problem) => Step::problem(&problem),
            };
            (step, None)
        }
    };
    Ok(events(watch, None, look))
}

/// Watch a document.
///
/// An event `status` with what `.../status` answers, each time that it has changed; the last is of the state that it ends in. Its id says
/// what was told: who comes again with `Last-Event-ID` is told what has changed since, and is answered 204 where nothing will.
#[utoipa::path(
    get, path = "/api/v1/documents/{id}/events", tag = "documents",
    params(("id" = Uuid, Path, description = "The document."), ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event.")),
    responses(
        (status = 200, description = "Events.", body = String, content_type = "text/event-stream"),
        (status = 204, description = "It has ended, and the last event was that."),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many of this tenant are watching.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Too many are watching.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn document_events(
    State(app): State<App>,
    caller: Caller<Read>,
    DocumentPath(document): DocumentPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = Arc::new(enter(&app, &caller.tenant)?);
    let told = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let now = status::read(&app, &caller.tenant, document).await?;
    if now.has_ended() && told.as_deref() == Some(&*id_of(&now)?) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (tenant, key) = (caller.tenant, caller.key_id);
    let look = move |app: App, told: Option<String>| {
        let tenant = tenant.clone();
        async move {
            match status::read(&app, &tenant, document).await {
                Ok(body) => {
                    let id = id_of(&body).ok();
                    let is_news = id != told;
                    let event = json_event("status", &body);
                    let event = event.map(|event| event.id(id.clone().unwrap_or_default()));
                    let is_last = body.has_ended();
                    (Step { event: event.filter(|_| is_news), is_last }, id)
                }
                // It was deleted: nothing will come.
                Err(problem) if problem.code() == "not_found" => {
                    (Step { is_last: true, ..Step::problem(&problem) }, told)
                }
                Err(problem) => (Step::problem(&problem), told),
            }
        }
    };
    Ok(events(Watch { app, key, place, every: LOOK_AT_DOCUMENT }, told, look))
}

/// A place for somebody of a tenant.
fn enter(app: &App, tenant: &TenantId) -> Result<Watcher, Problem> {
    app.watchers().enter(tenant).map_err(|full| match full {
        Full::All => Problem::unavailable("too many connections are being sent events"),
        Full::Tenant => Problem::over_rate("connections that are sent events", 1),
    })
}

/// Who watches.
struct Watch {
    app: App,
    /// The public part of the key that was shown.
    key: String,
    place: Arc<Watcher>,
    every: Duration,
}

/// Looks again and again, until the last event, the gateway's stop, the key's end or the longest time. The looks are made beside the
/// answer, so that a client that takes nothing keeps its place for [`PATIENCE`] only.
fn events<F, Fut>(watch: Watch, told: Option<String>, look: F) -> Response
where
    F: Fn(App, Option<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = (Step, Option<String>)> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let Watch { app, key, place, every } = watch;
        let stop = app.stopping().clone();
        let looks = tokio::time::timeout(AT_MOST, look_on(&app, &key, every, told, look, sender));
        // Why it ended makes no difference.
        let _ = stop.run_until_cancelled(looks).await;
        drop(place);
    });
    let events = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    });
    sse(events)
}

async fn look_on<F, Fut>(
    app: &App,
    key: &str,
    every: Duration,
    mut told: Option<String>,
    look: F,
    sender: mpsc::Sender<Event>,
) where
    F: Fn(App, Option<String>) -> Fut,
    Fut: Future<Output = (Step, Option<String>)>,
{
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sender.closed() => return,
        }
        // A key that was revoked, or whose tenant is suspended, sees nothing more.
        let seen = app.keys().of_session(app.store(), key).await;
        if seen.is_err_and(|problem| matches!(problem.code(), "unauthorized" | "forbidden")) {
            return;
        }
        let (step, now_told) = look(app.clone(), told).await;
        told = now_told;
        if let Some(event) = step.event
            && sender.send_timeout(event, PATIENCE).await.is_err()
        {
            return;
        }
        if step.is_last {
            return;
        }
    }
}

fn sse(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let keep_alive = KeepAlive::new().interval(SILENCE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // nginx would keep events back until its buffer is full.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}

fn json_event(name: &str, body: &impl Serialize) -> Option<Event> {
    Event::default().event(name).json_data(body).ok()
}

/// What was told, in short.
fn id_of(body: &impl Serialize) -> Result<String, Problem> {
    let json = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
    Ok(hex::encode(&Sha256::digest(&json)[..12]))
}
