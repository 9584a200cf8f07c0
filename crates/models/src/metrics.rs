//! The metrics of this crate.

use std::time::Duration;

use metrics::{counter, histogram};
use riacho_domain::Metric;

use crate::{Embeddings, Error, Kind};

/// The names.
pub mod names {
    /// Time of one request to a model, by provider and outcome.
    pub const REQUEST_SECONDS: &str = "riacho_model_request_seconds";
    /// Texts embedded, by provider and kind.
    pub const TEXTS: &str = "riacho_model_texts_total";
    /// Tokens as the model counted them, by provider and kind.
    pub const TOKENS: &str = "riacho_model_tokens_total";
    /// Time that requests waited for the limits of the configuration or of the provider.
    pub const LIMITER_WAIT_SECONDS: &str = "riacho_model_limiter_wait_seconds";
    /// Turns at the limits that were asked for, by provider and who answered: `shared`, or `own` while Redis is away.
    pub const LIMITER_TURNS: &str = "riacho_model_limiter_turns_total";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::histogram(
        names::REQUEST_SECONDS,
        &["provider", "outcome"],
        "Time of one request to an embedding model, by provider and outcome (ok, or the kind of error).",
    ),
    Metric::counter(
        names::TEXTS,
        &["provider", "kind"],
        "Texts that were embedded, by provider and kind (passage, query).",
    ),
    Metric::counter(
        names::TOKENS,
        &["provider", "kind"],
        "Tokens of the texts that were embedded, as the model counted them, by provider and kind.",
    ),
    Metric::histogram(
        names::LIMITER_WAIT_SECONDS,
        &["provider"],
        "Time that requests to an embedding model waited for its limits, by provider.",
    ),
    Metric::counter(
        names::LIMITER_TURNS,
        &["provider", "by"],
        "Turns at an embedding model's limits that were asked for, by provider and who answered (shared, or own while \
         Redis cannot be asked).",
    ),
];

/// Counts a batch that a model has answered.
pub(crate) fn count(
    provider: &'static str,
    kind: Kind,
    texts: usize,
    took: Duration,
    answer: &Result<Embeddings, Error>,
) {
    let outcome = answer.as_ref().map_or_else(Error::label, |_| "ok");
    histogram!(names::REQUEST_SECONDS, "provider" => provider, "outcome" => outcome)
        .record(took.as_secs_f64());
    if let Ok(embeddings) = answer {
        counter!(names::TEXTS, "provider" => provider, "kind" => kind.as_str()).increment(texts as u64);
        counter!(names::TOKENS, "provider" => provider, "kind" => kind.as_str()).increment(embeddings.tokens);
    }
}
