//! The operations endpoints: `/livez`, `/readyz`, `/health`, `/metrics`.

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use riacho_domain::Secret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Error, Health, Metrics};

/// What the endpoints answer from.
#[derive(Clone, Debug)]
pub struct Ops {
    /// The process's dependencies.
    pub health: Health,
    /// The process's metrics.
    pub metrics: Metrics,
    /// The bearer token that `/metrics` asks for.
    pub metrics_token: Option<Secret>,
}

/// The endpoints as a router, to be served alone or beside others.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(ops)
}

/// Serves the endpoints on an address of their own until `stop`.
///
/// # Errors
///
/// When the address cannot be listened on.
pub async fn serve(address: &str, ops: Ops, stop: CancellationToken) -> Result<(), Error> {
    let failed =
        |e: std::io::Error| Error::Dependency { name: "http.ops_listen", reason: format!("{address}: {e}") };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    axum::serve(listener, router(ops)).with_graceful_shutdown(stop.cancelled_owned()).await.map_err(failed)
}

async fn readyz(State(ops): State<Ops>) -> Response {
    match ops.health.ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(ops.health.report())).into_response(),
    }
}

async fn health(State(ops): State<Ops>) -> Response {
    let report = ops.health.report();
    let code = if report.status == "unhealthy" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(report)).into_response()
}

async fn metrics(State(ops): State<Ops>, headers: HeaderMap) -> Response {
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "));
    if ops.metrics_token.as_ref().is_some_and(|token| !same(token.expose(), presented.unwrap_or_default())) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.metrics.render())
        .into_response()
}

/// Compares without leaking by time how much is right.
fn same(expected: &str, presented: &str) -> bool {
    use subtle::ConstantTimeEq;
    expected.as_bytes().ct_eq(presented.as_bytes()).into()
}
