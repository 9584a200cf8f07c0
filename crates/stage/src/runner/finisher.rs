//! Settles entries: many in one call, each with an answer of its own.

use std::{sync::Arc, time::Duration};

use riacho_streams::{Action, Answer, MAX_BYTES, MAX_OUTPUTS};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::line::{Line, Settling};
use crate::{context::FULL_WAIT, metrics::names, outage::Backoff};

/// Calls under way at once; while they are, the next batch collects.
const CALLS: usize = 4;
/// At most this many entries in one call.
const ENTRIES_MAX: usize = 128;

/// Settles until it is aborted.
pub(super) async fn run(line: Arc<Line>, mut queue: mpsc::UnboundedReceiver<Settling>) {
    let calls = Arc::new(Semaphore::new(CALLS));
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, CALLS * ENTRIES_MAX).await > 0 {
        waiting.sort_by_cached_key(|settling| (settling.partition, settling.settlement.place()));
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
        let action = &settling.settlement.action;
        let (more, size) = (action.output_count(), action.output_bytes());
        match batches.last_mut() {
            Some(batch)
                if batch.len() < ENTRIES_MAX
                    && batch[0].partition == settling.partition
                    && batch[0].waited.is_zero()
                    && settling.waited.is_zero()
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

async fn settle(line: Arc<Line>, batch: Vec<Settling>, _call: OwnedSemaphorePermit) {
    let partition = batch.first().map_or(0, |settling| settling.partition);
    let mut backoff = Backoff::new();
    let answers = loop {
        match line.streams.handoff(partition, line.stage, &line.consumer, &batch).await {
            Ok(answers) => break answers,
            Err(error) if !error.is_retryable() && batch.len() > 1 => {
                // One of them spoils the call: each goes again on its own.
                break vec![Answer::Refused(error.to_string()); batch.len()];
            }
            Err(error) => {
                line.outage.begins(&error);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    };
    line.outage.is_over();
    for (settling, answer) in batch.into_iter().zip(answers) {
        answered(&line, settling, answer);
    }
}

fn answered(line: &Arc<Line>, settling: Settling, answer: Answer) {
    let stage = line.stage.as_str();
    let mut settling = settling;
    let outcome = match answer {
        Answer::Done => settling.outcome,
        Answer::Gone => "gone",
        Answer::Fenced => {
            metrics::counter!(names::FENCED, "stage" => stage).increment(1);
            "fenced"
        }
        Answer::Full => {
            metrics::counter!(names::FULL, "stage" => stage).increment(1);
            return again(line, settling);
        }
        Answer::Refused(reason) => {
            tracing::error!(stage, entry = %settling.settlement.entry_id, reason, "a handoff was refused and waits");
            return again(line, settling);
        }
    };
    if outcome != settling.outcome {
        settling.sending.fail(outcome);
    }
    metrics::counter!(names::PROCESSED, "stage" => stage, "outcome" => outcome).increment(1);
    if settling.is_held {
        line.held.remove(settling.partition, settling.settlement.lane, &settling.settlement.entry_id);
    }
}

/// Keeps the result and tries again later; the room stays taken, which holds back reading. Once
/// everything is cancelled the event is handed back instead, and will run again.
fn again(line: &Arc<Line>, mut settling: Settling) {
    let line_later = Arc::clone(line);
    line.spawn(async move {
        settling.waited = (settling.waited * 2).clamp(FULL_WAIT.0, FULL_WAIT.1);
        let cancelled = line_later.cancel.cancelled();
        if tokio::time::timeout(settling.waited, cancelled).await.is_ok() {
            let count = line_later.uncounted(settling.settlement.deliveries);
            settling.settlement.action = Action::HandBack(count);
            // Not sooner again either, should that be refused too.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = line_later.settle.send(settling);
    });
}
