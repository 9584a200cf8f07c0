//! Runs events one at a time each, and turns how a run ended into a settlement.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use riacho_domain::{DelayClass, ReasonCode, RetryPolicy};
use riacho_streams::{Action, Answer, Settlement};
use tokio::{
    sync::{RwLockReadGuard, RwLockWriteGuard, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    alone,
    dispatch::{self, condemn},
    line::{LAST_RUN, Line, Settling, Work},
};
use crate::{
    ClaimError, CodecError, Context, EmitError, Event, Failure, Outcome, Output, Stage, codec,
    context::Emitter, metrics::names,
};

/// How long an event waits whose last run found no quiet moment in its process.
const NOT_ALONE: DelayClass = DelayClass::ThirtySeconds;

/// Starts a run for each event until it is aborted.
pub(super) async fn drive<S: Stage>(
    line: Arc<Line>,
    stage: Arc<S>,
    mut queue: mpsc::UnboundedReceiver<Work>,
) {
    let mut runs = JoinSet::new();
    loop {
        tokio::select! {
            work = queue.recv() => match work {
                Some(work) => drop(runs.spawn(one(Arc::clone(&line), Arc::clone(&stage), work))),
                None => return,
            },
            Some(_) = runs.join_next() => {}
        }
    }
}

async fn one<S: Stage>(line: Arc<Line>, stage: Arc<S>, mut work: Work) {
    if work.room.is_none() {
        tokio::select! {
            () = line.stop.cancelled() => {}
            permit = Arc::clone(&line.room).acquire_owned() => work.room = permit.ok(),
        }
    }
    let Some((mut work, event)) = opened(&line, work).await else { return };
    let Some(_gate) = Gate::pass(&line, &mut work).await else { return hand_back(&line, work) };
    let cancelled = line.cancel.child_token();
    let context = Context::new(Arc::clone(&line.consumer), cancelled.clone(), Some(work.emitter(&line, 0)));
    let span = span(&line, &work);
    let run = timed(&line, guarded(stage.run(event, &context), line.time_limit, &cancelled));
    let ended = run.instrument(span.clone()).await;
    conclude(&line, work, context.next_ordinal(), ended).instrument(span).await;
}

/// The event of `work`, its payload inflated or fetched. None where it is settled instead.
pub(super) async fn opened(line: &Arc<Line>, mut work: Work) -> Option<(Work, Event)> {
    if line.stop.is_cancelled() {
        hand_back(line, work);
        return None;
    }
    let payload = std::mem::replace(&mut work.payload, codec::NOTHING);
    match codec::open(payload, &line.claims, line.config.max_payload_bytes).await {
        Ok(payload) => {
            let event = Event { envelope: work.meta.clone(), payload };
            Some((work, event))
        }
        Err(error @ CodecError::Claim(ClaimError::Store(_))) => {
            fail(line, work, Failure::unavailable(error.to_string()), ReasonCode::AttemptsExhausted);
            None
        }
        Err(error @ CodecError::Claim(ClaimError::Gone(_))) => {
            fail(line, work, Failure::transient(error.to_string()), ReasonCode::AttemptsExhausted);
            None
        }
        Err(error) => {
            let code = match &error {
                CodecError::TooLarge(_) | CodecError::Claim(ClaimError::TooLarge(_)) => ReasonCode::TooLarge,
                _ => ReasonCode::Undecodable,
            };
            condemn(
                line,
                &work.entry,
                Some(&work.meta),
                work.meta.partition,
                code,
                &error.to_string(),
                work.room,
            );
            None
        }
    }
}

/// Held while events run: beside others, or alone for a last run.
pub(super) enum Gate {
    Beside { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Gate {
    /// For events of which none is at its last run.
    pub(super) async fn beside() -> Gate {
        Gate::Beside { _guard: alone::beside_others().await }
    }

    /// For one event. A last run waits for a quiet process, and marks its beginning in the
    /// delivery count. None where it cannot begin now, or where the stop came first.
    pub(super) async fn pass(line: &Line, work: &mut Work) -> Option<Gate> {
        if !line.is_last_run(work.entry.deliveries) {
            let gate = Gate::beside().await;
            return if line.stop.is_cancelled() { None } else { Some(gate) };
        }
        let guard = alone::alone(line.config.alone_patience()).await?;
        if line.stop.is_cancelled() {
            return None;
        }
        let mark = [Settlement::of(&work.entry, &work.meta.id, Action::Mark(LAST_RUN))];
        let answers = line.streams.handoff(work.meta.partition, line.stage, &line.consumer, &mark).await;
        if !matches!(answers.as_deref(), Ok([Answer::Done])) {
            return None;
        }
        work.entry.deliveries = LAST_RUN;
        Some(Gate::Alone { _guard: guard })
    }
}

/// How a run ended.
pub(super) enum Ended<T> {
    Returned(T),
    Panicked(String),
    TimedOut,
    Cancelled,
}

/// Runs a stage's future within its time limit, until it is cancelled, with panics caught.
pub(super) async fn guarded<T>(
    future: impl Future<Output = T> + Send,
    limit: Duration,
    cancelled: &CancellationToken,
) -> Ended<T> {
    tokio::select! {
        returned = AssertUnwindSafe(future).catch_unwind() => match returned {
            Ok(value) => Ended::Returned(value),
            Err(panic) => Ended::Panicked(panic_message(&*panic)),
        },
        () = cancelled.cancelled() => Ended::Cancelled,
        () = tokio::time::sleep(limit) => {
            cancelled.cancel();
            Ended::TimedOut
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

pub(super) async fn timed<T>(line: &Line, run: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let ended = run.await;
    metrics::histogram!(names::PROCESS, "stage" => line.stage.as_str()).record(start.elapsed().as_secs_f64());
    ended
}

/// The span of an event's run.
pub(super) fn span(line: &Line, work: &Work) -> tracing::Span {
    let meta = &work.meta;
    if meta.attempt == 1 {
        let wait = dispatch::age(&work.entry).as_secs_f64();
        metrics::histogram!(names::WAIT, "stage" => line.stage.as_str()).record(wait);
    }
    tracing::info_span!("event", stage = %line.stage, tenant = %meta.tenant, document = %meta.document,
        version = meta.version, release = %meta.release, attempt = meta.attempt,
        trace_id = dispatch::trace_id(&meta.traceparent))
}

/// Settles an event as its run ended. `emitted` is how many outputs went before.
pub(super) async fn conclude(
    line: &Arc<Line>,
    work: Work,
    emitted: usize,
    ended: Ended<Result<Outcome, Failure>>,
) {
    let exhausted = ReasonCode::AttemptsExhausted;
    match ended {
        Ended::Returned(Ok(Outcome::Emit(outputs))) => {
            match last_outputs(line, &work, emitted, outputs).await {
                Ok(action) => {
                    line.breaker.succeeded();
                    work.settle(line, action, "emitted");
                }
                Err(failure) => fail(line, work, failure, exhausted),
            }
        }
        Ended::Returned(Ok(Outcome::Ended)) => {
            line.breaker.succeeded();
            work.settle(line, Action::Done(vec![]), "ended");
        }
        Ended::Returned(Ok(Outcome::Superseded)) => {
            metrics::counter!(names::SUPERSEDED, "stage" => line.stage.as_str()).increment(1);
            work.settle(line, Action::Done(vec![]), "superseded");
        }
        Ended::Returned(Err(failure)) => fail(line, work, failure, exhausted),
        Ended::Panicked(message) => {
            fail(
                line,
                work,
                Failure::transient(format!("the stage panicked: {message}")),
                ReasonCode::Panicked,
            );
        }
        Ended::TimedOut => {
            let message = format!("over the time limit of {} s", line.time_limit.as_secs_f64());
            fail(line, work, Failure::transient(message), exhausted);
        }
        Ended::Cancelled => hand_back(line, work),
    }
}

/// The handoff of a run's last outputs. Those that do not fit into one call go before it.
async fn last_outputs(
    line: &Line,
    work: &Work,
    emitted: usize,
    outputs: Vec<Output>,
) -> Result<Action, Failure> {
    if line.stage.next().is_some() == (outputs.is_empty() && emitted == 0) {
        let message = "a stage emits at least one event, and the last stage none";
        return Err(Failure::permanent(ReasonCode::Internal, message));
    }
    if outputs.is_empty() {
        return Ok(Action::Done(vec![]));
    }
    let emitter = work.emitter(line, emitted);
    let mut calls = emitter.encode(outputs).await?;
    let last = calls.pop().unwrap_or_default();
    for call in calls {
        tokio::select! {
            () = line.cancel.cancelled() => return Err(EmitError::Cancelled.into()),
            sent = emitter.send(call) => sent?,
        }
    }
    Ok(Action::Done(last))
}

/// Settles an event whose run failed: it waits for the next one, or is given up for `exhausted`.
pub(super) fn fail(line: &Line, work: Work, failure: Failure, exhausted: ReasonCode) {
    let deliveries = work.entry.deliveries;
    let policy = RetryPolicy { max_attempts: line.config.max_attempts };
    let (code, message) = match failure {
        Failure::Transient { message, retry_after, counts } => {
            let class = policy.class(work.meta.attempt, retry_after);
            if counts && line.is_last_run(deliveries) {
                (exhausted, message)
            } else {
                tracing::info!(stage = %line.stage, document = %work.meta.document, attempt = work.meta.attempt,
                    counts, message, class = class.consumer(), "an event failed and waits");
                let count = if counts { deliveries } else { line.uncounted(deliveries) };
                return work.settle(line, Action::Retry(class, count), "retried");
            }
        }
        Failure::Permanent { code, message } => {
            if line.breaker.failed(code) {
                let action = Action::Retry(DelayClass::FiveSeconds, line.uncounted(deliveries));
                return work.settle(line, action, "spared");
            }
            (code, message)
        }
    };
    condemn(line, &work.entry, Some(&work.meta), work.meta.partition, code, &message, work.room);
}

/// Gives an event back that did not run to its end: no attempt.
pub(super) fn hand_back(line: &Line, work: Work) {
    let count = line.uncounted(work.entry.deliveries);
    if line.stop.is_cancelled() {
        work.settle(line, Action::HandBack(count), "handed_back");
    } else {
        work.settle(line, Action::Retry(NOT_ALONE, count), "not_alone");
    }
}

impl Work {
    pub(super) fn settle(self, line: &Line, action: Action, outcome: &'static str) {
        line.settle(Settling {
            partition: self.meta.partition,
            settlement: Settlement::of(&self.entry, &self.meta.id, action),
            outcome,
            is_held: true,
            waited: Duration::ZERO,
            room: self.room,
        });
    }

    fn emitter(&self, line: &Line, emitted: usize) -> Emitter {
        Emitter {
            streams: line.streams.clone(),
            claims: line.claims.clone(),
            stage: line.stage,
            consumer: Arc::clone(&line.consumer),
            input: self.meta.clone(),
            deliveries: self.entry.deliveries,
            ordinal: emitted.into(),
        }
    }
}
