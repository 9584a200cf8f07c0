//! The two shapes of a stage: one event at a time, or many.

use std::{future::Future, sync::Arc, time::Duration};

use riacho_domain::StageName;

use crate::{Context, Event, Failure, Outcome};

/// How long a run may take where a stage says nothing else.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A stage that works on one event at a time.
///
/// `run` may be called again for the same event, after a crash or a lost lease, so each effect
/// outside the streams is idempotent and names the event's release. When the time limit is over,
/// or the runner must stop now, the context's token is cancelled and the future is dropped.
pub trait Stage: Send + Sync + 'static {
    /// Which stage it is: its streams and its group.
    fn name(&self) -> StageName;

    /// How long one run may take.
    fn time_limit(&self) -> Duration {
        DEFAULT_TIME_LIMIT
    }

    /// Works on an event and returns what follows.
    fn run(&self, event: Event, context: &Context) -> impl Future<Output = Result<Outcome, Failure>> + Send;
}

/// A stage that works on many events at once.
///
/// The same rules as for [`Stage`] hold for each event of a batch.
pub trait BatchStage: Send + Sync + 'static {
    /// Which stage it is: its streams and its group.
    fn name(&self) -> StageName;

    /// How long one batch may take.
    fn time_limit(&self) -> Duration {
        DEFAULT_TIME_LIMIT
    }

    /// When a batch is full.
    fn limits(&self) -> BatchLimits;

    /// When a batch is full that begins with this event.
    fn limits_from(&self, first: &Event) -> BatchLimits {
        let _ = first;
        self.limits()
    }

    /// Events of different kinds share no batch, so that none waits for what only the others need.
    fn kind(&self, event: &Event) -> u64 {
        let _ = event;
        0
    }

    /// What an event adds to a batch's weight, for example its tokens or bytes.
    fn weight(&self, event: &Event) -> usize;

    /// Works on a batch and returns one answer for each event, in their order.
    ///
    /// The context is the batch's: it has no input of its own, so
    /// [`Context::emit`](crate::Context::emit) is refused there.
    fn run(
        &self,
        events: Vec<Event>,
        context: &Context,
    ) -> impl Future<Output = Vec<Result<Outcome, Failure>>> + Send;
}

/// When a batch is full. An event heavier than `max_weight` makes a batch of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// At most this many events.
    pub max_events: usize,
    /// At most this weight together.
    pub max_weight: usize,
    /// How long the first event waits for more. Zero: take what is there.
    pub linger: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { max_events: 64, max_weight: usize::MAX, linger: Duration::from_millis(2) }
    }
}

/// A stage that works on one event at a time, as batches of one.
pub(crate) struct Single<S>(pub(crate) Arc<S>);

impl<S: Stage> BatchStage for Single<S> {
    fn name(&self) -> StageName {
        self.0.name()
    }

    fn time_limit(&self) -> Duration {
        self.0.time_limit()
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits { max_events: 1, max_weight: usize::MAX, linger: Duration::ZERO }
    }

    fn weight(&self, _: &Event) -> usize {
        0
    }

    async fn run(&self, events: Vec<Event>, context: &Context) -> Vec<Result<Outcome, Failure>> {
        let mut answers = Vec::with_capacity(1);
        for event in events {
            answers.push(self.0.run(event, context).await);
        }
        answers
    }
}
