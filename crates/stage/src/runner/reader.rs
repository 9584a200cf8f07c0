//! Reads one partition of a stage: all lanes at once while idle, by weight while busy. While there are places for the
//! interactive lane only, `interactive` reads.

use std::{
    pin::pin,
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
/// How often a paused reader says that it is there.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// After so long without a place for any lane, the interactive lane is read by itself.
const SOON: Duration = Duration::from_millis(5);
/// How long a reader that has no place for any lane looks at nothing else.
const LOOK: Duration = Duration::from_millis(250);
/// How long a reader holds a place while a server does not answer.
const HOLD: Duration = Duration::from_millis(50);
/// How long a comparison waits for a read of the interactive lane to end.
const READ_ENDS: Duration = Duration::from_millis(300);
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
    let (mut shares, mut backoff, mut comparison) = (Shares::default(), Backoff::new(), Comparison::new());
    let (mut is_busy, mut announced) = (false, announce(&reader, None).await);
    while !line.stop.is_cancelled() {
        comparison.where_due(line, partition, &mut reader).await;
        let place = place(line, partition, &mut reader, &mut comparison);
        let Some(place) = line.stop.run_until_cancelled(place).await else { break };
        if line.is_paused(partition) {
            drop(place);
            announced = announce(&reader, announced).await;
            line.pause(PAUSE).await;
            continue;
        }
        // These futures are awaited to their end whatever happens: the server would deliver all
        // the same, to nobody. The stop waits for a short block.
        let (lanes, place) = holding(place, line.lanes_open()).await;
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
                // The next read waits at the server, and holds no place while it does.
                is_busy = false;
                heal(line, partition, &reader, &error, &mut backoff).await;
            }
        }
    }
    reader.close().await;
}

/// Lets the groups know of a consumer that has read nothing yet, and while it may not read now and then, since a group may be made
/// anew. The server itself makes a consumer with its first entry: an idle stage would look as if nobody were there.
async fn announce(reader: &Reader, last: Option<Instant>) -> Option<Instant> {
    if last.is_some_and(|last| last.elapsed() < ANNOUNCE_EVERY) {
        return last;
    }
    // Where the group is gone, the first read finds it; until then there is nobody to be known to.
    reader.announce().await.ok().map(|()| Instant::now())
}

/// When the own pending list was compared last; never, where that failed.
struct Comparison(Option<Instant>);

impl Comparison {
    fn new() -> Comparison {
        Comparison(Some(Instant::now()))
    }

    /// Fetches again what was delivered to nobody, where a reply may be lost, and every now and then.
    async fn where_due(&mut self, line: &Arc<Line>, partition: &Partition, reader: &mut Reader) {
        let is_unsure = partition.is_unsure.swap(false, Ordering::Relaxed) | reader.reconnected();
        if is_unsure || self.0.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
            self.0 = recover(line, partition, reader).await.ok().map(|()| Instant::now());
        }
    }
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
        let _ = reader.announce().await;
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
    place: Option<OwnedSemaphorePermit>,
) -> (Result<Option<Vec<Entry>>, Error>, Option<OwnedSemaphorePermit>) {
    if counts == [0; 3] {
        drop(place);
        line.pause(again.unwrap_or(SOON)).await;
        return (Ok(None), None);
    }
    let (read, place) = holding(place, reader.read_lanes(counts)).await;
    (read.map(Some), place)
}

/// Awaits a server's answer with a place in hand, which goes to others where the answer takes long: a server that
/// hangs must not hold up the partitions of another one.
async fn holding<T>(
    place: Option<OwnedSemaphorePermit>,
    answer: impl Future<Output = T>,
) -> (T, Option<OwnedSemaphorePermit>) {
    let mut answer = pin!(answer);
    if let Ok(answer) = tokio::time::timeout(HOLD, &mut answer).await {
        return (answer, place);
    }
    drop(place);
    (answer.await, None)
}

/// Waits for a place for any lane, in the order in which the readers of all partitions wait. After a moment the interactive
/// lane is read meanwhile.
///
/// The place is kept for what is read: one that is given back goes to the reader of the next partition, and where all
/// only look for one, nobody ever reads.
async fn place(
    line: &Arc<Line>,
    partition: &Partition,
    reader: &mut Reader,
    comparison: &mut Comparison,
) -> Option<OwnedSemaphorePermit> {
    let mut place = pin!(line.room.place());
    if let Ok(place) = tokio::time::timeout(SOON, &mut place).await {
        return place;
    }
    loop {
        partition.became_full.notify_one();
        if let Ok(place) = tokio::time::timeout(LOOK, &mut place).await {
            return place;
        }
        comparison.where_due(line, partition, reader).await;
    }
}

/// Fetches again what this consumer holds by the server's account and not by its own.
async fn recover(line: &Arc<Line>, partition: &Partition, reader: &Reader) -> Result<(), Error> {
    // Where that read hangs, the comparison comes later.
    let reading = tokio::time::timeout(READ_ENDS, partition.reading.lock()).await;
    let _reading = reading.map_err(|_| Error::Timeout)?;
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
