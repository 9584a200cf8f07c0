//! An embedding server on loopback that speaks OpenAI's API, and fails as it is told.

mod limits;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use limits::Buckets;
pub use limits::{Asked, RateLimit};

/// The only key that the server accepts.
const KEY: &str = "test-key";

/// How the server answers a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// With the vectors.
    Normal,
    /// With 429 and a time to wait.
    RateLimited {
        /// The value of `Retry-After`.
        retry_after_seconds: u64,
    },
    /// With this status and an error object.
    Status(u16),
    /// With the vectors in reverse, each with its right index.
    Reversed,
    /// With the vectors in reverse, and indices that say otherwise.
    ReversedWithoutIndex,
    /// With vectors of another dimension.
    Dimensions(usize),
    /// With one vector too few.
    Missing,
    /// With the vectors, but late.
    Slow(Duration),
    /// With 200 and a page of HTML.
    Garbage,
    /// Not at all: the connection is cut.
    HangUp,
}

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct OpenAi {
    address: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dimensions: usize,
    state: Mutex<Told>,
    requests: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Told {
    script: VecDeque<Answer>,
    always: Option<Answer>,
    refused: Vec<String>,
    texts: Vec<String>,
    buckets: Option<Buckets>,
    means_words: bool,
}

#[derive(Deserialize)]
struct Request {
    model: String,
    input: Vec<String>,
}

impl OpenAi {
    /// Starts a server whose vectors have so many dimensions, on a free port.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub async fn start(dimensions: usize) -> anyhow::Result<OpenAi> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("open a port")?;
        let address = listener.local_addr().context("read the port")?.to_string();
        let shared =
            Arc::new(Shared { dimensions, state: Mutex::default(), requests: watch::Sender::new(0) });
        let router = Router::new().route("/v1/embeddings", post(embeddings)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Ends with the task; an error of one connection does not reach here.
            let _ = axum::serve(listener, router).await;
        });
        Ok(OpenAi { address, shared, server })
    }

    /// The address for `models.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The key that the server accepts.
    #[must_use]
    pub fn api_key(&self) -> &'static str {
        KEY
    }

    /// How to answer the next requests, one each. Afterwards it answers as before.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.told().script.extend(answers);
    }

    /// How to answer every request that no script is for.
    pub fn always(&self, answer: Answer) {
        self.told().always = Some(answer);
    }

    /// Forgets script, answers and refusals.
    pub fn normal(&self) {
        let mut told = self.told();
        told.script.clear();
        told.always = None;
        told.refused.clear();
    }

    /// Gives texts with the same words vectors near each other from now on: those of [`vector_of_words`].
    pub fn mean_words(&self) {
        self.told().means_words = true;
    }

    /// Answers 400 to each batch with a text that contains this.
    pub fn refuse_texts_with(&self, needle: &str) {
        self.told().refused.push(needle.to_owned());
    }

    /// Keeps these limits from now on, with full buckets.
    pub fn limit(&self, limit: RateLimit) {
        self.told().buckets = Some(Buckets::full(limit));
    }

    /// The requests since there are limits, in their order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.told().buckets.as_ref().map(|buckets| buckets.asked.clone()).unwrap_or_default()
    }

    /// The requests so far, whatever they were answered.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.shared.requests.borrow()
    }

    /// The texts of all requests so far, in their order.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.told().texts.clone()
    }

    /// Waits until there were so many requests.
    pub async fn wait_for_requests(&self, count: usize) {
        // The sender lives as long as the server.
        let _ = self.shared.requests.subscribe().wait_for(|seen| *seen >= count).await;
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.shared.told()
    }
}

impl Drop for OpenAi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the request down and looks up how to answer it.
    fn decide(&self, request: &Request) -> Answer {
        let mut told = self.told();
        told.texts.extend(request.input.iter().cloned());
        let answer = told.script.pop_front().or_else(|| told.always.clone());
        let is_refused = |text: &String| told.refused.iter().any(|needle| text.contains(needle.as_str()));
        let refused = request.input.iter().any(is_refused).then_some(Answer::Status(400));
        answer.or(refused).unwrap_or(Answer::Normal)
    }

    fn vectors(&self, request: &Request, answer: &Answer) -> Value {
        let vector: Vectors = if self.told().means_words { vector_of_words } else { vector_of };
        vectors(request, answer, self.dimensions, vector)
    }

    /// Counts a request, where there are limits.
    fn count(&self, request: &Request) -> Result<HeaderMap, Box<Response>> {
        match &mut self.told().buckets {
            Some(buckets) => buckets.take(tokens(request)),
            None => Ok(HeaderMap::new()),
        }
    }
}

/// The vector that the server gives for a text: always the same, of length 1, and near no other.
#[must_use]
pub fn vector_of(text: &str, dimensions: usize) -> Vec<f32> {
    // FNV-1a over the text seeds a xorshift generator.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325, fold) | 1;
    let mut vector: Vec<f32> = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        vector.push((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0);
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

/// The vector of a text that is the sum of those of its words, of length 1.
#[must_use]
pub fn vector_of_words(text: &str, dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0; dimensions];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        for (sum, value) in sum.iter_mut().zip(vector_of(&word.to_lowercase(), dimensions)) {
            *sum += value;
        }
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 { sum.iter().map(|value| value / length).collect() } else { vector_of(text, dimensions) }
}

/// How a vector is made of a text.
type Vectors = fn(&str, usize) -> Vec<f32>;

async fn embeddings(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(request): Json<Request>,
) -> Response {
    let key = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let answer = if key == format!("Bearer {KEY}") { shared.decide(&request) } else { Answer::Status(401) };
    shared.requests.send_modify(|seen| *seen += 1);
    let counted = if answer == Answer::Normal { shared.count(&request) } else { Ok(HeaderMap::new()) };
    let headers = match counted {
        Ok(headers) => headers,
        Err(refusal) => return *refusal,
    };
    match answer {
        Answer::RateLimited { retry_after_seconds } => {
            let wait = [(header::RETRY_AFTER, retry_after_seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, wait, failure("slow down")).into_response()
        }
        Answer::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            // A careless server repeats the key it was sent; it must not reach a log.
            (status, failure(&format!("told to fail, sent {key}"))).into_response()
        }
        Answer::Garbage => "<html>a proxy's page</html>".into_response(),
        Answer::HangUp => hang_up(),
        Answer::Slow(wait) => {
            tokio::time::sleep(wait).await;
            Json(shared.vectors(&request, &Answer::Normal)).into_response()
        }
        answer => (headers, Json(shared.vectors(&request, &answer))).into_response(),
    }
}

fn tokens(request: &Request) -> usize {
    request.input.iter().map(|text| text.split_whitespace().count()).sum()
}

fn failure(message: &str) -> Json<Value> {
    Json(json!({ "error": { "message": message, "type": "server_error", "code": null } }))
}

/// A body that breaks off, which makes the server cut the connection.
fn hang_up() -> Response {
    let parts = [Ok(b"{".to_vec()), Err(std::io::Error::other("told to hang up"))];
    Response::new(Body::from_stream(futures::stream::iter(parts)))
}

fn vectors(request: &Request, answer: &Answer, dimensions: usize, vector: Vectors) -> Value {
    let dimensions = if let Answer::Dimensions(other) = answer { *other } else { dimensions };
    let item = |(index, text): (usize, &String)| json!({ "object": "embedding", "index": index, "embedding": vector(text, dimensions) });
    let mut data: Vec<Value> = request.input.iter().enumerate().map(item).collect();
    match answer {
        Answer::Reversed => data.reverse(),
        Answer::ReversedWithoutIndex => {
            data.reverse();
            for (index, item) in data.iter_mut().enumerate() {
                item["index"] = index.into();
            }
        }
        Answer::Missing => {
            data.pop();
        }
        _ => {}
    }
    let tokens = tokens(request);
    json!({
        "object": "list",
        "model": request.model,
        "data": data,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })
}
