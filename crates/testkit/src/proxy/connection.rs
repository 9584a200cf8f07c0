//! One connection through a proxy.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

use super::{Mode, Shared, target::Target};

/// How long a connection that lost an answer goes on taking requests.
const DEAF: Duration = Duration::from_millis(10);
/// The largest piece.
const PIECE: usize = 64 << 10;

/// Serves a client until it or the server ends the connection, or the proxy cuts it.
pub(super) async fn serve(client: TcpStream, target: Target, shared: Arc<Shared>) {
    let mut changes = shared.settings.subscribe();
    let begin = *changes.borrow_and_update();
    shared.open.fetch_add(1, Ordering::Relaxed);
    let is_cut = changes.wait_for(|now| {
        let is_other_kind = matches!(now.mode, Mode::Answer(_)) != matches!(begin.mode, Mode::Answer(_));
        now.cuts != begin.cuts || now.mode == Mode::Refuse || is_other_kind
    });
    // However it ends, the client sees the connection close.
    tokio::select! {
        _ = is_cut => {}
        _ = connected(client, &target, &shared, begin.mode) => {}
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

async fn connected(client: TcpStream, target: &Target, shared: &Shared, mode: Mode) -> io::Result<()> {
    client.set_nodelay(true)?;
    if let Mode::Answer(status) = mode {
        return answer(client, status).await;
    }
    open(shared).await;
    let (from_server, to_server) = tokio::io::split(target.connect().await?);
    let (from_client, to_client) = client.into_split();
    let requests = requests(from_client, to_server, shared);
    tokio::try_join!(requests, replies(from_server, to_client, shared)).map(drop)
}

async fn requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let size = from.read(&mut piece).await?;
        if size == 0 {
            return to.shutdown().await;
        }
        pass(&mut to, &piece[..size], shared).await?;
    }
}

async fn replies(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut cut_at = None;
    loop {
        let read = from.read(&mut piece);
        let size = match cut_at {
            None => read.await?,
            // Anything after a lost answer would be taken for it.
            Some(at) => timeout_at(at, read).await.map_err(|_| io::ErrorKind::ConnectionAborted)??,
        };
        if size == 0 {
            return to.shutdown().await;
        }
        if cut_at.is_some() || is_to_be_lost(shared) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            cut_at.get_or_insert_with(|| Instant::now() + DEAF);
            continue;
        }
        pass(&mut to, &piece[..size], shared).await?;
    }
}

fn is_to_be_lost(shared: &Shared) -> bool {
    let fewer = |left: u32| left.checked_sub(1);
    shared.to_lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
}

async fn pass(to: &mut (impl AsyncWrite + Unpin), piece: &[u8], shared: &Shared) -> io::Result<()> {
    let delay = shared.settings.borrow().delay;
    if !delay.is_zero() {
        sleep(delay).await;
    }
    open(shared).await;
    to.write_all(piece).await
}

/// Waits while nothing comes through.
async fn open(shared: &Shared) {
    let mut changes = shared.settings.subscribe();
    // The sender is among what this borrows, so it is there.
    let _ = changes.wait_for(|settings| settings.mode != Mode::Blackhole).await;
}

/// Reads requests to their ends and answers each with a status.
async fn answer(client: TcpStream, status: u16) -> io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if client.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
            if line.is_empty() {
                break;
            }
        }
        tokio::io::copy(&mut (&mut client).take(length), &mut tokio::io::sink()).await?;
        let head = format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\n\r\n");
        client.write_all(head.as_bytes()).await?;
    }
}
