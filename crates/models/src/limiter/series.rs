//! The requests of one batch. Their turns are taken together, so that a batch that was begun is not held up by those that
//! were not: else many of them would take very long, instead of one after the other a short time.

use std::time::Duration;

use riacho_domain::{Turn, TurnUsed};
use tokio::time::Instant;

/// What is known of the requests that follow one another, and the time that was taken for them.
#[derive(Debug, Default)]
pub struct Series {
    /// Nothing has to be begun that would not be done by then.
    pub(crate) until: Option<Instant>,
    /// Requests that follow the next one, and their guessed tokens together.
    pub(crate) requests_after: u32,
    pub(crate) tokens_after: usize,
    held: Option<Held>,
}

/// Time that was taken and is not used yet.
#[derive(Debug)]
struct Held {
    turn: Turn,
    next_at: Instant,
    requests: u32,
    tokens: u64,
}

impl Series {
    /// Requests that should be done by then.
    #[must_use]
    pub fn until(until: Option<std::time::Instant>) -> Self {
        Self { until: until.map(Instant::from_std), ..Self::default() }
    }

    /// The requests that will follow the next one, and their tokens together by [`estimate_tokens`](crate::estimate_tokens).
    pub fn expect(&mut self, requests: usize, tokens: usize) {
        self.requests_after = u32::try_from(requests).unwrap_or(u32::MAX);
        self.tokens_after = tokens;
    }

    /// The name of the turn that is held, and when it comes.
    pub(super) fn next(&self) -> Option<(u64, Instant)> {
        let held = self.held.as_ref().filter(|held| held.requests > 0)?;
        Some((held.turn.name, held.next_at))
    }

    /// Keeps a turn that was taken now, with the time for what follows.
    pub(super) fn hold(&mut self, turn: Turn, tokens: u64, tokens_after: u64, now: Instant) {
        let (requests, tokens) = (self.requests_after.saturating_add(1), tokens.saturating_add(tokens_after));
        self.held = Some(Held { turn, next_at: now + turn.wait, requests, tokens });
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
        let Held { turn, requests, tokens, .. } = self.held.take().filter(|held| held.requests > 0)?;
        let more_tokens = i64::try_from(tokens).map_or(i64::MIN, |tokens| -tokens);
        Some(TurnUsed { name: turn.name, more_tokens, requests_back: requests, ..TurnUsed::default() })
    }

    /// How long the next request may wait: all have to be done in time.
    pub(super) fn patience(&self, most: Duration, takes: Duration, now: Instant) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(now).saturating_sub(takes);
        self.until.map_or(most, |until| most.min(left(until)))
    }
}
