//! Reads the interactive lane of a partition while events of other lanes hold all other places: by waiting at the
//! server, so that an event is read when it comes and not at the next look.
//!
//! The connection is another one than the reader's, which would not see a place that becomes free while it waits. It is
//! opened when it is needed first, and sends nothing while there are places.

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
/// How long a paused reader waits before it looks again, and one whose lane is at its limit at most.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads until the stop, whenever it is needed.
pub(super) async fn run(line: Arc<Line>, partition: Arc<Partition>) {
    let (mut own, mut backoff) = (None, Backoff::new());
    while line.stop.run_until_cancelled(needed(&line, &partition)).await.is_some() {
        if line.is_paused(&partition) {
            line.pause(PAUSE).await;
            continue;
        }
        let reader = match own.take() {
            Some(reader) => reader,
            None => match line.streams.reader(partition.number, line.stage, &line.consumer).await {
                Ok(reader) => reader,
                Err(error) => {
                    line.back_off(&error, &mut backoff).await;
                    continue;
                }
            },
        };
        let mut reader: Reader = reader;
        match read(&line, &partition, &reader).await {
            Ok(()) => backoff.reset(),
            Err(error) => reader::heal(&line, &partition, &reader, &error, &mut backoff).await,
        }
        if reader.reconnected() {
            partition.is_unsure.store(true, Ordering::Relaxed);
        }
        own = Some(reader);
    }
    if let Some(reader) = own {
        reader.close().await;
    }
}

/// Waits until the other lanes hold all other places, and one is free that is kept for this one.
async fn needed(line: &Line, partition: &Partition) {
    loop {
        if line.room.free() > 0 {
            partition.is_full.notified().await;
        } else if line.room.kept_free() == 0 {
            line.room.some_kept_free().await;
        } else {
            return;
        }
    }
}

/// Reads once. Like every read it is awaited to its end.
async fn read(line: &Arc<Line>, partition: &Partition, reader: &Reader) -> Result<(), Error> {
    let (open, again) = line.lanes_open().await;
    let count = line.room.kept_free().min(open[Lane::Interactive.index()]);
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
