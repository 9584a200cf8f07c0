//! Reads the interactive lane of a partition while events of other lanes hold all other places: by waiting at the
//! server, so that an event is read when it comes and not at the next look.
//!
//! The connection is another one than the reader's, which would not see a place that becomes free while it waits. It is
//! opened when it is needed, sends nothing while there are places, and is closed some time after.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use riacho_domain::Lane;
use riacho_streams::{Entry, Error, Reader};

use super::{
    dispatch::{self, Reason},
    line::{Line, Partition},
    reader,
};
use crate::outage::Backoff;

/// How long one read waits at the server. The comparison of the pending list waits for it, and so does the stop.
const BLOCK: Duration = Duration::from_millis(100);
/// How long the connection is kept while it is not needed.
const KEEP: Duration = Duration::from_secs(10);
/// How long a paused reader waits before it looks again, and one whose lane is at its limit at most.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads until the stop, whenever it is needed.
pub(super) async fn run(line: Arc<Line>, partition: Arc<Partition>) {
    let (mut own, mut backoff) = (None, Backoff::new());
    // The read before failed: what it asked for may be delivered after the comparison that follows it.
    let mut is_unsure = false;
    loop {
        let needed = tokio::time::timeout(KEEP, needed(&line, &partition));
        match line.stop.run_until_cancelled(needed).await {
            None => break,
            Some(Err(_)) => {
                close(own.take()).await;
                continue;
            }
            Some(Ok(())) => {}
        }
        if line.is_paused(&partition) {
            line.pause(PAUSE).await;
            continue;
        }
        let result = match own.take() {
            Some(reader) => Ok(reader),
            None => line.streams.reader(partition.number, line.stage, &line.consumer).await,
        };
        let mut reader = match result {
            Ok(reader) => reader,
            Err(error) => {
                line.back_off(&error, &mut backoff).await;
                continue;
            }
        };
        match read(&line, &partition, &reader).await {
            Ok(()) => {
                backoff.reset();
                if std::mem::take(&mut is_unsure) | reader.reconnected() {
                    partition.is_unsure.store(true, Ordering::Relaxed);
                }
                own = Some(reader);
            }
            Err(error) => {
                is_unsure = true;
                reader::heal(&line, &partition, &reader, &error, &mut backoff).await;
                // What is still on its way over this connection ends with it, or is delivered to nobody.
                close(Some(reader)).await;
                partition.is_unsure.store(true, Ordering::Relaxed);
            }
        }
    }
    close(own).await;
}

async fn close(reader: Option<Reader>) {
    if let Some(reader) = reader {
        reader.close().await;
    }
}

/// Waits until the other lanes hold all other places, and one is free that is kept for this one.
///
/// Many partitions' readers may wait for one that is kept. Each passes it on, so that it comes to rest where nobody
/// waits any more, and takes it as free itself: whoever looked again would see that the next one has it, and wait again,
/// and so would all.
async fn needed(line: &Line, partition: &Partition) {
    loop {
        if line.room.free() > 0 {
            partition.became_full.notified().await;
        } else if line.room.kept_free() > 0 {
            return;
        } else {
            line.room.some_kept_free().await;
            if line.room.free() == 0 {
                return;
            }
        }
    }
}

/// Reads once. Like every read it is awaited to its end.
///
/// All partitions' readers wait for the same places at once, so each asks for its part of them, and for one at least. At most
/// one event of each partition is read that has no place.
async fn read(line: &Arc<Line>, partition: &Partition, reader: &Reader) -> Result<(), Error> {
    let (open, again) = line.lanes_open().await;
    let part = line.room.kept_free() / line.partitions.load(Ordering::Relaxed).max(1);
    let count = part.max(1).min(open[Lane::Interactive.index()]);
    if count == 0 {
        line.pause(again.unwrap_or(PAUSE).min(PAUSE)).await;
        return Ok(());
    }
    // What is delivered and not yet taken in must not be compared.
    let _reading = partition.reading.lock().await;
    let entries: Vec<Entry> = reader.read_any_of([true, false, false], count, BLOCK).await?;
    line.outage.is_over();
    dispatch::all(line, partition.number, entries, Reason::First);
    Ok(())
}
