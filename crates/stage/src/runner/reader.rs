//! Reads one partition of a stage: all lanes at once while idle, by weight while busy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_domain::Lane;
use riacho_streams::{Entry, Error, Reader};

use super::{
    dispatch::{self, Reason},
    line::{Line, Place},
};
use crate::{outage::Backoff, shares::Shares};

/// How often the own pending list is compared, besides after each reconnection.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// At most this many entries of a lane come with one read, so that a reply stays small.
const READ_MAX: usize = 1024;

/// Reads until the stop.
pub(super) async fn run(line: Arc<Line>, place: Arc<Place>) {
    let mut backoff = Backoff::new();
    while !line.stop.is_cancelled() {
        match line.streams.reader(place.partition, line.stage, &line.consumer).await {
            Ok(reader) => return read(&line, &place, reader).await,
            Err(error) => line.back_off(&error, &mut backoff).await,
        }
    }
}

async fn read(line: &Arc<Line>, place: &Place, mut reader: Reader) {
    let partition = place.partition;
    let (mut shares, mut backoff) = (Shares::new(line.config.weights()), Backoff::new());
    let mut compared = Some(Instant::now());
    let mut is_busy = false;
    while !line.stop.is_cancelled() {
        if reader.reconnected() || compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
            compared = recover(line, place, &reader).await.ok().map(|()| Instant::now());
        }
        if line.is_paused(place) {
            line.pause(PAUSE).await;
            continue;
        }
        let Some(free) = free(line).await else { break };
        // These futures are awaited to their end whatever happens: the server would deliver all
        // the same, to nobody. The stop waits for a short block.
        let lanes = line.lanes_open().await;
        let read = match is_busy {
            true => reader.read_lanes(shares.split(free.min(READ_MAX), lanes.0)).await,
            false => wait(line, &reader, free, lanes).await,
        };
        match read {
            Ok(mut entries) => {
                line.outage.is_over();
                backoff.reset();
                is_busy = !entries.is_empty();
                shares.interleave(&mut entries);
                dispatch::all(line, partition, entries, Reason::First);
            }
            Err(error) => {
                // Whatever was on the wire stands in the own pending list.
                compared = None;
                if matches!(error, Error::NoGroup) && reader.make_groups().await.is_ok() {
                    tracing::warn!(stage = %line.stage, partition, "the consumer group was gone and is made again");
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
) -> Result<Vec<Entry>, Error> {
    let block = again.unwrap_or(line.config.block());
    let Some(least) = open.into_iter().filter(|most| *most > 0).min() else {
        line.pause(block).await;
        return Ok(vec![]);
    };
    let count = (free / Lane::ALL.len()).clamp(1, READ_MAX).min(least);
    reader.read_any_of(open.map(|most| most > 0), count, block).await
}

/// Waits until there is room; none when the stop comes first.
async fn free(line: &Line) -> Option<usize> {
    line.stop.run_until_cancelled(line.room.some_free()).await
}

/// Fetches again what this consumer holds by the server's account and not by its own.
async fn recover(line: &Arc<Line>, place: &Place, reader: &Reader) -> Result<(), Error> {
    let partition = place.partition;
    let _guard = place.taking.lock().await;
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
