//! What fails in the janitor, told in few lines.
//!
//! When a server goes away, most tasks fail at the same moment, and while one flaps they fail and work again
//! in turns. So all tasks share one account: what time may mend is told for one task, and for another only
//! when it still fails a while later.

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
    /// What fails now and was told, so that its end is told.
    told: HashSet<&'static str>,
    told_at: Option<Instant>,
}

impl Trouble {
    /// A run of `what` failed.
    pub(crate) fn is(&self, what: &'static str, error: &Error) {
        if self.is_to_be_told(what, error.is_retryable(), Instant::now()) {
            tracing::warn!(task = what, %error, "failed; trying again on schedule");
        }
    }

    fn is_to_be_told(&self, what: &'static str, may_mend: bool, now: Instant) -> bool {
        let mut state = self.lock();
        let is_quiet = may_mend && state.told_at.is_some_and(|at| now - at < QUIET);
        if is_quiet || !state.told.insert(what) {
            return false;
        }
        if may_mend {
            state.told_at = Some(now);
        }
        true
    }

    /// A run of `what` went well.
    pub(crate) fn is_over(&self, what: &'static str) {
        if self.lock().told.remove(what) {
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
        assert!(trouble.is_to_be_told("release", true, start));
        assert!(!trouble.is_to_be_told("release", true, start + QUIET * 2), "told already");
        assert!(!trouble.is_to_be_told("census", true, start + QUIET / 2), "most likely for the same reason");
        assert!(trouble.is_to_be_told("purge", false, start + QUIET / 2), "no server comes back to mend it");
        trouble.is_over("release");
        assert!(!trouble.is_to_be_told("release", true, start + QUIET / 2), "it flaps");
        assert!(trouble.is_to_be_told("census", true, start + QUIET), "it lasted");
    }
}
