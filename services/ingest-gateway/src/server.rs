//! The listening socket: connections, their limits, and their end.
//!
//! axum's own loop has no limit on the number of connections and no time limit on a request's head,
//! so a client could hold connections open for ever by sending nothing.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::Config;

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// How long a gateway that stops waits for the first request of a client that has connected.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// The pause after an accept that failed, for example because files ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` until `stop`, then lets requests in hand, and those of clients that are connected, finish within the
/// grace period.
pub(crate) async fn serve(listener: TcpListener, router: Router, config: &Config, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let tracker = TaskTracker::new();
    let hard_stop = CancellationToken::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.idle_timeout())
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);

    let take = |permit: Option<OwnedSemaphorePermit>, stream: TcpStream, peer: SocketAddr| {
        let (builder, router, permits) = (builder.clone(), router.clone(), permits.clone());
        let (stop, hard_stop) = (stop.clone(), hard_stop.clone());
        tracker.spawn(hard_stop.run_until_cancelled_owned(async move {
            let permit = match permit {
                Some(permit) => Ok(permit),
                None => permits.acquire_owned().await,
            };
            connection(builder, stream, peer, router, stop).await;
            drop(permit);
        }));
    };

    loop {
        let accepted = stop
            .run_until_cancelled(async {
                // Taken before the connection, so that connections over the limit wait in the kernel.
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            })
            .await;
        let Some((Ok(permit), accepted)) = accepted else { break };
        match accepted {
            Ok((stream, peer)) => take(Some(permit), stream, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The kernel has told these clients that they are connected, and would reset them; they may have sent a request
    // that no proxy sends a second time.
    for (stream, peer) in waiting(listener) {
        take(None, stream, peer);
    }
    tracker.close();
    if tokio::time::timeout(config.grace(), tracker.wait()).await.is_err() {
        tracing::warn!(
            connections = tracker.len(),
            "requests did not finish within the grace period; cutting them off"
        );
        hard_stop.cancel();
        tracker.wait().await;
    }
}

/// The connections that wait in the kernel; nobody can connect any more after that.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut found = Vec::new();
    let Ok(listener) = listener.into_std() else { return found };
    while let Ok((stream, peer)) = listener.accept() {
        let taken = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        found.extend(taken.map(|stream| (stream, peer)));
    }
    found
}

async fn connection(
    builder: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    // Answers are small; waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let asked = CancellationToken::new();
    let seen = asked.clone();
    let service = TowerToHyperService::new(router.map_request(move |mut request: Request<Incoming>| {
        seen.cancel();
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    }));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let stopped = async {
        stop.cancelled().await;
        // A connection that has brought no request is closed by a graceful shutdown, although one may be on its way.
        let _ = tokio::time::timeout(FIRST_REQUEST, asked.cancelled()).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
