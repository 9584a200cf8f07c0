//! Fills batches of events, by count, weight or a moment's wait, and runs them.

use std::{pin::pin, sync::Arc};

use futures::{Stream, StreamExt};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

use super::{
    line::{Line, Work},
    worker::{self, Ended, Gate},
};
use crate::{BatchLimits, BatchStage, Context, Event, Failure};

/// How many payloads are inflated or fetched ahead.
const OPEN_AHEAD: usize = 16;

type Opened = (Work, Event);

/// Fills and runs batches until it is aborted.
pub(super) async fn drive<S: BatchStage>(
    line: Arc<Line>,
    stage: Arc<S>,
    mut queue: mpsc::UnboundedReceiver<Work>,
) {
    let works = futures::stream::poll_fn(move |context| queue.poll_recv(context));
    let opened = works.map(|work| worker::opened(&line, work)).buffered(OPEN_AHEAD);
    let mut opened = pin!(opened.filter_map(std::future::ready));
    let slots = Arc::new(Semaphore::new(line.config.concurrency));
    let mut runs = JoinSet::new();
    let mut carried = None;
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
        runs.spawn(run(Arc::clone(&line), Arc::clone(&stage), batch, slot));
    }
}

/// Fills a batch that begins with `first`. An event that does not fit is carried to the next one.
async fn fill<S: BatchStage>(
    line: &Line,
    stage: &S,
    first: Opened,
    opened: &mut (impl Stream<Item = Opened> + Unpin),
    carried: &mut Option<Opened>,
) -> Vec<Opened> {
    let BatchLimits { max_events, max_weight, linger } = stage.limits();
    let deadline = Instant::now() + linger;
    let mut weight = stage.weight(&first.1);
    let is_alone = line.is_last_run(first.0.entry.deliveries);
    let mut batch = vec![first];
    while !is_alone && batch.len() < max_events && weight < max_weight {
        let Ok(Some(next)) = timeout_at(deadline, opened.next()).await else { break };
        weight = weight.saturating_add(stage.weight(&next.1));
        if weight > max_weight || line.is_last_run(next.0.entry.deliveries) {
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
    mut batch: Vec<Opened>,
    _slot: OwnedSemaphorePermit,
) {
    let gate = match batch.as_mut_slice() {
        [(only, _)] => Gate::pass(&line, only).await,
        _ => Some(Gate::beside().await).filter(|_| !line.stop.is_cancelled()),
    };
    let Some(_gate) = gate else {
        batch.into_iter().for_each(|(work, _)| worker::hand_back(&line, work));
        return;
    };
    let (works, events): (Vec<Work>, Vec<Event>) = batch.into_iter().unzip();
    let spans: Vec<tracing::Span> = works.iter().map(|work| worker::span(&line, work)).collect();
    let cancelled = line.cancel.child_token();
    let context = Context::new(Arc::clone(&line.consumer), cancelled.clone(), None);
    let ended =
        worker::timed(&line, worker::guarded(stage.run(events, &context), line.time_limit, &cancelled))
            .instrument(tracing::info_span!("batch", stage = %line.stage, events = works.len()))
            .await;
    let answers = answers(ended, works.len());
    for ((work, span), answer) in works.into_iter().zip(spans).zip(answers) {
        worker::conclude(&line, work, 0, answer).instrument(span).await;
    }
}

/// How each event of a batch ended.
fn answers<T>(ended: Ended<Vec<Result<T, Failure>>>, count: usize) -> Vec<Ended<Result<T, Failure>>> {
    let all = |ended: fn() -> Ended<Result<T, Failure>>| (0..count).map(|_| ended()).collect();
    match ended {
        Ended::Returned(answers) if answers.len() == count => {
            answers.into_iter().map(Ended::Returned).collect()
        }
        Ended::Returned(answers) => {
            let failure = Failure::transient(format!("{} answers for {count} events", answers.len()));
            (0..count).map(|_| Ended::Returned(Err(failure.clone()))).collect()
        }
        Ended::Panicked(message) => (0..count).map(|_| Ended::Panicked(message.clone())).collect(),
        Ended::TimedOut => all(|| Ended::TimedOut),
        Ended::Cancelled => all(|| Ended::Cancelled),
    }
}
