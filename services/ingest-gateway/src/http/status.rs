//! Where a document is on its way, and the commands that change it: cancel, retry.

use axum::{Json, extract::State, response::Response};
use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, Lane, State as DocumentStage, TenantId};
use riacho_store::Status;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Read, Write},
    documents::{AcceptedBody, accepted},
    extract::{DocumentPath, QueryString},
    missing::{self, MissingBody},
    problem::{Problem, ProblemBody},
    shapes::{DocumentState, ErrorBody, Links},
    waits::Waits,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(cancel)).routes(routes!(retry))
}

/// Where a document is on its way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusBody {
    /// The document.
    id: Uuid,
    /// Its latest version.
    version: u32,
    /// The version that searches see.
    live_version: Option<u32>,
    /// State of the latest version.
    #[schema(value_type = DocumentState)]
    state: &'static str,
    /// How urgent it is.
    lane: &'static str,
    /// File name of the latest version.
    filename: String,
    /// How far it is.
    progress: Progress,
    /// Why it failed.
    error: Option<ErrorBody>,
    /// Pages that have no text, and why; those of a document that is ready nevertheless.
    missing_pages: Vec<MissingBody>,
    /// The same in a sentence.
    notice: Option<String>,
    /// Which model it is embedded with in place of the live space's, since a budget is used up, in a sentence.
    fallback: Option<String>,
    /// What it waits for: `upload`, `release`, `queue`, `extractor`, `embedder` or `indexer`; nothing
    /// once it has ended.
    waiting_for: Option<&'static str>,
    /// Why it is not further, where it has been in its state for a second.
    waits: Option<Waits>,
    /// When the document was first accepted.
    created_at: DateTime<Utc>,
    /// When the latest version was accepted.
    accepted_at: DateTime<Utc>,
    /// Since when it is in its state.
    state_changed_at: DateTime<Utc>,
    /// What it went through since it was accepted or tried again, and how long that took.
    timeline: Vec<PartBody>,
    /// When it ended.
    finished_at: Option<DateTime<Utc>>,
    /// By when it has to end.
    deadline: Option<DateTime<Utc>>,
    /// Where to go on.
    links: Links,
}

/// A part of a document's way.
#[derive(Debug, Serialize, ToSchema)]
struct PartBody {
    /// The state it was in.
    #[schema(value_type = DocumentState)]
    state: &'static str,
    /// When it came into it.
    began_at: DateTime<Utc>,
    /// When it left it; nothing while it is in it.
    ended_at: Option<DateTime<Utc>>,
    /// How long that was, in seconds; nothing while it is in it.
    seconds: Option<f64>,
}

impl PartBody {
    /// Each part ends where the next begins, and the last where the document ended.
    fn all(way: &[(DocumentStage, DateTime<Utc>)], finished: Option<DateTime<Utc>>) -> Vec<Self> {
        let ends = way.iter().skip(1).map(|(_, began)| Some(*began)).chain([finished]);
        let parts = way.iter().zip(ends).map(|((state, began), ended)| Self {
            state: state.as_str(),
            began_at: *began,
            ended_at: ended,
            seconds: ended.and_then(|ended| (ended - *began).to_std().ok()).map(|time| time.as_secs_f64()),
        });
        parts.collect()
    }
}

/// How far a document is.
#[derive(Debug, Serialize, ToSchema)]
struct Progress {
    /// Pages whose text was taken out.
    pages_done: u32,
    /// Pages, once they were counted.
    pages_total: Option<u32>,
    /// Chunks that are written.
    chunks_indexed: u32,
    /// Chunks, once all were cut.
    chunks_total: Option<u32>,
}

const fn waiting_for(state: DocumentStage) -> Option<&'static str> {
    match state {
        DocumentStage::AwaitingUpload => Some("upload"),
        DocumentStage::Waiting => Some("release"),
        DocumentStage::Releasing => Some("queue"),
        DocumentStage::Extracting => Some("extractor"),
        DocumentStage::Embedding => Some("embedder"),
        DocumentStage::Indexing => Some("indexer"),
        DocumentStage::Ready | DocumentStage::Failed | DocumentStage::Cancelled | DocumentStage::Expired => {
            None
        }
    }
}

/// What it means that a document is embedded for the fallback space.
fn fallback(model: &str) -> String {
    format!(
        "it is embedded with {model}, the fallback, since the embedding budget of the month was used up; with the live model next \
         month, or when the budget is raised"
    )
}

impl StatusBody {
    /// Whether nothing more happens by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.waiting_for.is_none()
    }
}

impl From<Status> for StatusBody {
    fn from(status: Status) -> Self {
        Self {
            id: status.document.0,
            version: status.version,
            live_version: status.live_version,
            state: status.state.as_str(),
            lane: status.lane.as_str(),
            filename: status.filename,
            progress: Progress {
                pages_done: status.progress.pages_done,
                pages_total: status.progress.pages_total,
                chunks_indexed: status.progress.chunks_done,
                chunks_total: status.progress.chunks_total,
            },
            error: status.error.map(ErrorBody::from),
            missing_pages: missing::bodies(&status.missing),
            notice: missing::sentence(&status.missing, status.progress.pages_total),
            fallback: status.fallback.as_deref().map(fallback),
            waiting_for: waiting_for(status.state),
            waits: None,
            created_at: status.created_at,
            accepted_at: status.accepted_at,
            state_changed_at: status.state_changed_at,
            timeline: PartBody::all(&status.way, status.finished_at),
            finished_at: status.finished_at,
            deadline: status.deadline,
            links: Links::of(status.document),
        }
    }
}

/// Ask where a document is on its way.
#[utoipa::path(
    get, path = "/api/v1/documents/{id}/status", tag = "documents", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 200, description = "Where it is.", body = StatusBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn status(
    State(app): State<App>,
    caller: Caller<Read>,
    DocumentPath(document): DocumentPath,
) -> Result<Json<StatusBody>, Problem> {
    read(&app, &caller.tenant, document).await.map(Json)
}

/// Where a document is on its way.
pub(super) async fn read(app: &App, tenant: &TenantId, document: DocumentId) -> Result<StatusBody, Problem> {
    let found = app.store().status(tenant, document).await?;
    let status = found.ok_or_else(|| Problem::not_found("document"))?;
    let waits = Waits::of(app, tenant, &status).await?;
    Ok(StatusBody { waits, ..status.into() })
}

/// End the processing of a document's latest version.
///
/// A version that is live stays searchable.
#[utoipa::path(
    post, path = "/api/v1/documents/{id}/cancel", tag = "documents", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 200, description = "Where it is now.", body = StatusBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has ended already.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller<Write>,
    DocumentPath(document): DocumentPath,
) -> Result<Json<StatusBody>, Problem> {
    let status = app.store().cancel(&caller.tenant, document).await?;
    tell_cancelled(&caller.tenant, &status);
    Ok(Json(status.into()))
}

/// Says in the log that a document was cancelled.
pub(super) fn tell_cancelled(tenant: &TenantId, status: &Status) {
    tracing::info!(step = "cancelled", %tenant, document = %status.document, version = status.version, "the document is cancelled");
}

/// How to retry.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RetryQuery {
    /// Another lane: `interactive`, `bulk` or `background`.
    #[param(value_type = Option<String>)]
    lane: Option<Lane>,
}

/// Process a document's latest version again, after it failed or was cancelled.
#[utoipa::path(
    post, path = "/api/v1/documents/{id}/retry", tag = "documents",
    params(("id" = Uuid, Path, description = "The document."), RetryQuery),
    responses(
        (status = 202, description = "On its way again.", body = AcceptedBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It did not fail, or the original is needed and gone.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn retry(
    State(app): State<App>,
    caller: Caller<Write>,
    DocumentPath(document): DocumentPath,
    QueryString(query): QueryString<RetryQuery>,
) -> Result<Response, Problem> {
    let again = app.store().retry(&caller.tenant, document, query.lane, false).await?;
    tracing::info!(step = "tried again", tenant = %caller.tenant, %document, version = again.version, "the document is tried again");
    app.release(&again);
    Ok(accepted(&again))
}
