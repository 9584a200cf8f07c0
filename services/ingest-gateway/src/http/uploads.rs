//! Uploads by signed URL: hand one out, take the file in where the store has no URLs of its own,
//! and start the processing.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, State as DocumentStage, TenantId, UploadId};
use riacho_objects::{Error as ObjectsError, Key, LocalUploadQuery, PresignPut, Presigned};
use riacho_store::{Accept, Accepted, AwaitedUpload, Body, Conflict, Idempotency, UploadStage};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{Config, app::tell_accepted};

use super::{
    App,
    auth::{Caller, Upload, Write},
    body::{self, Incoming},
    documents::{AcceptedBody, accepted},
    extract::{DocumentPath, IdPath, JsonBody, QueryString},
    names::{clean_filename, content_type},
    problem::{Problem, ProblemBody},
    settings::{Settings, SettingsBody},
    shapes::{DocumentState, Links},
    trace::Trace,
    upload::{idempotency_key, request_hash},
};

/// Routes that carry or read a whole file and so have no time limit of their own.
pub(super) fn uploads() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(put)).routes(routes!(process))
}

/// The other routes.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(presign))
}

/// A document that waits for its file.
#[derive(Debug, Serialize, ToSchema)]
struct PresignedBody {
    /// The document.
    id: Uuid,
    /// Its version.
    version: u32,
    /// `awaiting_upload`.
    #[schema(value_type = DocumentState)]
    state: &'static str,
    /// How to send the file.
    upload: UploadBody,
    /// Call this with POST once the file is sent.
    process: String,
    /// Where to go on.
    links: Links,
}

/// How to send a file.
#[derive(Debug, Serialize, ToSchema)]
struct UploadBody {
    /// `PUT`.
    method: String,
    /// The signed address.
    url: String,
    /// Headers that the request must carry.
    headers: std::collections::BTreeMap<String, String>,
    /// Until when the address is valid.
    expires_at: DateTime<Utc>,
    /// The largest file.
    max_bytes: u64,
}

/// Ask for a signed upload URL.
///
/// Send the file to it, then call `process`. The URL is the object store's own where it has signed
/// URLs, else the gateway's.
#[utoipa::path(
    post, path = "/api/v1/documents/upload/presigned", tag = "uploads", request_body = SettingsBody,
    responses(
        (status = 201, description = "Send the file to the URL.", body = PresignedBody),
        (status = 202, description = "The same `Idempotency-Key` was answered before, and its file was sent.", body = AcceptedBody),
        (status = 400, description = "A field is wrong.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The upload was asked for before, and its time is over.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn presign(
    State(app): State<App>,
    caller: Caller<Upload>,
    trace: Trace,
    headers: HeaderMap,
    JsonBody(asked): JsonBody<SettingsBody>,
) -> Result<Response, Problem> {
    let config = app.config();
    let valid = Duration::from_secs(asked.expires_in_seconds.unwrap_or(config.upload_url_seconds));
    if valid.is_zero() || valid.as_secs() > config.max_upload_url_seconds {
        return Err(Problem::field(
            "expires_in_seconds",
            format!("must be 1 to {}", config.max_upload_url_seconds),
        ));
    }
    let filename = clean_filename(&asked.filename);
    let claimed = content_type(asked.content_type.as_deref(), &filename);
    let signed_type = asked.content_type.is_some().then(|| claimed.clone());
    let key = Key::original(&caller.tenant, UploadId::new());
    let expires_at = Utc::now() + valid + Duration::from_secs(config.upload_margin_seconds);
    let mut accept =
        Accept::new(caller.tenant.clone(), filename, key.to_string(), Body::Awaited { expires_at });
    accept.content_type = claimed;
    accept.traceparent = trace.traceparent;
    let settings = Settings::from_body(asked, config)?;
    let chunking = settings.own_chunking();
    settings.apply(&mut accept, config)?;
    accept.idempotency = idempotency_key(&headers)?
        .map(|key| Idempotency { key, request_hash: request_hash(&accept, &chunking) });
    let row = app.store().accept(&accept).await?;
    tell_accepted(&caller.tenant, &row, &accept.traceparent, "upload");
    // An earlier answer to the same Idempotency-Key has its own file, which may have been sent since.
    let Some(awaited) = app.store().awaited_upload(&caller.tenant, row.document).await? else {
        return Ok(accepted(&row));
    };
    let key =
        Key::parse_for_tenant(&caller.tenant, &awaited.object_key).map_err(|e| Problem::internal(&e))?;
    let expires_in = if row.replayed { valid.min(time_left(&awaited, config)?) } else { valid };
    let options = PresignPut { content_type: signed_type, expires_in, max_bytes: config.max_upload_bytes };
    let presigned = app.objects().presign_put(&key, &options).await?;
    Ok((StatusCode::CREATED, Json(presigned_body(&app, &headers, &row, presigned))).into_response())
}

/// How long an upload is good that was asked for before: its document waits no longer than it was to then.
fn time_left(awaited: &AwaitedUpload, config: &Config) -> Result<Duration, Problem> {
    let margin = Duration::from_secs(config.upload_margin_seconds);
    let left = awaited.expires_at.signed_duration_since(Utc::now()).to_std().unwrap_or_default();
    match left.saturating_sub(margin) {
        left if left < Duration::from_secs(1) => {
            Err(Problem::conflict("state", "the time for the upload is over; use another Idempotency-Key"))
        }
        left => Ok(left),
    }
}

fn presigned_body(app: &App, headers: &HeaderMap, row: &Accepted, presigned: Presigned) -> PresignedBody {
    let url = match presigned.url.starts_with('/') {
        true => format!("{}{}", public_address(app, headers), presigned.url),
        false => presigned.url,
    };
    PresignedBody {
        id: row.document.0,
        version: row.version,
        state: row.state.as_str(),
        upload: UploadBody {
            method: presigned.method,
            url,
            headers: presigned.headers.into_iter().collect(),
            expires_at: presigned.expires_at,
            max_bytes: app.config().max_upload_bytes,
        },
        process: format!("/api/v1/documents/{}/process", row.document),
        links: Links::of(row.document),
    }
}

/// Where clients reach the gateway: as configured, else as this one did.
fn public_address(app: &App, headers: &HeaderMap) -> String {
    if let Some(url) = &app.config().public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_host = |host: &&str| {
        host.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'))
    };
    let https = app.config().trust_forwarded_for && text("x-forwarded-proto") == Some("https");
    // Without a host the path alone is right for whoever resolves it.
    text("host")
        .filter(is_host)
        .map_or_else(String::new, |host| format!("{}://{host}", if https { "https" } else { "http" }))
}

/// Send a file to a signed URL of the gateway.
///
/// Needs no key: the signature in the query is the right to send this one file.
#[utoipa::path(
    put, path = "/api/v1/uploads/{id}", tag = "uploads", security(()),
    params(
        ("id" = Uuid, Path, description = "The upload."),
        ("tenant" = String, Query, description = "As signed."),
        ("expires" = i64, Query, description = "As signed."),
        ("max_bytes" = u64, Query, description = "As signed."),
        ("content_type" = Option<String>, Query, description = "As signed."),
        ("signature" = String, Query, description = "The signature."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "Stored; now call `process`."),
        (status = 403, description = "The URL was changed or has expired.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The file is there already, or is not waited for any more.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The file is too large.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn put(
    State(app): State<App>,
    IdPath(upload): IdPath,
    QueryString(query): QueryString<LocalUploadQuery>,
    request: Request,
) -> Result<StatusCode, Problem> {
    riacho_service::FOREGROUND.request();
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(body, app.config().idle_timeout());
    receive(&app, UploadId(upload), &query, &parts.headers, incoming).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn receive(
    app: &App,
    upload: UploadId,
    query: &LocalUploadQuery,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<(), Problem> {
    let claimed = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let grant = app.objects().verify_local(upload, query, claimed).map_err(|error| match error {
        ObjectsError::Refused { reason } => Problem::refused_upload(reason),
        ObjectsError::InvalidKey(_) => Problem::refused_upload("the address is not one that was signed"),
        other => other.into(),
    })?;
    let limit = grant.max_bytes.min(app.config().max_upload_bytes);
    if body::declared_length(headers).is_some_and(|length| length > limit) {
        return Err(Problem::too_large("file", limit));
    }
    still_awaited(app, &grant.key).await?;
    if app.objects().exists(&grant.key).await? {
        return Err(Unwanted::Taken.into());
    }
    // Under a key of its own until it is whole: another file under the same URL may come at the same time, and the one that was
    // first may be processed by then. What a gateway leaves that dies in between goes with the orphans.
    let own = Key::original(grant.key.tenant(), UploadId::new());
    let stored = body::store(app.objects(), &own, incoming, limit).await;
    stored.inspect_err(|_| app.discard(own.clone()))?;
    let is_first = app.objects().give_key(&own, &grant.key).await;
    if !is_first.inspect_err(|_| app.discard(own.clone()))? {
        return Err(Unwanted::Taken.into());
    }
    let awaited = still_awaited(app, &grant.key).await;
    if matches!(awaited, Err(Unwanted::Over(_))) {
        // Cancelled while the bytes came: nobody would remove them.
        app.objects().delete(&grant.key).await?;
    }
    match awaited {
        // Whoever did not wait for this answer has called `process` already.
        Err(Unwanted::Taken) => Ok(()),
        other => Ok(other?),
    }
}

/// Why bytes for a signed URL are not wanted.
enum Unwanted {
    Taken,
    Over(Problem),
    Unknown(Problem),
}

impl From<Unwanted> for Problem {
    fn from(unwanted: Unwanted) -> Self {
        match unwanted {
            Unwanted::Taken => {
                Problem::conflict("already_uploaded", "the file was sent already; call `process`")
            }
            Unwanted::Over(problem) | Unwanted::Unknown(problem) => problem,
        }
    }
}

async fn still_awaited(app: &App, key: &Key) -> Result<(), Unwanted> {
    let stage = app.store().upload_stage(key.tenant(), key.as_str()).await;
    match stage.map_err(|error| Unwanted::Unknown(error.into()))? {
        Some(UploadStage::Awaited) => Ok(()),
        Some(UploadStage::Taken) => Err(Unwanted::Taken),
        Some(UploadStage::Over(state)) => {
            Err(Unwanted::Over(riacho_store::Error::from(Conflict::NoUploadAwaited(state)).into()))
        }
        None => {
            Err(Unwanted::Over(Problem::conflict("state", "no upload is awaited; the document is deleted")))
        }
    }
}

/// Start the processing of a file that was sent to a signed URL.
///
/// Calling it again answers the document as it is.
#[utoipa::path(
    post, path = "/api/v1/documents/{id}/process", tag = "uploads", params(("id" = Uuid, Path, description = "The document.")),
    responses(
        (status = 202, description = "On its way.", body = AcceptedBody),
        (status = 404, description = "No such document.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The file is not there, or is not waited for any more.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn process(
    State(app): State<App>,
    caller: Caller<Write>,
    trace: Trace,
    DocumentPath(document): DocumentPath,
) -> Result<Response, Problem> {
    let Some(awaited) = app.store().awaited_upload(&caller.tenant, document).await? else {
        return Ok(accepted(&as_it_is(&app, &caller.tenant, document).await?));
    };
    let key =
        Key::parse_for_tenant(&caller.tenant, &awaited.object_key).map_err(|e| Problem::internal(&e))?;
    let stored =
        app.objects().hash(&key, app.config().max_upload_bytes).await.map_err(|error| match error {
            ObjectsError::NotFound { .. } => Problem::conflict("upload_missing", "the file was not sent yet"),
            other => other.into(),
        })?;
    if stored.size == 0 {
        return Err(Problem::empty());
    }
    let done = app
        .store()
        .complete_upload(&caller.tenant, document, (stored.size, stored.sha256), &trace.traceparent, false)
        .await?;
    tell_accepted(&caller.tenant, &done, &trace.traceparent, "upload");
    app.release(&done);
    Ok(accepted(&done))
}

/// The answer for an upload that was processed before.
async fn as_it_is(app: &App, tenant: &TenantId, document: DocumentId) -> Result<Accepted, Problem> {
    let status = app.store().status(tenant, document).await?.ok_or_else(|| Problem::not_found("document"))?;
    match status.state {
        DocumentStage::Cancelled | DocumentStage::Expired => {
            Err(Problem::conflict("state", format!("no upload is awaited; the document is {}", status.state)))
        }
        state => Ok(Accepted {
            document,
            version: status.version,
            state,
            release: None,
            accepted_at: status.accepted_at,
            duplicate: false,
            replayed: true,
        }),
    }
}
