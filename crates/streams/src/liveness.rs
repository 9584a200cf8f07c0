//! Who is alive: each process's beat, and what others conclude from it.
//!
//! Times to live decide nothing: a restart, a clock step or a full Redis would end all of them at
//! once. A consumer is dead when its number stays the same over the observer's own clock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Error, ServerIdentity, Streams,
    client::{Conn, Value, list},
};

/// How long a beat's key outlives its process. Only tidiness, and how old a beat is: no claim is concluded from it.
const BEAT_KEPT_MS: i64 = 3_600_000;
/// In figures, and only there, whose last beat is older than this does not live.
const FIGURES_AGE: Duration = Duration::from_secs(10);
/// How long a beat that was read serves for other looks. It counts as one read.
const RECENT: Duration = Duration::from_millis(200);
/// A consumer is dead only after this many successful reads of the same number.
const SAME_READS: u32 = 3;

/// A name for this process that no other has, and that no later one gets.
#[must_use]
pub fn consumer_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String =
        host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let host = if host.is_empty() { "host".to_owned() } else { host };
    format!("{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

/// What a beat says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BeatValue {
    number: u64,
    /// The newest envelope version that the consumer reads.
    envelope_version: u32,
}

impl BeatValue {
    fn parse(text: &str) -> Option<BeatValue> {
        let (number, version) = text.split_once(' ')?;
        Some(BeatValue { number: number.parse().ok()?, envelope_version: version.parse().ok()? })
    }
}

/// What was read of a beat.
#[derive(Debug, Clone)]
pub(crate) struct BeatRead {
    /// The run id of the server that it was read from. In a cluster beats stand on all servers.
    server: String,
    value: Option<BeatValue>,
    /// How long ago it was written.
    age: Duration,
    /// When it was read.
    at: Instant,
}

impl BeatRead {
    /// Whether figures count the consumer among those that live.
    pub(crate) fn seems_alive(&self) -> bool {
        self.value.is_some() && self.age < FIGURES_AGE
    }
}

pub(crate) async fn read_beat(streams: &Streams, consumer: &str) -> Result<BeatRead, Error> {
    let keys = [streams.keys().beat(consumer)];
    let mut reply = list(streams.scripts().beat.run(&streams.conn(), &keys, vec![]).await?).into_iter();
    let server = reply.next().and_then(Value::into_string).ok_or(Error::Reply("run id"))?;
    let value = reply.next().and_then(Value::into_string);
    let left = reply.next().and_then(|left| left.as_i64()).unwrap_or(0);
    let age = Duration::from_millis(u64::try_from(BEAT_KEPT_MS - left).unwrap_or(0));
    Ok(BeatRead { server, value: value.and_then(|text| BeatValue::parse(&text)), age, at: Instant::now() })
}

/// Beats that were read a moment ago. A process watches the same others in every stage and partition.
#[derive(Default)]
pub(crate) struct RecentBeats(Mutex<HashMap<String, BeatRead>>);

impl RecentBeats {
    async fn read(&self, streams: &Streams, consumer: &str) -> Result<BeatRead, Error> {
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(read) = known.get(consumer).filter(|read| read.at.elapsed() < RECENT) {
                return Ok(read.clone());
            }
        }
        let read = read_beat(streams, consumer).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, read| read.at.elapsed() < RECENT);
        all.insert(consumer.to_owned(), read.clone());
        Ok(read)
    }
}

/// This process's sign of life, written from a thread, a runtime and a connection of its own, so
/// that busy workers cannot starve it. Dropping it ends the beat.
pub struct Beat {
    consumer: String,
    shared: Arc<BeatShared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct BeatShared {
    stop: AtomicBool,
    /// Advanced by the runtime that runs the stages.
    ticks: AtomicU64,
    /// How long the runtime may stand still, in milliseconds.
    patience_ms: AtomicU64,
    /// Whether the last beat was accepted.
    accepted: AtomicBool,
}

impl Beat {
    /// Begins to beat for `consumer`. `patience` is how long the runtime's tick may stand still
    /// before the beat stops too.
    pub fn start(
        streams: &Streams,
        consumer: &str,
        every: Duration,
        patience: Duration,
    ) -> Result<Beat, Error> {
        let shared = Arc::new(BeatShared {
            stop: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            patience_ms: AtomicU64::new(millis(patience)),
            accepted: AtomicBool::new(false),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Config(format!("beat runtime: {error}")))?;
        let (streams, name, state) = (streams.clone(), consumer.to_owned(), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("riacho-beat".to_owned())
            .spawn(move || runtime.block_on(beat(streams, name, every, state)))
            .map_err(|error| Error::Config(format!("beat thread: {error}")))?;
        Ok(Beat { consumer: consumer.to_owned(), shared, thread: Some(thread) })
    }

    /// Whose beat it is.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// Says that the runtime still runs. Called from the runtime, more often than once a second.
    pub fn tick(&self) {
        self.shared.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Raises how long the tick may stand still, for a stage with a longer time limit.
    pub fn allow(&self, patience: Duration) {
        self.shared.patience_ms.fetch_max(millis(patience), Ordering::Relaxed);
    }

    /// Whether the server took the last beat. Whoever cannot beat looks dead, and must not judge.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn beat(streams: Streams, consumer: String, every: Duration, shared: Arc<BeatShared>) {
    let mut conn = None;
    let mut number: u64 = rand::random::<u32>().into();
    let (mut ticks, mut ticked) = (0, Instant::now());
    while !shared.stop.load(Ordering::Relaxed) {
        let now = shared.ticks.load(Ordering::Relaxed);
        if now != ticks {
            (ticks, ticked) = (now, Instant::now());
        }
        if millis(ticked.elapsed()) <= shared.patience_ms.load(Ordering::Relaxed) {
            number += 1;
            let accepted = write_beat(&streams, &mut conn, &consumer, number, every).await;
            shared.accepted.store(accepted.is_ok(), Ordering::Relaxed);
            if let Err(error) = accepted {
                tracing::debug!(%error, "the beat was not written");
            }
        }
        tokio::time::sleep(every).await;
    }
    if let Some(conn) = conn {
        conn.close().await;
    }
}

async fn write_beat(
    streams: &Streams,
    conn: &mut Option<Conn>,
    consumer: &str,
    number: u64,
    every: Duration,
) -> Result<(), Error> {
    let conn = match conn {
        Some(conn) => conn,
        None => conn.insert(streams.dedicated().await?.with_timeout(every.max(Duration::from_millis(500)))),
    };
    let key = streams.keys().beat(consumer);
    let value = format!("{number} {}", riacho_proto::ENVELOPE_VERSION);
    let args = vec![key.as_str().into(), value.into(), "PX".into(), BEAT_KEPT_MS.into()];
    conn.call("SET", Some(&key), args).await.map(|_| ())
}

/// Watches the beats of others and judges who is dead.
pub struct Observer {
    dead_after: Duration,
    restart_grace: Duration,
    seen: HashMap<String, Sight>,
    server: Option<ServerIdentity>,
    /// Nothing is judged before.
    quiet_until: Option<Instant>,
}

struct Sight {
    read: BeatRead,
    same_reads: u32,
    since: Instant,
    /// It is not judged before.
    spared_until: Option<Instant>,
}

impl Sight {
    fn of(read: BeatRead, spared_until: Option<Instant>) -> Sight {
        Sight { read, same_reads: 1, since: Instant::now(), spared_until }
    }
}

impl Observer {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new(dead_after: Duration, restart_grace: Duration) -> Self {
        Self { dead_after, restart_grace, seen: HashMap::new(), server: None, quiet_until: None }
    }

    /// Looks at the server. After a new run id nobody is judged for a while, and all that was seen
    /// before is forgotten: everyone lost the connection, and some the beat.
    pub fn note_server(&mut self, server: ServerIdentity) {
        if self.server.as_ref().is_some_and(|known| known.run_id != server.run_id) {
            self.seen.clear();
            self.quiet_until = Some(Instant::now() + self.restart_grace);
        }
        self.server = Some(server);
    }

    /// Looks at the beats of `consumers` once; call it about twice a second.
    pub async fn look(&mut self, streams: &Streams, consumers: &[String]) -> Result<(), Error> {
        for consumer in consumers {
            let read = streams.recent_beats().read(streams, consumer).await?;
            let Some(sight) = self.seen.get_mut(consumer) else {
                self.seen.insert(consumer.clone(), Sight::of(read, None));
                continue;
            };
            if sight.read.at == read.at {
                // The same read once more says nothing.
            } else if sight.read.server != read.server {
                // Its server was restarted or replaced: it lost the connection, and perhaps its last beats.
                *sight = Sight::of(read, Some(Instant::now() + self.restart_grace));
            } else if sight.read.value == read.value && sight.same_reads > 0 {
                (sight.read, sight.same_reads) = (read, sight.same_reads + 1);
            } else {
                *sight = Sight::of(read, sight.spared_until);
            }
        }
        self.seen.retain(|name, _| consumers.contains(name));
        Ok(())
    }

    /// Forgets what was seen, because a look failed: a number that could not be read is not one
    /// that stayed the same.
    pub fn forget(&mut self) {
        // Where each was read from is kept: it tells whether the server is another one afterwards.
        self.seen.values_mut().for_each(|sight| sight.same_reads = 0);
    }

    /// Who of those seen is dead.
    #[must_use]
    pub fn dead(&self) -> Vec<String> {
        let is_ahead = |until: Option<Instant>| until.is_some_and(|until| Instant::now() < until);
        if is_ahead(self.quiet_until) {
            return vec![];
        }
        let is_dead = |sight: &Sight| {
            let stands_still = sight.same_reads >= SAME_READS && sight.since.elapsed() >= self.dead_after;
            stands_still && !is_ahead(sight.spared_until)
        };
        self.seen.iter().filter(|(_, sight)| is_dead(sight)).map(|(name, _)| name.clone()).collect()
    }

    /// The newest envelope version that any consumer which is not dead reads; 0 where none does.
    #[must_use]
    pub fn newest_version(&self) -> u32 {
        let dead = self.dead();
        let alive = self.seen.iter().filter(|(name, _)| !dead.contains(name));
        alive.filter_map(|(_, sight)| Some(sight.read.value.as_ref()?.envelope_version)).max().unwrap_or(0)
    }
}
