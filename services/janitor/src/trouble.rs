//! What fails in the janitor, told in few lines.
//!
//! When a server goes away, most tasks fail at the same moment, and while one flaps they fail and work again
//! in turns. So all tasks that run every few seconds share one account: what time may mend is told for one of them, and
//! for another only when it still fails a while later.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::Error;

/// What a later run may mend is told at most this often.
const QUIET: Duration = Duration::from_secs(10);

/// The account of all tasks of one janitor. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trouble(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What fails now and was told, so that its end is told; and whether time may mend it.
    told: HashSet<(&'static str, bool)>,
    told_at: Option<Instant>,
}

impl Trouble {
    /// A run of `what` failed, which runs again within seconds or not.
    pub(crate) fn is(&self, what: &'static str, runs_soon: bool, error: &Error) {
        if self.is_to_be_told(what, runs_soon, error.is_retryable(), Instant::now()) {
            tracing::warn!(task = what, %error, "failed; trying again on schedule");
        }
    }

    fn is_to_be_told(&self, what: &'static str, runs_soon: bool, may_mend: bool, now: Instant) -> bool {
        let mut state = self.lock();
        let is_quiet = runs_soon && may_mend && state.told_at.is_some_and(|at| now - at < QUIET);
        if is_quiet || !state.told.insert((what, may_mend)) {
            return false;
        }
        if may_mend {
            state.told_at = Some(now);
        }
        true
    }

    /// A run of `what` went well.
    pub(crate) fn is_over(&self, what: &'static str) {
        let mut state = self.lock();
        let was_told = [true, false].map(|may_mend| state.told.remove(&(what, may_mend)));
        drop(state);
        if was_told != [false; 2] {
            tracing::info!(task = what, "works again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_fail_together_are_told_in_one_line_and_what_lasts_or_stays_in_another() {
        let (trouble, start) = (Trouble::default(), Instant::now());
        assert!(trouble.is_to_be_told("release", true, true, start));
        assert!(!trouble.is_to_be_told("release", true, true, start + QUIET * 2), "told already");
        assert!(
            !trouble.is_to_be_told("census", true, true, start + QUIET / 2),
            "likely for the same reason"
        );
        assert!(trouble.is_to_be_told("purge", true, false, start + QUIET / 2), "no server mends it");
        assert!(trouble.is_to_be_told("release", true, false, start + QUIET / 2), "another reason, for good");
        assert!(trouble.is_to_be_told("orphans", false, true, start + QUIET / 2), "it runs once a day");
        trouble.is_over("release");
        assert!(!trouble.is_to_be_told("release", true, true, start + QUIET / 2), "it flaps");
        assert!(trouble.is_to_be_told("census", true, true, start + QUIET * 2), "it lasted");
    }
}
