//! A client as it should be: it asks the other gateway when one does not answer, with the same Idempotency-Key,
//! until it has an answer.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long one try may take. A gateway that is stopped takes connections and never answers.
const ONE_TRY: Duration = Duration::from_secs(4);
/// How long a command is tried. Whoever has no answer by then does not know what became of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Answered(Answer),
    /// No answer came.
    Silent,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    /// An earlier try had no answer, and may have had its effect all the same.
    pub(crate) is_uncertain: bool,
    /// An earlier try may still be under way, in a gateway that was stopped.
    pub(crate) may_come_late: bool,
}

/// A request that can be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), idempotency_key: None, body: Vec::new() }
    }
}

/// The gateways, behind one key.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    gateways: Vec<String>,
}

impl Client {
    pub(crate) fn new(http: reqwest::Client, gateways: Vec<String>) -> Self {
        Self { http, gateways }
    }

    /// Sends until there is an answer that says something. `first` chooses the gateway that is asked first.
    pub(crate) async fn send(&self, ask: &Ask, first: usize) -> Reply {
        let begun = Instant::now();
        let (mut turn, mut pause) = (first, Duration::from_millis(50));
        let (mut is_uncertain, mut may_come_late) = (false, false);
        while begun.elapsed() < PATIENCE {
            match self.once(ask, turn).await {
                Ok((status, body)) if !is_later(status) => {
                    return Reply::Answered(Answer { status, body, is_uncertain, may_come_late });
                }
                Ok(_) => is_uncertain = true,
                Err(error) => {
                    is_uncertain |= !error.is_connect();
                    may_come_late |= error.is_timeout();
                }
            }
            turn += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        Reply::Silent
    }

    /// One try, at one gateway.
    pub(crate) async fn once(&self, ask: &Ask, turn: usize) -> reqwest::Result<(StatusCode, Value)> {
        let answer = self.request(ask, turn).send().await?;
        let status = answer.status();
        // A document that is gone answers without a body.
        let bytes = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// The bytes of an answer that has to be a good one.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Vec<u8>, String> {
        let answer = self.request(&Ask::new(Method::GET, path), 0).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|e| e.to_string())?;
        if status.is_success() { Ok(bytes.into()) } else { Err(format!("{path}: {status}")) }
    }

    fn request(&self, ask: &Ask, turn: usize) -> reqwest::RequestBuilder {
        let gateway = &self.gateways[turn % self.gateways.len()];
        let mut url = url::Url::parse(&format!("{gateway}{}", ask.path)).unwrap();
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(ask.query.iter().map(|(name, value)| (*name, value.as_str())));
        }
        let mut request = self.http.request(ask.method.clone(), url).timeout(ONE_TRY);
        if let Some(key) = &ask.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if !ask.body.is_empty() {
            request = request.header("content-type", content_type(ask)).body(ask.body.clone());
        }
        request
    }
}

fn content_type(ask: &Ask) -> &'static str {
    if ask.path.ends_with("/search") { "application/json" } else { "application/octet-stream" }
}

/// Whether an answer says to come again.
fn is_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}
