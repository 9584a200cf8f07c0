//! What a provider's answer tells beside the vectors: its limits, and the tokens it counted.
//!
//! rig hands neither on, so the client that it speaks through leaves them here for who asked.

use std::{cell::Cell, future::Future};

use reqwest::header::HeaderMap;
use riacho_domain::LimitSeen;

tokio::task_local! {
    static SEEN: Cell<Seen>;
}

/// What was seen of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) limit: LimitSeen,
    /// The tokens of the request, where rig does not read them.
    pub(super) tokens: Option<u64>,
}

/// Runs a request, and gives what was seen of its answer.
pub(super) async fn seen_of<F: Future>(request: F) -> (F::Output, Seen) {
    let watched = async move {
        let answer = request.await;
        (answer, SEEN.with(Cell::get))
    };
    SEEN.scope(Cell::default(), watched).await
}

/// Keeps what the headers tell.
pub(super) fn headers(headers: &HeaderMap) {
    keep(|seen| seen.limit = limit_of(headers));
}

/// Keeps the tokens that the answer tells.
pub(super) fn tokens(tokens: Option<u64>) {
    keep(|seen| seen.tokens = tokens);
}

fn keep(change: impl FnOnce(&mut Seen)) {
    // Nobody asked for it: a call of rig's own.
    let _ = SEEN.try_with(|cell| {
        let mut seen = cell.get();
        change(&mut seen);
        cell.set(seen);
    });
}

/// The limits of OpenAI's headers, which most providers use too.
fn limit_of(headers: &HeaderMap) -> LimitSeen {
    let number = |name: &str| -> Option<u32> {
        let value: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
        // Who has nothing left may tell a number below zero; whole numbers beyond 32 bits limit nobody.
        (value.is_finite() && value <= f64::from(u32::MAX)).then_some(value.max(0.0) as u32)
    };
    LimitSeen {
        requests: number("x-ratelimit-limit-requests"),
        tokens: number("x-ratelimit-limit-tokens"),
        requests_left: number("x-ratelimit-remaining-requests"),
        tokens_left: number("x-ratelimit-remaining-tokens"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(values: &[(&'static str, &str)]) -> LimitSeen {
        limit_of(
            &values.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
        )
    }

    #[test]
    fn limits_are_read_as_far_as_they_are_told() {
        let all = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-limit-tokens", "100000"),
            ("x-ratelimit-remaining-requests", "-1"),
            ("x-ratelimit-remaining-tokens", "99.5"),
        ];
        let expected = LimitSeen {
            requests: Some(60),
            tokens: Some(100_000),
            requests_left: Some(0),
            tokens_left: Some(99),
        };
        assert_eq!(limits(&all), expected);
        for unusable in ["", "many", "1e99", "NaN"] {
            assert_eq!(limits(&[("x-ratelimit-limit-requests", unusable)]), LimitSeen::default());
        }
    }

    #[tokio::test]
    async fn each_request_sees_its_own_answer() {
        let one = seen_of(async { tokens(Some(1)) });
        let other = seen_of(async {
            tokio::task::yield_now().await;
            tokens(Some(2));
        });
        let (((), one), ((), other), ((), nothing)) = tokio::join!(one, other, seen_of(async {}));
        assert_eq!((one.tokens, other.tokens, nothing.tokens), (Some(1), Some(2), None));
        tokens(Some(3));
    }
}
