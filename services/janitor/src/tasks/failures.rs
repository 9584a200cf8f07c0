//! What fails of many things, so that one that fails keeps no other from its turn.

use crate::Error;

/// After so many failures of servers that are away, one behind the other, a task gives up: each may have taken long.
const MOST_AWAY: u64 = 10;

/// After so many failures of any kind, one behind the other, a task gives up: nothing works.
const MOST: u64 = 1_000;

/// How many things failed, and why the first one did.
#[derive(Debug, Default)]
pub(super) struct Failures {
    failed: u64,
    first: Option<String>,
    in_a_row: u64,
    away_in_a_row: u64,
}

impl Failures {
    pub(super) fn add(&mut self, error: &Error) {
        self.failed += 1;
        self.in_a_row += 1;
        if error.is_retryable() {
            self.away_in_a_row += 1;
        }
        self.first.get_or_insert_with(|| error.to_string());
    }

    /// Something went well, or other things come.
    pub(super) fn go_on(&mut self) {
        (self.in_a_row, self.away_in_a_row) = (0, 0);
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.in_a_row >= MOST || self.away_in_a_row >= MOST_AWAY
    }

    /// An error where anything failed.
    pub(super) fn into_result(self) -> Result<(), Error> {
        self.first.map_or(Ok(()), |first| Err(Error::Partial { failed: self.failed, first }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(failures: &mut Failures, times: u64, is_away: bool) {
        let reason = "test".to_owned();
        for _ in 0..times {
            let error = match is_away {
                true => riacho_objects::Error::Unavailable { reason: reason.clone() },
                false => riacho_objects::Error::Misconfigured { reason: reason.clone() },
            };
            failures.add(&error.into());
        }
    }

    #[test]
    fn things_that_can_never_be_done_stop_nothing_behind_them_and_a_server_that_is_away_stops_all() {
        let mut failures = Failures::default();
        fail(&mut failures, 500, false);
        assert!(!failures.are_too_many(), "what is locked comes first in each run");
        failures.go_on();
        fail(&mut failures, 500, false);
        assert!(!failures.are_too_many());
        failures.go_on();
        fail(&mut failures, 10, true);
        assert!(failures.are_too_many());
        let text = failures.into_result().map_err(|error| error.to_string());
        assert!(text.is_err_and(|text| text.contains("1010")), "all are counted");
    }
}
