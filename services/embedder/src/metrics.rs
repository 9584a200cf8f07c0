//! The embedder's metrics.

use riacho_domain::Metric;

/// The names.
pub mod names {
    /// Chunks that got their vectors, by where these come from.
    pub const CHUNKS: &str = "riacho_embedder_chunks_total";
}

/// What this crate measures.
pub const METRICS: &[Metric] = &[Metric::counter(
    names::CHUNKS,
    &["source"],
    "Chunks, by the source of their vectors: model, stored (the content has one already), batch (the content is in the \
     batch before).",
)];

/// Where the vectors of an event's chunks come from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chunks {
    pub(crate) made: u64,
    pub(crate) stored: u64,
    pub(crate) repeated: u64,
}

impl Chunks {
    pub(crate) fn count(self) {
        let sources = [("model", self.made), ("stored", self.stored), ("batch", self.repeated)];
        for (source, chunks) in sources.into_iter().filter(|(_, chunks)| *chunks > 0) {
            metrics::counter!(names::CHUNKS, "source" => source).increment(chunks);
        }
    }
}
