//! What an upload asks for, its limits, and the hash that makes two of them the same.

use std::time::Duration;

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, Lane, TenantId};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Chunking, Error, collections::check_name, intake::EventKey};

const METADATA_BYTES: usize = 64 * 1024;

/// Which document an upload belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A new one; or, with an external id that is known, a new version of its document.
    New,
    /// A new version of this one.
    NewVersionOf(DocumentId),
}

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In the object store.
    Stored {
        /// Their number.
        size: u64,
        /// Their SHA-256.
        sha256: [u8; 32],
    },
    /// Still to be uploaded to the object key, with a presigned request.
    Awaited {
        /// When the request stops working.
        expires_at: DateTime<Utc>,
    },
}

/// A client's key for a request that may be sent twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// A hash of the request, to tell a repetition from another request under the same key.
    pub request_hash: [u8; 32],
}

/// An upload to be accepted.
#[derive(Debug, Clone)]
pub struct Accept {
    /// Whose document it is.
    pub tenant: TenantId,
    /// Which document it belongs to.
    pub target: Target,
    /// The client's own id of the document; only read for [`Target::New`].
    pub external_id: Option<String>,
    /// The collection by name, made when it is not there. None: the document's own, or `default`.
    pub collection: Option<String>,
    /// The file's name, without a path.
    pub filename: String,
    /// The media type that the client claims.
    pub content_type: String,
    /// The original's key in the object store.
    pub object_key: String,
    /// Where the bytes are.
    pub body: Body,
    /// Attributes that searches can filter on. None: as the document has them.
    pub metadata: Option<Map<String, Value>>,
    /// How to cut.
    pub chunking: Chunking,
    /// The lane.
    pub lane: Lane,
    /// How long the document lives from now. None: for ever, or as the document has it.
    pub ttl: Option<Duration>,
    /// The request's Idempotency-Key.
    pub idempotency: Option<Idempotency>,
    /// W3C Trace Context of the request.
    pub traceparent: String,
    /// Write `waiting` for the janitor instead of `releasing`.
    pub hold: bool,
    /// The file that the document is made of, and the collection that it is attached to. The collection's name and an
    /// external id that says both go with it.
    pub made_of: Option<MadeOf>,
}

/// A file in a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeOf {
    /// The file.
    pub file: Uuid,
    /// The collection, which is not made where it is not there.
    pub collection: Uuid,
}

impl Accept {
    /// A new document with defaults for everything else.
    #[must_use]
    pub fn new(
        tenant: TenantId,
        filename: impl Into<String>,
        object_key: impl Into<String>,
        body: Body,
    ) -> Self {
        Self {
            tenant,
            target: Target::New,
            external_id: None,
            collection: None,
            filename: filename.into(),
            content_type: String::new(),
            object_key: object_key.into(),
            body,
            metadata: None,
            chunking: Chunking::default(),
            lane: Lane::Interactive,
            ttl: None,
            idempotency: None,
            traceparent: String::new(),
            hold: false,
            made_of: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        check_text("filename", &self.filename, 1, 255)?;
        check_text("content_type", &self.content_type, 0, 255)?;
        check_text("object_key", &self.object_key, 1, 1_024)?;
        check_text("traceparent", &self.traceparent, 0, 256)?;
        if let Some(external_id) = &self.external_id {
            check_text("external_id", external_id, 1, 512)?;
        }
        if let Some(idempotency) = &self.idempotency {
            check_text("the idempotency key", &idempotency.key, 1, 255)?;
        }
        if let Some(collection) = &self.collection {
            check_name(collection)?;
        }
        self.metadata.as_ref().map_or(Ok(()), check_metadata)
    }
}

fn check_text(what: &str, text: &str, least: usize, most: usize) -> Result<(), Error> {
    let length = text.chars().count();
    if length < least || length > most || text.chars().any(char::is_control) {
        return Err(Error::Invalid(format!(
            "{what} has {least} to {most} characters and no control characters"
        )));
    }
    Ok(())
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), Error> {
    let text = serde_json::to_string(metadata).map_err(|error| Error::Invalid(error.to_string()))?;
    if text.len() > METADATA_BYTES {
        return Err(Error::Invalid(format!("metadata is larger than {METADATA_BYTES} bytes")));
    }
    // jsonb cannot hold it.
    if text.contains("\\u0000") {
        return Err(Error::Invalid("metadata contains the character U+0000".into()));
    }
    Ok(())
}

/// What, together with the bytes, makes two uploads the same document.
pub(crate) struct Fingerprint<'a> {
    pub(crate) collection: &'a str,
    pub(crate) external_id: Option<&'a str>,
    pub(crate) metadata: &'a Map<String, Value>,
    pub(crate) chunking: &'a Chunking,
}

impl Fingerprint<'_> {
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut metadata = String::new();
        canonical_object(self.metadata, &mut metadata);
        let chunking = self.chunking;
        let cut = format!("{}/{}/{}", chunking.max_tokens, chunking.overlap_tokens, chunking.tokenizer);
        let mut hasher = Sha256::new();
        for part in [self.collection, self.external_id.unwrap_or(""), &metadata, &cut] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().into()
    }
}

/// JSON with sorted keys and without spaces, whatever order the map keeps.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => canonical_object(object, out),
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn canonical_object(object: &Map<String, Value>, out: &mut String) {
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    out.push('{');
    for (key, value) in entries {
        out.push_str(&Value::String(key.clone()).to_string());
        out.push(':');
        canonical(value, out);
        out.push(',');
    }
    out.push('}');
}

/// What concurrent acceptances of the same thing wait for each other on: rows that are not there yet
/// cannot be locked. Sorted, so that all take them in one order.
pub(super) fn advisory_keys(accept: &Accept, event: Option<&EventKey>) -> Vec<i64> {
    let tenant = accept.tenant.as_str();
    let mut keys = Vec::new();
    if let Some(event) = event {
        keys.push(advisory_key(&["event", tenant, &event.source, &event.event_id]));
    }
    if let Some(idempotency) = &accept.idempotency {
        keys.push(advisory_key(&["idempotency", tenant, &idempotency.key]));
    }
    match (&accept.target, &accept.external_id, &accept.body) {
        (Target::New, Some(external_id), _) => keys.push(advisory_key(&["external", tenant, external_id])),
        (Target::New, None, Body::Stored { sha256, .. }) => {
            keys.push(advisory_key(&["bytes", tenant, &hex::encode(sha256)]));
        }
        _ => {}
    }
    keys.sort_unstable();
    keys
}

/// The key of an advisory lock on something that has a name and no row yet.
pub(crate) fn advisory_key(parts: &[&str]) -> i64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let mut first = [0_u8; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hash(metadata: &str) -> [u8; 32] {
        let metadata: Map<String, Value> = serde_json::from_str(metadata).unwrap();
        Fingerprint {
            collection: "c",
            external_id: None,
            metadata: &metadata,
            chunking: &Chunking::default(),
        }
        .hash()
    }

    #[test]
    fn the_order_of_keys_does_not_change_the_fingerprint_and_values_do() {
        assert_eq!(hash(r#"{"a":1,"b":{"c":[1,2],"d":null}}"#), hash(r#"{"b":{"d":null,"c":[1,2]},"a":1}"#));
        assert_ne!(hash(r#"{"a":1}"#), hash(r#"{"a":2}"#));
        assert_ne!(hash(r#"{"a":[1,2]}"#), hash(r#"{"a":[2,1]}"#));
    }

    #[test]
    fn names_and_metadata_have_limits() {
        let tenant: TenantId = "acme".parse().unwrap();
        let good =
            Accept::new(tenant, "a.txt", "t/acme/originals/x", Body::Stored { size: 1, sha256: [0; 32] });
        assert!(good.check().is_ok());
        let refused = |change: &dyn Fn(&mut Accept)| {
            let mut accept = good.clone();
            change(&mut accept);
            matches!(accept.check(), Err(Error::Invalid(_)))
        };
        assert!(refused(&|accept| accept.filename.clear()));
        assert!(refused(&|accept| accept.filename = "a\0b".into()));
        assert!(refused(&|accept| accept.external_id = Some("x".repeat(513))));
        assert!(refused(&|accept| {
            accept.metadata = Some([("k".to_owned(), Value::String("\0".into()))].into_iter().collect());
        }));
        assert!(refused(&|accept| {
            accept.metadata =
                Some([("k".to_owned(), Value::String("x".repeat(70_000)))].into_iter().collect());
        }));
    }
}
