//! Many documents in one request: lines of JSON, or the files of an archive.
//!
//! Each is accepted as if it had come alone (`run.rs`), and its fate is a line of the answer.

mod answer;
mod archive;
mod held;
mod lines;
mod run;
mod shapes;

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use riacho_domain::Lane;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{answer::Reader, run::Intake, shapes::AnswerLine};
use super::{
    App,
    auth::{Caller, Write},
    body::{Incoming, declared_length},
    problem::{Problem, ProblemBody},
    settings::{BulkLine, Settings, SettingsQuery},
    trace::Trace,
    upload::idempotency_key,
};
use crate::unpack::Format;

/// The media type of lines of JSON.
const NDJSON: &str = "application/x-ndjson";
/// What is taken, for the problem that says so.
const TAKEN: &str = "the body must be application/x-ndjson, application/zip, application/x-tar, \
                     application/gzip (a tar archive) or application/zstd (a tar archive)";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(bulk))
}

/// What only requests with many documents say in the query.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // read by `said_of_all`
struct BulkQuery {
    /// Of an archive: the path of a file in it is its external id, so that a file that was sent before under the same path
    /// becomes a new version of its document. Without it files are known by their bytes alone.
    #[param(default = false)]
    by_path: Option<bool>,
}

/// How the documents come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lines,
    Archive(Format),
}

/// Accept many documents.
///
/// The body is NDJSON, a document a line, or an archive (zip, tar, tar in gzip or zstd), a document a file. Fields
/// in the query are for all documents; a line may say otherwise. Each document is accepted as if it had come alone, and
/// takes an upload of the tenant's rate where it is new; the lane is `bulk` unless another is named.
///
/// The answer is NDJSON: a line for each document, in the order of the request, with its id or with the problem that it
/// had, then a line with a summary. One that is refused does not harm the others. Where the summary has
/// `retry_after_seconds`, or the answer broke off, send the same request again: what was accepted is answered as a
/// duplicate, and the rest is accepted.
#[utoipa::path(
    post, path = "/api/v1/documents/bulk", tag = "documents", params(SettingsQuery, BulkQuery),
    request_body(content(
        (BulkLine = "application/x-ndjson"),
        (Vec<u8> = "application/zip"),
        (Vec<u8> = "application/x-tar"),
        (Vec<u8> = "application/gzip"),
        (Vec<u8> = "application/zstd"),
    )),
    responses(
        (status = 200, description = "What became of each document, a line each, and a summary.", body = AnswerLine, content_type = "application/x-ndjson"),
        (status = "4XX", description = "Refused as a whole; the problem says why.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not now; `Retry-After` says when.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn bulk(
    State(app): State<App>,
    caller: Caller<Write>,
    trace: Trace,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(body, app.config().idle_timeout());
    answer(&app, caller, trace, parts.uri.query(), &parts.headers, incoming).await.map(respond)
}

/// Checks what is said of all documents, and begins to take them in.
async fn answer(
    app: &App,
    caller: Caller<Write>,
    trace: Trace,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Reader, Problem> {
    let kind = kind_of(headers)?;
    let (settings, by_path) = said_of_all(app, query)?;
    if by_path && kind == Kind::Lines {
        return Err(Problem::field("by_path", "is for archives; a line has its `external_id`"));
    }
    if idempotency_key(headers)?.is_some() {
        let why = "is for single documents: a repeated request finds what was accepted by its bytes";
        return Err(Problem::field("Idempotency-Key", why));
    }
    let limit = app.config().bulk.max_bytes;
    if declared_length(headers).is_some_and(|length| length > limit) {
        return Err(Problem::too_large("body", limit));
    }
    let place = app.bulk_request(&caller.tenant)?;
    let deadline = Instant::now() + Duration::from_secs(app.config().bulk.max_seconds);
    let Caller { tenant, key_id, limits, .. } = caller;
    let intake = Intake { app: app.clone(), tenant, key_id, limits, trace, settings, deadline };
    match kind {
        Kind::Lines => Ok(run::start(intake, place, |run| lines::read(run, body))),
        Kind::Archive(format) => {
            let opened = archive::open(app, format, by_path, body, deadline).await?;
            Ok(run::start(intake, place, |run| archive::read(run, opened)))
        }
    }
}

fn respond(lines: Reader) -> Response {
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What the query says of all documents, and whether their paths are their external ids.
fn said_of_all(app: &App, query: Option<&str>) -> Result<(Settings, bool), Problem> {
    let (mut settings, mut by_path) = (Settings::default(), false);
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name == "by_path" {
            by_path = value.parse().map_err(|_| Problem::field(&*name, "must be `true` or `false`"))?;
        } else {
            settings.set(&name, &value, app.config())?;
        }
    }
    for (field, given) in
        [("filename", settings.filename.is_some()), ("external_id", settings.external_id.is_some())]
    {
        if given {
            return Err(Problem::field(field, "is for a single document, and cannot be that of all"));
        }
    }
    settings.chunking(app.config())?;
    settings.lane.get_or_insert(Lane::Bulk);
    Ok((settings, by_path))
}

fn kind_of(headers: &HeaderMap) -> Result<Kind, Problem> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or_default());
    if encoding.is_some_and(|encoding| !encoding.trim().eq_ignore_ascii_case("identity")) {
        return Err(Problem::unsupported_media_type("a body with a Content-Encoding is not taken"));
    }
    let claimed = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = claimed.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        NDJSON | "application/ndjson" | "application/jsonl" => Ok(Kind::Lines),
        "application/zip" | "application/x-zip-compressed" => Ok(Kind::Archive(Format::Zip)),
        "application/x-tar" | "application/tar" | "application/x-gtar" => Ok(Kind::Archive(Format::Tar)),
        "application/gzip" | "application/x-gzip" | "application/x-compressed-tar" => {
            Ok(Kind::Archive(Format::TarGz))
        }
        "application/zstd" | "application/x-zstd" => Ok(Kind::Archive(Format::TarZst)),
        _ => Err(Problem::unsupported_media_type(TAKEN)),
    }
}
