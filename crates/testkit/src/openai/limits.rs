//! Limits on requests and tokens, enforced as OpenAI does: two buckets that fill all the time, headers that tell what is
//! left, and 429 with a time to come again.

use std::time::{Duration, Instant};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::failure;

/// How much the server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in a window.
    pub requests: u32,
    /// Tokens in a window; a token is a word.
    pub tokens: u32,
    /// A minute, or less where a test has no time.
    pub window: Duration,
}

/// A request that came while there were limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// When it came.
    pub at: Instant,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it was over a limit.
    pub is_refused: bool,
}

#[derive(Debug)]
pub(super) struct Buckets {
    limit: RateLimit,
    requests: f64,
    tokens: f64,
    filled_at: Instant,
    pub(super) asked: Vec<Asked>,
}

impl Buckets {
    pub(super) fn full(limit: RateLimit) -> Self {
        let (requests, tokens) = (limit.requests.into(), limit.tokens.into());
        Self { limit, requests, tokens, filled_at: Instant::now(), asked: Vec::new() }
    }

    /// Takes a request with its tokens; the headers of its answer, or the refusal.
    pub(super) fn take(&mut self, tokens: usize) -> Result<HeaderMap, Box<Response>> {
        let at = Instant::now();
        let windows = (at - self.filled_at).as_secs_f64() / self.limit.window.as_secs_f64();
        let (most_requests, most_tokens) = (f64::from(self.limit.requests), f64::from(self.limit.tokens));
        self.requests = (self.requests + windows * most_requests).min(most_requests);
        self.tokens = (self.tokens + windows * most_tokens).min(most_tokens);
        self.filled_at = at;
        let missing = |has: f64, needs: f64, most: f64| (needs - has).max(0.0) / most;
        let wait =
            missing(self.requests, 1.0, most_requests).max(missing(self.tokens, tokens as f64, most_tokens));
        self.asked.push(Asked { at, tokens, is_refused: wait > 0.0 });
        if tokens as f64 > most_tokens {
            return Err(Box::new(
                (StatusCode::TOO_MANY_REQUESTS, self.headers(), failure("Request too large")).into_response(),
            ));
        }
        if wait > 0.0 {
            let mut headers = self.headers();
            let wait = self.limit.window.mul_f64(wait);
            // OpenAI tells both, the second one precisely.
            headers.insert(header::RETRY_AFTER, number(wait.as_secs_f64()));
            headers.insert("retry-after-ms", number(wait.as_secs_f64() * 1000.0));
            let refusal = (StatusCode::TOO_MANY_REQUESTS, headers, failure("Rate limit reached"));
            return Err(Box::new(refusal.into_response()));
        }
        self.requests -= 1.0;
        self.tokens -= tokens as f64;
        Ok(self.headers())
    }

    fn headers(&self) -> HeaderMap {
        let until_full = |has: f64, most: u32| {
            let wait = self.limit.window.mul_f64((1.0 - has / f64::from(most)).max(0.0));
            HeaderValue::from_str(&format!("{}ms", wait.as_millis())).unwrap_or(HeaderValue::from_static(""))
        };
        HeaderMap::from_iter(
            [
                ("x-ratelimit-limit-requests", HeaderValue::from(self.limit.requests)),
                ("x-ratelimit-limit-tokens", HeaderValue::from(self.limit.tokens)),
                ("x-ratelimit-remaining-requests", HeaderValue::from(self.requests as u64)),
                ("x-ratelimit-remaining-tokens", HeaderValue::from(self.tokens as u64)),
                ("x-ratelimit-reset-requests", until_full(self.requests, self.limit.requests)),
                ("x-ratelimit-reset-tokens", until_full(self.tokens, self.limit.tokens)),
            ]
            .map(|(name, value)| (header::HeaderName::from_static(name), value)),
        )
    }
}

/// Rounded up: who comes then is taken.
fn number(value: f64) -> HeaderValue {
    HeaderValue::from(value.ceil() as u64)
}
