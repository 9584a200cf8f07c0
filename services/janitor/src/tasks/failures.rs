//! What fails of many things, so that one that fails keeps no other from its turn.

use crate::Error;

/// After so many a task gives up: likely nothing works.
const MOST: u64 = 100;

/// How many things failed, and why the first one did.
#[derive(Debug, Default)]
pub(super) struct Failures {
    failed: u64,
    first: Option<String>,
}

impl Failures {
    pub(super) fn add(&mut self, error: &Error) {
        self.failed += 1;
        self.first.get_or_insert_with(|| error.to_string());
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.failed >= MOST
    }

    /// An error where anything failed.
    pub(super) fn into_result(self) -> Result<(), Error> {
        self.first.map_or(Ok(()), |first| Err(Error::Partial { failed: self.failed, first }))
    }
}
