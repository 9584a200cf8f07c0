//! Waiting for a condition instead of for a time.

use std::{future::Future, panic::Location, time::Duration};

use tokio::time::{Instant, sleep};

/// How long a condition may take to come true. Long, so that only a condition that never comes
/// true fails, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What a look at a condition answers: `true`, `Some(value)` or `Ok(value)` once it holds.
pub trait Seen {
    /// What is there once the condition holds.
    type Value;

    /// The value, or why it does not hold yet.
    fn seen(self) -> Result<Self::Value, String>;
}

impl Seen for bool {
    type Value = ();

    fn seen(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

impl<T> Seen for Option<T> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.ok_or_else(|| "None".to_owned())
    }
}

impl<T, E: std::fmt::Debug> Seen for Result<T, E> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Looks again and again until the condition holds, and returns what it saw.
///
/// # Panics
/// After [`PATIENCE`], with the caller's line and the last answer.
#[track_caller]
pub fn eventually<S, Fut>(condition: impl FnMut() -> Fut) -> impl Future<Output = S::Value>
where
    S: Seen,
    Fut: Future<Output = S>,
{
    within(PATIENCE, condition)
}

/// [`eventually`] with a patience of its own.
///
/// # Panics
/// When the condition does not hold in time.
#[track_caller]
pub fn within<S, Fut>(
    patience: Duration,
    mut condition: impl FnMut() -> Fut,
) -> impl Future<Output = S::Value>
where
    S: Seen,
    Fut: Future<Output = S>,
{
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            let last = match condition().await.seen() {
                Ok(value) => return value,
                Err(last) => last,
            };
            assert!(
                Instant::now() < deadline,
                "{caller}: not within {patience:?}; the last answer was {last}"
            );
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_condition_is_looked_at_until_it_holds() {
        let looks = AtomicU32::new(0);
        let value =
            eventually(|| async { (looks.fetch_add(1, Ordering::Relaxed) == 3).then_some("there") }).await;
        assert_eq!((value, looks.load(Ordering::Relaxed)), ("there", 4));
    }

    #[tokio::test]
    #[should_panic(expected = "not within 5ms; the last answer was \"not yet\"")]
    async fn a_condition_that_never_holds_fails() {
        within(Duration::from_millis(5), || async { Err::<(), _>("not yet") }).await;
    }
}
