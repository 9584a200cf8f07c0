//! What a client still sends when its answer is there: it is read and thrown away for a while.
//!
//! A connection that is closed with bytes in it that nobody read is reset, and the reset may overtake the answer: a client
//! whose upload is refused would see a broken connection, and a proxy would say 502. Web servers call it a lingering close.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody},
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
};
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::App;

/// For how long a body is read that nobody wants, and how long a pause in it may be. nginx has 30 and 5 s.
const WHOLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(10);
/// How many are read at once. Beyond that a connection is closed at once, so that nobody keeps the gateway busy with them.
const AT_ONCE: usize = 64;
/// What a form adds to the files in it, at most.
const OVERHEAD: u64 = 1 << 20;

/// What is read of whom.
#[derive(Debug, Clone)]
pub(super) struct Lingerers {
    places: Arc<Semaphore>,
    /// The most that anybody has a reason to send, in bytes.
    most: u64,
    stopping: CancellationToken,
}

impl Lingerers {
    pub(super) fn new(app: &App) -> Lingerers {
        let config = app.config();
        let most = config.max_upload_bytes.max(config.bulk.max_bytes).saturating_add(OVERHEAD);
        Lingerers { places: Arc::new(Semaphore::new(AT_ONCE)), most, stopping: app.stopping().clone() }
    }
}

/// Reads the rest of a request's body when its handler has dropped it.
pub(super) async fn layer(State(lingerers): State<Lingerers>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who waits for a 100 has sent nothing until the body is first read, and would be asked to.
    let is_awaited = request.headers().contains_key(header::EXPECT);
    let body =
        |body: Body| Lingering { body: Some(body.into_data_stream()), is_coming: !is_awaited, lingerers };
    next.run(request.map(|inner| Body::from_stream(body(inner)))).await
}

/// A body until its end.
struct Lingering {
    body: Option<BodyDataStream>,
    is_coming: bool,
    lingerers: Lingerers,
}

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.is_coming = true;
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let piece = std::task::ready!(body.poll_next_unpin(context));
        if !matches!(piece, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(piece)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|_| self.is_coming) else { return };
        let Ok(place) = Arc::clone(&self.lingerers.places).try_acquire_owned() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(WHOLE, read(body, self.lingerers.clone(), place)));
        }
    }
}

async fn read(mut body: BodyDataStream, lingerers: Lingerers, _place: OwnedSemaphorePermit) {
    let mut left = lingerers.most;
    let all = async {
        while let Ok(Some(Ok(piece))) = tokio::time::timeout(PAUSE, body.next()).await {
            match left.checked_sub(piece.len() as u64) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    lingerers.stopping.run_until_cancelled(all).await;
}
