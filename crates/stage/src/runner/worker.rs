//! What happens to an event before and after its run: opening its payload, waiting for its turn,
//! and turning how it ended into a settlement.

use std::sync::Arc;

use riacho_domain::{DelayClass, Lane, ReasonCode, RetryPolicy, StageName};
use riacho_proto::v1::envelope::Payload;
use riacho_streams::{Action, Answer, Settlement};
use riacho_traces::{Kind, attributes};
use tokio::sync::RwLockReadGuard;

use super::{
    alone,
    dispatch::{self, condemn},
    line::{LAST_RUN, Line, Work},
};
use crate::{
    ClaimError, CodecError, EmitError, Event, EventMeta, Failure, Outcome, Output, codec,
    context::Emitter,
    foreground::{FOREGROUND, Turn},
    guard::Ended,
    metrics::names,
};

/// How long an event waits whose last run found no quiet moment in its process.
const NOT_ALONE: DelayClass = DelayClass::ThirtySeconds;
/// How long an event waits for a server that is away. The stage waits too, so it need not be longer.
const UNAVAILABLE: DelayClass = DelayClass::OneSecond;
/// How long an event waits that is spared because its stage pauses.
const SPARED: DelayClass = DelayClass::FiveSeconds;

/// An event and what is held of it. Boxed, because it is large and goes from hand to hand.
pub(super) type Opened = Box<(Work, Event)>;

/// The event of `work`, its payload inflated or fetched. None where it is settled instead.
pub(super) async fn opened(line: &Arc<Line>, mut work: Box<Work>) -> Option<Opened> {
    if line.stop.is_cancelled() {
        hand_back(line, *work);
        return None;
    }
    let payload = std::mem::replace(&mut work.payload, codec::NOTHING);
    let limit = line.config.max_payload_bytes;
    match codec::open(payload, &work.meta.tenant, &line.claims, limit).await {
        Ok(payload) => {
            let event = Event { envelope: work.meta.clone(), payload };
            return Some(Box::new((*work, event)));
        }
        Err(error) if error.is_retryable() => {
            fail(line, *work, Failure::unavailable(error.to_string()), ReasonCode::AttemptsExhausted);
        }
        Err(error @ CodecError::Claim(ClaimError::Gone(_))) => {
            fail(line, *work, Failure::transient(error.to_string()), ReasonCode::AttemptsExhausted);
        }
        Err(error) => {
            let about = Some((&work.meta, &*work.meta.traceparent));
            condemn(line, work.holding, about, error.reason(), &error.to_string());
        }
    }
    None
}

/// The event of `work` whose payload needs no opening.
pub(super) fn opened_already(mut work: Box<Work>) -> Opened {
    let payload = std::mem::replace(&mut work.payload, codec::NOTHING);
    let event = Event { envelope: work.meta.clone(), payload };
    Box::new((*work, event))
}

/// Held while events run: beside others, or alone for a last run.
pub(super) enum Gate {
    Beside { _guard: RwLockReadGuard<'static, ()>, _turn: Turn },
    Alone { _guard: alone::Alone },
}

impl Gate {
    /// For events of which none is at its last run. None where the stop came first.
    pub(super) async fn beside(line: &Line, lane: Lane) -> Option<Gate> {
        // Before the guard: readers that wait for turns would delay a last run, which waits for them.
        let turn = line.stop.run_until_cancelled(FOREGROUND.turn(lane)).await?;
        let guard = line.stop.run_until_cancelled(alone::beside_others()).await?;
        (!line.stop.is_cancelled()).then_some(Gate::Beside { _guard: guard, _turn: turn })
    }

    /// For one event. A last run waits for a quiet process, and marks its beginning in the
    /// delivery count. None where it cannot begin now.
    pub(super) async fn pass(line: &Line, work: &mut Work) -> Option<Gate> {
        let entry = &mut work.holding.entry;
        if !line.is_last_run(entry.deliveries) {
            return Gate::beside(line, entry.lane).await;
        }
        let alone = alone::alone(line.config.alone_patience());
        let guard = line.stop.run_until_cancelled(alone).await??;
        if line.stop.is_cancelled() {
            return None;
        }
        let mark = Settlement::of(entry, &work.meta.id, Action::Mark(LAST_RUN));
        let answers = line.streams.handoff(work.meta.partition, line.stage, &line.consumer, &[mark]).await;
        if !matches!(answers.as_deref(), Ok([Answer::Done])) {
            return None;
        }
        entry.deliveries = LAST_RUN;
        Some(Gate::Alone { _guard: guard })
    }
}

/// The span of an event's run.
pub(super) fn span(line: &Line, work: &Work) -> tracing::Span {
    let meta = &work.meta;
    if meta.attempt == 1 {
        let wait = dispatch::age(&work.holding.entry).as_secs_f64();
        let lane = work.holding.entry.lane;
        metrics::histogram!(names::WAIT, "stage" => line.stage.as_str(), "lane" => lane.as_str())
            .record(wait);
    }
    tracing::info_span!("event", stage = %line.stage, tenant = %meta.tenant, document = %meta.document,
        version = meta.version, release = %meta.release, event = meta.id, attempt = meta.attempt, lane = %meta.lane,
        worker = &*line.consumer, trace_id = meta.trace_id())
}

/// The span of an event's run in its trace. Each delivery has its own, below the same parent.
pub(super) fn traced(line: &Line, meta: &EventMeta) -> riacho_traces::Span {
    let name = match line.stage {
        StageName::Extract => "process extract",
        StageName::Embed => "process embed",
        StageName::Index => "process index",
    };
    riacho_traces::Span::below(line.stage.service(), Kind::Consumer, name, &meta.traceparent, || {
        [
            (attributes::MESSAGING_SYSTEM, "redis".into()),
            (attributes::MESSAGING_OPERATION_TYPE, "process".into()),
            (attributes::MESSAGING_OPERATION_NAME, "process".into()),
            (attributes::MESSAGING_DESTINATION, line.stage.as_str().into()),
            (attributes::MESSAGING_GROUP, line.stage.as_str().into()),
            (attributes::MESSAGING_MESSAGE, meta.id.clone().into()),
            (attributes::TENANT, meta.tenant.to_string().into()),
            (attributes::DOCUMENT, meta.document.to_string().into()),
            (attributes::VERSION, i64::from(meta.version).into()),
            (attributes::RELEASE, meta.release.to_string().into()),
            (attributes::STAGE, line.stage.as_str().into()),
            (attributes::ATTEMPT, i64::from(meta.attempt).into()),
            (attributes::LANE, meta.lane.as_str().into()),
            (attributes::WORKER, line.consumer.to_string().into()),
        ]
    })
}

/// Settles an event as its run ended. `emitted` is how many outputs went before.
pub(super) async fn conclude(
    line: &Arc<Line>,
    mut work: Work,
    emitted: usize,
    ended: Ended<Result<Outcome, Failure>>,
) {
    let exhausted = ReasonCode::AttemptsExhausted;
    let step = Step::of(&ended);
    let (action, outcome) = match ended {
        Ended::Returned(Ok(Outcome::Emit(outputs))) => {
            match last_outputs(line, &mut work, emitted, outputs).await {
                Ok(action) => (action, "emitted"),
                Err(failure) => return fail(line, work, failure, exhausted),
            }
        }
        Ended::Returned(Ok(Outcome::Ready)) => (Action::Done(vec![]), "emitted"),
        Ended::Returned(Ok(Outcome::Failed(_))) => (Action::Done(vec![]), "ended"),
        Ended::Returned(Ok(Outcome::Superseded)) => {
            metrics::counter!(names::SUPERSEDED, "stage" => line.stage.as_str()).increment(1);
            (Action::Done(vec![]), "superseded")
        }
        Ended::Returned(Err(failure)) => return fail(line, work, failure, exhausted),
        Ended::Panicked(message) => {
            let failure = Failure::transient(format!("the stage panicked: {message}"));
            return fail(line, work, failure, ReasonCode::Panicked);
        }
        Ended::TimedOut => {
            let message = format!("over the time limit of {} s", line.time_limit.as_secs_f64());
            return fail(line, work, Failure::transient(message), exhausted);
        }
        Ended::Cancelled => return hand_back(line, work),
    };
    line.breaker.succeeded();
    line.needs.is_over();
    work.span.set(attributes::OUTCOME, outcome);
    if let Step::Failed(reason) = step {
        work.span.fail(reason);
    }
    step.tell(line.stage, &work);
    work.holding.settle(line, action, outcome);
}

/// What an event's run was for its document: a line of the log each, within the event's span.
enum Step {
    Done,
    Ready,
    Failed(ReasonCode),
    Nothing,
}

impl Step {
    fn of(ended: &Ended<Result<Outcome, Failure>>) -> Step {
        match ended {
            Ended::Returned(Ok(Outcome::Emit(_))) => Step::Done,
            Ended::Returned(Ok(Outcome::Ready)) => Step::Ready,
            Ended::Returned(Ok(Outcome::Failed(reason))) => Step::Failed(*reason),
            _ => Step::Nothing,
        }
    }

    /// Of a document that is cut into several batches, the later ones are details.
    fn tell(&self, stage: StageName, work: &Work) {
        let (batch, chunks) = work.batch;
        let (step, text) = match stage {
            StageName::Extract => ("extracted", "the document is extracted"),
            StageName::Embed => ("embedded", "the document is embedded"),
            StageName::Index => ("indexed", "the document is indexed"),
        };
        match self {
            Step::Done | Step::Ready if stage == StageName::Extract => tracing::info!(step, "{text}"),
            Step::Done | Step::Ready if batch > 0 => {
                tracing::debug!(step, batch, chunks, "a further batch of the document is done");
            }
            Step::Done | Step::Ready => tracing::info!(step, batch, chunks, "{text}"),
            Step::Failed(reason) => tracing::info!(step = "failed", %reason, "the document failed"),
            Step::Nothing => {}
        }
        if matches!(self, Step::Ready) {
            tracing::info!(step = "ready", "the document is ready");
        }
    }
}

/// Which batch of its document an event is, and how many chunks that has.
pub(super) fn batch_of(payload: &Payload) -> (u32, usize) {
    match payload {
        Payload::ChunksCut(cut) => (cut.batch, cut.chunks.len()),
        Payload::ChunksEmbedded(embedded) => (embedded.batch, embedded.chunks.len()),
        _ => (0, 0),
    }
}

/// The handoff of a run's last outputs. Those that do not fit into one call go before it.
async fn last_outputs(
    line: &Line,
    work: &mut Work,
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
    let mut sending = emitter.publish(outputs.len());
    let last = async {
        let mut calls = emitter.encode(outputs, &sending.or(&emitter.parent)).await?;
        let last = calls.pop().unwrap_or_default();
        for call in calls {
            let sent = line.cancel.run_until_cancelled(emitter.send(call)).await;
            sent.unwrap_or(Err(EmitError::Cancelled))?;
        }
        Ok::<_, EmitError>(last)
    };
    let last = last.await.inspect_err(|error| sending.fail(error.kind()))?;
    work.holding.sending = sending;
    Ok(Action::Done(last))
}

/// Settles an event whose run failed: it waits for the next one, or is given up for `exhausted`.
pub(super) fn fail(line: &Line, mut work: Work, failure: Failure, exhausted: ReasonCode) {
    let deliveries = work.holding.entry.deliveries;
    work.holding.sending = riacho_traces::Span::none();
    let (code, message) = match failure {
        Failure::Transient { message, counts: true, .. } if line.is_last_run(deliveries) => {
            (exhausted, message)
        }
        Failure::Transient { message, retry_after, counts } => {
            let policy = RetryPolicy { max_attempts: line.config.max_attempts };
            let class = policy.class(work.meta.attempt, retry_after);
            tell_retry(line, &work.meta, counts, &message, class);
            work.span.set(attributes::OUTCOME, "retried");
            work.span.fail("transient");
            let count = if counts { deliveries } else { line.uncounted(deliveries) };
            return work.holding.settle(line, Action::Retry(class, count), "retried");
        }
        Failure::Unavailable { message } => {
            line.needs.begins(&message);
            tracing::debug!(stage = %line.stage, document = %work.meta.document, error = message, "an event waits for a server");
            work.span.set(attributes::OUTCOME, "retried");
            work.span.fail("unavailable");
            let count = line.uncounted(deliveries);
            return work.holding.settle(line, Action::Retry(UNAVAILABLE, count), "retried");
        }
        Failure::Permanent { code, .. } if line.breaker.failed(code) => {
            let count = line.uncounted(deliveries);
            work.span.set(attributes::OUTCOME, "spared");
            work.span.fail(code);
            return work.holding.settle(line, Action::Retry(SPARED, count), "spared");
        }
        Failure::Permanent { code, message } => (code, message),
    };
    work.span.set(attributes::OUTCOME, "dead_letter");
    work.span.fail(code);
    let parent = work.span.or(&work.meta.traceparent);
    condemn(line, work.holding, Some((&work.meta, &parent)), code, &message);
}

fn tell_retry(line: &Line, meta: &EventMeta, counts: bool, error: &str, class: DelayClass) {
    tracing::info!(step = "retried", stage = %line.stage, tenant = %meta.tenant, document = %meta.document, version = meta.version,
        event = meta.id, attempt = meta.attempt, trace_id = meta.trace_id(), worker = &*line.consumer,
        counts, error, class = class.consumer(), "an event failed and waits");
}

/// Gives an event back that did not run to its end: no attempt.
pub(super) fn hand_back(line: &Line, mut work: Work) {
    let count = work.holding.uncounted(line);
    work.holding.sending = riacho_traces::Span::none();
    work.span.set(attributes::OUTCOME, "handed_back");
    if line.stop.is_cancelled() {
        work.holding.settle(line, Action::HandBack(count), "handed_back");
    } else {
        work.holding.settle(line, Action::Retry(NOT_ALONE, count), "not_alone");
    }
}

impl Work {
    /// Emits for the event, after `emitted` outputs.
    pub(super) fn emitter(&self, line: &Line, emitted: usize) -> Emitter {
        Emitter {
            streams: line.streams.clone(),
            claims: line.claims.clone(),
            stage: line.stage,
            consumer: Arc::clone(&line.consumer),
            input: self.meta.clone(),
            parent: self.span.or(&self.meta.traceparent),
            deliveries: self.holding.entry.deliveries,
            ordinal: emitted.into(),
        }
    }
}
