//! A TCP proxy that does to connections what networks and dying servers do to them.
//!
//! It stands before a server, on a port of its own, and is told at run time what goes wrong. It has a
//! thread of its own, so that a test that blocks does not hold up what it tests.

mod connection;
mod target;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{oneshot, watch},
    task::JoinSet,
};

use self::target::Target;

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything passes.
    Pass,
    /// Connections are closed as soon as they are there.
    Refuse,
    /// Connections are there, and nothing comes through them.
    Blackhole,
    /// Every HTTP request is answered with this status, and no server sees it.
    Answer(u16),
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    mode: Mode,
    /// How long each piece waits.
    delay: Duration,
    /// How often all connections were cut.
    cuts: u64,
    cut_every: Option<Duration>,
}

/// What the tasks of the proxy share.
#[derive(Debug)]
struct Shared {
    settings: watch::Sender<Settings>,
    /// How many answers are still to be lost.
    to_lose: AtomicU32,
    lost: AtomicU32,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A running proxy. It cuts its connections and stops listening when it is dropped.
pub struct Proxy {
    url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy before the server of a URL: Redis or PostgreSQL on a port or a Unix socket, or
    /// anything that speaks HTTP. Everything passes at first.
    ///
    /// # Errors
    /// A URL that is none of these, or no free port.
    pub fn before(url: &str) -> Result<Proxy> {
        let (target, url) = Target::of(url)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let settings = Settings { mode: Mode::Pass, delay: Duration::ZERO, cuts: 0, cut_every: None };
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(settings),
            to_lose: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let state = Arc::clone(&shared);
        let body = move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener);
                tokio::select! {
                    _ = stopped => {}
                    () = cut_regularly(&state) => {}
                    result = accept(listener, &target, &state) => drop(result),
                }
            });
        };
        let thread = thread::Builder::new().name("fault-proxy".to_owned()).spawn(body)?;
        let url = url.replace(target::ADDRESS, &address.to_string());
        Ok(Proxy { url, address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// The URL of the server, through the proxy.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything passes: as before anything went wrong. Regular cuts and delays end too.
    pub fn pass(&self) {
        self.shared.to_lose.store(0, Ordering::Relaxed);
        self.set(|settings| {
            *settings =
                Settings { mode: Mode::Pass, delay: Duration::ZERO, cut_every: None, cuts: settings.cuts }
        });
    }

    /// The server is away: its connections are cut, and new ones closed at once.
    pub fn refuse(&self) {
        self.set(|settings| settings.mode = Mode::Refuse);
    }

    /// The network swallows everything: connections stay, and new ones are taken, but nothing comes
    /// through until the proxy passes again; then what waited does.
    pub fn blackhole(&self) {
        self.set(|settings| settings.mode = Mode::Blackhole);
    }

    /// Every HTTP request gets this status as its answer, and the server does not see it.
    pub fn answer(&self, status: u16) {
        self.set(|settings| settings.mode = Mode::Answer(status));
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        self.set(|settings| settings.cuts += 1);
    }

    /// Cuts all connections again and again.
    pub fn cut_every(&self, pause: Duration) {
        self.set(|settings| settings.cut_every = Some(pause));
    }

    /// Loses the next answers of the server, on whatever connections they come: what was asked is
    /// done, and nobody hears of it. A connection that lost an answer delivers none any more, and is
    /// cut a moment later.
    pub fn lose_replies(&self, count: u32) {
        self.shared.to_lose.store(count, Ordering::Relaxed);
    }

    /// Delays every piece, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.set(|settings| settings.delay = delay);
    }

    /// How many answers were lost.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// How many connections came, those that were refused too.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.settings.send_modify(change);
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).field("shared", &self.shared).finish()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed already.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::io::Result<TcpListener>, target: &Target, shared: &Arc<Shared>) -> Result<()> {
    let listener = listener?;
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let mode = shared.settings.borrow().mode;
        if mode != Mode::Refuse {
            connections.spawn(connection::serve(client, target.clone(), Arc::clone(shared)));
        }
    }
}

async fn cut_regularly(shared: &Shared) {
    let mut changes = shared.settings.subscribe();
    loop {
        let pause = changes.borrow_and_update().cut_every;
        match pause {
            // Told otherwise meanwhile, it looks again before it cuts.
            Some(pause) => {
                if tokio::time::timeout(pause, changes.changed()).await.is_err() {
                    shared.settings.send_modify(|settings| settings.cuts += 1);
                }
            }
            // The sender is among what this borrows, so it is there.
            None => drop(changes.changed().await),
        }
    }
}

#[cfg(test)]
mod tests;
