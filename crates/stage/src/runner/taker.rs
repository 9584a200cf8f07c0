//! Takes entries over: retries that are due, and what dead consumers left behind.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use riacho_streams::{Error, Observer};
use tokio::sync::Mutex;

use super::{
    dispatch::{self, Reason},
    line::{Backoff, Line},
};

/// How often due retries are looked for.
const PROMOTE_EVERY: Duration = Duration::from_millis(250);
/// How often the beats of the others are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// At most this many entries are taken over at once.
const TAKE_MAX: usize = 256;
/// From this share of the memory limit on nothing is read.
const TIGHT_PERCENT: u64 = 90;

/// Takes due retries until the stop.
pub(super) async fn promote(line: Arc<Line>, partition: u16, taking: Arc<Mutex<()>>) {
    let mut backoff = Backoff::new();
    while !line.stop.is_cancelled() {
        let wait = match promote_once(&line, partition, &taking).await {
            Ok(()) => {
                backoff.reset();
                PROMOTE_EVERY
            }
            Err(error) => {
                line.outage.begins(&error);
                backoff.next()
            }
        };
        line.pause(wait).await;
    }
}

async fn promote_once(line: &Arc<Line>, partition: u16, taking: &Mutex<()>) -> Result<(), Error> {
    let room = line.room.available_permits().min(TAKE_MAX);
    if room == 0 || line.is_paused() {
        return Ok(());
    }
    let _guard = taking.lock().await;
    let entries = line.streams.take_due(partition, line.stage, &line.consumer, room).await?;
    dispatch::all(line, partition, entries, Reason::Retry);
    Ok(())
}

/// Watches the others until the stop, and claims from those that are dead. No lock guards it:
/// a claim is one step of the server, and whoever comes second finds nothing.
pub(super) async fn claim(line: Arc<Line>, partition: u16, taking: Arc<Mutex<()>>) {
    let millis = Duration::from_millis;
    let (dead_after, grace) = (millis(line.config.dead_after_ms), millis(line.config.restart_grace_ms));
    let mut observer = Observer::new(dead_after, grace);
    let mut backoff = Backoff::new();
    while !line.stop.is_cancelled() {
        let wait = match claim_once(&line, partition, &taking, &mut observer).await {
            Ok(()) => {
                backoff.reset();
                LOOK_EVERY
            }
            Err(error) => {
                observer.forget();
                line.outage.begins(&error);
                backoff.next()
            }
        };
        line.pause(wait).await;
    }
}

async fn claim_once(
    line: &Arc<Line>,
    partition: u16,
    taking: &Mutex<()>,
    observer: &mut Observer,
) -> Result<(), Error> {
    let streams = &line.streams;
    observer.note_server(streams.partition_identity(partition).await?);
    let memory = streams.partition_memory(partition).await?;
    line.memory_is_tight.store(memory.is_above(TIGHT_PERCENT), Ordering::Relaxed);
    let mut others = streams.consumers(partition, line.stage).await?;
    others.retain(|name| *name != *line.consumer);
    observer.look(streams, &others).await?;
    line.newest_version.store(observer.newest_version(), Ordering::Relaxed);

    let dead = observer.dead();
    let room = line.room.available_permits().min(TAKE_MAX);
    // Whoever cannot beat looks dead to the others, and judges nobody.
    if dead.is_empty() || room == 0 || !line.beat.is_accepted() || line.is_paused() {
        return Ok(());
    }
    let _guard = taking.lock().await;
    let entries = streams.take_from(partition, line.stage, &line.consumer, room, &dead).await?;
    if !entries.is_empty() {
        tracing::warn!(stage = %line.stage, partition, entries = entries.len(), "claimed from consumers that are dead");
    }
    dispatch::all(line, partition, entries, Reason::Claimed);
    Ok(())
}
