//! Putting a release onto its stream, for whoever made one: the gateway and the janitor.

use riacho_proto::v1::{ChunkSettings, ExtractRequested};
use riacho_stage::codec::{ReleaseMeta, encode_release};
use riacho_store::{ReleasePlan, Store};
use riacho_streams::{ReleaseOutcome, Streams};

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It stands on its stream, and its version's row says so.
    Released,
    /// It stands on its stream, but is not the version's current release any more; the stage that
    /// reads it will find out.
    Superseded,
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

/// Puts a release onto its stream and writes so. Sending it again is harmless.
///
/// # Errors
/// When a server failed; see [`Error`].
pub async fn send(store: &Store, streams: &Streams, plan: &ReleasePlan) -> Result<Sent, Error> {
    let envelope = encode_release(&meta(plan), request(plan));
    let outcome = streams.release(plan.partition, plan.lane, &envelope, plan.release).await?;
    let release = plan.release();
    let current = match outcome {
        ReleaseOutcome::Added | ReleaseOutcome::AlreadyThere => store.released(&release).await?,
        ReleaseOutcome::Full => {
            store.back_to_waiting(&release).await?;
            return Ok(Sent::Full);
        }
    };
    Ok(if current { Sent::Released } else { Sent::Superseded })
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
