//! A stage that fails for good many times in a row for one reason, a bad key say, pauses itself
//! instead of condemning the backlog.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use riacho_domain::{ReasonCode, StageName};

use crate::metrics::names;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct Breaker {
    stage: StageName,
    /// 0 turns it off.
    limit: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reason: Option<ReasonCode>,
    in_a_row: u32,
    pause: Duration,
    until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(stage: StageName, limit: u32) -> Self {
        Self { stage, limit, state: Mutex::default() }
    }

    /// A run ended well.
    pub(crate) fn succeeded(&self) {
        self.begin(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), None);
    }

    /// Begins a new row, of runs that fail for this reason or end well, and leaves the pause where there is one.
    fn begin(&self, state: &mut State, reason: Option<ReasonCode>) {
        if state.until.is_some() {
            tracing::info!(stage = %self.stage, "the stage goes on");
            metrics::gauge!(names::PAUSED, "stage" => self.stage.as_str()).set(0.0);
        }
        *state = State { reason, ..State::default() };
    }

    /// A run failed for good. Whether its event is spared, because the fault is the stage's.
    pub(crate) fn failed(&self, reason: ReasonCode) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reason != Some(reason) {
            self.begin(&mut state, Some(reason));
        }
        state.in_a_row = state.in_a_row.saturating_add(1);
        if self.limit == 0 || state.in_a_row < self.limit {
            return false;
        }
        let now = Instant::now();
        // Runs that were under way when the pause began do not lengthen it.
        if state.until.is_none_or(|until| until <= now) {
            state.pause = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            state.until = Some(now + state.pause);
            tracing::error!(stage = %self.stage, %reason, in_a_row = state.in_a_row, pause_seconds = state.pause.as_secs(),
                "the stage fails for one reason and pauses");
            metrics::gauge!(names::PAUSED, "stage" => self.stage.as_str()).set(1.0);
        }
        true
    }

    /// Whether reading pauses now.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.until.is_some_and(|until| Instant::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn the_same_reason_in_a_row_pauses_and_a_success_goes_on() {
        let breaker = Breaker::new(StageName::Embed, 3);
        assert!(!breaker.failed(ReasonCode::ProviderRefused));
        assert!(!breaker.failed(ReasonCode::ProviderRefused));
        assert!(!breaker.failed(ReasonCode::Internal), "another reason begins a new row");
        assert!(!breaker.failed(ReasonCode::ProviderRefused));
        assert!(!breaker.failed(ReasonCode::ProviderRefused));
        assert!(breaker.failed(ReasonCode::ProviderRefused) && breaker.is_open());
        breaker.succeeded();
        assert!(!breaker.is_open() && !breaker.failed(ReasonCode::ProviderRefused));
    }

    #[test]
    fn a_pause_that_another_reason_ends_is_shown_as_ended() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let is_paused = || {
            let shown = recorder.handle().render();
            shown
                .lines()
                .find_map(|line| line.strip_prefix("riacho_stage_paused{stage=\"embed\"} "))
                .map(str::to_owned)
        };
        metrics::with_local_recorder(&recorder, || {
            let breaker = Breaker::new(StageName::Embed, 2);
            breaker.failed(ReasonCode::ProviderRefused);
            assert!(breaker.failed(ReasonCode::ProviderRefused));
            assert_eq!(is_paused().as_deref(), Some("1"));
            assert!(!breaker.failed(ReasonCode::Undecodable) && !breaker.is_open());
            assert_eq!(is_paused().as_deref(), Some("0"));
        });
    }
}
