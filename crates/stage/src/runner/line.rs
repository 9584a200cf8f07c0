//! What the runner's tasks share while one stage runs in one process.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use riacho_domain::{Lane, StageName};
use riacho_proto::v1::envelope::Payload;
use riacho_streams::{Action, Beat, Entry, Error, Settlement, Streams};
use riacho_traces::Span;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{ready::Ready, worker};
use crate::{
    Claims, EventMeta, RunnerConfig,
    breaker::Breaker,
    codec,
    held::Held,
    lanes::Lanes,
    outage::{Backoff, Outage},
    room::Room,
};

/// The delivery count from which on an event has begun its last run, alone in its process. Whoever
/// finds an event of a dead consumer with such a count knows that this run ended the process.
pub(super) const LAST_RUN: u32 = 1_000_000;

/// The shortest wait for a lane that is at its limit.
const SHORTEST: Duration = Duration::from_millis(5);

/// What the readers and the taker of a partition share.
#[derive(Default)]
pub(super) struct Partition {
    pub(super) number: u16,
    /// Keeps entries that are being taken over out of the comparison.
    pub(super) taking: tokio::sync::Mutex<()>,
    /// Keeps entries on their way to the reader of the interactive lane out of it too.
    pub(super) reading: tokio::sync::Mutex<()>,
    /// Tells that there was no place for any lane for a moment.
    pub(super) became_full: tokio::sync::Notify,
    /// A reply may be lost, so the comparison has to come soon.
    pub(super) is_unsure: AtomicBool,
    /// The server that holds the partition is near its memory limit.
    pub(super) memory_is_tight: AtomicBool,
}

/// One stage in one process.
pub(super) struct Line {
    pub(super) streams: Streams,
    pub(super) claims: Claims,
    pub(super) config: RunnerConfig,
    pub(super) stage: StageName,
    pub(super) time_limit: Duration,
    pub(super) consumer: Arc<str>,
    pub(super) beat: Arc<Beat>,
    /// Nothing is read or started any more.
    pub(super) stop: CancellationToken,
    /// What runs is cancelled and handed back.
    pub(super) cancel: CancellationToken,
    /// Nothing is waited for any more.
    pub(super) over: CancellationToken,
    /// The stages that somebody has paused.
    pub(super) paused: watch::Receiver<BTreeSet<StageName>>,
    /// How many partitions are read.
    pub(super) partitions: AtomicUsize,
    /// The places for events that are held.
    pub(super) room: Room,
    /// The limits of single lanes.
    pub(super) lanes: Lanes,
    pub(super) held: Held,
    pub(super) breaker: Breaker,
    pub(super) outage: Outage,
    /// Of the servers that the stage itself works with.
    pub(super) needs: Outage,
    /// The newest envelope version that a consumer which lives can read.
    pub(super) newest_version: AtomicU32,
    /// For payloads that have to be inflated or fetched before they are ready, by lane.
    pub(super) packed: [mpsc::UnboundedSender<Box<Work>>; 3],
    pub(super) ready: Ready,
    pub(super) settle: mpsc::UnboundedSender<Settling>,
}

impl Line {
    /// Sends an event to its run.
    pub(super) fn send(&self, work: Box<Work>) {
        let lane = work.holding.entry.lane;
        if codec::is_packed(&work.payload) {
            // The other side ends with the line.
            let _ = self.packed[lane.index()].send(work);
        } else {
            self.ready.add(lane, worker::opened_already(work));
        }
    }

    /// Whether an event's next run is its last, alone in its process.
    pub(super) fn is_last_run(&self, deliveries: u32) -> bool {
        deliveries >= self.config.max_attempts.max(1)
    }

    /// The delivery count to leave behind so that this delivery is no attempt.
    pub(super) fn uncounted(&self, deliveries: u32) -> u32 {
        deliveries.min(self.config.max_attempts.max(1)).saturating_sub(1)
    }

    /// Whether nothing should be read of a partition now.
    pub(super) fn is_paused(&self, partition: &Partition) -> bool {
        // The last stage only takes away from the memory, so it goes on.
        let is_tight = partition.memory_is_tight.load(Ordering::Relaxed) && self.stage.next().is_some();
        is_tight
            || self.paused.borrow().contains(&self.stage)
            || self.breaker.is_open()
            || self.needs.is_waiting()
    }

    /// How many entries of each lane may be taken, by its limits; what was taken before is paid for. And after
    /// how long to look again, where a lane is at its limit.
    pub(super) async fn lanes_open(&self) -> ([usize; 3], Option<Duration>) {
        let mut open = self.lanes.free();
        let mut again: Option<Duration> = None;
        let mut sooner = |wait: Duration| again = Some(again.map_or(wait, |known| known.min(wait)));
        for (lane, open) in Lane::ALL.into_iter().zip(&mut open) {
            if *open == 0 {
                sooner(self.room.run_time() / 4);
            }
            let Some((rate, taken)) = self.lanes.bill(lane) else { continue };
            match self.streams.pace(self.stage, lane, rate, taken).await {
                Ok(tokens) => *open = (*open).min(tokens),
                // What holds up this lane holds up no other.
                Err(_) => {
                    self.lanes.owe(lane, taken);
                    *open = 0;
                }
            }
            if *open == 0 {
                sooner(rate.every);
            }
        }
        (open, again.map(|wait| wait.max(SHORTEST).min(self.config.block())))
    }

    /// Runs a task that ends with the line at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        tokio::spawn(async move { over.run_until_cancelled(task).await });
    }

    /// Waits, unless the stop comes first.
    pub(super) async fn pause(&self, duration: Duration) {
        let _ = tokio::time::timeout(duration, self.stop.cancelled()).await;
    }

    /// Waits after an error of the streams.
    pub(super) async fn back_off(&self, error: &Error, backoff: &mut Backoff) {
        self.outage.begins(error);
        self.pause(backoff.next()).await;
    }
}

/// An entry that this process holds.
pub(super) struct Holding {
    pub(super) partition: u16,
    pub(super) entry: Entry,
    /// Empty where it could not be decoded.
    pub(super) envelope_id: String,
    /// Whether it stands in [`Held`].
    pub(super) is_held: bool,
    /// None where a read delivered more than was asked for.
    pub(super) room: Permits,
    /// Of what is sent with the settlement; it ends with that.
    pub(super) sending: Span,
}

/// For a place among all events that are held, and for one among those of the lane where that is limited.
pub(super) type Permits = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

impl Holding {
    /// Queues what becomes of the entry; the finisher answers for it. `outcome` is for the metrics.
    pub(super) fn settle(self, line: &Line, action: Action, outcome: &'static str) {
        let settlement = Settlement::of(&self.entry, &self.envelope_id, action);
        let Holding { partition, is_held, room, sending, .. } = self;
        let settling = Settling {
            partition,
            settlement,
            outcome,
            is_held,
            waited: Duration::ZERO,
            _room: room,
            sending,
        };
        // The finisher outlives everything that is held; a closed queue means that the process ends.
        let _ = line.settle.send(settling);
    }

    /// The delivery count to leave behind so that this delivery is no attempt.
    pub(super) fn uncounted(&self, line: &Line) -> u32 {
        line.uncounted(self.entry.deliveries)
    }
}

/// An event that waits for its run.
pub(super) struct Work {
    pub(super) holding: Holding,
    pub(super) meta: EventMeta,
    /// As it stood in the envelope: compressed, perhaps, or a claim check.
    pub(super) payload: Payload,
    /// Of its run; none before.
    pub(super) span: Span,
    /// Which batch of its document it is, and how many chunks that has.
    pub(super) batch: (u32, usize),
}

impl Borrow<Settlement> for Settling {
    fn borrow(&self) -> &Settlement {
        &self.settlement
    }
}

/// An entry on its way to be settled.
pub(super) struct Settling {
    pub(super) partition: u16,
    pub(super) settlement: Settlement,
    pub(super) outcome: &'static str,
    pub(super) is_held: bool,
    /// How long it waited the last time, for a full stream say.
    pub(super) waited: Duration,
    /// Given back when the settlement is answered.
    pub(super) _room: Permits,
    /// Of what is sent with it.
    pub(super) sending: Span,
}
