//! When a failed entry runs again.

use std::time::Duration;

/// A class of delay. A failed entry waits in the pending entries list of a consumer named after its
/// class, so that what is due can be found by idle time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DelayClass {
    /// One second.
    OneSecond,
    /// Five seconds.
    FiveSeconds,
    /// Thirty seconds.
    ThirtySeconds,
    /// Five minutes.
    FiveMinutes,
    /// One hour.
    OneHour,
}

impl DelayClass {
    /// All classes, the shortest first.
    pub const ALL: [DelayClass; 5] = [
        DelayClass::OneSecond,
        DelayClass::FiveSeconds,
        DelayClass::ThirtySeconds,
        DelayClass::FiveMinutes,
        DelayClass::OneHour,
    ];

    /// How long an entry of the class waits.
    #[must_use]
    pub const fn delay(self) -> Duration {
        Duration::from_secs(match self {
            DelayClass::OneSecond => 1,
            DelayClass::FiveSeconds => 5,
            DelayClass::ThirtySeconds => 30,
            DelayClass::FiveMinutes => 300,
            DelayClass::OneHour => 3600,
        })
    }

    /// The name of the class's consumer.
    #[must_use]
    pub const fn consumer(self) -> &'static str {
        match self {
            DelayClass::OneSecond => "retry:1s",
            DelayClass::FiveSeconds => "retry:5s",
            DelayClass::ThirtySeconds => "retry:30s",
            DelayClass::FiveMinutes => "retry:5m",
            DelayClass::OneHour => "retry:1h",
        }
    }

    /// The shortest class that waits at least `wait`; the longest where none does.
    #[must_use]
    pub fn at_least(wait: Duration) -> DelayClass {
        DelayClass::ALL.into_iter().find(|class| class.delay() >= wait).unwrap_or(DelayClass::OneHour)
    }
}

/// How often and after which delays a stage retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The number of runs, the first included, before an entry is given up.
    pub max_attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 4 }
    }
}

impl RetryPolicy {
    /// The class an entry waits in after its failure number `attempt` (from 1): the next class each
    /// time, and never less than the callee asked for.
    #[must_use]
    pub fn class(&self, attempt: u32, retry_after: Option<Duration>) -> DelayClass {
        let last = DelayClass::ALL.len() - 1;
        let step = DelayClass::ALL[usize::try_from(attempt.saturating_sub(1)).map_or(last, |n| n.min(last))];
        retry_after.map_or(step, |wait| step.max(DelayClass::at_least(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_and_honours_the_callee() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.class(1, None), DelayClass::OneSecond);
        assert_eq!(policy.class(3, None), DelayClass::ThirtySeconds);
        assert_eq!(policy.class(99, None), DelayClass::OneHour);
        assert_eq!(policy.class(1, Some(Duration::from_secs(31))), DelayClass::FiveMinutes);
        assert_eq!(policy.class(3, Some(Duration::from_millis(10))), DelayClass::ThirtySeconds);
    }
}
