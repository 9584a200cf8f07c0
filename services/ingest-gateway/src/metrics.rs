//! The metrics of the gateway.

use riacho_domain::Metric;

/// The names.
pub mod names {
    /// Requests by method, route and status.
    pub const REQUESTS: &str = "riacho_http_requests_total";
    /// Time to the response's head, by method and route.
    pub const REQUEST_SECONDS: &str = "riacho_http_request_seconds";
    /// Requests refused before they were looked at, by reason.
    pub const REJECTIONS: &str = "riacho_backpressure_rejections_total";
    /// Documents accepted, by source and outcome.
    pub const ACCEPTED: &str = "riacho_documents_accepted_total";
    /// Producers' events by outcome.
    pub const INTAKE: &str = "riacho_intake_events_total";
    /// Searches that looked for a kept answer, by outcome.
    pub const SEARCH_CACHE: &str = "riacho_search_cache_total";
    /// Time of a search, by mode.
    pub const SEARCH_SECONDS: &str = "riacho_search_request_seconds";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        names::REQUESTS,
        &["method", "route", "status"],
        "HTTP requests, by method, route (the pattern, not the path) and status.",
    ),
    Metric::histogram(
        names::REQUEST_SECONDS,
        &["method", "route"],
        "Time from a request's head to its response's head, by method and route. That of an upload contains its body.",
    ),
    Metric::counter(
        names::REJECTIONS,
        &["reason"],
        "Requests that were refused before they were looked at, by the limit that refused them.",
    ),
    Metric::counter(
        names::ACCEPTED,
        &["source", "outcome"],
        "Uploads that were accepted, by source and outcome (new, duplicate, replayed).",
    ),
    Metric::counter(names::INTAKE, &["outcome"], "Producers' events, by outcome."),
    Metric::counter(names::SEARCH_CACHE, &["outcome"], "Searches that looked for a kept answer, by outcome."),
    Metric::histogram(names::SEARCH_SECONDS, &["mode"], "Time of a search, by the mode it ran in."),
];
