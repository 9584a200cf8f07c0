//! Extractors that answer with a problem: JSON bodies, queries and ids.

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, header, request::Parts},
};
use riacho_domain::{DocumentId, StageName};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{App, problem::Problem};

/// A JSON body. Fields that are unknown or do not fit are named.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let limit = app.config().max_json_bytes;
        let read = tokio::time::timeout(app.config().request_timeout(), to_bytes(body, limit));
        let bytes =
            read.await.map_err(|_| Problem::slow_body())?.map_err(|error| match is_length_limit(&error) {
                true => Problem::too_large("body", limit as u64),
                false => Problem::bad_request("the body broke off"),
            })?;
        parse_json(&bytes).map(JsonBody)
    }
}

/// A body without a media type is taken as JSON; one of another type is not.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence =
        value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    {
        true => Ok(()),
        false => Err(Problem::unsupported_media_type("the body must be application/json")),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.to_string().contains("length limit") {
            return true;
        }
        source = cause.source();
    }
    false
}

pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.is_empty() {
        return Err(Problem::bad_request("the body is empty; it must be a JSON object"));
    }
    // A list would be taken for an object's fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::bad_request("the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        json_problem(&path, &error.into_inner())
    })?;
    reader.end().map_err(|error| json_problem(".", &error))?;
    Ok(value)
}

fn json_problem(path: &str, error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    let message = error.to_string();
    match error.classify() {
        Category::Data => {
            let message = for_clients(&message);
            match quoted(&message, "unknown field").or_else(|| quoted(&message, "missing field")) {
                Some(field) if path == "." => Problem::field(field, message),
                Some(field) if path.ends_with(&field) => Problem::field(path, message),
                Some(field) => Problem::field(format!("{path}.{field}"), message),
                None => Problem::field(path, message),
            }
        }
        Category::Io | Category::Syntax | Category::Eof => {
            Problem::bad_request(format!("the body is not JSON: {message}"))
        }
    }
}

/// What was expected of a field, without where the reader stood: the field is named. Names of our
/// types say nothing to a client.
fn for_clients(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    match message.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected an object"),
        None => message.to_owned(),
    }
}

/// The name in backquotes behind `prefix`.
fn quoted(message: &str, prefix: &str) -> Option<String> {
    message.strip_prefix(prefix)?.split('`').nth(1).map(str::to_owned)
}

/// A query string. Fields that are unknown or do not fit are named.
#[derive(Debug)]
pub(crate) struct QueryString<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri).map(|query| QueryString(query.0)).map_err(
            |rejection| {
                let text = rejection.body_text();
                let message = text
                    .rsplit_once("query string: ")
                    .map_or(text.as_str(), |(_, message)| message)
                    .to_owned();
                match quoted(&message, "unknown field").or_else(|| quoted(&message, "missing field")) {
                    Some(field) => Problem::field(field, message),
                    None => match message.split_once(": ") {
                        Some((field, message)) if !field.contains(' ') => Problem::field(field, message),
                        _ => Problem::bad_request(format!("query: {message}")),
                    },
                }
            },
        )
    }
}

/// The id of a document in the path. What is no id is not found, like an id that is not known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DocumentPath(pub(crate) DocumentId);

impl<S: Send + Sync> FromRequestParts<S> for DocumentPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        id_of(parts, state, "document").await.map(|id| DocumentPath(DocumentId(id)))
    }
}

/// Another id in the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdPath(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        id_of(parts, state, "resource").await.map(IdPath)
    }
}

/// The two ids in a path; what is no id is not found.
#[derive(Debug)]
pub(crate) struct TwoIds(pub(crate) Uuid, pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for TwoIds {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<(Uuid, Uuid)>::from_request_parts(parts, state).await;
        path.map(|Path((first, second))| TwoIds(first, second)).map_err(|_| Problem::not_found("resource"))
    }
}

/// The stage that a path names.
#[derive(Debug)]
pub(crate) struct StagePath(pub(crate) StageName);

impl<S: Send + Sync> FromRequestParts<S> for StagePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let stage = path.ok().and_then(|path| path.parse().ok());
        stage.map(StagePath).ok_or_else(|| Problem::not_found("stage"))
    }
}

async fn id_of<S: Send + Sync>(parts: &mut Parts, state: &S, what: &str) -> Result<Uuid, Problem> {
    let path =
        Path::<String>::from_request_parts(parts, state).await.map_err(|_| Problem::not_found(what))?;
    path.parse().map_err(|_| Problem::not_found(what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::response::IntoResponse;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        inner: Option<Inner>,
        count: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        size: u32,
    }

    async fn refused(text: &'static str) -> serde_json::Value {
        let problem = parse_json::<Outer>(text.as_bytes()).unwrap_err();
        let bytes = to_bytes(problem.into_response().into_body(), 10_000).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_field_that_does_not_fit_is_named() {
        assert_eq!(refused(r#"{"cuont": 1}"#).await["errors"][0]["field"], "cuont");
        assert_eq!(
            refused(r#"{"inner": {"size": 1, "colour": 2}}"#).await["errors"][0]["field"],
            "inner.colour"
        );
        assert_eq!(refused(r#"{"inner": {}}"#).await["errors"][0]["field"], "inner.size");
        assert_eq!(refused(r#"{"count": "many"}"#).await["errors"][0]["field"], "count");
        let inner = refused(r#"{"inner": 7}"#).await;
        assert_eq!(
            inner["errors"][0],
            serde_json::json!({"field": "inner", "message": "invalid type: integer `7`, expected an object"})
        );
        assert_eq!(refused("{").await["code"], "bad_request");
        assert_eq!(refused("{} {}").await["code"], "bad_request");
    }

    #[tokio::test]
    async fn a_body_that_is_no_object_is_said_to_be_none() {
        for body in ["[]", " [null, 1]", "7", "null", "\"text\"", "true", "[1,", "query=x"] {
            let problem = refused(body).await;
            assert_eq!(
                (&problem["code"], &problem["detail"]),
                (&"bad_request".into(), &"the body must be a JSON object".into()),
                "{body}"
            );
        }
    }

    #[tokio::test]
    async fn a_query_names_what_it_does_not_know() {
        let parts = |uri: &str| Request::builder().uri(uri).body(()).unwrap().into_parts().0;
        let problem =
            QueryString::<Outer>::from_request_parts(&mut parts("/?cuont=1"), &()).await.unwrap_err();
        assert!(problem.detail().contains("`cuont`"), "{}", problem.detail());
        let problem =
            QueryString::<Outer>::from_request_parts(&mut parts("/?count=x"), &()).await.unwrap_err();
        assert!(problem.detail().contains("count"), "{}", problem.detail());
    }
}
