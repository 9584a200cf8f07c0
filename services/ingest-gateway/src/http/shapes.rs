//! Shapes that several answers share.

use riacho_domain::DocumentId;
use riacho_store::Reason;
use serde::Serialize;
use utoipa::ToSchema;

/// The names of a document's states, as the OpenAPI document shows them.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // shape of the OpenAPI document; a test compares it with the domain's states
pub(super) enum DocumentState {
    /// A signed upload was handed out; no bytes yet.
    AwaitingUpload,
    /// Accepted; waits for its turn.
    Waiting,
    /// Is being put onto the pipeline.
    Releasing,
    /// Its text is being taken out.
    Extracting,
    /// Its chunks are being embedded.
    Embedding,
    /// Its chunks are being written.
    Indexing,
    /// Searchable.
    Ready,
    /// Ended with a reason.
    Failed,
    /// Ended by a command, or by a newer version.
    Cancelled,
    /// Its time ran out.
    Expired,
}

/// Why a document failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// For programs.
    #[schema(example = "encrypted")]
    code: String,
    /// For people.
    message: String,
}

impl From<Reason> for ErrorBody {
    fn from(reason: Reason) -> Self {
        Self { code: reason.code, message: reason.message }
    }
}

/// Addresses of a document and what belongs to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Links {
    /// The document.
    #[serde(rename = "self")]
    pub(super) document: String,
    /// Its state and progress.
    status: String,
    /// Its text.
    text: String,
    /// Its chunks.
    chunks: String,
    /// The original.
    content: String,
}

impl Links {
    pub(super) fn of(document: DocumentId) -> Self {
        let base = format!("/api/v1/documents/{document}");
        Self {
            status: format!("{base}/status"),
            text: format!("{base}/text"),
            chunks: format!("{base}/chunks"),
            content: format!("{base}/content"),
            document: base,
        }
    }
}

/// The most pages that one chunk is said to stand on.
const MAX_PAGES: usize = 10_000;

/// The pages from `first` to `last`; none where a format has no pages.
pub(super) fn pages(first: u32, last: u32) -> Vec<u32> {
    if first == 0 { Vec::new() } else { (first..=last.max(first)).take(MAX_PAGES).collect() }
}

#[cfg(test)]
mod tests {
    use riacho_domain::State;
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_document_names_every_state() {
        let schema = serde_json::to_value(DocumentState::schema()).unwrap_or_default();
        let names: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
        assert_eq!(schema["enum"], serde_json::json!(names));
    }

    #[test]
    fn pages_are_a_list() {
        assert_eq!(pages(3, 5), [3, 4, 5]);
        assert!(pages(0, 0).is_empty());
    }
}
