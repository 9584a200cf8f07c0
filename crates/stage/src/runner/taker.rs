//! Takes entries over: retries that are due, and what dead consumers left behind.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use riacho_streams::{Error, Most, Observer};
use tokio::sync::Mutex;

use super::{
    dispatch::{self, Reason},
    line::Line,
};
use crate::outage::Backoff;

/// How often due retries are looked for. The beats of the others are looked at every other time.
const EVERY: Duration = Duration::from_millis(250);
/// At most this many entries are taken over at once.
const TAKE_MAX: usize = 256;
/// From this share of the memory limit on nothing is read.
const TIGHT_PERCENT: u64 = 90;

/// Takes entries over until the stop.
pub(super) async fn run(line: Arc<Line>, partition: u16, taking: Arc<Mutex<()>>) {
    let millis = Duration::from_millis;
    let (dead_after, grace) = (millis(line.config.dead_after_ms), millis(line.config.restart_grace_ms));
    let (mut observer, mut backoff) = (Observer::new(dead_after, grace), Backoff::new());
    let mut looks = false;
    while !line.stop.is_cancelled() {
        looks = !looks;
        match take(&line, partition, &taking, looks.then_some(&mut observer)).await {
            Ok(()) => {
                backoff.reset();
                line.pause(EVERY).await;
            }
            Err(error) => {
                observer.forget();
                line.back_off(&error, &mut backoff).await;
            }
        }
    }
}

async fn take(
    line: &Arc<Line>,
    partition: u16,
    taking: &Mutex<()>,
    observer: Option<&mut Observer>,
) -> Result<(), Error> {
    let dead = match observer {
        Some(observer) => look(line, partition, observer).await?,
        None => vec![],
    };
    let most = most(line);
    if most.total == 0 || line.is_paused() {
        return Ok(());
    }
    let _guard = taking.lock().await;
    let (streams, stage, me) = (&line.streams, line.stage, &line.consumer);
    let due = streams.take_due(partition, stage, me, most).await?;
    dispatch::all(line, partition, due, Reason::Retry);
    // Whoever cannot beat looks dead to the others, and judges nobody. No lock guards a claim: it
    // is one step of the server, and whoever comes second finds nothing.
    let most = self::most(line);
    if !dead.is_empty() && most.total > 0 && line.beat.is_accepted() {
        let left = streams.take_from(partition, stage, me, most, &dead).await?;
        if !left.is_empty() {
            tracing::warn!(%stage, partition, entries = left.len(), "claimed from consumers that are dead");
        }
        dispatch::all(line, partition, left, Reason::Claimed);
    }
    Ok(())
}

/// How many entries there are places for.
fn most(line: &Line) -> Most {
    Most { total: line.room.free().min(TAKE_MAX), lanes: line.lanes.free() }
}

/// Looks at the server and at the others; says who of them is dead.
async fn look(line: &Line, partition: u16, observer: &mut Observer) -> Result<Vec<String>, Error> {
    let home = line.streams.home_of(partition).await?;
    observer.note_server(home.identity);
    line.memory_is_tight.store(home.memory.is_above(TIGHT_PERCENT), Ordering::Relaxed);
    let mut others = line.streams.consumers(partition, line.stage).await?;
    others.retain(|name| **name != *line.consumer);
    observer.look(&line.streams, &others).await?;
    line.newest_version.store(observer.newest_version(), Ordering::Relaxed);
    Ok(observer.dead())
}
