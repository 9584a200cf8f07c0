//! Keeps the requests of this process under a provider's limits, and still while the provider asked
//! for silence.
//!
//! It counts for one process. Replicas that share a key are each given their part by configuration.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use metrics::histogram;
use tokio::time::{Instant, sleep};

use crate::{Config, Error, metrics::names};

/// What a provider that answers 429 without a time is given.
const PAUSE_WHEN_UNTOLD: Duration = Duration::from_secs(5);

/// The longest silence that a provider's answer can impose.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The limits of one provider.
#[derive(Debug)]
pub(crate) struct Limiter {
    provider: &'static str,
    requests: Option<DefaultDirectRateLimiter>,
    tokens: Option<(DefaultDirectRateLimiter, NonZeroU32)>,
    paused_until: Mutex<Option<Instant>>,
    patience: Duration,
}

impl Limiter {
    pub(crate) fn new(config: &Config) -> Self {
        let per_minute = |limit: Option<u32>| limit.and_then(NonZeroU32::new);
        Self {
            provider: config.provider.as_str(),
            requests: per_minute(config.requests_per_minute)
                .map(|limit| RateLimiter::direct(Quota::per_minute(limit))),
            tokens: per_minute(config.tokens_per_minute)
                .map(|limit| (RateLimiter::direct(Quota::per_minute(limit)), limit)),
            paused_until: Mutex::new(None),
            patience: Duration::from_millis(config.limit_wait_ms),
        }
    }

    /// Waits until a request with so many tokens may go out.
    ///
    /// # Errors
    /// `RateLimited` where that takes longer than the configured patience.
    pub(crate) async fn admit(&self, tokens: usize) -> Result<(), Error> {
        let start = Instant::now();
        let mut requests_taken = false;
        loop {
            let wait = self.paused().or_else(|| self.take(tokens, &mut requests_taken));
            let Some(wait) = wait else {
                histogram!(names::LIMITER_WAIT_SECONDS, "provider" => self.provider)
                    .record(start.elapsed().as_secs_f64());
                return Ok(());
            };
            if start.elapsed() + wait > self.patience {
                return Err(Error::RateLimited { retry_after: Some(wait) });
            }
            sleep(wait).await;
        }
    }

    /// Lets no request out for as long as the provider asked.
    pub(crate) fn pause(&self, asked: Option<Duration>) {
        let until = Instant::now() + asked.unwrap_or(PAUSE_WHEN_UNTOLD).min(LONGEST_PAUSE);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = (*paused).max(Some(until));
    }

    fn paused(&self) -> Option<Duration> {
        let until = (*self.paused_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(until.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    /// Takes a request and its tokens from the limits, or answers how long to wait for the next try.
    fn take(&self, tokens: usize, requests_taken: &mut bool) -> Option<Duration> {
        let now = DefaultClock::default().now();
        if let Some(requests) = self.requests.as_ref().filter(|_| !*requests_taken)
            && let Err(later) = requests.check()
        {
            return Some(later.wait_time_from(now).max(Duration::from_millis(1)));
        }
        *requests_taken = true;
        let (limiter, limit) = self.tokens.as_ref()?;
        // A request over the limit of a whole minute takes that minute.
        let wanted = u32::try_from(tokens).ok().and_then(NonZeroU32::new).unwrap_or(*limit).min(*limit);
        match limiter.check_n(wanted) {
            Ok(Err(later)) => Some(later.wait_time_from(now).max(Duration::from_millis(1))),
            Ok(Ok(())) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limiter(config: Config) -> Limiter {
        Limiter::new(&Config { limit_wait_ms: 50, ..config })
    }

    #[tokio::test]
    async fn a_pause_of_the_provider_stops_the_next_request() {
        let limiter = limiter(Config::default());
        limiter.admit(1).await.unwrap();
        limiter.pause(Some(Duration::from_secs(30)));
        limiter.pause(Some(Duration::from_secs(1)));
        let wait = limiter.admit(1).await.unwrap_err().retry_after().unwrap();
        assert!(wait > Duration::from_secs(25), "{wait:?}");
    }

    #[tokio::test]
    async fn a_short_pause_is_waited_for() {
        let limiter = limiter(Config::default());
        limiter.pause(Some(Duration::from_millis(10)));
        let start = Instant::now();
        limiter.admit(1).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(10));
    }

    #[tokio::test]
    async fn requests_and_tokens_each_have_their_limit() {
        let by_requests = limiter(Config { requests_per_minute: Some(2), ..Config::default() });
        by_requests.admit(1).await.unwrap();
        by_requests.admit(1).await.unwrap();
        assert!(by_requests.admit(1).await.unwrap_err().is_retryable());

        let by_tokens = limiter(Config { tokens_per_minute: Some(1000), ..Config::default() });
        by_tokens.admit(900).await.unwrap();
        let wait = by_tokens.admit(900).await.unwrap_err().retry_after().unwrap();
        assert!((40..55).contains(&wait.as_secs()), "{wait:?}");
    }

    #[tokio::test]
    async fn a_request_over_the_whole_limit_still_goes_out() {
        let limiter = limiter(Config { tokens_per_minute: Some(10), ..Config::default() });
        limiter.admit(1_000_000).await.unwrap();
        assert!(limiter.admit(1).await.is_err());
    }
}
