//! `ETag` and `If-None-Match` of what is read as JSON: who asks again for what has not changed is sent none of it.

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use sha2::{Digest, Sha256};

use super::{problem::Problem, ranges::matches};

/// The largest answer that is hashed. Answers of the API are pages of at most so much; files have tags of their own.
const AT_MOST: u64 = 8 << 20;

/// Gives answers to GET a tag that says what is in them.
pub(super) async fn layer(request: Request, next: Next) -> Result<Response, Problem> {
    let is_get = request.method() == Method::GET;
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    if !is_get || !is_tagged(&response) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| Problem::internal(&error))?;
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..16]));
    let is_known =
        known.as_ref().and_then(|tags| tags.to_str().ok()).is_some_and(|tags| matches(tags, &etag));
    parts.headers.insert(header::ETAG, HeaderValue::from_str(&etag).map_err(|e| Problem::internal(&e))?);
    parts.headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    // What depends on who asks is not given to somebody else by a cache on the way.
    parts.headers.append(header::VARY, HeaderValue::from_static("authorization, cookie"));
    if !is_known {
        return Ok(Response::from_parts(parts, Body::from(bytes)));
    }
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    Ok(Response::from_parts(parts, Body::from(Bytes::new())))
}

/// JSON that stands in memory, and that may be kept.
fn is_tagged(response: &Response) -> bool {
    let is = |name, text: &str| {
        response.headers().get(name).is_some_and(|value| value.as_bytes() == text.as_bytes())
    };
    response.status() == StatusCode::OK
        && is(header::CONTENT_TYPE, "application/json")
        && !is(header::CACHE_CONTROL, "no-store")
        && !response.headers().contains_key(header::ETAG)
        && response.body().size_hint().exact().is_some_and(|size| size <= AT_MOST)
}
