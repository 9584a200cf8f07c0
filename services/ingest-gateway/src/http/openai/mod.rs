//! A facade for OpenAI's Files and Vector Stores API under `/v1`, for clients that were written for that (docs/adr/0024).
//!
//! A vector store is a collection, a file of it is a document. What the API says in one way and Riacho in another is
//! translated here; nothing is decided here that `/api/v1` decides.

mod attach;
mod batches;
pub(super) mod errors;
mod files;
mod filters;
mod ids;
mod lists;
mod members;
mod search;
mod stores;
mod text;
mod upload;

use std::time::Duration;

use axum::{
    Router,
    http::{HeaderName, HeaderValue},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    App,
    limits::{self, Limits},
    problem::Problem,
};

/// How long a client should wait before it asks again, in milliseconds.
const POLL_AFTER: HeaderName = HeaderName::from_static("openai-poll-after-ms");

/// The most pairs of attributes or metadata.
const MAX_PAIRS: usize = 16;
/// The longest key of one, in characters.
const MAX_PAIR_KEY: usize = 64;
/// The longest text of one, in characters.
const MAX_PAIR_TEXT: usize = 512;

/// All routes. Files go through those without a time limit.
pub(super) fn router(limits: &Limits) -> Router<App> {
    let timed = Router::new()
        .route("/v1/files", get(files::list))
        .route("/v1/files/{file}", get(files::retrieve).delete(files::delete))
        .route("/v1/vector_stores", get(stores::list).post(stores::create))
        .route("/v1/vector_stores/{store}", get(stores::retrieve).post(stores::modify).delete(stores::delete))
        .route("/v1/vector_stores/{store}/search", post(search::search))
        .route("/v1/vector_stores/{store}/files", get(members::list).post(members::create))
        .route(
            "/v1/vector_stores/{store}/files/{file}",
            get(members::retrieve).post(members::update).delete(members::delete),
        )
        .route("/v1/vector_stores/{store}/files/{file}/content", get(members::content))
        .route("/v1/vector_stores/{store}/file_batches", post(batches::create))
        .route("/v1/vector_stores/{store}/file_batches/{batch}", get(batches::retrieve))
        .route("/v1/vector_stores/{store}/file_batches/{batch}/cancel", post(batches::cancel))
        .route("/v1/vector_stores/{store}/file_batches/{batch}/files", get(batches::files))
        .route_layer(middleware::from_fn_with_state(limits.clone(), limits::time_limit));
    timed
        .route("/v1/files", post(upload::create))
        .route("/v1/files/{file}/content", get(files::content))
        .route_layer(middleware::from_fn_with_state(limits.clone(), limits::admit))
}

/// A time as seconds since 1970.
fn seconds(time: DateTime<Utc>) -> i64 {
    time.timestamp()
}

/// An answer about something on its way, which says when to ask again: soon at first, later and later.
fn polled(body: impl IntoResponse, since: Option<DateTime<Utc>>) -> Response {
    let mut response = body.into_response();
    if let Some(since) = since {
        let age = (Utc::now() - since).to_std().unwrap_or_default();
        response.headers_mut().insert(POLL_AFTER, HeaderValue::from(poll_after_ms(age)));
    }
    response
}

/// Most documents are ready in less than a second; those that are not take minutes.
fn poll_after_ms(age: Duration) -> u64 {
    match age.as_secs() {
        0..2 => 100,
        2..10 => 250,
        10..60 => 1_000,
        _ => 3_000,
    }
}

/// Checks key-value pairs of a request: few, short, with values for which `fits` holds.
fn pairs(
    field: &str,
    pairs: Map<String, Value>,
    (kinds, fits): (&str, fn(&Value) -> bool),
) -> Result<Map<String, Value>, Problem> {
    if pairs.len() > MAX_PAIRS {
        return Err(Problem::field(field, format!("may have at most {MAX_PAIRS} keys")));
    }
    for (key, value) in &pairs {
        if !(1..=MAX_PAIR_KEY).contains(&key.chars().count()) || key.contains('\0') {
            return Err(Problem::field(field, format!("has keys of 1 to {MAX_PAIR_KEY} characters")));
        }
        let is_text_of_size =
            value.as_str().is_none_or(|text| text.chars().count() <= MAX_PAIR_TEXT && !text.contains('\0'));
        if !fits(value) || !is_text_of_size {
            return Err(Problem::field(
                format!("{field}.{key}"),
                format!("must be {kinds}; a text has at most {MAX_PAIR_TEXT} characters"),
            ));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_is_told_to_ask_less_often_the_longer_it_takes() {
        let waits: Vec<u64> =
            [0, 3, 30, 300].map(|age| poll_after_ms(Duration::from_secs(age))).into_iter().collect();
        assert!(waits.is_sorted() && waits[0] == 100, "{waits:?}");
    }

    #[test]
    fn pairs_are_few_short_and_of_their_kinds() {
        let check = |value: Value| {
            let Value::Object(map) = value else { unreachable!() };
            pairs("metadata", map, ("a text", Value::is_string))
        };
        assert!(check(json!({"a": "b"})).is_ok());
        let many: Map<String, Value> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
        for bad in [
            json!({"a": 1}),
            json!({"": "b"}),
            json!({"k".repeat(65): "b"}),
            json!({"a": "b".repeat(513)}),
            json!({"a": "\0"}),
            Value::Object(many),
        ] {
            assert!(check(bad.clone()).is_err(), "{bad}");
        }
    }
}
