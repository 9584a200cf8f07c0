//! The requests of one batch. Their turns are taken together, so that a batch that was begun is not held up by those that
//! were not: else many of them would take very long, instead of one after the other a short time.

use std::{sync::Arc, time::Duration};

use riacho_domain::{Turn, TurnAsked, TurnUsed};
use tokio::{runtime::Handle, time::Instant};

use super::Buckets;

/// What is known of the requests that follow one another, and the time that was taken for them. What is not used of it is
/// given back, also when whoever waits goes away.
#[derive(Debug, Default)]
pub struct Series {
    /// Nothing has to be begun that would not be done by then.
    pub(crate) until: Option<Instant>,
    /// Everybody else waits for it: its turns come before others, and it waits for none.
    pub(crate) is_pressing: bool,
    /// Requests that follow the next one, and their guessed tokens together.
    pub(crate) requests_after: u32,
    pub(crate) tokens_after: usize,
    held: Option<Held>,
}

/// Time that was taken and is not used yet.
#[derive(Debug)]
pub(super) struct Held {
    of: Arc<Buckets>,
    turn: Turn,
    is_urgent: bool,
    next_at: Instant,
    requests: u32,
    tokens: u64,
}

impl Held {
    /// A turn that was taken now, with the time for what follows.
    pub(super) fn new(of: Arc<Buckets>, turn: Turn, asked: &TurnAsked) -> Self {
        let requests = asked.requests_after.saturating_add(1);
        let tokens = asked.tokens.saturating_add(asked.tokens_after);
        Self { of, turn, is_urgent: asked.is_urgent, next_at: Instant::now() + turn.wait, requests, tokens }
    }

    /// What is left of it and to be given back; nothing is left then.
    fn rest(&mut self) -> Option<TurnUsed> {
        let (requests_back, tokens) = (std::mem::take(&mut self.requests), std::mem::take(&mut self.tokens));
        let more_tokens = i64::try_from(tokens).map_or(i64::MIN, |tokens| -tokens);
        let (name, is_urgent) = (self.turn.name, self.is_urgent);
        let used = TurnUsed { name, more_tokens, requests_back, is_urgent, ..TurnUsed::default() };
        (requests_back > 0).then_some(used)
    }
}

impl Drop for Held {
    /// Whoever held it did not come to its end: a time limit, a stop, a client that left.
    fn drop(&mut self) {
        if let (Some(used), Ok(runtime)) = (self.rest(), Handle::try_current()) {
            let of = Arc::clone(&self.of);
            runtime.spawn(async move { of.tell(used).await });
        }
    }
}

impl Series {
    /// Requests that should be done by then.
    #[must_use]
    pub fn until(until: Option<std::time::Instant>) -> Self {
        Self { until: until.map(Instant::from_std), ..Self::default() }
    }

    /// Requests that everybody else of the process waits for: they come before others and wait for no turn that is not
    /// theirs at once.
    #[must_use]
    pub fn pressing(self) -> Self {
        Self { is_pressing: true, ..self }
    }

    /// The requests that will follow the next one, and their tokens together by [`estimate_tokens`](crate::estimate_tokens).
    pub fn expect(&mut self, requests: usize, tokens: usize) {
        self.requests_after = u32::try_from(requests).unwrap_or(u32::MAX);
        self.tokens_after = tokens;
    }

    /// The name of the turn that is held, the shift that is known of, and when it comes.
    pub(super) fn next(&self) -> Option<(u64, u64, Instant)> {
        let held = self.held.as_ref().filter(|held| held.requests > 0)?;
        Some((held.turn.name, held.turn.shift, held.next_at))
    }

    /// Keeps what was taken. What was held before was ended by a pause.
    pub(super) fn hold(&mut self, held: Held) {
        self.drop_rest();
        self.held = Some(held);
    }

    /// The turn that is held comes later than was said.
    pub(super) fn put_off(&mut self, turn: &Turn) {
        if let Some(held) = &mut self.held {
            held.turn.shift = turn.shift;
            held.next_at = Instant::now() + turn.wait;
        }
    }

    /// Uses the turn that has come for a request with so many tokens. Answers its name and the tokens that it was given.
    pub(super) fn take(&mut self, tokens: u64, now: Instant) -> Option<(u64, u64)> {
        let held = self.held.as_mut()?;
        let given = if held.requests == 1 { held.tokens } else { tokens.min(held.tokens) };
        held.requests -= 1;
        held.tokens -= given;
        held.next_at = held.next_at.max(now) + held.turn.limit.time_of(1, given);
        Some((held.turn.name, given))
    }

    /// Forgets the time that was not used; what there is to be given back.
    pub(super) fn drop_rest(&mut self) -> Option<TurnUsed> {
        self.held.take()?.rest()
    }

    /// How long the next request may wait: all have to be done in time. Where somebody waits for the answer, at most half
    /// of the time that is left is for the wait.
    pub(super) fn patience(
        &self,
        most: Duration,
        takes: Duration,
        is_urgent: bool,
        now: Instant,
    ) -> Duration {
        if self.is_pressing {
            return Duration::ZERO;
        }
        let left = |until: Instant| until.saturating_duration_since(now).saturating_sub(takes);
        let part = if is_urgent { 2 } else { 1 };
        self.until.map_or(most, |until| most.min(left(until) / part))
    }
}
