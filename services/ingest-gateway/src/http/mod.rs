//! The HTTP interface: one file for each resource, and what stands around all of them.
//!
//! Every error is a [`problem::Problem`]; every handler under `/api` that touches a tenant's data
//! takes an [`auth::Caller`], whose tenant is all that it can see.

#![allow(unused_qualifications)] // written by utoipa's macros

mod audit;
pub(crate) mod auth;
mod body;
mod bulk;
mod collections;
mod content;
mod dead_letters;
mod documents;
mod etag;
mod events;
mod extract;
mod fetch;
mod history;
mod janitor;
mod jobs;
mod keys;
mod limits;
mod linger;
mod meaning;
mod missing;
pub(crate) mod names;
mod openai;
mod ops;
mod page;
pub(crate) mod problem;
mod queue;
mod ranges;
pub(crate) mod rate_headers;
mod reference;
mod search;
pub(crate) mod session;
pub(crate) mod settings;
mod shapes;
mod spaces;
mod stages;
mod status;
pub(crate) mod trace;
mod upload;
mod uploads;
mod usage;
mod waits;
mod webhooks;

use std::any::Any;

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
    middleware,
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
};
use utoipa::{
    OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use self::limits::Limits;
pub(crate) use crate::app::App;
use crate::{Config, http::problem::Problem};

/// What the OpenAPI document says beside the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Riacho",
        description = "Uploads become searchable knowledge that can be cited. Every error is `application/problem+json` (RFC 9457). What is read as JSON has an `ETag`: who sends it as `If-None-Match` is answered 304 where nothing has changed.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    security(("key" = [])),
    tags(
        (name = "documents", description = "Add documents, watch them, read them."),
        (name = "uploads", description = "Send files to signed URLs."),
        (name = "search", description = "Find passages."),
        (name = "collections", description = "Names that documents stand under."),
        (name = "queue", description = "The pipeline at work."),
        (name = "spaces", description = "Embedding models."),
        (name = "keys", description = "API keys of the tenant."),
        (name = "webhooks", description = "Addresses that are told what becomes of documents."),
        (name = "audit", description = "Who did what."),
        (name = "janitor", description = "The scheduled tasks. For operators' keys."),
    ),
    components(schemas(problem::ProblemBody)),
)]
struct Description;

/// All routes of the API, each with its description. Files go through those without a time limit.
fn api(limits: &Limits) -> OpenApiRouter<App> {
    let timed = OpenApiRouter::with_openapi(Description::openapi())
        .merge(documents::router())
        .merge(status::router())
        .merge(content::router())
        .merge(uploads::router())
        .merge(search::router())
        .merge(collections::router())
        .merge(queue::router())
        .merge(history::router())
        .merge(stages::router())
        .merge(jobs::router())
        .merge(dead_letters::router())
        .merge(spaces::router())
        .merge(keys::router())
        .merge(session::router())
        .merge(janitor::router())
        .merge(webhooks::router())
        .merge(audit::router())
        .merge(usage::router())
        .route_layer(middleware::from_fn_with_state(limits.clone(), limits::time_limit));
    timed
        .merge(documents::uploads())
        .merge(bulk::router())
        .merge(content::downloads())
        .merge(uploads::uploads())
        .merge(events::router())
        .merge(fetch::router())
        .route_layer(middleware::from_fn_with_state(limits.clone(), limits::admit))
}

/// The OpenAPI document of the API, made from its code.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = api(&Limits::new(&Config::default())).into_openapi();
    document.info.version = "1".to_owned();
    let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().security_schemes.insert("key".to_owned(), key.into());
    document
}

/// The OpenAPI document as it stands in `schemas/openapi.json`.
///
/// # Errors
///
/// Never in practice: the document is made of values that JSON can hold.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    openapi().to_pretty_json().map(|text| text + "\n")
}

/// The whole interface.
pub(crate) fn router(app: App, limits: &Limits, operations: riacho_service::ops::Ops) -> Router {
    let (config, lingerers) = (app.config().clone(), linger::Lingerers::new(&app));
    let health = ops::router().route_layer(middleware::from_fn_with_state(limits.clone(), limits::admit));
    let api = Router::from(api(limits)).merge(openai::router(limits)).merge(health).with_state(app);
    let api = api.layer(middleware::from_fn(etag::layer)).layer(middleware::from_fn(rate_headers::layer));
    api.merge(reference::router(&openapi()))
        .merge(page::router())
        .merge(riacho_service::ops::router(operations))
        .fallback(|| async { Problem::no_route() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(openai::errors::layer))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        .layer(cors(&config))
        .layer(middleware::from_fn(trace::layer))
        .layer(middleware::from_fn_with_state(lingerers, linger::layer))
}

/// A panic is a bug, and a problem like any other for the client.
fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text =
        cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    Problem::internal(&format!("a handler panicked: {}", text.unwrap_or("no message"))).into_response()
}

/// Which pages may call the API. They send a key as a header: the cookie of a session goes to no other site, and what changes
/// something needs a header that is not allowed here. So `*` gives no page anything that its user did not.
fn cors(config: &Config) -> CorsLayer {
    let origins = match config.cors_origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(
            config.cors_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()),
        ),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::RANGE,
            header::IF_NONE_MATCH,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static(trace::REQUEST_ID),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("openai-beta"),
        ])
        .expose_headers([
            header::LOCATION,
            header::ETAG,
            header::RETRY_AFTER,
            header::CONTENT_RANGE,
            header::CONTENT_DISPOSITION,
            HeaderName::from_static(rate_headers::LIMIT),
            HeaderName::from_static(rate_headers::POLICY),
            HeaderName::from_static(trace::REQUEST_ID),
        ])
        .max_age(std::time::Duration::from_secs(3_600))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use axum::{body::Body, http::Request, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_answers_a_problem_that_tells_nothing() {
        async fn broken() -> &'static str {
            panic!("password: hunter2")
        }
        let router = Router::new().route("/", get(broken)).layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], problem::PROBLEM_JSON);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
    }
}
