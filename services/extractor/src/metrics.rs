//! The extractor's metrics: names, descriptions and where they are counted.

use std::time::Duration;

use riacho_domain::{Metric, ReasonCode};

/// The names.
pub mod names {
    /// Seconds from the original's bytes to its text, by media type.
    pub const PARSE_SECONDS: &str = "riacho_parse_seconds";
    /// Documents that ended without text, by reason.
    pub const FAILURES: &str = "riacho_extraction_failures_total";
    /// Chunks that were cut.
    pub const CHUNKS: &str = "riacho_chunks_cut_total";
    /// Attachments that became documents.
    pub const ATTACHED: &str = "riacho_attachments_accepted_total";
    /// Sealed runs that were handed on again instead of being cut anew.
    pub const REPLAYS: &str = "riacho_extraction_replays_total";
    /// Parser processes that were started.
    pub const PARSERS_STARTED: &str = "riacho_parsers_started_total";
    /// Processes for the recognition of text that were started.
    pub const RECOGNIZERS_STARTED: &str = "riacho_recognizers_started_total";
    /// Seconds from a picture to its words.
    pub const RECOGNITION_SECONDS: &str = "riacho_recognition_seconds";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::histogram(
        names::PARSE_SECONDS,
        &["type"],
        "Time from an original's bytes to its text, by media type.",
    ),
    Metric::counter(
        names::FAILURES,
        &["reason"],
        "Documents that ended without text, by reason: of files that cannot be read, no fault of the pipeline.",
    ),
    Metric::counter(names::CHUNKS, &[], "Chunks that were cut."),
    Metric::counter(names::ATTACHED, &[], "Attachments that became documents of their own."),
    Metric::counter(names::REPLAYS, &[], "Sealed runs that were handed on again instead of being cut anew."),
    Metric::counter(names::PARSERS_STARTED, &[], "Parser processes that were started."),
    Metric::counter(
        names::RECOGNIZERS_STARTED,
        &[],
        "Processes for the recognition of text that were started.",
    ),
    Metric::histogram(names::RECOGNITION_SECONDS, &[], "Time from a picture to the words in it."),
];

/// A document was parsed. The media type comes from the types that have a parser, a fixed set.
pub(crate) fn parsed(media_type: &str, took: Duration) {
    metrics::histogram!(names::PARSE_SECONDS, "type" => media_type.to_owned()).record(took.as_secs_f64());
}

/// A document has no text.
pub(crate) fn failed(reason: ReasonCode) {
    metrics::counter!(names::FAILURES, "reason" => reason.as_str()).increment(1);
}

/// Chunks were cut.
pub(crate) fn cut(chunks: usize) {
    metrics::counter!(names::CHUNKS).increment(chunks as u64);
}

/// A sealed run is handed on again.
pub(crate) fn replayed() {
    metrics::counter!(names::REPLAYS).increment(1);
}

/// A parser process was started.
pub(crate) fn parser_started() {
    metrics::counter!(names::PARSERS_STARTED).increment(1);
}

/// A process for the recognition of text was started.
pub(crate) fn recognizer_started() {
    metrics::counter!(names::RECOGNIZERS_STARTED).increment(1);
}

/// The words in a picture were found, or the attempt was given up.
pub(crate) fn recognized(took: Duration) {
    metrics::histogram!(names::RECOGNITION_SECONDS).record(took.as_secs_f64());
}

/// So many attachments became documents.
pub(crate) fn attached(new: u32) {
    metrics::counter!(names::ATTACHED).increment(u64::from(new));
}
