//! The metrics of the gateway.

/// Names, with their descriptions in [`describe`].
pub mod names {
    /// Requests by method, route and status.
    pub const REQUESTS: &str = "riacho_http_requests_total";
    /// Time to the response's head, by method and route.
    pub const REQUEST_SECONDS: &str = "riacho_http_request_seconds";
    /// Requests refused before they were looked at, by reason.
    pub const REJECTIONS: &str = "riacho_backpressure_rejections_total";
    /// Documents accepted, by source and outcome.
    pub const ACCEPTED: &str = "riacho_documents_accepted_total";
    /// Releases by reason and outcome.
    pub const RELEASES: &str = "riacho_releases_total";
    /// Producers' events by outcome.
    pub const INTAKE: &str = "riacho_intake_events_total";
    /// Searches that looked for a kept answer, by outcome.
    pub const SEARCH_CACHE: &str = "riacho_search_cache_total";
    /// Time of a search, by mode.
    pub const SEARCH_SECONDS: &str = "riacho_search_request_seconds";
}

/// Describes the metrics to the recorder. Call once, after it is installed.
pub fn describe() {
    metrics::describe_counter!(names::REQUESTS, "HTTP requests by method, route and status.");
    metrics::describe_histogram!(names::REQUEST_SECONDS, "Time to the head of a response.");
    metrics::describe_counter!(names::REJECTIONS, "Requests refused before they were looked at.");
    metrics::describe_counter!(names::ACCEPTED, "Documents accepted, by source and outcome.");
    metrics::describe_counter!(
        names::RELEASES,
        "Releases of documents onto the streams, by reason and outcome."
    );
    metrics::describe_counter!(names::INTAKE, "Producers' events, by outcome.");
    metrics::describe_counter!(names::SEARCH_CACHE, "Searches that looked for a kept answer, by outcome.");
    metrics::describe_histogram!(names::SEARCH_SECONDS, "Time of a search, by the mode it ran in.");
}
