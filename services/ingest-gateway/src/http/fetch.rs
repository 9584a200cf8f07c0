//! Documents by address: the gateway fetches the file, and takes it in like any other.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::Response,
};
use futures::TryStreamExt;
use reqwest::Method;
use riacho_domain::{TenantId, UploadId};
use riacho_objects::Key;
use riacho_service::outward::{Outward, OutwardError};
use riacho_store::{Accept, Body as StoredBody, Idempotency, Target};
use sha2::{Digest, Sha256};
use url::Url;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Upload},
    body,
    documents::{AcceptedBody, accepted},
    extract::JsonBody,
    names::{clean_filename, content_type},
    problem::{Problem, ProblemBody},
    settings::{Settings, UrlBody},
    trace::Trace,
    upload::{Received, accept_of, idempotency_key, request_hash},
    webhooks::wrong_address,
};

/// How often an address may name another one.
const MAX_REDIRECTS: usize = 5;
/// How long a file may take, however steadily it comes.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// What a file is called whose address has no name.
const UNNAMED: &str = "download";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(by_url))
}

/// Accept a document that the gateway fetches from an address.
///
/// The answer comes when the file is stored. Only addresses of the public network are fetched from, and redirects are
/// followed only there; the file may be as large as any upload.
#[utoipa::path(
    post, path = "/api/v1/documents/url", tag = "documents", request_body = UrlBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key with the same request gets the same answer.")),
    responses(
        (status = 202, description = "Accepted.", body = AcceptedBody, headers(("Location" = String, description = "Address of the document."))),
        (status = "4XX", description = "Refused, or the file cannot be fetched; the problem says why.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not now; `Retry-After` says when.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn by_url(
    State(app): State<App>,
    caller: Caller<Upload>,
    trace: Trace,
    headers: HeaderMap,
    JsonBody(asked): JsonBody<UrlBody>,
) -> Result<Response, Problem> {
    riacho_service::FOREGROUND.request();
    let key = idempotency_key(&headers)?;
    let (address, settings) = Settings::from_url_body(asked, app.config())?;
    let request_hash = hash_of(&app, &caller.tenant, &address, settings.clone())?;
    let idempotency = key.map(|key| Idempotency { key, request_hash });
    // Before the file is fetched: it may have changed since, or be gone.
    if let Some(idempotency) = &idempotency
        && let Some(known) = app.store().answered(&caller.tenant, idempotency).await?
    {
        app.accepted(&caller.tenant, &trace.traceparent, &known);
        return Ok(accepted(&known));
    }
    let key = Key::original(&caller.tenant, UploadId::new());
    let taken = tokio::time::timeout(TIME_LIMIT, receive(&app, &key, &address, settings)).await;
    let received = taken.unwrap_or_else(|_| {
        Err(Problem::field("url", format!("the file did not come within {} s", TIME_LIMIT.as_secs())))
    });
    let received = received.inspect_err(|_| app.discard(key.clone()))?;
    let accept = accept_of(&app, &caller.tenant, Target::New, trace, &HeaderMap::new(), received);
    let accept = Accept { idempotency, ..accept.inspect_err(|_| app.discard(key.clone()))? };
    Ok(accepted(&app.accept(&accept, &key).await?))
}

/// What makes two requests the same: the address and what they say beside it, whatever the address answers.
fn hash_of(app: &App, tenant: &TenantId, address: &str, settings: Settings) -> Result<[u8; 32], Problem> {
    let body = StoredBody::Stored { size: 0, sha256: Sha256::digest(address.as_bytes()).into() };
    let mut asked = Accept::new(tenant.clone(), settings.filename.clone().unwrap_or_default(), "", body);
    let chunking = settings.own_chunking();
    settings.apply(&mut asked, app.config())?;
    Ok(request_hash(&asked, &chunking))
}

/// Fetches the file into the object store while it is hashed.
async fn receive(app: &App, key: &Key, address: &str, mut settings: Settings) -> Result<Received, Problem> {
    let limit = app.config().max_upload_bytes;
    let (response, url) = follow(app.outward()?, address).await?;
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(Problem::too_large("file", limit));
    }
    let claimed = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let claimed = claimed.map(str::to_owned);
    let filename = clean_filename(&settings.filename.take().unwrap_or_else(|| name_in(&url)));
    let pieces = Box::pin(response.bytes_stream().map_err(|error| FetchError(OutwardError::from(error))));
    let stored = body::store(app.objects(), key, pieces, limit).await?;
    Ok(Received {
        key: key.clone(),
        stored,
        content_type: content_type(claimed.as_deref(), &filename),
        filename,
        settings,
    })
}

/// The file's answer, and the address that gave it. Each address on the way is checked like the first one.
async fn follow(outward: &Outward, address: &str) -> Result<(reqwest::Response, Url), Problem> {
    let mut url = outward.check(address).await.map_err(wrong_address)?;
    for _ in 0..=MAX_REDIRECTS {
        let request = outward.request(Method::GET, &url).map_err(wrong_address)?;
        // What is counted and stored are the bytes of the file.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        let response = request.send().await.map_err(|error| wrong_address(error.into()))?;
        if !response.status().is_redirection() {
            return match response.status().as_u16() {
                200 => Ok((response, url)),
                status => Err(Problem::field("url", format!("the address answered {status}"))),
            };
        }
        let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next = next.and_then(|next| url.join(next).ok());
        let next =
            next.ok_or_else(|| Problem::field("url", "the address leads to one that cannot be read"))?;
        url = outward.check(next.as_str()).await.map_err(wrong_address)?;
    }
    Err(Problem::field("url", format!("the address leads to others, more than {MAX_REDIRECTS} times")))
}

/// The name at the end of an address.
fn name_in(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    let name = percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned();
    if name.trim().is_empty() { UNNAMED.to_owned() } else { name }
}

/// An error of a file on its way.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct FetchError(OutwardError);

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        wrong_address(error.0)
    }
}
