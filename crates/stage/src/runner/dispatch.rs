//! Decodes entries and sends them to work; what cannot be decoded is settled here.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use riacho_domain::{DelayClass, Lane, ReasonCode, StageName};
use riacho_streams::{Action, Entry, Target};
use riacho_traces::{Kind, Span, attributes};
use tokio::sync::OwnedSemaphorePermit;

use super::line::{Holding, LAST_RUN, Line, Work};
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

/// Takes entries in. Nothing here waits, so that a comparison of the pending list never sees half.
pub(super) fn all(line: &Arc<Line>, partition: u16, entries: Vec<Entry>, reason: Reason) {
    all_with(line, partition, entries, reason, None);
}

/// As [`all`], for entries of which one has a `place` already.
pub(super) fn all_with(
    line: &Arc<Line>,
    partition: u16,
    entries: Vec<Entry>,
    reason: Reason,
    place: Option<OwnedSemaphorePermit>,
) {
    let reason = match reason {
        Reason::First => None,
        Reason::Retry => Some("retry"),
        Reason::Claimed => Some("claimed"),
        Reason::LostReply => Some("lost_reply"),
    };
    if let (Some(reason), false) = (reason, entries.is_empty()) {
        let count = entries.len() as u64;
        metrics::counter!(names::REDELIVERIES, "stage" => line.stage.as_str(), "reason" => reason)
            .increment(count);
    }
    let lanes: Vec<Lane> = entries.iter().map(|entry| entry.lane).collect();
    for (entry, place) in entries.into_iter().zip(line.room.take_all(&lanes, place)) {
        line.lanes.count(entry.lane);
        let room = (place, None);
        let is_held = line.held.insert(partition, entry.lane, &entry.id);
        let sending = Span::none();
        one(line, Holding { partition, entry, envelope_id: String::new(), is_held, room, sending });
    }
}

fn one(line: &Arc<Line>, mut holding: Holding) {
    if !holding.is_held {
        // An older run of it is still under way here. That run is fenced; the new one waits.
        return wait(line, holding, "waits_for_itself");
    }
    match codec::decode(holding.partition, &holding.entry) {
        Ok((mut meta, payload)) => {
            meta.attempt = meta.attempt.min(line.config.max_attempts.max(1));
            holding.envelope_id.clone_from(&meta.id);
            if holding.entry.deliveries > LAST_RUN {
                let message = "the event ended its process each time it ran, the last time alone";
                return condemn(line, holding, Some((&meta, &meta.traceparent)), ReasonCode::Poison, message);
            }
            let span = Span::none();
            begin(line, Box::new(Work { holding, meta, payload, span, batch: (0, 0) }));
        }
        // Left to a consumer that knows the version, while one lives, and else for a while.
        Err(CodecError::Version(version)) => {
            let limit = Duration::from_secs(line.config.unknown_version_seconds);
            if line.newest_version.load(Ordering::Relaxed) >= version || age(&holding.entry) <= limit {
                return wait(line, holding, "unknown_version");
            }
            let message = format!("envelope version {version} is known to no consumer");
            condemn(line, holding, None, ReasonCode::UnknownVersion, &message);
        }
        Err(error) => condemn(line, holding, None, ReasonCode::Undecodable, &error.to_string()),
    }
}

/// Sends an event to work, once there is a place for it in its lane. Several readers may have read for the same place:
/// who waits for one takes none of the places of all lanes.
fn begin(line: &Arc<Line>, mut work: Box<Work>) {
    let Some(places) = line.lanes.places(work.holding.entry.lane) else {
        return line.send(work);
    };
    work.holding.room.0 = None;
    let waiting = Arc::clone(line);
    line.spawn(async move {
        // After the stop it goes to be handed back.
        let place = waiting.stop.run_until_cancelled(places.acquire_owned()).await;
        let lane = work.holding.entry.lane;
        work.holding.room = (waiting.room.take(lane), place.and_then(Result::ok));
        waiting.send(work);
    });
}

fn wait(line: &Line, holding: Holding, outcome: &'static str) {
    let count = holding.uncounted(line);
    holding.settle(line, Action::Retry(DelayClass::OneSecond, count), outcome);
}

/// Makes an entry a dead letter, with its bytes.
pub(super) fn condemn(
    line: &Line,
    mut holding: Holding,
    about: Option<(&EventMeta, &str)>,
    reason: ReasonCode,
    message: &str,
) {
    let (stage, entry, meta) = (line.stage, &holding.entry, about.map(|(meta, _)| meta));
    tracing::warn!(step = "dead letter", %stage, entry = %entry.id, event = meta.map(|meta| &meta.id), tenant = meta.map(|meta| meta.tenant.as_str()),
        document = meta.map(|meta| meta.document.to_string()), version = meta.map(|meta| meta.version),
        attempt = meta.map(|meta| meta.attempt), trace_id = meta.map(EventMeta::trace_id), worker = &*line.consumer,
        %reason, error = message, "an event becomes a dead letter");
    metrics::counter!(names::DEAD_LETTERS, "stage" => stage.as_str(), "reason" => reason.as_str())
        .increment(1);
    let stream = line.streams.keys().work(holding.partition, stage, entry.lane);
    let attempts = if entry.deliveries >= LAST_RUN { line.config.max_attempts } else { entry.deliveries };
    let parent = about.map_or("", |(_, parent)| parent);
    let mut sending = sending_dead(stage, meta, parent);
    sending.fail(reason);
    let below = sending.or(parent);
    let about = meta.map(|meta| (meta, &*below));
    let letter = codec::dead_letter(stage, stream, entry, attempts, about, (reason, message));
    holding.sending = sending;
    holding.settle(line, Action::Done(vec![(Target::Dead, letter)]), "dead_letter");
}

/// The span of putting an event among the dead letters.
fn sending_dead(stage: StageName, meta: Option<&EventMeta>, parent: &str) -> Span {
    let Some(meta) = meta else { return Span::none() };
    Span::below(stage.service(), Kind::Producer, "send dead letter", parent, || {
        [
            (attributes::MESSAGING_SYSTEM, "redis".into()),
            (attributes::MESSAGING_OPERATION_TYPE, "send".into()),
            (attributes::MESSAGING_OPERATION_NAME, "handoff".into()),
            (attributes::MESSAGING_DESTINATION, "dead".into()),
            (attributes::TENANT, meta.tenant.to_string().into()),
            (attributes::DOCUMENT, meta.document.to_string().into()),
            (attributes::VERSION, i64::from(meta.version).into()),
            (attributes::STAGE, stage.as_str().into()),
        ]
    })
}

/// How long ago an entry was added; zero where the clocks disagree.
pub(super) fn age(entry: &Entry) -> Duration {
    let added = UNIX_EPOCH + Duration::from_millis(entry.added_ms());
    SystemTime::now().duration_since(added).unwrap_or_default()
}
