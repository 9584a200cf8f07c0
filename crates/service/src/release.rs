//! Putting releases onto their streams, for whoever made them: the gateway and the janitor.

use futures::{StreamExt, stream};
use riacho_proto::v1::{ChunkSettings, ExtractRequested};
use riacho_stage::codec::{ReleaseMeta, encode_release};
use riacho_store::{Release, ReleasePlan, Store};
use riacho_streams::{ReleaseOutcome, Streams};

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

/// Puts releases onto their streams and writes so, and answers each in order. Sending one again is
/// harmless.
pub async fn send(store: &Store, streams: &Streams, plans: &[ReleasePlan]) -> Vec<Result<Sent, Error>> {
    let adding: Vec<_> = plans.iter().map(|plan| add(streams, plan)).collect();
    let outcomes: Vec<_> = stream::iter(adding).buffered(AT_ONCE).collect().await;
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

async fn add(streams: &Streams, plan: &ReleasePlan) -> Result<ReleaseOutcome, riacho_streams::Error> {
    let envelope = encode_release(&meta(plan), request(plan));
    streams.release(plan.partition, plan.lane, &envelope, plan.release).await
}

fn meta(plan: &ReleasePlan) -> ReleaseMeta {
    ReleaseMeta {
        tenant: plan.tenant.clone(),
        document: plan.document,
        version: plan.version,
        release: plan.release,
        lane: plan.lane,
        traceparent: plan.traceparent.clone(),
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
