//! A client as it should be: it asks the other gateway when one does not answer, with the same Idempotency-Key,
//! until it has an answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde_json::Value;

/// How long one try may take. A gateway that is stopped takes connections and never answers.
const ONE_TRY: Duration = Duration::from_secs(4);
/// How long a command is tried. Whoever has no answer by then does not know what became of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Answered(Answer),
    /// No answer came; so many tries may have had their effect all the same.
    Silent {
        unanswered: u32,
    },
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    /// How many earlier tries had no answer, and may have had their effect all the same.
    pub(crate) unanswered: u32,
    /// An earlier try may still be under way, in a gateway that was stopped.
    pub(crate) may_come_late: bool,
}

impl Answer {
    /// Whether what was asked for may have happened before.
    pub(crate) const fn is_uncertain(&self) -> bool {
        self.unanswered > 0
    }
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
    /// Answers that no fault excuses, and how often each was given.
    wrong: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Client {
    pub(crate) fn new(http: reqwest::Client, gateways: Vec<String>) -> Self {
        Self { http, gateways, wrong: Arc::default() }
    }

    /// Sends until there is an answer that says something. `first` chooses the gateway that is asked first.
    pub(crate) async fn send(&self, ask: &Ask, first: usize) -> Reply {
        let begun = Instant::now();
        let (mut turn, mut pause) = (first, Duration::from_millis(50));
        let (mut unanswered, mut failed, mut may_come_late) = (0, 0, false);
        while begun.elapsed() < PATIENCE {
            match self.once(ask, turn).await {
                Ok((status, body)) if !is_later(status) => {
                    let unanswered = unanswered + failed;
                    return Reply::Answered(Answer { status, body, unanswered, may_come_late });
                }
                Ok((StatusCode::TOO_MANY_REQUESTS, _)) => {}
                // Nearly all of these refuse at the door; one may have lost the reply of its commit.
                Ok(_) => failed = 1,
                Err(error) => {
                    unanswered += u32::from(!error.is_connect());
                    may_come_late |= error.is_timeout();
                }
            }
            turn += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        Reply::Silent { unanswered: unanswered + failed }
    }

    /// One try, at one gateway.
    pub(crate) async fn once(&self, ask: &Ask, turn: usize) -> reqwest::Result<(StatusCode, Value)> {
        let answer = self.request(ask, turn).send().await?;
        let status = answer.status();
        let flaw = flaw(status, answer.headers());
        // A document that is gone answers without a body.
        let bytes = answer.bytes().await?;
        if let Some(flaw) = flaw {
            let text = format!("{} {} was answered {flaw}", ask.method, shape(&ask.path));
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            *wrong.entry(text).or_default() += 1;
            eprintln!(
                "{} {} was answered {status}: {}",
                ask.method,
                ask.path,
                String::from_utf8_lossy(&bytes)
            );
        }
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// What was answered and should never be, whatever fails.
    pub(crate) fn violations(&self) -> Vec<String> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.iter().map(|(text, count)| format!("{text}, {count} times")).collect()
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

/// Whether an answer says to come again. One that may not be given is recorded, and asked again for all the same.
fn is_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500..=599)
}

/// Why an answer may not be given: a gateway refuses for the time being with 503 or 429, and says until when.
fn flaw(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let says_when = || {
        let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        value.and_then(|seconds| seconds.parse::<u64>().ok()).is_some_and(|seconds| seconds > 0)
    };
    match status.as_u16() {
        429 | 503 => (!says_when()).then(|| format!("{status} without Retry-After")),
        500..=599 => Some(status.to_string()),
        _ => None,
    }
}

/// A path without its ids.
fn shape(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.len() == 36 { "{id}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn an_error_and_a_refusal_without_a_time_are_flaws() {
        let flaw_of = |status: u16, seconds: Option<&'static str>| {
            let values = seconds.map(|seconds| (RETRY_AFTER, HeaderValue::from_static(seconds)));
            flaw(StatusCode::from_u16(status).unwrap(), &values.into_iter().collect())
        };
        assert!(flaw_of(500, Some("1")).is_some() && flaw_of(502, None).is_some());
        assert!(flaw_of(503, None).is_some() && flaw_of(429, Some("0")).is_some());
        assert!(flaw_of(503, Some("1")).is_none() && flaw_of(429, Some("2")).is_none());
        assert!(flaw_of(404, None).is_none() && flaw_of(202, None).is_none());
    }
}
