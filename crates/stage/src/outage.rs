//! A time without Redis: its beginning and end are logged, and nothing between.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use riacho_domain::StageName;

pub(crate) struct Outage {
    stage: StageName,
    is_on: AtomicBool,
}

impl Outage {
    pub(crate) fn new(stage: StageName) -> Self {
        Self { stage, is_on: AtomicBool::new(false) }
    }

    pub(crate) fn begins(&self, error: &riacho_streams::Error) {
        if !self.is_on.swap(true, Ordering::Relaxed) {
            tracing::warn!(stage = %self.stage, %error, "the streams cannot be used");
        }
    }

    pub(crate) fn is_over(&self) {
        if self.is_on.load(Ordering::Relaxed) && self.is_on.swap(false, Ordering::Relaxed) {
            tracing::info!(stage = %self.stage, "the streams can be used again");
        }
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
