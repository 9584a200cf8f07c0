//! The metrics of this crate.

use riacho_domain::Metric;

/// The names.
pub mod names {
    /// Spans that ended, by what became of them.
    pub const SPANS: &str = "riacho_trace_spans_total";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[Metric::counter(
    names::SPANS,
    &["outcome"],
    "Spans that ended while traces are exported, by outcome: exported; queue_full, dropped because the collector does not keep up or is away; failed, dropped because the collector did not take them; stopped, dropped at the end of the process.",
)];
