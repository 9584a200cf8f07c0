//! `/health/redis` and `/health/queues`, beside the endpoints that every service has. They need no key, and tell nothing that
//! only some may know.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, problem::Problem, queue::PublicHealth};

pub(super) fn router() -> Router<App> {
    Router::new().route("/health/redis", get(redis)).route("/health/queues", get(queues))
}

/// Asks Redis now, rather than the last probe.
async fn redis(State(app): State<App>) -> Response {
    match app.streams().ping().await {
        Ok(took) => Json(serde_json::json!({ "status": "healthy", "latency_ms": took.as_secs_f64() * 1e3 }))
            .into_response(),
        Err(error) => {
            tracing::warn!(%error, "redis does not answer");
            let body = Json(serde_json::json!({ "status": "unhealthy", "error": "redis is not available" }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn queues(State(app): State<App>) -> Result<Response, Problem> {
    let body = PublicHealth::read(&app).await?;
    let code = if body.is_unhealthy() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok((code, Json(body)).into_response())
}
