//! Decodes entries and sends them to work; what cannot be decoded is settled here.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use riacho_domain::{DelayClass, ReasonCode, derived_event_id};
use riacho_proto::v1;
use riacho_streams::{Action, Entry, Settlement, Target};
use tokio::sync::OwnedSemaphorePermit;

use super::line::{LAST_RUN, Line, Settling, Work};
use crate::{CodecError, EventMeta, codec, metrics::names};

/// Why an entry came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Read for the first time.
    First,
    /// It waited in a delay class, or was handed back.
    Retry,
    /// Its consumer is dead.
    Claimed,
    /// It was delivered to this consumer, and the reply was lost.
    LostReply,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::First => "first",
            Reason::Retry => "retry",
            Reason::Claimed => "claimed",
            Reason::LostReply => "lost_reply",
        }
    }
}

/// Takes entries in. Nothing here waits, so that a comparison of the pending list never sees half.
pub(super) fn all(line: &Arc<Line>, partition: u16, entries: Vec<Entry>, reason: Reason) {
    if reason != Reason::First && !entries.is_empty() {
        let labels = [("stage", line.stage.as_str()), ("reason", reason.as_str())];
        metrics::counter!(names::REDELIVERIES, &labels).increment(entries.len() as u64);
    }
    for entry in entries {
        one(line, partition, entry);
    }
}

fn one(line: &Arc<Line>, partition: u16, entry: Entry) {
    if !line.held.insert(partition, entry.lane, &entry.id) {
        // An older run of it is still under way here. It is fenced; the new one waits for its end.
        let action = Action::Retry(DelayClass::OneSecond, line.uncounted(entry.deliveries));
        let settlement = Settlement::of(&entry, "", action);
        let (outcome, waited) = ("waits_for_itself", Duration::ZERO);
        line.settle(Settling { partition, settlement, outcome, is_held: false, waited, room: None });
        return;
    }
    let room = Arc::clone(&line.room).try_acquire_owned().ok();
    let decoded = if entry.is_event {
        codec::decode(partition, &entry)
    } else {
        Err(CodecError::Envelope("the entry has no field e".to_owned()))
    };
    match decoded {
        Ok((meta, _)) if entry.deliveries > LAST_RUN => {
            let message = "the event ended its process each time it ran, the last time alone";
            condemn(line, &entry, Some(&meta), partition, ReasonCode::Poison, message, room);
        }
        Ok((meta, payload)) => {
            let _ = line.work.send(Work { entry, meta, payload, room });
        }
        Err(CodecError::Version(version)) => wait_for_version(line, &entry, partition, version, room),
        Err(error) => {
            condemn(line, &entry, None, partition, ReasonCode::Undecodable, &error.to_string(), room);
        }
    }
}

/// An envelope of a newer version is left to a consumer that knows it, while one lives, and else
/// for the configured time.
fn wait_for_version(
    line: &Line,
    entry: &Entry,
    partition: u16,
    version: u32,
    room: Option<OwnedSemaphorePermit>,
) {
    let limit = Duration::from_secs(line.config.unknown_version_seconds);
    let is_known = line.newest_version.load(Ordering::Relaxed) >= version;
    if !is_known && age(entry) > limit {
        let message = format!("envelope version {version} is known to no consumer");
        return condemn(line, entry, None, partition, ReasonCode::UnknownVersion, &message, room);
    }
    let action = Action::Retry(DelayClass::OneSecond, line.uncounted(entry.deliveries));
    let settlement = Settlement::of(entry, "", action);
    let (outcome, waited) = ("unknown_version", Duration::ZERO);
    line.settle(Settling { partition, settlement, outcome, is_held: true, waited, room });
}

/// Makes an entry a dead letter, with its bytes.
pub(super) fn condemn(
    line: &Line,
    entry: &Entry,
    meta: Option<&EventMeta>,
    partition: u16,
    reason: ReasonCode,
    message: &str,
    room: Option<OwnedSemaphorePermit>,
) {
    let trace_id = meta.map_or("", |meta| trace_id(&meta.traceparent));
    tracing::warn!(stage = %line.stage, entry = %entry.id, document = meta.map(|meta| meta.document.to_string()),
        %reason, message, trace_id, "an event becomes a dead letter");
    metrics::counter!(names::DEAD_LETTERS, "stage" => line.stage.as_str(), "reason" => reason.as_str())
        .increment(1);
    let stream = line.streams.keys().work(partition, line.stage, entry.lane);
    // One entry, one dead letter: a repetition has the same id.
    let id = derived_event_id(&format!("{stream} {}", entry.id), "dead", 0);
    let attempts = if entry.deliveries >= LAST_RUN { line.config.max_attempts } else { entry.deliveries };
    let letter = v1::DeadLetter {
        stage: line.stage.to_string(),
        stream,
        entry_id: entry.id.clone(),
        reason_code: reason.to_string(),
        message: message.to_owned(),
        attempts,
        trace_id: trace_id.to_owned(),
        original: entry.body.clone(),
        time: Some(SystemTime::now().into()),
    };
    let dead = vec![(Target::Dead, codec::encode_dead_letter(id, letter, meta))];
    let settlement = Settlement::of(entry, meta.map_or("", |meta| &meta.id), Action::Done(dead));
    let (outcome, waited) = ("dead_letter", Duration::ZERO);
    line.settle(Settling { partition, settlement, outcome, is_held: true, waited, room });
}

/// How long ago an entry was added; zero where the clocks disagree.
pub(super) fn age(entry: &Entry) -> Duration {
    let added = UNIX_EPOCH + Duration::from_millis(entry.added_ms());
    SystemTime::now().duration_since(added).unwrap_or_default()
}

/// The trace id of a W3C traceparent (`00-<trace id>-<parent id>-<flags>`), or nothing.
pub(super) fn trace_id(traceparent: &str) -> &str {
    let id = traceparent.split('-').nth(1).unwrap_or_default();
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id } else { "" }
}
