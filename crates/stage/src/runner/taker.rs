//! Takes entries over: retries that are due, and what dead consumers left behind.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use riacho_domain::Lane;
use riacho_streams::{Error, Most, Observer};

use super::{
    dispatch::{self, Reason},
    line::{Line, Partition},
};
use crate::{RunnerConfig, outage::Backoff};

/// At most this many entries are taken over at once.
const TAKE_MAX: usize = 256;
/// From this share of the memory limit on nothing is read.
const TIGHT_PERCENT: u64 = 90;

/// Takes entries over until the stop.
pub(super) async fn run(line: Arc<Line>, partition: Arc<Partition>) {
    let mut taker = Taker::new(&line.config);
    let mut backoff = Backoff::new();
    // The stages and partitions of a process take turns, so that one read of a beat serves them all.
    line.pause(taker.look_every.mul_f64(rand::random::<f64>() / 2.0)).await;
    while !line.stop.is_cancelled() {
        match taker.turn(&line, &partition).await {
            Ok(()) => {
                backoff.reset();
                line.pause(if taker.has_pending { taker.look_every / 2 } else { taker.look_every }).await;
            }
            Err(error) => {
                taker.forget();
                line.back_off(&error, &mut backoff).await;
            }
        }
    }
}

/// What is known of a partition.
struct Taker {
    observer: Observer,
    look_every: Duration,
    looked: Option<Instant>,
    /// Whether anybody held anything at the last look. While nobody does, nothing can be due or left behind.
    has_pending: bool,
}

impl Taker {
    fn new(config: &RunnerConfig) -> Taker {
        let millis = Duration::from_millis;
        let observer = Observer::new(millis(config.dead_after_ms), millis(config.restart_grace_ms));
        Taker { observer, look_every: config.look(), looked: None, has_pending: false }
    }

    /// A number that could not be read is not one that stayed the same.
    fn forget(&mut self) {
        self.observer.forget();
        self.looked = None;
    }

    async fn turn(&mut self, line: &Arc<Line>, partition: &Partition) -> Result<(), Error> {
        let dead = match self.looked {
            Some(at) if at.elapsed() < self.look_every * 3 / 4 => vec![],
            _ => self.look(line, partition).await?,
        };
        if self.has_pending { take(line, partition, &dead).await } else { Ok(()) }
    }

    /// Looks at the server and at the others; says who of them is dead.
    async fn look(&mut self, line: &Line, partition: &Partition) -> Result<Vec<String>, Error> {
        let look = line.streams.look(partition.number, line.stage).await?;
        self.observer.note_server(look.home.identity);
        partition.memory_is_tight.store(look.home.memory.is_above(TIGHT_PERCENT), Ordering::Relaxed);
        let mut others = look.consumers;
        others.retain(|name| **name != *line.consumer);
        self.observer.look(&line.streams, &others).await?;
        line.newest_version.store(self.observer.newest_version(), Ordering::Relaxed);
        (self.looked, self.has_pending) = (Some(Instant::now()), look.pending > 0);
        Ok(self.observer.dead())
    }
}

/// Takes what is due, and what the dead left behind.
async fn take(line: &Arc<Line>, partition: &Partition, dead: &[String]) -> Result<(), Error> {
    if line.is_paused(partition) {
        return Ok(());
    }
    // In the same queue as the readers, who would take every place otherwise while there is a backlog.
    let place = tokio::time::timeout(line.config.look() / 2, line.room.place()).await.ok().flatten();
    let most = most(line, place.is_some()).await;
    if most.total == 0 {
        return Ok(());
    }
    let _guard = partition.taking.lock().await;
    let partition = partition.number;
    let (streams, stage, me) = (&line.streams, line.stage, &line.consumer);
    let due = streams.take_due(partition, stage, me, most).await?;
    let (first, second) = if due.is_empty() { (None, place) } else { (place, None) };
    dispatch::all_with(line, partition, due, Reason::Retry, first);
    // Whoever cannot beat looks dead to the others, and judges nobody. No lock guards a claim: it
    // is one step of the server, and whoever comes second finds nothing.
    let most = self::most(line, second.is_some()).await;
    if !dead.is_empty() && most.total > 0 && line.beat.is_accepted() {
        let left = streams.take_from(partition, stage, me, most, dead).await?;
        if !left.is_empty() {
            tracing::warn!(%stage, partition, entries = left.len(), "claimed from consumers that are dead");
        }
        dispatch::all_with(line, partition, left, Reason::Claimed, second);
    }
    Ok(())
}

/// How many entries there are places for, one that is taken already among them.
async fn most(line: &Line, has_one: bool) -> Most {
    let (free, kept) = (line.room.free() + usize::from(has_one), line.room.kept_free());
    let mut lanes = line.lanes_open().await.0;
    for lane in [Lane::Bulk, Lane::Background] {
        lanes[lane.index()] = lanes[lane.index()].min(free);
    }
    Most { total: (free + kept).min(TAKE_MAX), lanes }
}
