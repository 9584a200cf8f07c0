//! What a client still sends when its answer is there: it is read and thrown away for a while.
//!
//! A connection that is closed with bytes in it that nobody read is reset, and the reset may overtake the answer: a client
//! whose upload is refused would see a broken connection, and a proxy would say 502. Web servers call it a lingering close.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use futures::{Stream, StreamExt};

/// For how long a body is read that nobody wants, and how long a pause in it may be: nginx's `lingering_time` and
/// `lingering_timeout`.
const WHOLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(5);

/// Reads the rest of a request's body when its handler has dropped it.
pub(super) async fn layer(request: Request, next: Next) -> Response {
    // Who waits for a 100 before it sends anything has sent nothing, and would be asked to.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    next.run(request.map(|body| Body::from_stream(Lingering(Some(body.into_data_stream()))))).await
}

/// A body until its end.
struct Lingering(Option<BodyDataStream>);

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = self.0.as_mut() else { return Poll::Ready(None) };
        let piece = std::task::ready!(body.poll_next_unpin(context));
        if !matches!(piece, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(piece)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(body) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(WHOLE, read(body)));
        }
    }
}

async fn read(mut body: BodyDataStream) {
    while let Ok(Some(Ok(_))) = tokio::time::timeout(PAUSE, body.next()).await {}
}
