//! Documents on their way under another name: queue clients that know jobs find them under `/api/v1/queue/jobs`.

use axum::{Json, extract::State, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Read, Write},
    documents::AcceptedBody,
    extract::{DocumentPath, QueryString},
    problem::{Problem, ProblemBody},
    status::{self, RetryQuery, StatusBody},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(job)).routes(routes!(cancel_job)).routes(routes!(retry_job))
}

/// Ask where a document is on its way. The same as its `status`; a job's id is its document's.
#[utoipa::path(
    get, path = "/api/v1/queue/jobs/{id}", tag = "queue", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 200, description = "Where it is.", body = StatusBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn job(app: State<App>, caller: Caller<Read>, id: DocumentPath) -> Result<Json<StatusBody>, Problem> {
    status::status(app, caller, id).await
}

/// End the processing of a document's latest version. The same as its `cancel`.
#[utoipa::path(
    post, path = "/api/v1/queue/jobs/{id}/cancel", tag = "queue", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 200, description = "Where it is now.", body = StatusBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has ended already.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn cancel_job(
    app: State<App>,
    caller: Caller<Write>,
    id: DocumentPath,
) -> Result<Json<StatusBody>, Problem> {
    status::cancel(app, caller, id).await
}

/// Process a document's latest version again, after it failed or was cancelled. The same as its `retry`.
#[utoipa::path(
    post, path = "/api/v1/queue/jobs/{id}/retry", tag = "queue",
    params(("id" = Uuid, Path, description = "The document."), RetryQuery),
    responses(
        (status = 202, description = "On its way again.", body = AcceptedBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It did not fail, or the original is needed and gone.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn retry_job(
    app: State<App>,
    caller: Caller<Write>,
    id: DocumentPath,
    query: QueryString<RetryQuery>,
) -> Result<Response, Problem> {
    status::retry(app, caller, id, query).await
}
