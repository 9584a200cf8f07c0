//! Reads one partition of a stage: all lanes at once while idle, by weight while busy. While there are places for the
//! interactive lane only, `interactive` reads.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use riacho_domain::Lane;
use riacho_streams::{Entry, Error, Reader};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    dispatch::{self, Reason},
    line::{Line, Partition},
};
use crate::{outage::Backoff, shares::Shares};

/// How often the own pending list is compared, besides after each reconnection.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// After so long without a place for any lane, the interactive lane is read by itself.
const SOON: Duration = Duration::from_millis(5);
/// How long a reader that has no place for any lane looks at nothing else.
const LOOK: Duration = Duration::from_millis(250);
/// At most this many entries of a lane come with one read, so that a reply stays small.
const READ_MAX: usize = 1024;

/// Reads until the stop.
pub(super) async fn run(line: Arc<Line>, partition: Arc<Partition>) {
    let mut backoff = Backoff::new();
    while !line.stop.is_cancelled() {
        match line.streams.reader(partition.number, line.stage, &line.consumer).await {
            Ok(reader) => return read(&line, &partition, reader).await,
            Err(error) => line.back_off(&error, &mut backoff).await,
        }
    }
}

async fn read(line: &Arc<Line>, partition: &Partition, mut reader: Reader) {
    let (mut shares, mut backoff) = (Shares::default(), Backoff::new());
    let mut compared = Some(Instant::now());
    let mut is_busy = false;
    while !line.stop.is_cancelled() {
        let is_unsure = partition.is_unsure.swap(false, Ordering::Relaxed) | reader.reconnected();
        if is_unsure || compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
            compared = recover(line, partition, &reader).await.ok().map(|()| Instant::now());
        }
        if line.is_paused(partition) {
            line.pause(PAUSE).await;
            continue;
        }
        let Some(place) = line.stop.run_until_cancelled(place(line, partition)).await else { break };
        let Some(place) = place else { continue };
        // These futures are awaited to their end whatever happens: the server would deliver all
        // the same, to nobody. The stop waits for a short block.
        let lanes = line.lanes_open().await;
        let all = (line.room.free() + 1).min(READ_MAX);
        let (read, place) = if is_busy {
            let mut counts = shares.split(all, lanes.0, line.ready.events_by_weight());
            counts[0] = (counts[0] + line.room.kept_free()).min(lanes.0[0]);
            take(line, &reader, counts, lanes.1, place).await
        } else {
            // Those who read other partitions need it meanwhile.
            drop(place);
            (wait(line, &reader, all, lanes).await, None)
        };
        match read {
            // Nothing was asked for.
            Ok(None) => {}
            Ok(Some(entries)) => {
                line.outage.is_over();
                backoff.reset();
                is_busy = !entries.is_empty();
                dispatch::all_with(line, partition.number, entries, Reason::First, place);
            }
            Err(error) => {
                drop(place);
                heal(line, partition, &reader, &error, &mut backoff).await;
            }
        }
    }
    reader.close().await;
}

/// Mends what a read's error tells of, as far as that goes, and waits.
pub(super) async fn heal(
    line: &Line,
    partition: &Partition,
    reader: &Reader,
    error: &Error,
    backoff: &mut Backoff,
) {
    // Whatever was on the wire stands in the own pending list.
    partition.is_unsure.store(true, Ordering::Relaxed);
    if matches!(error, Error::NoGroup) && reader.make_groups().await.is_ok() {
        tracing::warn!(stage = %line.stage, partition = partition.number, "the consumer group was gone and is made again");
        line.pause(backoff.next()).await;
    } else {
        line.back_off(error, backoff).await;
    }
}

/// Waits for entries of the lanes that are open; not for long where one is closed that may open meanwhile.
async fn wait(
    line: &Line,
    reader: &Reader,
    free: usize,
    (open, again): ([usize; 3], Option<Duration>),
) -> Result<Option<Vec<Entry>>, Error> {
    let block = again.unwrap_or(line.config.block());
    let Some(least) = open.into_iter().filter(|most| *most > 0).min() else {
        line.pause(block).await;
        return Ok(None);
    };
    let count = (free / Lane::ALL.len()).clamp(1, READ_MAX).min(least);
    reader.read_any_of(open.map(|most| most > 0), count, block).await.map(Some)
}

/// Takes so many entries of each lane, and gives the place back with them; none where no lane may be read before `again`.
async fn take(
    line: &Line,
    reader: &Reader,
    counts: [usize; 3],
    again: Option<Duration>,
    place: OwnedSemaphorePermit,
) -> (Result<Option<Vec<Entry>>, Error>, Option<OwnedSemaphorePermit>) {
    if counts == [0; 3] {
        drop(place);
        line.pause(again.unwrap_or(SOON)).await;
        return (Ok(None), None);
    }
    (reader.read_lanes(counts).await.map(Some), Some(place))
}

/// Waits for a place for any lane, not for long. After a moment the interactive lane is read meanwhile.
///
/// The place is kept for what is read: one that is given back goes to the reader of the next partition, and where all
/// only look for one, nobody ever reads.
async fn place(line: &Line, partition: &Partition) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = tokio::time::timeout(SOON, line.room.place()).await {
        return place;
    }
    partition.is_full.notify_one();
    tokio::time::timeout(LOOK, line.room.place()).await.ok().flatten()
}

/// Fetches again what this consumer holds by the server's account and not by its own.
async fn recover(line: &Arc<Line>, partition: &Partition, reader: &Reader) -> Result<(), Error> {
    let _reading = partition.reading.lock().await;
    let _taking = partition.taking.lock().await;
    let partition = partition.number;
    let mut own = reader.own_pending().await?;
    own.retain(|(lane, id)| !line.held.contains(partition, *lane, id));
    for lane in Lane::ALL {
        let lost: Vec<String> = own.iter().filter(|(of, _)| *of == lane).map(|(_, id)| id.clone()).collect();
        for ids in lost.chunks(READ_MAX) {
            let entries = reader.recover(lane, ids).await?;
            dispatch::all(line, partition, entries, Reason::LostReply);
        }
    }
    Ok(())
}
