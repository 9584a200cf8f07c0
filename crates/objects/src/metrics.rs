//! The metrics of this crate.

use std::time::Instant;

use metrics::{counter, histogram};
use riacho_domain::Metric;

use crate::Error;

/// The names.
pub mod names {
    /// Time of one operation, by operation and outcome.
    pub const SECONDS: &str = "riacho_object_seconds";
    /// Failed operations, by operation and reason.
    pub const ERRORS: &str = "riacho_object_errors_total";
    /// Bytes written and read, by direction.
    pub const BYTES: &str = "riacho_object_bytes_total";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::histogram(
        names::SECONDS,
        &["operation", "outcome"],
        "Time of one operation of the object store, by operation and outcome (ok, or the kind of error).",
    ),
    Metric::counter(
        names::ERRORS,
        &["operation", "reason"],
        "Failed operations of the object store, by operation and reason.",
    ),
    Metric::counter(
        names::BYTES,
        &["direction"],
        "Bytes written to and read from the object store, by direction.",
    ),
];

/// Measures one operation and passes its result on.
pub(crate) async fn measured<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let start = Instant::now();
    let result = work.await;
    let outcome = result.as_ref().map_or_else(Error::label, |_| "ok");
    histogram!(names::SECONDS, "operation" => operation, "outcome" => outcome)
        .record(start.elapsed().as_secs_f64());
    if let Err(error) = &result {
        count_error(operation, error);
    }
    result
}

pub(crate) fn count_error(operation: &'static str, error: &Error) {
    counter!(names::ERRORS, "operation" => operation, "reason" => error.label()).increment(1);
}

pub(crate) fn count_bytes(direction: &'static str, bytes: usize) {
    counter!(names::BYTES, "direction" => direction).increment(bytes as u64);
}
