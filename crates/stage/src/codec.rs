//! Envelopes: the one place that makes and opens them.
//!
//! A payload of less than 1 KiB stands in its envelope as it is; a larger one is compressed; what
//! is still above 256 KiB goes to the object store, and the event carries a claim check. Reading
//! has bounds: nothing is inflated beyond what the writer announced and the reader allows.

use std::{cell::RefCell, io::Read, time::SystemTime};

use bytes::Bytes;
use prost::Message;
use riacho_domain::{
    DocumentId, Lane, ReasonCode, ReleaseId, RunId, StageName, TenantId, Version, derived_event_id,
};
use riacho_proto::{ENVELOPE_VERSION, v1, v1::envelope::Payload};
use riacho_streams::Entry;
use sha2::{Digest, Sha256};
use zstd::{
    bulk::{Compressor, Decompressor},
    stream::read::Decoder,
};

use crate::{ClaimError, Claims, EventMeta, Output};

/// Payloads below this stay as they are.
const PLAIN_BELOW: usize = 1 << 10;
/// Compressed payloads above this become claim checks.
const CLAIM_ABOVE: usize = 256 << 10;
/// Payloads up to this are inflated in one step.
const INFLATED_AT_ONCE: usize = 1 << 20;
/// Zstandard's fastest level that still halves text.
const ZSTD_LEVEL: i32 = 1;

/// Stands in a place that a payload was taken out of.
pub(crate) const NOTHING: Payload =
    Payload::Compressed(v1::CompressedPayload { zstd: Bytes::new(), uncompressed_size: 0 });

/// Why an envelope or its payload cannot be made or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CodecError {
    /// The bytes are no envelope, or an attribute is missing or malformed.
    #[error("undecodable envelope: {0}")]
    Envelope(String),
    /// The envelope is of a newer version than this build knows.
    #[error("envelope version {0} is not known to this build")]
    Version(u32),
    /// The payload is missing, damaged or nested.
    #[error("undecodable payload: {0}")]
    Payload(String),
    /// The payload is larger than it may be.
    #[error("payload of {0} bytes is over the limit")]
    TooLarge(u64),
    /// The claim check could not be stored or read.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl CodecError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, CodecError::Claim(ClaimError::Store(_)))
    }

    /// The reason for which an event with such a payload is given up.
    pub(crate) fn reason(&self) -> ReasonCode {
        match self {
            CodecError::TooLarge(_) | CodecError::Claim(ClaimError::TooLarge(_)) => ReasonCode::TooLarge,
            CodecError::Version(_) => ReasonCode::UnknownVersion,
            _ => ReasonCode::Undecodable,
        }
    }
}

/// The attributes of a document version's first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseMeta {
    /// The tenant that owns the document.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// The document's version.
    pub version: Version,
    /// The release. The event's id is derived from it, so a release sent twice has one id.
    pub release: ReleaseId,
    /// The lane it travels in.
    pub lane: Lane,
    /// W3C Trace Context of the request that caused it, or empty.
    pub traceparent: String,
}

/// Makes the event that puts a release to work, for [`riacho_streams::Streams::release`].
#[must_use]
pub fn encode_release(meta: &ReleaseMeta, request: v1::ExtractRequested) -> Bytes {
    let envelope = v1::Envelope {
        envelope_version: ENVELOPE_VERSION,
        id: derived_event_id(&meta.release.to_string(), "release", 0),
        source: "riacho".to_owned(),
        r#type: type_of(&Payload::ExtractRequested(v1::ExtractRequested::default())).to_owned(),
        subject: meta.document.to_string(),
        tenant: meta.tenant.to_string(),
        document: meta.document.to_string(),
        version: meta.version,
        release: meta.release.to_string(),
        lane: meta.lane.to_proto().into(),
        traceparent: meta.traceparent.clone(),
        payload: Some(Payload::ExtractRequested(request)),
        ..Default::default()
    };
    envelope.encode_to_vec().into()
}

/// Makes an output's event, below a span of its input's trace. The payload may go to the object store on the way.
pub async fn encode_output(
    input: &EventMeta,
    stage: StageName,
    ordinal: usize,
    output: Output,
    traceparent: &str,
    claims: &Claims,
) -> Result<Bytes, CodecError> {
    let id = derived_event_id(&input.id, stage.as_str(), ordinal);
    let kind = type_of(&output.payload);
    let run = run_of(&output.payload, input);
    let mut payload = pack(output.payload)?;
    if let Packed::Large { zstd, uncompressed_size } = payload {
        let key = claims.key(input, run, &id)?;
        let check = v1::ClaimCheck {
            object_key: key.clone(),
            size: zstd.len() as u64,
            uncompressed_size,
            sha256: Bytes::copy_from_slice(&Sha256::digest(&zstd)),
        };
        claims.put(key, zstd).await?;
        payload = Packed::Inline(Payload::ClaimCheck(check));
    }
    let Packed::Inline(payload) = payload else { return Err(CodecError::Payload("not packed".to_owned())) };
    let envelope = v1::Envelope {
        envelope_version: ENVELOPE_VERSION,
        id,
        source: format!("riacho/{stage}"),
        r#type: kind.to_owned(),
        subject: input.document.to_string(),
        tenant: input.tenant.to_string(),
        document: input.document.to_string(),
        version: input.version,
        release: input.release.to_string(),
        lane: output.lane.to_proto().into(),
        traceparent: traceparent.to_owned(),
        payload: Some(payload),
        ..Default::default()
    };
    Ok(envelope.encode_to_vec().into())
}

/// Makes a dead letter of an entry, with its bytes, below a span of the event's trace. One entry, one dead letter: a repetition has the
/// same id.
pub(crate) fn dead_letter(
    stage: StageName,
    stream: String,
    entry: &Entry,
    attempts: u32,
    about: Option<(&EventMeta, &str)>,
    (reason, message): (ReasonCode, &str),
) -> Bytes {
    let id = derived_event_id(&format!("{stream} {}", entry.id), "dead", 0);
    let letter = v1::DeadLetter {
        stage: stage.to_string(),
        stream,
        entry_id: entry.id.clone(),
        reason_code: reason.to_string(),
        message: message.to_owned(),
        attempts,
        trace_id: about.map_or("", |(about, _)| about.trace_id()).to_owned(),
        original: entry.body.clone(),
        time: Some(SystemTime::now().into()),
    };
    let mut envelope = v1::Envelope {
        envelope_version: ENVELOPE_VERSION,
        id,
        source: format!("riacho/{}", letter.stage),
        r#type: "riacho.events.v1.DeadLetter".to_owned(),
        time: letter.time,
        payload: Some(Payload::DeadLetter(letter)),
        ..Default::default()
    };
    if let Some((about, traceparent)) = about {
        envelope.subject = about.document.to_string();
        envelope.tenant = about.tenant.to_string();
        envelope.document = about.document.to_string();
        envelope.version = about.version;
        envelope.release = about.release.to_string();
        envelope.lane = about.lane.to_proto().into();
        envelope.traceparent = traceparent.to_owned();
    }
    envelope.encode_to_vec().into()
}

/// A payload ready for an envelope, or too large for one.
enum Packed {
    Inline(Payload),
    Large { zstd: Bytes, uncompressed_size: u64 },
}

fn pack(payload: Payload) -> Result<Packed, CodecError> {
    let carrier = v1::Envelope { payload: Some(payload), ..Default::default() };
    let size = carrier.encoded_len();
    if size < PLAIN_BELOW {
        return carrier.payload.map(Packed::Inline).ok_or_else(|| CodecError::Payload("empty".to_owned()));
    }
    let zstd = deflate(&carrier.encode_to_vec())?;
    let (zstd, uncompressed_size) = (Bytes::from(zstd), size as u64);
    if zstd.len() > CLAIM_ABOVE {
        return Ok(Packed::Large { zstd, uncompressed_size });
    }
    Ok(Packed::Inline(Payload::Compressed(v1::CompressedPayload { zstd, uncompressed_size })))
}

/// Reads an entry's envelope: its attributes, and its payload as it stands there.
pub(crate) fn decode(partition: u16, entry: &Entry) -> Result<(EventMeta, Payload), CodecError> {
    if !entry.is_event {
        return Err(CodecError::Envelope("the entry has no field e".to_owned()));
    }
    let envelope =
        v1::Envelope::decode(entry.body.clone()).map_err(|error| CodecError::Envelope(error.to_string()))?;
    if envelope.envelope_version > ENVELOPE_VERSION {
        return Err(CodecError::Version(envelope.envelope_version));
    }
    if envelope.envelope_version == 0 || envelope.id.is_empty() || envelope.version == 0 {
        return Err(CodecError::Envelope("envelope_version, id or version is missing".to_owned()));
    }
    let bad = |what: &str, error: &dyn std::fmt::Display| CodecError::Envelope(format!("{what}: {error}"));
    let meta = EventMeta {
        tenant: envelope.tenant.parse().map_err(|error| bad("tenant", &error))?,
        document: envelope.document.parse().map_err(|error| bad("document", &error))?,
        version: envelope.version,
        release: envelope.release.parse().map_err(|error| bad("release", &error))?,
        id: envelope.id,
        // Not the envelope's: the entry is settled where it stands.
        lane: entry.lane,
        traceparent: envelope.traceparent,
        partition,
        entry_id: entry.id.clone(),
        attempt: entry.deliveries,
    };
    let payload = envelope.payload.ok_or_else(|| CodecError::Payload("missing".to_owned()))?;
    Ok((meta, payload))
}

/// Whether a payload has to be inflated or fetched.
pub(crate) const fn is_packed(payload: &Payload) -> bool {
    matches!(payload, Payload::Compressed(_) | Payload::ClaimCheck(_))
}

/// Inflates a payload, and fetches it where it is a claim check. At most `max_bytes` of it.
pub(crate) async fn open(
    payload: Payload,
    tenant: &TenantId,
    claims: &Claims,
    max_bytes: u64,
) -> Result<Payload, CodecError> {
    let (zstd, size) = match payload {
        Payload::Compressed(compressed) => (compressed.zstd, compressed.uncompressed_size),
        Payload::ClaimCheck(check) => {
            if check.size > max_bytes {
                return Err(CodecError::TooLarge(check.size));
            }
            if !check.object_key.starts_with(&format!("t/{tenant}/")) {
                return Err(ClaimError::Key(check.object_key).into());
            }
            let bytes = claims.get(check.object_key, check.size).await?;
            if *Sha256::digest(&bytes) != *check.sha256 {
                return Err(CodecError::Payload("the object differs from its claim check".to_owned()));
            }
            (bytes, check.uncompressed_size)
        }
        plain => return Ok(plain),
    };
    if size > max_bytes {
        return Err(CodecError::TooLarge(size));
    }
    inflate(&zstd, size)
}

thread_local! {
    /// A thread's contexts of Zstandard: making one costs as much as a small payload.
    static DEFLATER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static INFLATER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn deflate(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let packed = DEFLATER.with_borrow_mut(|kept| match kept {
        Some(deflater) => deflater.compress(bytes),
        None => kept.insert(Compressor::new(ZSTD_LEVEL)?).compress(bytes),
    });
    packed.map_err(|error| CodecError::Payload(format!("compression: {error}")))
}

/// Inflates to at most one byte more than announced: enough to see that the announcement was false.
fn inflated(zstd: &[u8], size: u64) -> std::io::Result<Vec<u8>> {
    let limit = size.saturating_add(1);
    match usize::try_from(limit) {
        // All memory is taken at once here, on the word of whoever wrote the event.
        Ok(capacity) if capacity <= INFLATED_AT_ONCE => INFLATER.with_borrow_mut(|kept| match kept {
            Some(inflater) => inflater.decompress(zstd, capacity),
            None => kept.insert(Decompressor::new()?).decompress(zstd, capacity),
        }),
        _ => {
            let mut bytes = Vec::with_capacity(INFLATED_AT_ONCE);
            Decoder::new(zstd)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
    }
}

fn inflate(zstd: &[u8], size: u64) -> Result<Payload, CodecError> {
    let broken = |error: &dyn std::fmt::Display| CodecError::Payload(error.to_string());
    let bytes = inflated(zstd, size).map_err(|error| broken(&error))?;
    if bytes.len() as u64 != size {
        return Err(CodecError::Payload(format!("inflates to other than the announced {size} bytes")));
    }
    let carrier = v1::Envelope::decode(Bytes::from(bytes)).map_err(|error| broken(&error))?;
    match carrier.payload {
        None => Err(CodecError::Payload("missing".to_owned())),
        Some(Payload::Compressed(_) | Payload::ClaimCheck(_)) => {
            Err(CodecError::Payload("nested".to_owned()))
        }
        Some(payload) => Ok(payload),
    }
}

/// The extraction run that a payload belongs to; the release stands in where it has none.
fn run_of(payload: &Payload, input: &EventMeta) -> RunId {
    let run = match payload {
        Payload::ChunksCut(cut) => cut.run.parse().ok(),
        Payload::ChunksEmbedded(embedded) => embedded.run.parse().ok(),
        _ => None,
    };
    run.unwrap_or(RunId(input.release.0))
}

fn type_of(payload: &Payload) -> &'static str {
    match payload {
        Payload::DocumentUploaded(_) => "riacho.events.v1.DocumentUploaded",
        Payload::ExtractRequested(_) => "riacho.events.v1.ExtractRequested",
        Payload::ChunksCut(_) => "riacho.events.v1.ChunksCut",
        Payload::ChunksEmbedded(_) => "riacho.events.v1.ChunksEmbedded",
        Payload::IntakeResult(_) => "riacho.events.v1.IntakeResult",
        Payload::DeadLetter(_) => "riacho.events.v1.DeadLetter",
        Payload::Compressed(_) => "riacho.events.v1.CompressedPayload",
        Payload::ClaimCheck(_) => "riacho.events.v1.ClaimCheck",
    }
}
