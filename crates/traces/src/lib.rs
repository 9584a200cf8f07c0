//! Spans of documents and requests, and their export with OTLP over HTTP.
//!
//! A span is made by hand where one is worth it (docs/adr/0028-spans-by-hand.md), below a parent that came as text: the
//! header of a request, the envelope of an event, the row of a version. Nothing is made while no endpoint is configured,
//! nor for what is not sampled. The end of a span puts it into a bounded queue and never waits.

mod client;
mod config;
mod export;
pub mod metrics;
mod parent;
mod span;

pub use config::{Config, Protocol, Sampler};
pub use export::{install, shutdown};
pub use parent::Traceparent;
pub use span::{Attribute, Kind, Span, attributes};

/// Why traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The exporter cannot be made of its settings.
    #[error("{0}")]
    Exporter(String),
    /// It was set up before.
    #[error("traces are set up already")]
    Installed,
}

impl Error {
    /// Whether a later try may go well.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
