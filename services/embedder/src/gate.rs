//! The pause of the whole stage while the model refuses everybody.
//!
//! Without it, a bad key or a provider's limit would send every event of the backlog through one
//! failure each. While others have the next turns at a provider's limit it is closed for a moment, too, though nothing is
//! wrong then.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use riacho_stage::quiet_wanted;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The longest pause, so that a provider that is back, or a stop, is noticed.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Open, or closed until an instant.
#[derive(Debug)]
pub(crate) struct Gate {
    closed: Mutex<Option<Closed>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Closed {
    until: Instant,
    /// What is wrong with the model; none where others only come first.
    why: Option<String>,
}

impl Gate {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { closed: Mutex::new(None), stop }
    }

    /// Closes the gate for `pause`, if it is not closed for longer.
    pub(crate) fn close(&self, pause: Duration, why: &str) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = closed.as_ref().is_some_and(|closed| closed.why.is_some());
        if !is_told || closed.as_ref().is_none_or(|closed| closed.until < until) {
            if !is_told {
                tracing::warn!(reason = why, "embedding pauses");
            }
            let until = closed.as_ref().map_or(until, |closed| closed.until.max(until));
            *closed = Some(Closed { until, why: Some(why.to_owned()) });
        }
    }

    /// Closes the gate for a moment because others come first, at least.
    pub(crate) fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *closed {
            Some(closed) => closed.until = closed.until.max(until),
            None => *closed = Some(Closed { until, why: None }),
        }
    }

    /// Opens the gate: the model answered.
    pub(crate) fn open(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if closed.is_some_and(|closed| closed.why.is_some()) {
            tracing::info!("embedding goes on");
        }
    }

    /// Why the model does not work; none while it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|closed| closed.why.clone())
    }

    /// How long the pause still lasts; none where there is none.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let left = closed.as_ref()?.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Waits until the pause is over; false when the process stops before, or needs a quiet moment.
    pub(crate) async fn pass(&self) -> bool {
        loop {
            let Some(left) = self.closed_for() else { return !self.stop.is_cancelled() };
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = quiet_wanted() => return false,
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_opens_by_itself_and_the_longest_pause_counts() {
        let gate = Gate::new(CancellationToken::new());
        let start = Instant::now();
        gate.close(Duration::from_millis(40), "limited");
        gate.close(Duration::from_millis(1), "away");
        assert_eq!(gate.trouble().as_deref(), Some("limited"));
        assert!(gate.closed_for().is_some_and(|left| left > Duration::from_millis(1)));
        assert!(gate.pass().await);
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert_eq!(gate.closed_for(), None);
        gate.open();
        assert_eq!(gate.trouble(), None);
    }

    #[tokio::test]
    async fn a_rest_is_no_trouble_and_hides_none() {
        let gate = Gate::new(CancellationToken::new());
        gate.rest(Duration::from_secs(5));
        assert!(gate.closed_for().is_some() && gate.trouble().is_none());
        gate.close(Duration::from_secs(1), "away");
        gate.rest(Duration::from_secs(5));
        assert_eq!(gate.trouble().as_deref(), Some("away"));
        gate.open();
        assert!(gate.closed_for().is_none());
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_the_pause() {
        let stop = CancellationToken::new();
        let gate = Gate::new(stop.clone());
        gate.close(Duration::from_secs(3600), "limited");
        assert!(gate.closed_for().is_some_and(|left| left <= LONGEST_PAUSE));
        stop.cancel();
        assert!(!gate.pass().await);
    }
}
