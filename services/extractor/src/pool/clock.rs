//! Time as this process lives it.
//!
//! A process that is stopped, or a machine that sleeps, parses nothing meanwhile; a document must not be
//! condemned for that. So time is counted in small steps, of which a pause costs one.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

/// The largest step.
const STEP: Duration = Duration::from_millis(100);

/// How much time something may take, and has taken.
#[derive(Debug)]
pub(super) struct Clock {
    limit: Duration,
    spent: Duration,
}

impl Clock {
    /// Begins to count.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, spent: Duration::ZERO }
    }

    /// Changes the limit for everything since the beginning.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// How much time has passed.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    /// The future's output; none when the time is up first.
    pub(super) async fn within<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        loop {
            let step = self.limit.saturating_sub(self.spent).min(STEP);
            let begun = Instant::now();
            let output = timeout(step, &mut future).await;
            self.spent += begun.elapsed().min(step);
            match output {
                Ok(output) => return Some(output),
                Err(_) if self.spent >= self.limit => return None,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn time_in_which_the_process_stood_still_does_not_count() {
        let (millis, mut clock) = (Duration::from_millis, Clock::new(Duration::from_millis(400)));
        // It holds up this runtime as a stopped process would be.
        tokio::spawn(async move { std::thread::sleep(millis(1_000)) });
        assert!(clock.within(sleep(millis(1_050))).await.is_some());
        assert!(clock.spent < millis(400), "{:?}", clock.spent);
    }

    #[tokio::test]
    async fn the_limit_is_for_all_parts_together_and_may_grow() {
        let (millis, mut clock) = (Duration::from_millis, Clock::new(Duration::from_millis(100)));
        assert!(clock.within(sleep(millis(40))).await.is_some());
        assert!(clock.within(std::future::pending::<()>()).await.is_none());
        assert!(clock.within(std::future::pending::<()>()).await.is_none(), "the time stays up");
        clock.set_limit(millis(60_000));
        assert!(clock.within(sleep(millis(150))).await.is_some());
    }
}
