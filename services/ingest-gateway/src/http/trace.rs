//! A request's identity: its id, its place in a trace, its span, and what is measured of it.

use std::{convert::Infallible, time::Instant};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, HeaderValue, Method, request::Parts},
    middleware::Next,
    response::Response,
};
use riacho_traces::{Attribute, Kind, Span, Traceparent, attributes};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::Problem;
use crate::{SERVICE, metrics::names};

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
    fn of(headers: &HeaderMap) -> Trace {
        let request_id = text(headers, REQUEST_ID)
            .filter(|id| is_request_id(id))
            .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        Trace::within(request_id, &Span::none(), parent_of(headers))
    }

    /// The trace of a span; where that is not recorded, of its parent, or one of its own.
    pub(crate) fn within(request_id: String, span: &Span, parent: Option<Traceparent>) -> Trace {
        // Where traces are off here, others may record it.
        let otherwise = || Traceparent::unrecorded(parent, !Span::enabled());
        let own = span.traceparent().unwrap_or_else(otherwise);
        Trace { request_id, trace_id: own.trace_id(), traceparent: own.to_string() }
    }
}

/// The span of the request that is answered, for the calls that it makes; none where it is not recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Within(Option<Traceparent>);

impl Within {
    /// Begins the span of a call of another server.
    pub(crate) fn call<const N: usize>(
        self,
        name: &'static str,
        attributes: impl FnOnce() -> [Attribute; N],
    ) -> Span {
        match self.0 {
            Some(parent) => Span::start(SERVICE, Kind::Client, name, Some(parent), attributes),
            None => Span::none(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Within {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Within(parts.extensions.get::<Traceparent>().copied()))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The place in a trace that the client named.
fn parent_of(headers: &HeaderMap) -> Option<Traceparent> {
    text(headers, TRACEPARENT)?.parse().ok()
}

/// The span of a request to the API. What probes, scrapes and shows the page has none.
fn span_of(method: &Method, route: &str, parent: Option<Traceparent>) -> Span {
    if !Span::enabled() || !(route.starts_with("/api/") || route.starts_with("/v1/")) {
        return Span::none();
    }
    let method = known(method);
    Span::start(SERVICE, Kind::Server, format!("{method} {route}"), parent, || {
        [(attributes::HTTP_METHOD, method.into()), (attributes::HTTP_ROUTE, route.to_owned().into())]
    })
}

/// A method of a fixed set, so that a client cannot make series.
fn known(method: &Method) -> &'static str {
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    methods.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
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

/// Runs a request in its span, gives the response the request's id, and measures.
pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let parent = parent_of(request.headers());
    let mut traced = span_of(&method, &route, parent);
    let Trace { request_id, .. } = Trace::of(request.headers());
    traced.set(attributes::REQUEST, request_id.clone());
    let trace = Trace::within(request_id, &traced, parent);
    let span = tracing::info_span!("request", request_id = %trace.request_id, trace_id = %trace.trace_id, %method, %route);
    let id = HeaderValue::from_str(&trace.request_id);
    request.extensions_mut().insert(trace);
    if let Some(own) = traced.traceparent() {
        request.extensions_mut().insert(own);
    }

    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    traced.set(attributes::HTTP_STATUS, i64::from(status));
    if status >= 500 {
        traced.fail(status);
    }
    drop(traced);
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let method = known(&method);
    metrics::histogram!(names::REQUEST_SECONDS, "method" => method, "route" => route.clone())
        .record(start.elapsed().as_secs_f64());
    metrics::counter!(names::REQUESTS, "method" => method, "route" => route, "status" => status.to_string())
        .increment(1);
    let _entered = span.enter();
    tracing::debug!(status, seconds = start.elapsed().as_secs_f64(), "request answered");
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_taken_up_and_a_wrong_one_is_not() {
        let trace_of = |parent: &str| {
            let headers = HeaderMap::from_iter([(TRACEPARENT.parse().unwrap(), parent.parse().unwrap())]);
            Trace::of(&headers)
        };
        let trace = trace_of(PARENT);
        assert_eq!(trace.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(trace.traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace:?}");
        assert_ne!(trace.traceparent, PARENT, "the work's parent is this request, not the client's span");
        let other = trace_of("00-xyz");
        assert_ne!(other.trace_id, trace.trace_id);
        assert!(other.traceparent.parse::<Traceparent>().is_ok(), "{other:?}");
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
