//! Reads one partition of a stage: all lanes at once while idle, by weight while busy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_domain::Lane;
use riacho_streams::{Entry, Error, Reader};

use super::{
    dispatch::{self, Reason},
    line::{Line, Partition},
};
use crate::{outage::Backoff, shares::Shares};

/// How often the own pending list is compared, besides after each reconnection.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// The shortest moment after which the interactive lane is read by itself, and the longest.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_millis(50);
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
    let (mut shares, mut backoff, mut moment) = (Shares::default(), Backoff::new(), SOON);
    let mut compared = Some(Instant::now());
    let mut is_busy = false;
    while !line.stop.is_cancelled() {
        if reader.reconnected() || compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
            compared = recover(line, partition, &reader).await.ok().map(|()| Instant::now());
        }
        if line.is_paused(partition) {
            line.pause(PAUSE).await;
            continue;
        }
        if line.stop.run_until_cancelled(free(line, moment)).await.is_none() {
            break;
        }
        // These futures are awaited to their end whatever happens: the server would deliver all
        // the same, to nobody. The stop waits for a short block.
        let lanes = line.lanes_open().await;
        let (all, kept) = (line.room.free().min(READ_MAX), line.room.kept_free().min(READ_MAX));
        let read = if all == 0 || is_busy {
            let mut counts = shares.split(all, lanes.0, line.ready.events_by_weight());
            counts[0] = (counts[0] + kept).min(lanes.0[0]);
            // Where the place is gone that was free, no lane is closed.
            let again = lanes.1.filter(|_| all + kept > 0);
            take(line, &reader, counts, again).await
        } else {
            wait(line, &reader, all, lanes).await
        };
        match read {
            // Nothing was asked for.
            Ok(None) => {}
            Ok(Some(entries)) => {
                line.outage.is_over();
                backoff.reset();
                // Who read the interactive lane only knows nothing of the others.
                is_busy = !entries.is_empty() || (all == 0 && is_busy);
                moment = if all == 0 && entries.is_empty() { (moment * 2).min(LATER) } else { SOON };
                dispatch::all(line, partition.number, entries, Reason::First);
            }
            Err(error) => {
                // Whatever was on the wire stands in the own pending list.
                compared = None;
                if matches!(error, Error::NoGroup) && reader.make_groups().await.is_ok() {
                    tracing::warn!(stage = %line.stage, partition = partition.number, "the consumer group was gone and is made again");
                    line.pause(backoff.next()).await;
                } else {
                    line.back_off(&error, &mut backoff).await;
                }
            }
        }
    }
    reader.close().await;
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

/// Takes so many entries of each lane; none where no lane may be read before `again`.
async fn take(
    line: &Line,
    reader: &Reader,
    counts: [usize; 3],
    again: Option<Duration>,
) -> Result<Option<Vec<Entry>>, Error> {
    if counts == [0; 3] {
        line.pause(again.unwrap_or(SOON)).await;
        return Ok(None);
    }
    reader.read_lanes(counts).await.map(Some)
}

/// Waits until there is room for any lane, or, after a moment, for the interactive one. While events of other lanes
/// hold all other places, that lane is looked at again after each such moment: a read that waits at the server would
/// not see a place that becomes free.
async fn free(line: &Line, moment: Duration) {
    if tokio::time::timeout(moment, line.room.some_free()).await.is_ok() {
        return;
    }
    tokio::select! {
        () = line.room.some_free() => {}
        () = line.room.some_kept_free() => {}
    }
}

/// Fetches again what this consumer holds by the server's account and not by its own.
async fn recover(line: &Arc<Line>, partition: &Partition, reader: &Reader) -> Result<(), Error> {
    let _guard = partition.taking.lock().await;
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
