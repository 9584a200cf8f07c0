//! A request's identity: its id, its place in a trace, its span, and what is measured of it.

use std::time::Instant;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, HeaderValue, request::Parts},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::Problem;
use crate::metrics::names;

/// The header of a request's id, in requests and responses.
pub(crate) const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";

/// Where a request stands in a trace.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// The client's request id, or one that was made here.
    pub(crate) request_id: String,
    /// The 32 hex digits of the trace.
    trace_id: String,
    /// What the work that this request causes names as its parent (W3C Trace Context).
    pub(crate) traceparent: String,
}

impl Trace {
    /// Takes up the client's trace, or begins one.
    pub(crate) fn of(headers: &HeaderMap) -> Trace {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let request_id = text(REQUEST_ID)
            .filter(|id| is_request_id(id))
            .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        Trace::begin(request_id, text(TRACEPARENT))
    }

    /// The trace of work that is not a request, below `parent` where that is a traceparent.
    pub(crate) fn begin(request_id: String, parent: Option<&str>) -> Trace {
        let (trace_id, flags) = parent.and_then(parse_traceparent).map_or_else(
            || (Uuid::new_v4().simple().to_string(), "01".to_owned()),
            |(trace, flags)| (trace.to_owned(), flags.to_owned()),
        );
        let span = rand::random_range(1..=u64::MAX);
        let traceparent = format!("00-{trace_id}-{span:016x}-{flags}");
        Trace { request_id, trace_id, traceparent }
    }
}

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(parts.extensions.get::<Trace>().cloned().unwrap_or_else(|| Trace::of(&parts.headers)))
    }
}

fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

/// Trace id and flags of a W3C traceparent of version 00.
fn parse_traceparent(text: &str) -> Option<(&str, &str)> {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |part: &str| part.bytes().any(|b| b != b'0');
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let fits = version == "00"
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
        && not_zero(trace)
        && not_zero(span)
        && parts.next().is_none();
    fits.then_some((trace, flags))
}

/// Runs a request in its span, gives the response the request's id, and measures.
pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
    let trace = Trace::of(request.headers());
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", request_id = %trace.request_id, trace_id = %trace.trace_id, %method, %route);
    let id = HeaderValue::from_str(&trace.request_id);
    request.extensions_mut().insert(trace);

    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    // One of a fixed set, so that a client cannot make series.
    let method = match method.as_str() {
        name @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => name.to_owned(),
        _ => "other".to_owned(),
    };
    metrics::histogram!(names::REQUEST_SECONDS, "method" => method.clone(), "route" => route.clone())
        .record(start.elapsed().as_secs_f64());
    metrics::counter!(names::REQUESTS, "method" => method, "route" => route, "status" => status.to_string())
        .increment(1);
    let _entered = span.enter();
    tracing::debug!(status, seconds = start.elapsed().as_secs_f64(), "request answered");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_taken_up_and_a_wrong_one_is_not() {
        let trace = Trace::begin("r".into(), Some(PARENT));
        assert!(
            trace.traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
            "{}",
            trace.traceparent
        );
        assert_ne!(trace.traceparent, PARENT, "the work's parent is this request, not the client's span");
        for wrong in [
            "",
            "00-xyz",
            &PARENT.to_uppercase(),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
        ] {
            assert!(parse_traceparent(wrong).is_none(), "{wrong}");
        }
        assert!(parse_traceparent(&Trace::begin("r".into(), None).traceparent).is_some());
    }

    #[test]
    fn a_request_id_is_kept_when_it_is_harmless() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("order-7:a_b.c"));
        assert_eq!(Trace::of(&headers).request_id, "order-7:a_b.c");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b<script>"));
        assert_ne!(Trace::of(&headers).request_id, "a b<script>");
    }
}
