//! A time without something that a stage needs: its beginning and end are logged, and nothing between.

use std::{
    fmt::Display,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use riacho_domain::StageName;

/// What comes and goes is told at most this often.
const QUIET: Duration = Duration::from_secs(10);

pub(crate) struct Outage {
    stage: StageName,
    what: &'static str,
    is_on: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// Whether the beginning of this outage was told, so that its end is.
    is_told: bool,
    told_at: Option<Instant>,
    backoff: Backoff,
    until: Instant,
}

impl Outage {
    pub(crate) fn new(stage: StageName, what: &'static str) -> Self {
        let state = State { is_told: false, told_at: None, backoff: Backoff::new(), until: Instant::now() };
        Self { stage, what, is_on: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Something failed for it. Said at each failure, so that an outage is told that began soon after
    /// another one, once it has lasted.
    pub(crate) fn begins(&self, error: &impl Display) {
        if self.begins_at(Instant::now()) {
            tracing::warn!(stage = %self.stage, %error, "{} cannot be used", self.what);
        }
    }

    /// Whether it is to be told.
    fn begins_at(&self, now: Instant) -> bool {
        self.is_on.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        // What was under way when the wait began does not lengthen it.
        if state.until <= now {
            state.until = now + state.backoff.next();
        }
        let is_due = !state.is_told && state.told_at.is_none_or(|at| now - at >= QUIET);
        if is_due {
            (state.is_told, state.told_at) = (true, Some(now));
        }
        is_due
    }

    /// Something went well with it.
    pub(crate) fn is_over(&self) {
        if self.is_on.load(Ordering::Relaxed) && self.is_on.swap(false, Ordering::Relaxed) {
            let mut state = self.lock();
            state.backoff.reset();
            state.until = Instant::now();
            if std::mem::take(&mut state.is_told) {
                tracing::info!(stage = %self.stage, "{} can be used again", self.what);
            }
        }
    }

    /// Whether it is too soon for another try.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_on.load(Ordering::Relaxed) && self.waits_at(Instant::now())
    }

    fn waits_at(&self, now: Instant) -> bool {
        now < self.lock().until
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits that double up to a second.
pub(crate) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const LAST: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(crate) fn reset(&mut self) {
        self.0 = Self::FIRST;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LAST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_waited_out_longer_each_time_and_one_that_flaps_is_told_seldom() {
        let outage = Outage::new(StageName::Index, "a server");
        let (start, millis) = (Instant::now(), Duration::from_millis);
        assert!(outage.begins_at(start) && !outage.begins_at(start + millis(1)));
        assert!(outage.waits_at(start + millis(19)) && !outage.waits_at(start + millis(20)));
        assert!(!outage.begins_at(start + millis(20)));
        assert!(outage.waits_at(start + millis(59)), "the second wait is twice the first");
        outage.is_over();
        assert!(!outage.is_waiting());
        assert!(!outage.begins_at(start + millis(100)), "just told");
        assert!(outage.begins_at(start + QUIET), "it lasted");
    }
}
