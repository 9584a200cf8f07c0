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
}
