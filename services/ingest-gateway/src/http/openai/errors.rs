//! Problems as OpenAI's clients expect errors: `{"error": {"message", "type", "param", "code"}}`.
//!
//! Everything under `/v1` answers this way, whatever refused the request: a handler, a limit, or the router that knows no such
//! path. So it is a layer around all of it, and what is refused stays one kind of value.

use axum::{
    Json,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::super::problem::Problem;

/// What OpenAI's clients go by before they look at the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Translates problems of the paths under `/v1`.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_ours = path == "/v1" || path.starts_with("/v1/");
    let response = next.run(request).await;
    match response.extensions().get::<Problem>() {
        Some(problem) if is_ours => translated(problem, &response),
        _ => response,
    }
}

fn translated(problem: &Problem, response: &Response) -> Response {
    let status = response.status();
    let (kind, code) = names(status, problem);
    let error = json!({
        "message": problem.detail(),
        "type": kind,
        "param": problem.first_field(),
        "code": code,
    });
    let mut translated = (status, Json(json!({ "error": error }))).into_response();
    let headers = translated.headers_mut();
    // All but those of the body: rates, methods and waits are told as everywhere.
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            headers.insert(name.clone(), value.clone());
        }
    }
    // A conflict and most quotas stay what they are however often the same is sent.
    if problem.stays() {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    translated
}

/// Type and code of an error, as OpenAI names them where it has a name.
fn names(status: StatusCode, problem: &Problem) -> (&'static str, &'static str) {
    match (status, problem.code()) {
        (_, "quota_exceeded") if problem.stays() => ("insufficient_quota", "insufficient_quota"),
        (StatusCode::TOO_MANY_REQUESTS, _) => ("requests", "rate_limit_exceeded"),
        (StatusCode::UNAUTHORIZED, _) => ("invalid_request_error", "invalid_api_key"),
        (StatusCode::FORBIDDEN, _) => ("invalid_request_error", "insufficient_permissions"),
        (status, code) if status.is_server_error() => ("server_error", code),
        (_, code) => ("invalid_request_error", code),
    }
}
