//! Putting releases onto their streams, for whoever made them: the gateway and the janitor.

use std::collections::HashSet;

use riacho_proto::v1::{ChunkSettings, ExtractRequested};
use riacho_stage::codec::{ReleaseMeta, encode_release};
use riacho_store::{Release, ReleasePlan, Store};
use riacho_streams::{ReleaseOutcome, Streams};
use riacho_traces::{Kind, Span, attributes};

/// How many releases are on their way to Redis at once.
const AT_ONCE: usize = 32;

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It stands on its stream. If it is not current any more, the stage that reads it will find out.
    Released,
    /// The stream is full: the version waits in PostgreSQL again.
    Full,
}

/// Why a release could not be sent. The version stays `releasing`, and is sent again with the same id.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis failed; the entry may stand on the stream all the same.
    #[error(transparent)]
    Streams(#[from] riacho_streams::Error),
    /// PostgreSQL failed; the entry stands on the stream, or the stream was full.
    #[error(transparent)]
    Store(#[from] riacho_store::Error),
}

impl Error {
    /// Whether a later try may go well.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Streams(error) => error.is_retryable(),
            Error::Store(error) => error.is_retryable(),
        }
    }
}

/// Who releases documents, and why, for their traces and the log.
#[derive(Debug, Clone, Copy)]
pub struct By {
    /// The service.
    pub service: &'static str,
    /// The reason: `accept`, `waiting`, `stale`, `lost`, `stalled`.
    pub reason: &'static str,
}

/// Puts releases onto their streams and writes so, and answers each in order. Sending one again is
/// harmless. Once a stream is found full nothing more is tried on it.
pub async fn send(
    by: By,
    store: &Store,
    streams: &Streams,
    plans: &[ReleasePlan],
) -> Vec<Result<Sent, Error>> {
    let (mut outcomes, mut full) = (Vec::with_capacity(plans.len()), HashSet::new());
    for some in plans.chunks(AT_ONCE) {
        let adding = some.iter().map(|plan| {
            let is_full = full.contains(&(plan.partition, plan.lane));
            async move { if is_full { Ok(ReleaseOutcome::Full) } else { add(by, streams, plan).await } }
        });
        let added = futures::future::join_all(adding.collect::<Vec<_>>()).await;
        let found =
            some.iter().zip(&added).filter(|(_, outcome)| matches!(outcome, Ok(ReleaseOutcome::Full)));
        full.extend(found.map(|(plan, _)| (plan.partition, plan.lane)));
        outcomes.extend(added);
    }
    let added: Vec<Release> = plans
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| matches!(outcome, Ok(ReleaseOutcome::Added | ReleaseOutcome::AlreadyThere)))
        .map(|(plan, _)| plan.release())
        .collect();
    let written = store.released(&added).await;
    let mut sent = Vec::with_capacity(plans.len());
    for (plan, outcome) in plans.iter().zip(outcomes) {
        sent.push(match outcome {
            Err(error) => Err(error.into()),
            Ok(ReleaseOutcome::Full) => {
                store.back_to_waiting(&plan.release()).await.map(|_| Sent::Full).map_err(Error::from)
            }
            Ok(_) => written.as_ref().map(|_| Sent::Released).map_err(|error| error.clone().into()),
        });
    }
    sent
}

async fn add(by: By, streams: &Streams, plan: &ReleasePlan) -> Result<ReleaseOutcome, riacho_streams::Error> {
    let mut span = span(by.service, plan);
    let envelope = encode_release(&meta(plan, span.or(&plan.traceparent)), request(plan));
    let outcome = streams.release(plan.partition, plan.lane, &envelope, plan.release).await;
    match &outcome {
        Ok(ReleaseOutcome::Added) => tell(by, plan),
        Ok(ReleaseOutcome::AlreadyThere) => {
            // The answer of an earlier try was lost, and with it its line.
            span.set(attributes::OUTCOME, "already_there");
            tell(by, plan);
        }
        Ok(ReleaseOutcome::Full) => span.fail("full"),
        Err(_) => span.fail("redis"),
    }
    outcome
}

fn span(service: &'static str, plan: &ReleasePlan) -> Span {
    Span::below(service, Kind::Producer, "send extract", &plan.traceparent, || {
        [
            (attributes::MESSAGING_SYSTEM, "redis".into()),
            (attributes::MESSAGING_OPERATION_TYPE, "send".into()),
            (attributes::MESSAGING_OPERATION_NAME, "release".into()),
            (attributes::MESSAGING_DESTINATION, "extract".into()),
            (attributes::TENANT, plan.tenant.to_string().into()),
            (attributes::DOCUMENT, plan.document.to_string().into()),
            (attributes::VERSION, i64::from(plan.version).into()),
            (attributes::RELEASE, plan.release.to_string().into()),
            (attributes::LANE, plan.lane.as_str().into()),
        ]
    })
}

/// Says in the log that a document is released: at once, since what the extractor says of it comes soon.
fn tell(by: By, plan: &ReleasePlan) {
    let By { service, reason } = by;
    tracing::info!(service, step = "released", tenant = %plan.tenant, document = %plan.document, version = plan.version,
        release = %plan.release, lane = %plan.lane, trace_id = trace_id(&plan.traceparent), reason, "the document is released");
}

/// The trace that a traceparent names, for the log; nothing where it is none.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<String> {
    traceparent.parse::<riacho_traces::Traceparent>().ok().map(|parent| parent.trace_id())
}

fn meta(plan: &ReleasePlan, traceparent: String) -> ReleaseMeta {
    ReleaseMeta {
        tenant: plan.tenant.clone(),
        document: plan.document,
        version: plan.version,
        release: plan.release,
        lane: plan.lane,
        traceparent,
    }
}

fn request(plan: &ReleasePlan) -> ExtractRequested {
    ExtractRequested {
        object_key: plan.object_key.clone(),
        filename: plan.filename.clone(),
        content_type: plan.content_type.clone(),
        size: plan.size,
        sha256: plan.sha256.to_vec().into(),
        chunking: Some(ChunkSettings {
            max_tokens: plan.chunking.max_tokens,
            overlap_tokens: plan.chunking.overlap_tokens,
            tokenizer: plan.chunking.tokenizer.clone(),
        }),
        space: plan.space,
    }
}
