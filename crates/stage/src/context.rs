//! What a stage can ask of its runner while it runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use riacho_domain::StageName;
use riacho_streams::{
    Action, Answer, Error as StreamsError, MAX_BYTES, MAX_OUTPUTS, Settlement, Streams, Target,
};
use riacho_traces::{Kind, Span, Traceparent, attributes};
use tokio_util::sync::CancellationToken;

use crate::{Claims, CodecError, EventMeta, Failure, Output, codec};

/// How long a writer waits before it looks again at a full stream, at first and at most.
pub(crate) const FULL_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What a stage can ask of its runner while it runs.
pub struct Context {
    consumer: Arc<str>,
    cancelled: CancellationToken,
    emitter: Option<Emitter>,
    is_alone: bool,
    service: &'static str,
    spans: Vec<Traceparent>,
}

impl Context {
    pub(crate) fn new(
        stage: StageName,
        consumer: Arc<str>,
        cancelled: CancellationToken,
        emitter: Option<Emitter>,
    ) -> Self {
        let service = stage.service();
        Self { consumer, cancelled, emitter, is_alone: false, service, spans: Vec::new() }
    }

    /// With the spans of the events that run, as far as they are recorded.
    pub(crate) fn within(self, spans: Vec<Traceparent>) -> Self {
        Self { spans, ..self }
    }

    /// Of a last run, which has its process for itself.
    pub(crate) fn alone(self, is_alone: bool) -> Self {
        Self { is_alone, ..self }
    }

    /// Whether this is an event's last run: everything else of the process waits until it ends, and the event is condemned if
    /// the process does not survive it. It should not merely wait for something; who puts it off gets it again.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Hands events to the next stage before the last ones, while the input stays this run's.
    ///
    /// Waits while the next stage's stream is full. Ids are derived from the order of all outputs
    /// of a run, those of [`Outcome::Emit`](crate::Outcome::Emit) included, so a re-run that emits
    /// in the same order makes the same ids; after a crash the same events can come twice.
    pub async fn emit(&self, outputs: Vec<Output>) -> Result<(), EmitError> {
        let Some(emitter) = &self.emitter else { return Err(EmitError::Batch) };
        tokio::select! {
            () = self.cancelled.cancelled() => Err(EmitError::Cancelled),
            result = emitter.emit(outputs) => result,
        }
    }

    /// Begins a span of a part of the run, a call of another server say: below the first event that is traced, with links
    /// to the others. None where no event is traced.
    #[must_use]
    pub fn span<const N: usize>(
        &self,
        kind: Kind,
        name: &'static str,
        attributes: impl FnOnce() -> [riacho_traces::Attribute; N],
    ) -> Span {
        Span::linked(self.service, kind, name, &self.spans, attributes)
    }

    /// Cancelled when the time limit is over, or when the runner must stop now.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// The name of this process among the group's consumers.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// The outputs' ordinals go on where emitting ended.
    pub(crate) fn next_ordinal(&self) -> usize {
        self.emitter.as_ref().map_or(0, |emitter| emitter.ordinal.load(Ordering::Relaxed))
    }
}

/// Why events could not be handed to the next stage. Each is a reason to end the run: `?` turns it
/// into a failure that is no attempt of the event.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EmitError {
    /// Another consumer holds the input.
    #[error("another consumer holds the event")]
    Fenced,
    /// The input is settled already, or lost.
    #[error("the event is gone")]
    Gone,
    /// The run was cancelled while it waited.
    #[error("the run was cancelled")]
    Cancelled,
    /// A batch has no input of its own, and the topology's last stage no next one.
    #[error("this stage cannot emit here")]
    Batch,
    /// The stream refused an output.
    #[error("the next stage's stream refused: {0}")]
    Refused(String),
    /// An output could not be encoded or stored.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Redis failed for good.
    #[error(transparent)]
    Redis(#[from] StreamsError),
}

impl EmitError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            EmitError::Codec(error) => error.is_retryable(),
            EmitError::Redis(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl EmitError {
    /// What it is, of a fixed set.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            EmitError::Fenced => "fenced",
            EmitError::Gone => "gone",
            EmitError::Cancelled => "cancelled",
            EmitError::Batch => "batch",
            EmitError::Refused(_) => "refused",
            EmitError::Codec(_) => "codec",
            EmitError::Redis(_) => "redis",
        }
    }
}

impl From<EmitError> for Failure {
    fn from(error: EmitError) -> Self {
        if error.is_retryable() {
            return Failure::unavailable(error.to_string());
        }
        let counts =
            matches!(&error, EmitError::Batch) || matches!(&error, EmitError::Codec(e) if !e.is_retryable());
        Failure::Transient { message: error.to_string(), retry_after: None, counts }
    }
}

/// Emits for one input.
pub(crate) struct Emitter {
    pub(crate) streams: Streams,
    pub(crate) claims: Claims,
    pub(crate) stage: StageName,
    pub(crate) consumer: Arc<str>,
    pub(crate) input: EventMeta,
    /// What outputs stand below in the trace.
    pub(crate) parent: String,
    /// The delivery that this run was given.
    pub(crate) deliveries: u32,
    pub(crate) ordinal: AtomicUsize,
}

impl Emitter {
    async fn emit(&self, outputs: Vec<Output>) -> Result<(), EmitError> {
        let mut span = self.publish(outputs.len());
        let sent = async {
            for call in self.encode(outputs, &span.or(&self.parent)).await? {
                self.send(call).await?;
            }
            Ok(())
        };
        let sent: Result<(), EmitError> = sent.await;
        if let Err(error) = &sent {
            span.fail(error.kind());
        }
        sent
    }

    /// The span of putting outputs onto the next stage's streams.
    pub(crate) fn publish(&self, outputs: usize) -> Span {
        let Some(next) = self.stage.next() else { return Span::none() };
        let name = match next {
            StageName::Extract => "send extract",
            StageName::Embed => "send embed",
            StageName::Index => "send index",
        };
        Span::below(self.stage.service(), Kind::Producer, name, &self.parent, || {
            [
                (attributes::MESSAGING_SYSTEM, "redis".into()),
                (attributes::MESSAGING_OPERATION_TYPE, "send".into()),
                (attributes::MESSAGING_OPERATION_NAME, "handoff".into()),
                (attributes::MESSAGING_DESTINATION, next.as_str().into()),
                (attributes::MESSAGING_BATCH, i64::try_from(outputs).unwrap_or(i64::MAX).into()),
                (attributes::TENANT, self.input.tenant.to_string().into()),
                (attributes::DOCUMENT, self.input.document.to_string().into()),
                (attributes::VERSION, i64::from(self.input.version).into()),
            ]
        })
    }

    /// Encodes outputs, below a span of the trace, and splits them into calls within their bounds.
    pub(crate) async fn encode(
        &self,
        outputs: Vec<Output>,
        parent: &str,
    ) -> Result<Vec<Vec<(Target, Bytes)>>, EmitError> {
        let next = self.stage.next().ok_or(EmitError::Batch)?;
        let mut calls: Vec<Vec<(Target, Bytes)>> = Vec::new();
        let mut bytes = 0;
        for output in outputs {
            let target = Target::Work(next, output.lane);
            let ordinal = self.ordinal.fetch_add(1, Ordering::Relaxed);
            let encoded =
                codec::encode_output(&self.input, self.stage, ordinal, output, parent, &self.claims).await?;
            match calls.last_mut() {
                Some(call) if call.len() < MAX_OUTPUTS && bytes + encoded.len() <= MAX_BYTES => {
                    bytes += encoded.len();
                    call.push((target, encoded));
                }
                _ => {
                    bytes = encoded.len();
                    calls.push(vec![(target, encoded)]);
                }
            }
        }
        Ok(calls)
    }

    pub(crate) async fn send(&self, outputs: Vec<(Target, Bytes)>) -> Result<(), EmitError> {
        let settlement = Settlement {
            // The lane it was read from, which is a part of the source's key.
            lane: self.input.lane,
            entry_id: self.input.entry_id.clone(),
            envelope_id: self.input.id.clone(),
            deliveries: self.deliveries,
            // The input stays, so that no bytes leave the stream.
            bytes: 0,
            action: Action::Emit(outputs),
        };
        let mut wait = FULL_WAIT.0;
        loop {
            let answers =
                self.streams.handoff(self.input.partition, self.stage, &self.consumer, &[&settlement]).await;
            match answers.map(|answers| answers.into_iter().next()) {
                Ok(Some(Answer::Done)) => return Ok(()),
                Ok(Some(Answer::Fenced)) => return Err(EmitError::Fenced),
                Ok(Some(Answer::Gone)) => return Err(EmitError::Gone),
                Ok(Some(Answer::Refused(reason))) => return Err(EmitError::Refused(reason)),
                Ok(Some(Answer::Full)) => {}
                Ok(None) => return Err(StreamsError::Reply("number of answers").into()),
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(FULL_WAIT.1);
        }
    }
}
