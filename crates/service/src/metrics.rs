//! The metrics of this crate, and of the libraries below it.

use std::path::Path;

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use riacho_domain::{Metric, MetricKind};

/// The names.
pub mod names {
    /// 1, with the version of the running binary.
    pub const BUILD_INFO: &str = "riacho_build_info";
    /// Whether a dependency answered its last probe.
    pub const DEPENDENCY_UP: &str = "riacho_dependency_up";
    /// Bytes that this process may still write to a file system.
    pub const DISK_FREE: &str = "riacho_disk_free_bytes";
    /// The size of that file system.
    pub const DISK_SIZE: &str = "riacho_disk_size_bytes";
    /// Releases sent, by reason and outcome.
    pub const RELEASES: &str = "riacho_releases_total";
    /// What embeddings cost.
    pub const SPENT: &str = "riacho_embedding_spend_nanos_total";
    /// The tokens of it.
    pub const SPENT_TOKENS: &str = "riacho_embedding_spend_tokens_total";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[
    Metric::gauge(names::BUILD_INFO, &["version"], "1, with the version of the running binary."),
    Metric::gauge(
        names::DEPENDENCY_UP,
        &["name"],
        "1 while the last probe of the dependency went well, by name (postgres, redis, objects, and what the service adds).",
    ),
    Metric::gauge(
        names::DISK_FREE,
        &["name"],
        "Bytes that this process may still write to a file system, by what is kept there (objects: the local object store).",
    ),
    Metric::gauge(names::DISK_SIZE, &["name"], "Size of the same file system."),
    Metric::counter(
        names::RELEASES,
        &["reason", "outcome"],
        "Releases of documents onto the streams, by reason and outcome.",
    ),
    Metric::counter(
        names::SPENT,
        &["model", "purpose"],
        "What embeddings cost, in thousand-millionths of the currency of models.prices, by model and purpose.",
    ),
    Metric::counter(
        names::SPENT_TOKENS,
        &["model", "purpose"],
        "Tokens of embeddings that were paid for, by model and purpose.",
    ),
];

/// What every process measures, whatever service it is.
pub const OF_EVERY_PROCESS: [&[Metric]; 7] = [
    METRICS,
    riacho_streams::metrics::METRICS,
    riacho_store::metrics::METRICS,
    riacho_objects::metrics::METRICS,
    riacho_models::metrics::METRICS,
    riacho_stage::metrics::METRICS,
    riacho_traces::metrics::METRICS,
];

/// Describes metrics to the recorder. Call it after the recorder is installed; more than once is harmless.
pub fn describe(metrics: &[Metric]) {
    for metric in metrics {
        let unit = match metric.unit() {
            Some("seconds") => Unit::Seconds,
            Some("bytes") => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, unit, metric.help),
            MetricKind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            MetricKind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// Measures the file system of a directory.
pub(crate) fn disk(name: &'static str, directory: &Path) {
    // One that cannot be asked is told of by the probe that writes there.
    if let Ok(found) = nix::sys::statvfs::statvfs(directory) {
        let bytes = |blocks: u64| number(blocks.saturating_mul(found.fragment_size()));
        gauge!(names::DISK_FREE, "name" => name).set(bytes(found.blocks_available()));
        gauge!(names::DISK_SIZE, "name" => name).set(bytes(found.blocks()));
    }
}

/// Above 2^53 it is a rounded number of bytes.
#[allow(clippy::cast_precision_loss)]
fn number(bytes: u64) -> f64 {
    bytes as f64
}
