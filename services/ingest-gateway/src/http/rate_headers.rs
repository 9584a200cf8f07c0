//! What is left of a tenant's rates, with each answer: `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers-10).

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use riacho_streams::{Rate, Token};

/// The header that says what is left.
pub(crate) const LIMIT: &str = "ratelimit";
/// The header that says what there is.
pub(crate) const POLICY: &str = "ratelimit-policy";

/// A bucket's name and rate, and what it answered.
type Seen = (&'static str, Rate, Token);

/// What the buckets of a request answered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct RatesSeen(Arc<Mutex<Vec<Seen>>>);

impl RatesSeen {
    /// Notes what a bucket answered last.
    pub(crate) fn note(&self, name: &'static str, rate: Rate, token: Token) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|(other, ..)| *other != name);
        seen.push((name, rate, token));
    }

    /// The two headers; none where nothing is limited.
    fn headers(&self) -> Option<(String, String)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_empty() {
            return None;
        }
        let list = |one: fn(&Seen) -> String| seen.iter().map(one).collect::<Vec<_>>().join(", ");
        Some((list(limit), list(policy)))
    }
}

/// How many are left, and in how many seconds there is one more.
fn limit((name, _, token): &Seen) -> String {
    let more = token.next.as_secs_f64().ceil();
    format!("\"{name}\";r={};t={more:.0}", token.left)
}

/// How many a bucket holds, and in how many seconds it is full again when it is empty.
fn policy((name, rate, _): &Seen) -> String {
    let burst = rate.burst.max(1);
    format!("\"{name}\";q={burst};w={:.0}", (rate.every * burst).as_secs_f64().ceil())
}

/// Adds the headers to the answer.
pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
    let seen = RatesSeen::default();
    request.extensions_mut().insert(seen.clone());
    let mut response = next.run(request).await;
    if let Some((limit, policy)) = seen.headers() {
        for (name, value) in [(LIMIT, limit), (POLICY, policy)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
    }
    response
}
