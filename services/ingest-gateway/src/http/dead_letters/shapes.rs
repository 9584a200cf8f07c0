//! How dead letters, and what was done about them, look in answers.

use chrono::{DateTime, Utc};
use riacho_service::letters::{self, EnvelopeSummary, Original, PayloadSummary};
use riacho_store::{DeadLetter, Page, ReplayedVersion, Resolved, Skipped};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LetterBody {
    /// Its id.
    id: Uuid,
    /// The tenant.
    tenant: Option<String>,
    /// The document, when the entry named one.
    document_id: Option<Uuid>,
    /// The document's version.
    version: Option<u32>,
    /// The release that the entry belonged to.
    release_id: Option<Uuid>,
    /// The stage that gave up: `extract`, `embed`, `index`, or `intake`.
    stage: String,
    /// The stream that the entry stood on.
    stream: String,
    /// The entry's id there.
    entry_id: String,
    /// Why it was given up, for programs.
    #[schema(example = "provider_refused")]
    reason_code: String,
    /// Why it was given up, for people.
    message: String,
    /// How often it was delivered.
    attempts: u32,
    /// The trace it belonged to, or empty.
    trace_id: String,
    /// The size of the entry.
    original_bytes: u32,
    /// When it was given up.
    occurred_at: DateTime<Utc>,
    /// When it was written down.
    created_at: DateTime<Utc>,
    /// What was done about it: `unresolved`, `replayed` or `discarded`.
    state: &'static str,
    /// When that was done.
    resolved_at: Option<DateTime<Utc>>,
}

impl From<DeadLetter> for LetterBody {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            tenant: letter.tenant.map(|tenant| tenant.to_string()),
            document_id: letter.document.map(|document| document.0),
            version: letter.version,
            release_id: letter.release.map(|release| release.0),
            stage: letter.stage,
            stream: letter.stream,
            entry_id: letter.entry_id,
            reason_code: letter.reason_code,
            message: letter.message,
            attempts: letter.attempts,
            trace_id: letter.trace_id,
            original_bytes: letter.original_bytes,
            occurred_at: letter.occurred_at,
            created_at: letter.created_at,
            state: letter.state.as_str(),
            resolved_at: letter.resolved_at,
        }
    }
}

/// A page of dead letters, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LettersBody {
    /// The dead letters.
    dead_letters: Vec<LetterBody>,
    /// Where the next page begins; none after the last.
    next_cursor: Option<String>,
}

impl From<Page<DeadLetter>> for LettersBody {
    fn from(page: Page<DeadLetter>) -> Self {
        Self {
            dead_letters: page.items.into_iter().map(LetterBody::from).collect(),
            next_cursor: page.next_cursor,
        }
    }
}

/// A dead letter with the entry as it was read.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InspectedBody {
    #[serde(flatten)]
    letter: LetterBody,
    /// What the entry's envelope says of itself; none where the entry is no envelope.
    envelope: Option<EnvelopeBody>,
    /// The entry as it was read, in base64.
    original_base64: String,
}

impl InspectedBody {
    pub(super) fn new(letter: DeadLetter, original: &[u8]) -> Self {
        let Original { envelope, base64 } = letters::open(original);
        Self { letter: letter.into(), envelope: envelope.map(EnvelopeBody::from), original_base64: base64 }
    }
}

/// What an envelope says of itself.
#[derive(Debug, Serialize, ToSchema)]
struct EnvelopeBody {
    /// The version of the envelope.
    envelope_version: u32,
    /// The event's id.
    id: String,
    /// Who made it.
    source: String,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(example = "riacho.events.v1.ChunksCut")]
    kind: String,
    /// When it happened, where it says so.
    time: Option<DateTime<Utc>>,
    /// The lane.
    lane: &'static str,
    /// The tenant, as it stands there.
    tenant: String,
    /// The document, as it stands there.
    document: String,
    /// The document's version.
    version: u32,
    /// The release, as it stands there.
    release: String,
    /// W3C Trace Context, or empty.
    traceparent: String,
    /// What it carries; none where that is missing or not known.
    payload: Option<PayloadBody>,
}

/// What an envelope carries.
#[derive(Debug, Serialize, ToSchema)]
struct PayloadBody {
    /// Which payload it is.
    #[serde(rename = "type")]
    #[schema(example = "compressed")]
    kind: &'static str,
    /// Its bytes in the envelope.
    bytes: u64,
    /// Its bytes once it is fetched and inflated.
    uncompressed_bytes: u64,
}

impl From<EnvelopeSummary> for EnvelopeBody {
    fn from(envelope: EnvelopeSummary) -> Self {
        let payload = envelope.payload.map(|PayloadSummary { kind, bytes, uncompressed_bytes }| {
            PayloadBody { kind, bytes, uncompressed_bytes }
        });
        Self {
            envelope_version: envelope.envelope_version,
            id: envelope.id,
            source: envelope.source,
            kind: envelope.kind,
            time: envelope.time,
            lane: envelope.lane,
            tenant: envelope.tenant,
            document: envelope.document,
            version: envelope.version,
            release: envelope.release,
            traceparent: envelope.traceparent,
            payload,
        }
    }
}

/// A letter that was left alone.
#[derive(Debug, Serialize, ToSchema)]
struct SkippedBody {
    /// The dead letter.
    id: Uuid,
    /// Why, for programs: `not_found`, `resolved`, `no_document`, `gone`, `superseded`, `in_flight`, `ready`,
    /// `cancelled`, `expired` or `original_gone`.
    #[schema(example = "superseded")]
    reason: &'static str,
    /// Why, for people.
    detail: &'static str,
}

impl From<Skipped> for SkippedBody {
    fn from(skipped: Skipped) -> Self {
        let Skipped { id, reason } = skipped;
        Self { id, reason: reason.as_str(), detail: reason.describes() }
    }
}

/// A version that was replayed.
#[derive(Debug, Serialize, ToSchema)]
struct VersionBody {
    /// The document.
    document_id: Uuid,
    /// Its version.
    version: u32,
    /// Its letters that were resolved by that.
    letters: u64,
}

impl From<ReplayedVersion> for VersionBody {
    fn from(replayed: ReplayedVersion) -> Self {
        let ReplayedVersion { document, version, letters } = replayed;
        Self { document_id: document.0, version, letters }
    }
}

/// What a replay did, or would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayedBody {
    /// Nothing was done.
    dry_run: bool,
    /// How many letters were resolved: all of each version, those that were not selected too.
    replayed: u64,
    /// The versions that were released again. A dry run that takes several calls names a version in each
    /// that comes to a letter of it.
    versions: Vec<VersionBody>,
    /// The letters that were left alone.
    skipped: Vec<SkippedBody>,
    /// Selected letters that this call did not come to.
    remaining: u64,
    /// What to send as `cursor` to go on; none when nothing remains.
    next_cursor: Option<String>,
}

impl ReplayedBody {
    pub(super) fn new(dry_run: bool, done: Resolved) -> Self {
        Self {
            dry_run,
            replayed: done.letters,
            versions: done.versions.into_iter().map(VersionBody::from).collect(),
            skipped: done.skipped.into_iter().map(SkippedBody::from).collect(),
            remaining: done.remaining,
            next_cursor: done.next_cursor,
        }
    }
}

/// What a discard did, or would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DiscardedBody {
    /// Nothing was done.
    dry_run: bool,
    /// How many letters were discarded.
    discarded: u64,
    /// The letters that were left alone.
    skipped: Vec<SkippedBody>,
    /// Selected letters that this call did not come to.
    remaining: u64,
    /// What to send as `cursor` to go on; none when nothing remains.
    next_cursor: Option<String>,
}

impl DiscardedBody {
    pub(super) fn new(dry_run: bool, done: Resolved) -> Self {
        Self {
            dry_run,
            discarded: done.letters,
            skipped: done.skipped.into_iter().map(SkippedBody::from).collect(),
            remaining: done.remaining,
            next_cursor: done.next_cursor,
        }
    }
}
