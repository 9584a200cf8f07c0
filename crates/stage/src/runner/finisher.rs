//! Settles entries: many in one call, each with an answer of its own.

use std::{sync::Arc, time::Duration};

use riacho_streams::{Action, Answer, MAX_BYTES, MAX_OUTPUTS, Settlement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::line::{Backoff, Line, Settling};
use crate::{context::FULL_WAIT, metrics::names};

/// Calls under way at once; while they are, the next batch collects.
const CALLS: usize = 4;
/// At most this many entries in one call.
const ENTRIES_MAX: usize = 128;

/// Settles until it is aborted.
pub(super) async fn run(line: Arc<Line>, mut queue: mpsc::UnboundedReceiver<Settling>) {
    let calls = Arc::new(Semaphore::new(CALLS));
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, 4 * ENTRIES_MAX).await > 0 {
        waiting.sort_by_key(|settling| settling.partition);
        for batch in split(waiting.drain(..)) {
            let Ok(call) = Arc::clone(&calls).acquire_owned().await else { return };
            line.spawn(settle(Arc::clone(&line), batch, call));
        }
    }
}

/// Splits into calls: one partition each, and within the bounds of a call. What had to wait goes
/// alone, so that it spoils no other's call again.
fn split(settlings: impl Iterator<Item = Settling>) -> Vec<Vec<Settling>> {
    let mut batches: Vec<Vec<Settling>> = Vec::new();
    let (mut outputs, mut bytes) = (0, 0);
    for settling in settlings {
        let (more, size) =
            (settling.settlement.action.output_count(), settling.settlement.action.output_bytes());
        match batches.last_mut() {
            Some(batch)
                if settling.waited.is_zero()
                    && batch.len() < ENTRIES_MAX
                    && batch[0].waited.is_zero()
                    && batch[0].partition == settling.partition
                    && outputs + more <= MAX_OUTPUTS
                    && bytes + size <= MAX_BYTES =>
            {
                (outputs, bytes) = (outputs + more, bytes + size);
                batch.push(settling);
            }
            _ => {
                (outputs, bytes) = (more, size);
                batches.push(vec![settling]);
            }
        }
    }
    batches
}

async fn settle(line: Arc<Line>, batch: Vec<Settling>, call: OwnedSemaphorePermit) {
    let Some(partition) = batch.first().map(|settling| settling.partition) else { return };
    let (settlements, rests): (Vec<Settlement>, Vec<Rest>) = batch.into_iter().map(Rest::of).unzip();
    let mut backoff = Backoff::new();
    let answers = loop {
        match line.streams.handoff(partition, line.stage, &line.consumer, &settlements).await {
            Ok(answers) => break answers,
            Err(error) => {
                line.outage.begins(&error);
                tokio::time::sleep(backoff.next()).await;
                if !error.is_retryable() && settlements.len() > 1 {
                    // One of them spoils the call: each goes again on its own.
                    break vec![Answer::Refused(error.to_string()); settlements.len()];
                }
            }
        }
    };
    line.outage.is_over();
    drop(call);
    for ((settlement, rest), answer) in settlements.into_iter().zip(rests).zip(answers) {
        rest.answered(&line, partition, settlement, answer);
    }
}

/// What a settlement keeps while its call is under way.
struct Rest {
    outcome: &'static str,
    is_held: bool,
    waited: Duration,
    room: Option<OwnedSemaphorePermit>,
}

impl Rest {
    fn of(settling: Settling) -> (Settlement, Rest) {
        let Settling { settlement, outcome, is_held, waited, room, .. } = settling;
        (settlement, Rest { outcome, is_held, waited, room })
    }

    fn answered(self, line: &Arc<Line>, partition: u16, settlement: Settlement, answer: Answer) {
        let stage = line.stage.as_str();
        let outcome = match answer {
            Answer::Done => self.outcome,
            Answer::Gone => "gone",
            Answer::Fenced => {
                metrics::counter!(names::FENCED, "stage" => stage).increment(1);
                "fenced"
            }
            Answer::Full => {
                metrics::counter!(names::FULL, "stage" => stage).increment(1);
                return self.again(line, partition, settlement);
            }
            Answer::Refused(reason) => {
                tracing::error!(stage, entry = %settlement.entry_id, reason, "a handoff was refused and waits");
                return self.again(line, partition, settlement);
            }
        };
        metrics::counter!(names::PROCESSED, "stage" => stage, "outcome" => outcome).increment(1);
        if self.is_held {
            line.held.remove(partition, settlement.lane, &settlement.entry_id);
        }
    }

    /// Keeps the result and tries again later; the room stays taken, which holds back reading.
    /// Once everything is cancelled the event is handed back instead, and will run again.
    fn again(self, line: &Arc<Line>, partition: u16, mut settlement: Settlement) {
        let waited = (self.waited * 2).clamp(FULL_WAIT.0, FULL_WAIT.1);
        let (later, Rest { outcome, is_held, room, .. }) = (Arc::clone(line), self);
        line.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(waited) => {}
                () = later.cancel.cancelled() => {
                    settlement.action = Action::HandBack(later.uncounted(settlement.deliveries));
                }
            }
            later.settle(Settling { partition, settlement, outcome, is_held, waited, room });
        });
    }
}
