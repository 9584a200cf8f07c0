//! Fills batches of events, by count, weight or a moment's wait, and runs them. A stage that works
//! on one event at a time has batches of one.

use std::{sync::Arc, time::Duration};

use riacho_domain::Lane;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

use super::{
    line::{Line, Work},
    worker::{self, Gate, Opened},
};
use crate::{
    BatchLimits, BatchStage, Context, Event, Failure,
    guard::{Ended, guarded},
    turns::Ticket,
};

/// Fills and runs a stage's batches.
pub(super) struct Driver<S> {
    pub(super) line: Arc<Line>,
    pub(super) stage: Arc<S>,
    /// Whether runs may emit on the way.
    pub(super) emits: bool,
}

impl<S> Clone for Driver<S> {
    fn clone(&self) -> Self {
        let Driver { line, stage, emits } = self;
        Driver { line: Arc::clone(line), stage: Arc::clone(stage), emits: *emits }
    }
}

impl<S: BatchStage> Driver<S> {
    /// Runs batches of all lanes in turn, so many at once. From the stop on it hands back what does not run yet, until
    /// it is aborted.
    pub(super) async fn run(self, at_once: usize) {
        let (line, slots) = (&self.line, Arc::new(Semaphore::new(at_once)));
        let mut runs = JoinSet::new();
        loop {
            // The slot comes first, so that a batch fills for as long as it cannot start.
            let slot = line.stop.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await;
            let Some(Ok(slot)) = slot else { break };
            while runs.try_join_next().is_some() {}
            let Some((turn, first)) = line.stop.run_until_cancelled(line.ready.first()).await else { break };
            let batch = self.fill(turn.lane, first).await;
            line.ready.filled();
            runs.spawn(self.clone().run_batch(turn, batch, slot));
        }
        // What runs goes on meanwhile.
        loop {
            let (turn, waiting) = line.ready.first().await;
            line.ready.ran(turn, None);
            worker::hand_back(line, waiting.0);
        }
    }

    /// Runs batches of the interactive lane besides, while those in turn cannot begin.
    pub(super) async fn run_interactive(self, at_once: usize) {
        let (line, slots) = (&self.line, Arc::new(Semaphore::new(at_once)));
        let mut runs = JoinSet::new();
        loop {
            let slot = line.stop.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await;
            let Some(Ok(slot)) = slot else { break };
            while runs.try_join_next().is_some() {}
            let first = line.stop.run_until_cancelled(line.ready.first_interactive()).await;
            let Some((turn, first)) = first else { break };
            let batch = self.fill(turn.lane, first).await;
            runs.spawn(self.clone().run_batch(turn, batch, slot));
        }
        // What runs goes on until it is aborted.
        std::future::pending().await
    }

    /// Fills a batch that begins with `first`, with events of the same lane and kind: whoever is urgent waits for no
    /// other. An event that does not fit is left for the next one.
    async fn fill(&self, lane: Lane, first: Opened) -> Vec<Opened> {
        let (line, stage) = (&self.line, &self.stage);
        let BatchLimits { max_events, max_weight, linger } = stage.limits_from(&first.1);
        let kind = stage.kind(&first.1);
        let deadline = Instant::now() + linger;
        let is_last_run = |opened: &Opened| line.is_last_run(opened.0.holding.entry.deliveries);
        let mut weight = stage.weight(&first.1);
        let is_alone = is_last_run(&first);
        let mut batch = vec![first];
        while !is_alone && batch.len() < max_events && weight < max_weight {
            let Ok(next) = timeout_at(deadline, self.line.ready.next(lane)).await else { break };
            weight = weight.saturating_add(stage.weight(&next.1));
            if weight > max_weight || is_last_run(&next) || stage.kind(&next.1) != kind {
                self.line.ready.put_back(lane, next);
                break;
            }
            batch.push(next);
        }
        batch
    }

    async fn run_batch(self, turn: Ticket, batch: Vec<Opened>, _slot: OwnedSemaphorePermit) {
        let events = batch.len();
        let took = self.run_events(turn.lane, batch).await;
        self.line.ready.ran(turn, took.map(|took| (took, events)));
    }

    /// Runs a batch, and says how long that took, without the wait for its turn; none where it did not run.
    async fn run_events(&self, lane: Lane, mut batch: Vec<Opened>) -> Option<Duration> {
        let line = &self.line;
        let gate = match batch.as_mut_slice() {
            [only] => Gate::pass(line, &mut only.0).await,
            _ => Gate::beside(line, lane).await,
        };
        let Some(gate) = gate else {
            batch.into_iter().for_each(|opened| worker::hand_back(line, opened.0));
            return None;
        };
        let (mut works, events): (Vec<Work>, Vec<Event>) = batch.into_iter().map(|opened| *opened).unzip();
        for (work, event) in works.iter_mut().zip(&events) {
            work.batch = worker::batch_of(&event.payload);
            work.span = worker::traced(line, &work.meta);
        }
        let spans: Vec<tracing::Span> = works.iter().map(|work| worker::span(line, work)).collect();
        let span = if self.emits {
            spans[0].clone()
        } else {
            tracing::info_span!("batch", stage = %line.stage, events = works.len())
        };
        let cancelled = line.cancel.child_token();
        let emitter = works.first().filter(|_| self.emits).map(|work| work.emitter(line, 0));
        let is_alone = matches!(gate, Gate::Alone { .. });
        let traced = works.iter().filter_map(|work| work.span.traceparent()).collect();
        let context = Context::new(line.stage, Arc::clone(&line.consumer), cancelled.clone(), emitter);
        let context = context.alone(is_alone).within(traced);
        let begun = Instant::now();
        let run = self.stage.run(events, &context);
        let ended = guarded((line.stage, lane), line.time_limit, run, &cancelled).instrument(span).await;
        line.room.ran(begun.elapsed());
        if self.emits {
            line.room.look_ahead();
        }
        let answers = answers(ended, works.len());
        for ((work, span), answer) in works.into_iter().zip(spans).zip(answers) {
            worker::conclude(line, work, context.next_ordinal(), answer).instrument(span).await;
        }
        drop(gate);
        Some(begun.elapsed())
    }
}

/// How each event of a batch ended.
fn answers<T>(ended: Ended<Vec<Result<T, Failure>>>, count: usize) -> Vec<Ended<Result<T, Failure>>> {
    match ended {
        Ended::Returned(answers) if answers.len() == count => {
            answers.into_iter().map(Ended::Returned).collect()
        }
        Ended::Returned(answers) => {
            let failure = Failure::transient(format!("{} answers for {count} events", answers.len()));
            (0..count).map(|_| Ended::Returned(Err(failure.clone()))).collect()
        }
        Ended::Panicked(message) => (0..count).map(|_| Ended::Panicked(message.clone())).collect(),
        Ended::TimedOut => (0..count).map(|_| Ended::TimedOut).collect(),
        Ended::Cancelled => (0..count).map(|_| Ended::Cancelled).collect(),
    }
}
