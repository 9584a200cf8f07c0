//! Each provider in its own wire format: what it is sent, and what its answers and errors mean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use riacho_domain::Secret;
use riacho_models::{Config, Error, Kind, Model, Provider, load};
use riacho_testkit::openai::vector_of;
use serde_json::{Value, json};

const DIMENSIONS: usize = 8;
const KEY: &str = "key-of-the-test";

/// What a provider's API looks like.
struct Api {
    provider: Provider,
    /// Behind the server's address, in `models.base_url`.
    base: &'static str,
    path: &'static str,
    /// Where the key stands; none where it stands in the path.
    key: Option<(&'static str, &'static str)>,
    /// The texts of a request.
    texts: fn(&Value) -> Vec<String>,
    /// The rest of a request for a passage and for a query.
    rest: fn() -> [Value; 2],
    /// The answer with these vectors, which tells 42 tokens where it can.
    answer: fn(Vec<Vec<f32>>) -> Value,
    tokens: u64,
    /// The answers to a wrong key and to a text that is too long.
    wrong_key: (u16, Value),
    too_long: (u16, Value),
}

fn openai_answer(vectors: Vec<Vec<f32>>) -> Value {
    let item = |(index, vector)| json!({ "object": "embedding", "index": index, "embedding": vector });
    let data: Vec<Value> = vectors.into_iter().enumerate().map(item).collect();
    let usage = json!({ "prompt_tokens": 42, "total_tokens": 42 });
    json!({ "object": "list", "model": "m", "data": data, "usage": usage })
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn openai_error(message: &str) -> Value {
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } })
}

fn openai() -> Api {
    Api {
        provider: Provider::Openai,
        base: "/v1/",
        path: "/v1/embeddings",
        key: Some(("authorization", "Bearer key-of-the-test")),
        texts: |body| strings(&body["input"]),
        rest: || [json!({ "model": "m" }), json!({ "model": "m" })],
        answer: openai_answer,
        tokens: 42,
        wrong_key: (401, openai_error("Incorrect API key provided: key-of-the-test")),
        too_long: (400, openai_error("This model's maximum context length is 8192 tokens")),
    }
}

fn azure() -> Api {
    Api {
        provider: Provider::Azure,
        base: "/",
        path: "/openai/deployments/m/embeddings?api-version=2024-10-21",
        key: Some(("api-key", KEY)),
        rest: || [json!({}), json!({})],
        wrong_key: (
            401,
            json!({ "error": { "code": "401", "message": "Access denied due to invalid subscription key" } }),
        ),
        ..openai()
    }
}

fn ollama() -> Api {
    Api {
        provider: Provider::Ollama,
        base: "",
        path: "/api/embed",
        key: Some(("authorization", "Bearer key-of-the-test")),
        answer: |vectors| json!({ "model": "m", "embeddings": vectors, "prompt_eval_count": 42 }),
        wrong_key: (401, json!({ "error": "unauthorized" })),
        too_long: (400, json!({ "error": "the input length exceeds the context length" })),
        ..openai()
    }
}

fn cohere() -> Api {
    Api {
        provider: Provider::Cohere,
        base: "",
        path: "/v1/embed",
        texts: |body| strings(&body["texts"]),
        rest: || {
            let rest = |kind: &str| json!({ "model": "m", "input_type": kind });
            [rest("search_document"), rest("search_query")]
        },
        answer: |vectors| {
            let meta = json!({ "api_version": { "version": "1" }, "billed_units": { "input_tokens": 42 } });
            json!({ "id": "1", "texts": [], "embeddings": vectors, "response_type": "embeddings_floats", "meta": meta })
        },
        wrong_key: (401, json!({ "message": "invalid api token" })),
        too_long: (400, json!({ "message": "invalid request: text is too long" })),
        ..openai()
    }
}

fn mistral() -> Api {
    let error = |message: &str| json!({ "object": "error", "message": message, "type": "invalid_request", "code": "3210" });
    Api {
        provider: Provider::Mistral,
        base: "",
        path: "/v1/embeddings",
        wrong_key: (401, json!({ "detail": "Unauthorized" })),
        too_long: (400, error("Input id 0 has 9000 tokens, exceeding max 8192 tokens.")),
        ..openai()
    }
}

fn gemini() -> Api {
    let error =
        |message: &str| json!({ "error": { "code": 400, "message": message, "status": "INVALID_ARGUMENT" } });
    Api {
        provider: Provider::Gemini,
        base: "",
        path: "/v1beta/models/m:batchEmbedContents?key=key-of-the-test",
        key: None,
        texts: |body| {
            let requests = body["requests"].as_array().unwrap();
            for request in requests {
                assert_eq!(
                    (&request["model"], &request["output_dimensionality"]),
                    (&json!("models/m"), &json!(DIMENSIONS))
                );
            }
            requests
                .iter()
                .map(|request| request["content"]["parts"][0]["text"].as_str().unwrap().to_owned())
                .collect()
        },
        rest: || [json!({}), json!({})],
        answer: |vectors| {
            let values = |vector| json!({ "values": vector });
            json!({ "embeddings": vectors.into_iter().map(values).collect::<Vec<_>>() })
        },
        tokens: 0,
        wrong_key: (400, error("API key not valid. Please pass a valid API key.")),
        too_long: (400, error("The input token count exceeds the maximum number of tokens allowed.")),
    }
}

fn voyage() -> Api {
    Api {
        provider: Provider::Voyage,
        base: "/v1",
        path: "/v1/embeddings",
        rest: || {
            let rest = |kind: &str| json!({ "model": "m", "input_type": kind, "truncation": false });
            [rest("document"), rest("query")]
        },
        wrong_key: (401, json!({ "detail": "Provided API key is invalid." })),
        too_long: (
            400,
            json!({ "detail": "Request to model 'm' failed. The example at index 0 has too many tokens." }),
        ),
        ..openai()
    }
}

fn every_api() -> [Api; 7] {
    [openai(), azure(), ollama(), cohere(), mistral(), gemini(), voyage()]
}

/// A request as it came.
#[derive(Clone)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Value,
}

/// A server with one provider's API, and the model that asks it.
struct Server {
    api: Api,
    shared: Arc<Shared>,
    model: Arc<dyn Model>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    texts: fn(&Value) -> Vec<String>,
    answer: fn(Vec<Vec<f32>>) -> Value,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    seen: Vec<Seen>,
    failure: Option<(StatusCode, HeaderMap, Value)>,
    is_reversed: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(api: Api) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { texts: api.texts, answer: api.answer, told: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let config = Config {
            provider: api.provider,
            model: "m".to_owned(),
            dimensions: Some(DIMENSIONS),
            base_url: Some(format!("http://{address}{}", api.base)),
            api_key: Some(Secret::from(KEY)),
            limit_wait_ms: 0,
            ..Config::default()
        };
        let model = load(&config).unwrap();
        Server { api, shared, model, task }
    }

    /// Fails every request from now on, and gives the error of the next one.
    async fn error(&self, status: u16, headers: &[(&'static str, &'static str)], body: &Value) -> Error {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let failure = (StatusCode::from_u16(status).unwrap(), headers.collect(), body.clone());
        self.shared.told.lock().unwrap().failure = Some(failure);
        self.model.embed(texts(), Kind::Passage).await.unwrap_err()
    }

    fn seen(&self) -> Vec<Seen> {
        self.shared.told.lock().unwrap().seen.clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut told = shared.told.lock().unwrap();
    told.seen.push(Seen { path: uri.to_string(), headers, body: body.clone() });
    if let Some((status, headers, body)) = told.failure.clone() {
        return (status, headers, Json(body)).into_response();
    }
    let mut vectors: Vec<_> = (shared.texts)(&body).iter().map(|text| vector_of(text, DIMENSIONS)).collect();
    if told.is_reversed {
        vectors.reverse();
    }
    Json((shared.answer)(vectors)).into_response()
}

fn texts() -> Vec<String> {
    ["one text", "and another", "a third"].map(str::to_owned).to_vec()
}

/// A request's fields that are neither texts nor what Gemini repeats for each of them.
fn rest(body: &Value) -> Value {
    let mut rest = body.clone();
    for name in ["input", "texts", "requests"] {
        rest.as_object_mut().unwrap().remove(name);
    }
    rest
}

#[tokio::test]
async fn every_provider_is_asked_in_its_own_format() {
    for api in every_api() {
        let server = Server::start(api).await;
        let api = &server.api;
        for (kind, expected) in [Kind::Passage, Kind::Query].into_iter().zip((api.rest)()) {
            let answer = server.model.embed(texts(), kind).await.unwrap();
            for (vector, text) in answer.vectors.iter().zip(texts()) {
                let cosine: f32 = vector.iter().zip(vector_of(&text, DIMENSIONS)).map(|(a, b)| a * b).sum();
                assert!(cosine > 0.999, "{:?}: {text} has the vector of another text", api.provider);
            }
            assert_eq!((answer.vectors.len(), answer.tokens), (3, api.tokens), "{:?}", api.provider);
            let seen = server.seen().pop().unwrap();
            assert_eq!(seen.path, api.path, "{:?}", api.provider);
            assert_eq!((api.texts)(&seen.body), texts());
            assert_eq!(rest(&seen.body), expected, "{:?}, {kind:?}", api.provider);
            if let Some((header, value)) = api.key {
                assert_eq!(seen.headers[header], value, "{:?}", api.provider);
            }
        }
    }
}

#[tokio::test]
async fn the_errors_of_every_provider_say_whose_fault_it_is() {
    for api in every_api() {
        let server = Server::start(api).await;
        let Api { provider, wrong_key, too_long, .. } = &server.api;
        let error = server.error(too_long.0, &[], &too_long.1).await;
        assert!(matches!(error, Error::Rejected { .. }), "{provider:?}: {error}");
        let error = server.error(wrong_key.0, &[], &wrong_key.1).await;
        assert!(matches!(error, Error::Misconfigured { .. }), "{provider:?}: {error}");
        assert!(!error.to_string().contains(KEY), "{error}");
        let error = server.error(500, &[], &json!({ "message": "internal" })).await;
        assert!(matches!(error, Error::Transient { .. }), "{provider:?}: {error}");
        let error = server.error(404, &[], &json!({ "error": "model not found" })).await;
        assert!(matches!(error, Error::Misconfigured { .. }), "{provider:?}: {error}");
        let error = server.error(429, &[("retry-after", "7")], &json!({ "message": "slow down" })).await;
        assert_eq!(error, Error::RateLimited { retry_after: Some(Duration::from_secs(7)) }, "{provider:?}");
        let before = server.seen().len();
        let waiting = server.model.embed(texts(), Kind::Passage).await.unwrap_err().retry_after();
        assert!(waiting.is_some_and(|left| left <= Duration::from_secs(7)), "{provider:?}: {waiting:?}");
        assert_eq!(server.seen().len(), before, "{provider:?} asked for silence");
    }
}

#[tokio::test]
async fn one_request_verifies_every_provider_and_finds_one_that_mixes_up_the_order() {
    for api in every_api() {
        let server = Server::start(api).await;
        server.model.verify().await.unwrap();
        assert_eq!(server.seen().len(), 1);
        server.shared.told.lock().unwrap().is_reversed = true;
        let error = server.model.verify().await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{:?}: {error}", server.api.provider);
    }
}
