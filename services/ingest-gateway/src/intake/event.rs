//! What a producer's event says, checked.

use bytes::Bytes;
use riacho_domain::{Lane, TenantId};
use riacho_objects::{Key, KeyKind};
use riacho_proto::{ENVELOPE_VERSION, Message, v1, v1::envelope::Payload};

use crate::{
    Config,
    http::{names::clean_filename, problem::Problem, settings::Settings},
};

/// The longest id and source of an event, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Why an event is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    /// For programs.
    pub(super) code: &'static str,
    /// For people.
    pub(super) message: String,
}

impl Rejection {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Whether the event would be rejected again whenever it is sent. A newer gateway knows newer
    /// envelopes, a missing object may be on its way, room is made below a quota, and our own faults get mended.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self.code, "unknown_version" | "object_missing" | "internal" | "quota_exceeded")
    }
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self::new(problem.code(), problem.detail())
    }
}

/// Who sent an event, as far as it says; empty otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) source: String,
    pub(super) id: String,
}

/// Where an event's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Inline(Bytes),
    Object(Key),
}

/// An event that can be worked on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UploadEvent {
    pub(super) filename: String,
    pub(super) content_type: String,
    pub(super) content: Content,
    pub(super) sha256: Option<[u8; 32]>,
    pub(super) settings: Settings,
    pub(super) lane: Lane,
    pub(super) traceparent: String,
}

/// Reads the envelope. The sender is known even where the rest is not right.
pub(super) fn read(
    tenant: &TenantId,
    body: &[u8],
    config: &Config,
) -> (Sender, Result<UploadEvent, Rejection>) {
    let envelope = match v1::Envelope::decode(body) {
        Ok(envelope) => envelope,
        Err(error) => {
            let rejection =
                Rejection::new("undecodable", format!("the entry's field `e` is not an Envelope: {error}"));
            return (Sender::default(), Err(rejection));
        }
    };
    let sender = Sender { source: envelope.source.clone(), id: envelope.id.clone() };
    let event = check(tenant, envelope, config);
    (sender, event)
}

fn check(tenant: &TenantId, envelope: v1::Envelope, config: &Config) -> Result<UploadEvent, Rejection> {
    // Proto's default is read as the first version, so that a producer may leave it out.
    if envelope.envelope_version > ENVELOPE_VERSION {
        let message =
            format!("envelope version {} is newer than {ENVELOPE_VERSION}", envelope.envelope_version);
        return Err(Rejection::new("unknown_version", message));
    }
    for (name, value) in [("id", &envelope.id), ("source", &envelope.source)] {
        if value.is_empty() || value.len() > MAX_NAME_BYTES || value.chars().any(char::is_control) {
            let message = format!("`{name}` must be 1 to {MAX_NAME_BYTES} bytes without control characters");
            return Err(Rejection::new("invalid_field", message));
        }
    }
    if !envelope.tenant.is_empty() && envelope.tenant != tenant.as_str() {
        return Err(Rejection::new("wrong_tenant", "`tenant` is not the tenant of the stream"));
    }
    let lane = Lane::from_proto(envelope.lane());
    let Some(Payload::DocumentUploaded(upload)) = envelope.payload else {
        return Err(Rejection::new("wrong_payload", "`document_uploaded` must be set"));
    };
    upload_event(tenant, upload, lane, envelope.traceparent, config)
}

fn upload_event(
    tenant: &TenantId,
    upload: v1::DocumentUploaded,
    lane: Lane,
    traceparent: String,
    config: &Config,
) -> Result<UploadEvent, Rejection> {
    if upload.filename.is_empty() {
        return Err(Rejection::new("invalid_field", "`filename` is missing"));
    }
    let mut settings = Settings::default();
    for (name, text) in [
        ("external_id", &upload.external_id),
        ("collection", &upload.collection),
        ("metadata", &upload.metadata_json),
    ] {
        if !text.is_empty() {
            settings.set(name, text, config)?;
        }
    }
    if upload.ttl_seconds > 0 {
        settings.set("ttl_seconds", &upload.ttl_seconds.to_string(), config)?;
    }
    settings.lane = Some(lane);
    Ok(UploadEvent {
        filename: clean_filename(&upload.filename),
        content_type: upload.content_type,
        sha256: hash(&upload.sha256)?,
        content: content(tenant, upload.body, config)?,
        settings,
        lane,
        traceparent,
    })
}

fn hash(bytes: &[u8]) -> Result<Option<[u8; 32]>, Rejection> {
    match bytes {
        [] => Ok(None),
        bytes => bytes
            .try_into()
            .map(Some)
            .map_err(|_| Rejection::new("invalid_field", "`sha256` must be 32 bytes")),
    }
}

fn content(
    tenant: &TenantId,
    body: Option<v1::document_uploaded::Body>,
    config: &Config,
) -> Result<Content, Rejection> {
    use v1::document_uploaded::Body;
    match body {
        None => Err(Rejection::new("invalid_field", "one of `content` and `object_key` must be set")),
        Some(Body::Content(bytes)) if bytes.is_empty() => Err(Rejection::new("empty", "the file is empty")),
        Some(Body::Content(bytes)) if bytes.len() > config.intake_max_inline_bytes => {
            let limit = config.intake_max_inline_bytes;
            let message = format!(
                "`content` is larger than {limit} bytes; put the file into the object store and send `object_key`"
            );
            Err(Rejection::new("too_large", message))
        }
        Some(Body::Content(bytes)) => Ok(Content::Inline(bytes)),
        Some(Body::ObjectKey(text)) => match Key::parse_for_tenant(tenant, &text) {
            Ok(key) if key.kind() == KeyKind::Producer => Ok(Content::Object(key)),
            // One message for all, so that it says nothing about other tenants' objects.
            _ => Err(Rejection::new(
                "wrong_object",
                format!("`object_key` must be below `t/{tenant}/producers/`"),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use riacho_proto::v1::document_uploaded::Body;

    use super::*;

    fn tenant() -> TenantId {
        "acme".parse().unwrap()
    }

    fn envelope(change: impl FnOnce(&mut v1::Envelope, &mut v1::DocumentUploaded)) -> Vec<u8> {
        let mut envelope = v1::Envelope {
            envelope_version: 1,
            id: "e1".into(),
            source: "crm".into(),
            ..v1::Envelope::default()
        };
        let mut upload = v1::DocumentUploaded {
            filename: "../a.txt".into(),
            body: Some(Body::Content(Bytes::from_static(b"text"))),
            ..v1::DocumentUploaded::default()
        };
        change(&mut envelope, &mut upload);
        envelope.payload.get_or_insert(Payload::DocumentUploaded(upload));
        envelope.encode_to_vec()
    }

    fn code(change: impl FnOnce(&mut v1::Envelope, &mut v1::DocumentUploaded)) -> &'static str {
        read(&tenant(), &envelope(change), &Config::default())
            .1
            .map_or_else(|rejection| rejection.code, |_| "accepted")
    }

    #[test]
    fn an_event_is_read() {
        let (sender, event) =
            read(&tenant(), &envelope(|_, u| u.metadata_json = "{\"a\":1}".into()), &Config::default());
        let event = event.unwrap();
        assert_eq!(sender, Sender { source: "crm".into(), id: "e1".into() });
        assert_eq!(
            (event.filename.as_str(), event.settings.metadata.unwrap()["a"].clone()),
            ("a.txt", 1.into())
        );
    }

    #[test]
    fn an_event_that_is_wrong_is_rejected_with_a_code() {
        assert_eq!(code(|_, _| {}), "accepted");
        assert_eq!(code(|e, _| e.envelope_version = 2), "unknown_version");
        assert_eq!(code(|e, _| e.id.clear()), "invalid_field");
        assert_eq!(code(|e, _| e.tenant = "other".into()), "wrong_tenant");
        assert_eq!(
            code(|e, _| e.payload = Some(Payload::ChunksCut(v1::ChunksCut::default()))),
            "wrong_payload"
        );
        assert_eq!(code(|_, u| u.filename.clear()), "invalid_field");
        assert_eq!(code(|_, u| u.body = None), "invalid_field");
        assert_eq!(code(|_, u| u.body = Some(Body::Content(Bytes::new()))), "empty");
        assert_eq!(code(|_, u| u.body = Some(Body::Content(vec![0; (1 << 20) + 1].into()))), "too_large");
        assert_eq!(code(|_, u| u.metadata_json = "[]".into()), "invalid_field");
        assert_eq!(code(|_, u| u.sha256 = Bytes::from_static(b"short")), "invalid_field");
        for key in ["t/other/producers/a", "t/acme/../other/producers/a", "/etc/passwd", "t/acme/texts/x"] {
            assert_eq!(code(|_, u| u.body = Some(Body::ObjectKey(key.into()))), "wrong_object", "{key}");
        }
        assert_eq!(code(|_, u| u.body = Some(Body::ObjectKey("t/acme/producers/a".into()))), "accepted");
    }

    #[test]
    fn malformed_protobuf_is_rejected() {
        let (sender, event) = read(&tenant(), b"\xff\xff not protobuf", &Config::default());
        assert_eq!((sender, event.unwrap_err().code), (Sender::default(), "undecodable"));
    }
}
