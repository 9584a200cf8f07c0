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
    line::{Backoff, Line},
};

/// How often the own pending list is compared, besides after each reconnection.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// At most this many entries of a lane come with one read, so that a reply stays small.
const READ_MAX: usize = 1024;

/// Reads until the stop. `taking` keeps entries that are being taken over out of the comparison.
pub(super) async fn run(line: Arc<Line>, partition: u16, taking: Arc<Mutex<()>>) {
    let mut backoff = Backoff::new();
    while !line.stop.is_cancelled() {
        match line.streams.reader(partition, line.stage, &line.consumer).await {
            Ok(reader) => return read(&line, partition, &taking, reader).await,
            Err(error) => {
                line.outage.begins(&error);
                line.pause(backoff.next()).await;
            }
        }
    }
}

async fn read(line: &Arc<Line>, partition: u16, taking: &Mutex<()>, mut reader: Reader) {
    let (mut lanes, mut backoff) = (Shares::new(line.config.weights()), Backoff::new());
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
        let read = if is_busy {
            reader.read_lanes(lanes.split(free)).await
        } else {
            reader.read_any((free / Lane::ALL.len()).clamp(1, READ_MAX), line.config.block()).await
        };
        match read {
            Ok(entries) => {
                line.outage.is_over();
                backoff.reset();
                is_busy = !entries.is_empty();
                dispatch::all(line, partition, entries, Reason::First);
            }
            Err(error) => {
                if matches!(error, Error::NoGroup) && reader.make_groups().await.is_ok() {
                    tracing::warn!(stage = %line.stage, partition, "the consumer group was gone and is made again");
                } else {
                    line.outage.begins(&error);
                }
                // Whatever was on the wire stands in the own pending list.
                compared = None;
                line.pause(backoff.next()).await;
            }
        }
    }
    reader.close().await;
}

/// Waits until there is room; none when the stop comes first.
async fn free(line: &Line) -> Option<usize> {
    tokio::select! {
        () = line.stop.cancelled() => None,
        permit = line.room.acquire() => permit.ok().map(|_| line.room.available_permits() + 1),
    }
}

/// Fetches again what this consumer holds by the server's account and not by its own.
async fn recover(line: &Arc<Line>, partition: u16, taking: &Mutex<()>, reader: &Reader) -> Result<(), Error> {
    let _guard = taking.lock().await;
    let mut own = reader.own_pending().await?;
    own.retain(|(lane, id)| !line.held.contains(partition, *lane, id));
    for lane in Lane::ALL {
        let lost: Vec<String> = own.iter().filter(|(of, _)| *of == lane).map(|(_, id)| id.clone()).collect();
        for ids in lost.chunks(READ_MAX) {
            let entries: Vec<Entry> = reader.recover(lane, ids).await?;
            dispatch::all(line, partition, entries, Reason::LostReply);
        }
    }
    Ok(())
}

/// Splits reads over the lanes by weight, and remembers what a lane is owed, so that the lowest
/// gets its share even when there is room for one entry at a time.
struct Shares {
    weights: [u32; 3],
    credit: [i64; 3],
}

impl Shares {
    fn new(weights: [u32; 3]) -> Self {
        Self { weights, credit: [0; 3] }
    }

    /// How many of `free` entries to ask of each lane.
    fn split(&mut self, free: usize) -> [usize; 3] {
        let total: i64 = self.weights.iter().map(|weight| i64::from(*weight)).sum();
        let free = free.min(READ_MAX);
        let mut counts = [0; 3];
        for _ in 0..free {
            for (credit, weight) in self.credit.iter_mut().zip(self.weights) {
                *credit += i64::from(weight);
            }
            let richest = (0..3).max_by_key(|lane| (self.credit[*lane], 2 - lane)).unwrap_or(0);
            self.credit[richest] -= total;
            counts[richest] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_get_their_weight_and_the_lowest_its_floor() {
        let mut shares = Shares::new([8, 3, 1]);
        assert_eq!(shares.split(12), [8, 3, 1]);
        let mut sum = [0; 3];
        for _ in 0..24 {
            for (total, count) in sum.iter_mut().zip(shares.split(1)) {
                *total += count;
            }
        }
        assert_eq!(sum, [16, 6, 2], "one at a time, over two rounds");
    }
}
