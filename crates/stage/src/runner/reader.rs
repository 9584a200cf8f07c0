//! Reads one partition of a stage: all lanes at once while idle, by weight while busy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_domain::Lane;
use riacho_streams::{Entry, Error, Reader};
use tokio::sync::Mutex;

use super::{
    dispatch::{self, Reason},
    line::Line,
};
use crate::{outage::Backoff, shares::Shares};

/// How often the own pending list is compared, besides after each reconnection.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a lane that is at its limit is not looked at.
const CLOSED: Duration = Duration::from_millis(20);
/// At most this many entries of a lane come with one read, so that a reply stays small.
const READ_MAX: usize = 1024;

/// Reads until the stop. `taking` keeps entries that are being taken over out of the comparison.
pub(super) async fn run(line: Arc<Line>, partition: u16, taking: Arc<Mutex<()>>) {
    let mut backoff = Backoff::new();
    while !line.stop.is_cancelled() {
        match line.streams.reader(partition, line.stage, &line.consumer).await {
            Ok(reader) => return read(&line, partition, &taking, reader).await,
            Err(error) => line.back_off(&error, &mut backoff).await,
        }
    }
}

async fn read(line: &Arc<Line>, partition: u16, taking: &Mutex<()>, mut reader: Reader) {
    let (mut shares, mut backoff) = (Shares::new(line.config.weights()), Backoff::new());
    let mut compared = Some(Instant::now());
    let mut is_busy = false;
    while !line.stop.is_cancelled() {
        if reader.reconnected() || compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
            compared = recover(line, partition, taking, &reader).await.ok().map(|()| Instant::now());
        }
        if line.is_paused() {
            line.pause(PAUSE).await;
            continue;
        }
        let Some(free) = free(line).await else { break };
        // These futures are awaited to their end whatever happens: the server would deliver all
        // the same, to nobody. The stop waits for a short block.
        let read = match most(line).await {
            Ok(most) if is_busy => reader.read_lanes(shares.split(free.min(READ_MAX), most)).await,
            Ok(most) => wait(line, &reader, free, most).await,
            Err(error) => Err(error),
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

/// How many entries of each lane may be read; its limits are paid for.
async fn most(line: &Line) -> Result<[usize; 3], Error> {
    let mut most = line.lanes.free();
    for (lane, most) in Lane::ALL.into_iter().zip(&mut most) {
        let Some((rate, taken)) = line.lanes.bill(lane) else { continue };
        match line.streams.pace(line.stage, lane, rate, taken).await {
            Ok(tokens) => *most = (*most).min(tokens),
            Err(error) => {
                line.lanes.owe(lane, taken);
                return Err(error);
            }
        }
    }
    Ok(most)
}

/// Waits for entries of the lanes that are open.
async fn wait(line: &Line, reader: &Reader, free: usize, most: [usize; 3]) -> Result<Vec<Entry>, Error> {
    let open = most.map(|most| most > 0);
    let least = most.into_iter().filter(|most| *most > 0).min();
    let Some(least) = least else {
        line.pause(CLOSED).await;
        return Ok(vec![]);
    };
    // A lane that opens meanwhile is not kept waiting for long.
    let block = if open == [true; 3] { line.config.block() } else { line.config.block().min(CLOSED) };
    reader.read_any_of(open, (free / Lane::ALL.len()).clamp(1, READ_MAX).min(least), block).await
}

/// Waits until there is room; none when the stop comes first.
async fn free(line: &Line) -> Option<usize> {
    line.stop.run_until_cancelled(line.room.some_free()).await
}

/// Fetches again what this consumer holds by the server's account and not by its own.
async fn recover(line: &Arc<Line>, partition: u16, taking: &Mutex<()>, reader: &Reader) -> Result<(), Error> {
    let _guard = taking.lock().await;
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
