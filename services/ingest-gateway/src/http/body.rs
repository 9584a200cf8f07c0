//! The bytes of an upload on their way to the object store.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use riacho_objects::{Key, Objects, Stored};
use tokio::time::{Instant, Sleep};

use super::problem::Problem;

/// Files up to this size are stored from memory in one call.
const SMALL_BYTES: usize = 64 << 10;
/// How much of a refused body is read before the connection is closed.
const DRAIN_BYTES: usize = 64 << 20;
/// For how long.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection broke, or the body is not what its head says.
    #[error("{0}")]
    Broken(String),
    /// Nothing came for too long.
    #[error("nothing arrived for too long")]
    Slow,
}

/// A request's body that can be read in pieces, by several readers one after the other.
///
/// A client that is still sending when the connection closes sees a reset instead of the answer, so
/// what nobody wants is read and thrown away for a while ([`Incoming::drain`]).
#[derive(Clone)]
pub(crate) struct Incoming(Arc<Mutex<Source>>);

struct Source {
    body: BodyDataStream,
    idle: Duration,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
}

impl Incoming {
    /// The body; `idle` is the longest pause between two pieces of it.
    pub(crate) fn new(body: Body, idle: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(idle));
        Self(Arc::new(Mutex::new(Source { body: body.into_data_stream(), idle, deadline, ended: false })))
    }

    /// The next piece. Unlike with the stream, only the client's own pauses count: the time in which nobody
    /// asked does not.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, BodyError>> {
        {
            let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = guard.idle;
            guard.deadline.as_mut().reset(Instant::now() + idle);
        }
        self.next().await
    }

    /// Reads and drops the rest, within bounds, unless the client waits to be told to send it.
    pub(crate) async fn drain(mut self, headers: &HeaderMap) {
        if headers.contains_key(header::EXPECT) {
            return;
        }
        let mut left = DRAIN_BYTES;
        let rest = async {
            while let Some(Ok(piece)) = self.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Ends in time either way; what remains is the client's loss.
        let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let source = &mut *guard;
        if source.ended {
            return Poll::Ready(None);
        }
        match source.body.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(piece))) => {
                source.deadline.as_mut().reset(Instant::now() + source.idle);
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(None) => {
                source.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                source.ended = true;
                Poll::Ready(Some(Err(BodyError::Broken(error.to_string()))))
            }
            Poll::Pending => source.deadline.as_mut().poll(context).map(|()| {
                source.ended = true;
                Some(Err(BodyError::Slow))
            }),
        }
    }
}

/// Whether the head says that the body is over the limit.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Stores a file under `key` while it is hashed. A small one is stored from memory, without the
/// machinery of a stream.
pub(crate) async fn store<S, E>(
    objects: &Objects,
    key: &Key,
    mut body: S,
    limit_bytes: u64,
) -> Result<Stored, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
    E: Into<Problem> + std::error::Error + Send + Sync + 'static,
{
    let mut head = BytesMut::new();
    loop {
        match body.next().await.transpose().map_err(Into::into)? {
            Some(piece) => head.extend_from_slice(&piece),
            None => break,
        }
        if head.len() as u64 > limit_bytes {
            return Err(Problem::too_large("file", limit_bytes));
        }
        if head.len() > SMALL_BYTES {
            return store_stream(objects, key, head.freeze(), body, limit_bytes).await;
        }
    }
    if head.is_empty() {
        return Err(Problem::empty());
    }
    Ok(objects.put(key, head.freeze()).await?)
}

async fn store_stream<S, E>(
    objects: &Objects,
    key: &Key,
    head: Bytes,
    body: S,
    limit_bytes: u64,
) -> Result<Stored, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
    E: Into<Problem> + std::error::Error + Send + Sync + 'static,
{
    // The store only says that the body broke; why is kept here.
    let cause = Mutex::new(None);
    let pieces = stream::iter([Ok(head)]).chain(body.map(|piece| {
        piece.map_err(|error| {
            let text = error.to_string();
            *cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
            BodyError::Broken(text)
        })
    }));
    let stored = objects.put_stream(key, pieces, limit_bytes).await;
    match cause.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(problem) => Err(problem),
        None => Ok(stored?),
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Slow => Problem::slow_body(),
            BodyError::Broken(reason) => Problem::bad_request(format!("the body broke off: {reason}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_body_that_stops_coming_ends() {
        let body = Body::from_stream(
            stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"a"))]).chain(stream::pending()),
        );
        let mut incoming = Incoming::new(body, Duration::from_millis(20));
        assert_eq!(incoming.next().await.unwrap().unwrap(), "a");
        assert!(matches!(incoming.next().await, Some(Err(BodyError::Slow))));
        assert!(incoming.next().await.is_none());
    }

    #[tokio::test]
    async fn what_nobody_wants_is_read_and_dropped() {
        let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20])));
        let incoming = Incoming::new(Body::from_stream(endless), Duration::from_secs(1));
        tokio::time::timeout(DRAIN_TIME, incoming.drain(&HeaderMap::new())).await.unwrap();
    }
}
