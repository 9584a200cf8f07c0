//! The metrics of this crate.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

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

/// Registers the descriptions with the recorder.
pub fn describe() {
    describe_histogram!(names::REQUEST_SECONDS, Unit::Seconds, "Time of one request to an embedding model");
    describe_counter!(names::TEXTS, Unit::Count, "Texts that were embedded");
    describe_counter!(names::TOKENS, Unit::Count, "Tokens that the embedding model counted");
    describe_histogram!(
        names::LIMITER_WAIT_SECONDS,
        Unit::Seconds,
        "Time that requests to an embedding model waited for its limits"
    );
    describe_counter!(
        names::LIMITER_TURNS,
        Unit::Count,
        "Turns at an embedding model's limits that were asked for, by who answered"
    );
}

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
