//! Fills batches of events, by count, weight or a moment's wait, and runs them. A stage that works
//! on one event at a time has batches of one.

use std::{pin::pin, sync::Arc};

use futures::{Stream as Events, StreamExt};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
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
};

/// How many payloads are inflated or fetched ahead.
const OPEN_AHEAD: usize = 16;

/// Fills and runs batches until it is aborted. `emits` says that runs may emit on the way.
pub(super) async fn drive<S: BatchStage>(
    line: Arc<Line>,
    stage: Arc<S>,
    emits: bool,
    mut queue: mpsc::UnboundedReceiver<Box<Work>>,
) {
    let works = futures::stream::poll_fn(move |context| queue.poll_recv(context));
    let opened = works.map(|work| worker::opened(&line, work)).buffered(OPEN_AHEAD);
    let mut opened = pin!(opened.filter_map(std::future::ready));
    let slots = Arc::new(Semaphore::new(line.config.concurrency));
    let (mut runs, mut carried) = (JoinSet::new(), None);
    loop {
        // The slot comes first, so that a batch fills for as long as it cannot start.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while runs.try_join_next().is_some() {}
        let first = match carried.take() {
            Some(first) => first,
            None => match opened.next().await {
                Some(first) => first,
                None => return,
            },
        };
        let batch = fill(&line, &*stage, first, &mut opened, &mut carried).await;
        runs.spawn(run(Arc::clone(&line), Arc::clone(&stage), emits, batch, slot));
    }
}

/// Fills a batch that begins with `first`. An event that does not fit is carried to the next one.
async fn fill<S: BatchStage>(
    line: &Line,
    stage: &S,
    first: Opened,
    opened: &mut (impl Events<Item = Opened> + Unpin),
    carried: &mut Option<Opened>,
) -> Vec<Opened> {
    let BatchLimits { max_events, max_weight, linger } = stage.limits();
    let deadline = Instant::now() + linger;
    let is_last_run = |opened: &Opened| line.is_last_run(opened.0.holding.entry.deliveries);
    let mut weight = stage.weight(&first.1);
    let is_alone = is_last_run(&first);
    let mut batch = vec![first];
    while !is_alone && batch.len() < max_events && weight < max_weight {
        let Ok(Some(next)) = timeout_at(deadline, opened.next()).await else { break };
        weight = weight.saturating_add(stage.weight(&next.1));
        if weight > max_weight || is_last_run(&next) {
            *carried = Some(next);
            break;
        }
        batch.push(next);
    }
    batch
}

async fn run<S: BatchStage>(
    line: Arc<Line>,
    stage: Arc<S>,
    emits: bool,
    mut batch: Vec<Opened>,
    _slot: OwnedSemaphorePermit,
) {
    let gate = match batch.as_mut_slice() {
        [only] => Gate::pass(&line, &mut only.0).await,
        _ => Gate::beside(&line).await,
    };
    let Some(_gate) = gate else {
        return batch.into_iter().for_each(|opened| worker::hand_back(&line, opened.0));
    };
    let (works, events): (Vec<Work>, Vec<Event>) = batch.into_iter().map(|opened| *opened).unzip();
    let spans: Vec<tracing::Span> = works.iter().map(|work| worker::span(&line, work)).collect();
    let span = if emits {
        spans[0].clone()
    } else {
        tracing::info_span!("batch", stage = %line.stage, events = works.len())
    };
    let cancelled = line.cancel.child_token();
    let emitter = works.first().filter(|_| emits).map(|work| work.emitter(&line, 0));
    let context = Context::new(Arc::clone(&line.consumer), cancelled.clone(), emitter);
    let begun = Instant::now();
    let ended =
        guarded(line.stage, line.time_limit, stage.run(events, &context), &cancelled).instrument(span).await;
    if emits {
        line.room.ran(begun.elapsed());
    }
    let answers = answers(ended, works.len());
    for ((work, span), answer) in works.into_iter().zip(spans).zip(answers) {
        worker::conclude(&line, work, context.next_ordinal(), answer).instrument(span).await;
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
