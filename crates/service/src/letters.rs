//! The bytes of a dead letter, for people: as text that survives, and what its envelope says of itself.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use riacho_domain::Lane;
use riacho_proto::{
    Message,
    v1::{self, Envelope, envelope::Payload},
};
use serde::Serialize;

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Original {
    /// What its envelope says; none where the bytes are no envelope.
    pub envelope: Option<EnvelopeSummary>,
    /// The bytes in base64.
    #[serde(rename = "original_base64")]
    pub base64: String,
}

/// What an envelope says of itself. Of what it carries, only the kind and the sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnvelopeSummary {
    /// The version of the envelope.
    pub envelope_version: u32,
    /// The event's id.
    pub id: String,
    /// Who made it.
    pub source: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened, where it says so.
    pub time: Option<DateTime<Utc>>,
    /// The lane.
    pub lane: &'static str,
    /// The tenant, as it stands there.
    pub tenant: String,
    /// The document, as it stands there.
    pub document: String,
    /// The document's version.
    pub version: u32,
    /// The release, as it stands there.
    pub release: String,
    /// W3C Trace Context, or empty.
    pub traceparent: String,
    /// What it carries; none where the payload is missing or of a kind that this build does not know.
    pub payload: Option<PayloadSummary>,
}

/// The payload of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PayloadSummary {
    /// Which payload it is, by its name in the .proto files.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its bytes in the envelope.
    pub bytes: u64,
    /// Its bytes once it is fetched from the object store and inflated, as it announces them.
    pub uncompressed_bytes: u64,
}

/// Looks at the bytes of a dead letter.
#[must_use]
pub fn open(original: &[u8]) -> Original {
    // Nearly any bytes can be read as some protobuf message; an envelope has at least these.
    let envelope = Envelope::decode(original).ok();
    let envelope = envelope.filter(|e| e.envelope_version > 0 && !e.id.is_empty());
    Original { envelope: envelope.map(summary), base64: STANDARD.encode(original) }
}

fn summary(envelope: Envelope) -> EnvelopeSummary {
    let lane = v1::Lane::try_from(envelope.lane).unwrap_or(v1::Lane::Unspecified);
    let time = envelope
        .time
        .and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?));
    EnvelopeSummary {
        envelope_version: envelope.envelope_version,
        id: envelope.id,
        source: envelope.source,
        kind: envelope.r#type,
        time,
        lane: Lane::from_proto(lane).as_str(),
        tenant: envelope.tenant,
        document: envelope.document,
        version: envelope.version,
        release: envelope.release,
        traceparent: envelope.traceparent,
        payload: envelope.payload.as_ref().map(payload),
    }
}

fn payload(payload: &Payload) -> PayloadSummary {
    let (kind, bytes, uncompressed) = match payload {
        Payload::DocumentUploaded(it) => ("document_uploaded", it.encoded_len(), None),
        Payload::ExtractRequested(it) => ("extract_requested", it.encoded_len(), None),
        Payload::ChunksCut(it) => ("chunks_cut", it.encoded_len(), None),
        Payload::ChunksEmbedded(it) => ("chunks_embedded", it.encoded_len(), None),
        Payload::IntakeResult(it) => ("intake_result", it.encoded_len(), None),
        Payload::DeadLetter(it) => ("dead_letter", it.encoded_len(), None),
        Payload::Compressed(it) => ("compressed", it.encoded_len(), Some(it.uncompressed_size)),
        Payload::ClaimCheck(it) => ("claim_check", it.encoded_len(), Some(it.uncompressed_size)),
    };
    PayloadSummary { kind, bytes: bytes as u64, uncompressed_bytes: uncompressed.unwrap_or(bytes as u64) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_envelope_is_shown_without_what_it_carries() {
        let zstd = b"words of the document".to_vec().into();
        let envelope = Envelope {
            envelope_version: 1,
            id: "event".into(),
            tenant: "acme".into(),
            version: 3,
            lane: v1::Lane::Bulk.into(),
            payload: Some(Payload::Compressed(v1::CompressedPayload { zstd, uncompressed_size: 900 })),
            ..Envelope::default()
        };
        let bytes = envelope.encode_to_vec();
        let shown = open(&bytes);
        assert_eq!(STANDARD.decode(&shown.base64).unwrap(), bytes);
        let envelope = shown.envelope.unwrap();
        assert_eq!((envelope.id.as_str(), envelope.version, envelope.lane), ("event", 3, "bulk"));
        let payload = envelope.payload.unwrap();
        assert_eq!((payload.kind, payload.uncompressed_bytes), ("compressed", 900));
        assert!(!serde_json::to_string(&envelope).unwrap().contains("words"));
    }

    #[test]
    fn other_bytes_are_no_envelope() {
        for bytes in [&b"\xff\xfe no protobuf"[..], b"", b"\x08\x01"] {
            let shown = open(bytes);
            assert_eq!(shown.envelope, None, "{bytes:?}");
            assert_eq!(STANDARD.decode(shown.base64).unwrap(), bytes);
        }
    }
}
