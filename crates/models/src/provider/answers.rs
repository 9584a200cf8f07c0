//! What a provider's errors mean.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{StatusCode, header::HeaderMap};
use rig_core::{embeddings::EmbeddingError, http_client};

use super::transport::{TooLarge, Unordered};
use crate::Error;

/// A key whose budget is used up answers 429 like a busy one, but not for seconds.
const OUT_OF_BUDGET_WAIT: Duration = Duration::from_secs(300);

/// The longest part of a provider's message that is passed on.
const MAX_MESSAGE_CHARS: usize = 300;

/// Tells what to do about an error of rig. `key` is taken out of every message.
pub(crate) fn explain(error: &EmbeddingError, key: &str) -> Error {
    if let Some(status) = error.provider_response_status() {
        let body = error.provider_response_body().unwrap_or_default();
        return explain_status(status, error.provider_response_headers(), body, key);
    }
    match error {
        EmbeddingError::HttpError(http_client::Error::Instance(cause)) => explain_cause(cause.as_ref()),
        EmbeddingError::JsonError(_) => transient("the answer is not the expected JSON"),
        EmbeddingError::ResponseError(reason) => Error::Protocol { reason: tidy(reason, key) },
        EmbeddingError::DocumentError(reason) => Error::Protocol { reason: tidy(&reason.to_string(), key) },
        other => Error::Misconfigured { reason: tidy(&other.to_string(), key) },
    }
}

fn transient(reason: &str) -> Error {
    Error::Transient { reason: reason.to_owned() }
}

fn explain_cause(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if cause.is::<Unordered>() || cause.is::<TooLarge>() {
        return Error::Protocol { reason: cause.to_string() };
    }
    let Some(error) = cause.downcast_ref::<reqwest::Error>() else {
        return Error::Transient { reason: cause.to_string() };
    };
    if error.is_builder() {
        return Error::Misconfigured { reason: error.to_string() };
    }
    if error.is_timeout() {
        return transient("no answer in time");
    }
    // The innermost cause is the one that says "connection refused".
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Error::Transient { reason: innermost.to_string() }
}

fn explain_status(status: StatusCode, headers: Option<&HeaderMap>, body: &str, key: &str) -> Error {
    let message = || format!("{status}: {}", tidy(&message_of(body), key));
    let retry_after = headers.and_then(|headers| retry_after(headers, Utc::now()));
    match status.as_u16() {
        429 if body.contains("insufficient_quota") => {
            Error::RateLimited { retry_after: Some(retry_after.unwrap_or_default().max(OUT_OF_BUDGET_WAIT)) }
        }
        // OpenAI's answer to a request that is over the limit of a whole minute. It stays so, however long one waits.
        429 if body.contains("Request too large") => Error::Rejected { item: None, reason: message() },
        429 => Error::RateLimited { retry_after },
        503 if retry_after.is_some() => Error::RateLimited { retry_after },
        401 | 403 => {
            Error::Misconfigured { reason: format!("{status}: the provider does not accept the key") }
        }
        400 if body.contains("API_KEY_INVALID") || body.contains("API key not valid") => {
            Error::Misconfigured { reason: "the provider does not accept the key".to_owned() }
        }
        402 | 404 | 405 | 410 | 301..=308 => Error::Misconfigured { reason: message() },
        408 | 409 | 425 | 200..=299 | 500.. => Error::Transient { reason: message() },
        _ => Error::Rejected { item: None, reason: message() },
    }
}

/// The message of an error answer, in the forms that providers use.
fn message_of(body: &str) -> String {
    let Ok(answer) = serde_json::from_str::<serde_json::Value>(body) else {
        return body.to_owned();
    };
    let places = [&answer["error"]["message"], &answer["message"], &answer["error"], &answer["detail"]];
    places.into_iter().find_map(|place| place.as_str().map(str::to_owned)).unwrap_or_else(|| body.to_owned())
}

/// One line without the key, cut to a bearable length.
fn tidy(message: &str, key: &str) -> String {
    let message = if key.is_empty() { message.to_owned() } else { message.replace(key, "***") };
    let line: String =
        message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE_CHARS).collect();
    line.trim().to_owned()
}

/// How long the provider asks to wait, from the headers that providers use.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
    let date = |text: &str| (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok();
    let milliseconds = value("retry-after-ms").and_then(|text| text.parse().ok()).map(Duration::from_millis);
    let told = || value("retry-after").and_then(|text| seconds(text).or_else(|| date(text)));
    let resets = || {
        let names = ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"];
        names
            .into_iter()
            .filter_map(value)
            .filter_map(|text| seconds(text).or_else(|| spelled_out(text)))
            .max()
    };
    milliseconds.or_else(told).or_else(resets)
}

/// A duration as OpenAI writes it: `6m0s`, `1.5s`, `120ms`.
fn spelled_out(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..letters] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(amount * unit).ok()?)?;
        rest = &rest[letters..];
    }
    Some(total).filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wait(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        retry_after(&headers.collect(), now)
    }

    #[test]
    fn waits_are_read_in_every_form() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(&[("retry-after", "20")]), Some(seconds(20)));
        assert_eq!(wait(&[("retry-after", "Sun, 22 Nov 2026 10:01:30 GMT")]), Some(seconds(90)));
        assert_eq!(
            wait(&[("retry-after-ms", "1500"), ("retry-after", "9")]),
            Some(Duration::from_millis(1500))
        );
        let resets = [("x-ratelimit-reset-requests", "120ms"), ("x-ratelimit-reset-tokens", "6m0.5s")];
        assert_eq!(wait(&resets), Some(Duration::from_millis(360_500)));
        for unusable in ["", "-1", "soon", "1e999", "NaN", "Sun, 22 Nov 2026 09:00:00 GMT"] {
            assert_eq!(wait(&[("retry-after", unusable)]), None, "{unusable}");
        }
        assert_eq!(wait(&[("x-ratelimit-reset-tokens", "5 parsecs")]), None);
    }

    #[test]
    fn a_status_tells_whose_fault_it_is() {
        let explained = |status: u16, body: &str| {
            explain_status(StatusCode::from_u16(status).unwrap(), None, body, "sk-secret")
        };
        assert!(matches!(explained(500, ""), Error::Transient { .. }));
        assert!(matches!(explained(400, "too long"), Error::Rejected { item: None, .. }));
        assert!(matches!(explained(413, ""), Error::Rejected { .. }));
        assert!(matches!(explained(401, ""), Error::Misconfigured { .. }));
        assert!(matches!(explained(429, "Rate limit reached"), Error::RateLimited { .. }));
        assert!(matches!(explained(429, "Request too large for small"), Error::Rejected { item: None, .. }));
        assert!(matches!(explained(404, "no such model"), Error::Misconfigured { .. }));
        assert!(matches!(
            explained(400, r#"{"error":{"message":"API key not valid"}}"#),
            Error::Misconfigured { .. }
        ));
        let broke = explained(429, r#"{"error":{"code":"insufficient_quota"}}"#);
        assert_eq!(broke.retry_after(), Some(OUT_OF_BUDGET_WAIT));
    }

    #[test]
    fn messages_are_short_and_without_the_key() {
        let body = format!(r#"{{"error":{{"message":"bad\nkey sk-secret {}"}}}}"#, "x".repeat(900));
        let shown = explain_status(StatusCode::BAD_REQUEST, None, &body, "sk-secret").to_string();
        assert!(shown.contains("bad key ***") && !shown.contains("sk-secret"), "{shown}");
        assert!(shown.chars().count() < 400);
    }
}
