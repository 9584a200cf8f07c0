//! The metrics of this crate.

use std::time::Instant;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

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

/// Registers the descriptions with the recorder.
pub fn describe() {
    describe_histogram!(names::SECONDS, Unit::Seconds, "Time of one operation of the object store");
    describe_counter!(names::ERRORS, Unit::Count, "Failed operations of the object store");
    describe_counter!(names::BYTES, Unit::Bytes, "Bytes written to and read from the object store");
}

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
