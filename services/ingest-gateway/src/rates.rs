//! How much of a tenant's requests is let in: token buckets in Redis, which all gateways share.
//!
//! While Redis is away each gateway counts for itself, so that uploads go on and no tenant floods.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use riacho_domain::TenantId;
use riacho_store::{Limits, MAX_BATCH};
use riacho_streams::{Rate, Streams, Taken, Token};

use crate::{
    http::{problem::Problem, rate_headers::RatesSeen},
    metrics::names,
};

/// For how long Redis is not asked after it failed to answer.
const AWAY: Duration = Duration::from_secs(1);
/// The most buckets that are kept here while Redis is away.
const MAX_LOCAL: usize = 10_000;

/// What is counted for a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    /// Each request.
    Requests,
    /// Uploads.
    Uploads,
    /// What a request does that asks for several things at once, at the rate of requests: its own bucket, so that whoever
    /// attached many files may ask how they do.
    Parts,
}

impl Counted {
    const fn as_str(self) -> &'static str {
        match self {
            Counted::Requests => "requests",
            Counted::Uploads => "uploads",
            Counted::Parts => "parts",
        }
    }

    /// The rate that a tenant may have; none where it is not limited.
    fn rate(self, limits: &Limits) -> Option<Rate> {
        let (per_minute, burst) = match self {
            Counted::Requests | Counted::Parts => (limits.requests_per_minute, limits.request_burst),
            Counted::Uploads => (limits.uploads_per_minute, limits.upload_burst),
        };
        let burst = if burst == 0 { per_minute.div_ceil(60) } else { burst };
        (per_minute > 0).then(|| Rate { every: Duration::from_secs(60) / per_minute, burst })
    }
}

/// A bucket from which a token was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Redis,
    /// One of this process, since so many were forgotten.
    Here(u64),
}

/// Says that a token of the uploads was taken, where, and at which rate: it can be given back there alone. None where
/// uploads are not limited.
#[derive(Debug)]
#[must_use]
pub(crate) struct Receipt(Option<(Bucket, Rate)>);

/// The buckets of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Redis is not asked before.
    away_until: Option<Instant>,
    /// How often Redis came back, and what was counted here was forgotten.
    forgotten: u64,
    /// When each bucket here would be full again.
    full_at: HashMap<(TenantId, Counted), Instant>,
}

impl Rates {
    /// Takes a token for the tenant, or says when there is one. `seen` is told how many are left.
    pub(crate) async fn take(
        &self,
        streams: &Streams,
        tenant: &TenantId,
        counted: Counted,
        limits: &Limits,
        seen: Option<&RatesSeen>,
    ) -> Result<(), Problem> {
        self.take_all(streams, tenant, (counted, Taken::ONE), limits, seen).await
    }

    /// Takes the parts of a request, or says when there is room for one.
    pub(crate) async fn take_parts(
        &self,
        streams: &Streams,
        tenant: &TenantId,
        parts: usize,
        limits: &Limits,
        seen: Option<&RatesSeen>,
    ) -> Result<(), Problem> {
        let count = u32::try_from(parts).unwrap_or(u32::MAX);
        let taken = Taken { count, most_owed: MAX_BATCH as u32 };
        self.take_all(streams, tenant, (Counted::Parts, taken), limits, seen).await
    }

    async fn take_all(
        &self,
        streams: &Streams,
        tenant: &TenantId,
        (counted, taken): (Counted, Taken),
        limits: &Limits,
        seen: Option<&RatesSeen>,
    ) -> Result<(), Problem> {
        let Some(rate) = counted.rate(limits) else { return Ok(()) };
        let (token, _) = self.token(streams, tenant, counted, rate, taken).await;
        if let Some(seen) = seen {
            seen.note(counted.as_str(), rate, token);
        }
        match token.wait {
            None => Ok(()),
            Some(wait) => Err(refused(counted, wait)),
        }
    }

    /// Takes a token of the uploads, or says how long it takes until there is one.
    pub(crate) async fn take_upload(
        &self,
        streams: &Streams,
        tenant: &TenantId,
        limits: &Limits,
    ) -> Result<Receipt, Duration> {
        let Some(rate) = Counted::Uploads.rate(limits) else { return Ok(Receipt(None)) };
        let (token, bucket) = self.token(streams, tenant, Counted::Uploads, rate, Taken::ONE).await;
        token.wait.map_or(Ok(Receipt(Some((bucket, rate)))), Err)
    }

    /// Gives a token of the uploads back: no document or version was made of what it was paid for. Where its bucket is out
    /// of reach, it is lost.
    pub(crate) async fn give_upload_back(&self, streams: &Streams, tenant: &TenantId, receipt: Receipt) {
        let counted = Counted::Uploads;
        match receipt.0 {
            Some((Bucket::Redis, rate)) if !self.is_away() => {
                if let Err(error) = streams.give_token_back(tenant, counted.as_str(), rate).await {
                    tracing::debug!(%error, "a token of the uploads is lost");
                }
            }
            Some((Bucket::Here(since), rate)) => self.give_here(tenant, counted, rate, since),
            _ => {}
        }
    }

    fn give_here(&self, tenant: &TenantId, counted: Counted, rate: Rate, since: u64) {
        let mut state = self.lock();
        // A bucket of before was forgotten with the token that was taken of it.
        if state.forgotten == since
            && let Some(full_at) = state.full_at.get_mut(&(tenant.clone(), counted))
        {
            // A time that has passed is a full bucket.
            *full_at = full_at.checked_sub(rate.every).unwrap_or(*full_at);
        }
    }

    /// Asks Redis for tokens, or this process while Redis is away.
    async fn token(
        &self,
        streams: &Streams,
        tenant: &TenantId,
        counted: Counted,
        rate: Rate,
        taken: Taken,
    ) -> (Token, Bucket) {
        if self.is_away() {
            return self.take_here(tenant, counted, rate, taken, Instant::now());
        }
        match streams.take_tokens(tenant, counted.as_str(), rate, taken).await {
            Ok(token) => {
                self.is_back();
                (token, Bucket::Redis)
            }
            Err(error) => {
                tracing::debug!(%error, "rates are kept by this gateway alone");
                self.lock().away_until = Some(Instant::now() + AWAY);
                self.take_here(tenant, counted, rate, taken, Instant::now())
            }
        }
    }

    fn is_away(&self) -> bool {
        self.lock().away_until.is_some_and(|until| Instant::now() < until)
    }

    /// Redis answers again. What was counted here is not known there.
    fn is_back(&self) {
        let mut state = self.lock();
        if state.away_until.take().is_some() {
            state.full_at.clear();
            state.forgotten += 1;
        }
    }

    /// The algorithm of `token.lua` in crates/streams, on buckets of this process.
    fn take_here(
        &self,
        tenant: &TenantId,
        counted: Counted,
        rate: Rate,
        taken: Taken,
        now: Instant,
    ) -> (Token, Bucket) {
        let mut state = self.lock();
        let bucket = Bucket::Here(state.forgotten);
        if state.full_at.len() >= MAX_LOCAL {
            state.full_at.retain(|_, full_at| *full_at > now);
        }
        let key = (tenant.clone(), counted);
        let empty = now + rate.every * rate.burst.max(1);
        let full_at = state.full_at.get(&key).copied().unwrap_or(now).max(now);
        let over = (full_at + rate.every).saturating_duration_since(empty);
        if !over.is_zero() {
            return (Token { wait: Some(over), left: 0, next: over }, bucket);
        }
        let full_at = (full_at + rate.every * taken.count.max(1)).min(empty + rate.every * taken.most_owed);
        let left = empty.saturating_duration_since(full_at).as_nanos() / rate.every.as_nanos().max(1);
        if state.full_at.len() < MAX_LOCAL {
            state.full_at.insert(key, full_at);
        }
        let next = (full_at + rate.every).saturating_duration_since(empty).max(rate.every);
        (Token { wait: None, left: u32::try_from(left).unwrap_or(u32::MAX), next }, bucket)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what would have to wait.
pub(crate) fn refused(counted: Counted, wait: Duration) -> Problem {
    let reason = if counted == Counted::Uploads { "upload_rate" } else { "tenant_rate" };
    metrics::counter!(names::REJECTIONS, "reason" => reason).increment(1);
    Problem::over_rate(counted.as_str(), seconds(wait))
}

/// Whole seconds, rounded up: who comes then gets in.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_burst_goes_through_and_then_one_each_while() {
        let (rates, tenant) = (Rates::default(), "acme".parse::<TenantId>().unwrap());
        let limits = Limits { uploads_per_minute: 60, upload_burst: 3, ..Limits::default() };
        let rate = Counted::Uploads.rate(&limits).unwrap();
        let start = Instant::now();
        let take = |after: u64| {
            rates
                .take_here(&tenant, Counted::Uploads, rate, Taken::ONE, start + Duration::from_millis(after))
                .0
                .wait
        };
        assert_eq!((take(0), take(0), take(0)), (None, None, None));
        assert_eq!(take(0), Some(Duration::from_secs(1)));
        assert_eq!(take(400), Some(Duration::from_millis(600)), "nothing was taken by the refused one");
        assert_eq!((take(1_000), take(1_000)), (None, Some(Duration::from_secs(1))));
        assert_eq!((take(60_000), take(60_000), take(60_000)), (None, None, None));
        assert!(take(60_000).is_some(), "the bucket holds its burst and no more");
        let left = |after: u64| {
            rates
                .take_here(&tenant, Counted::Uploads, rate, Taken::ONE, start + Duration::from_millis(after))
                .0
                .left
        };
        assert_eq!((left(62_000), left(62_000), left(62_000), left(63_500)), (1, 0, 0, 0));
    }

    #[test]
    fn what_is_owed_is_made_up_for_before_anything_else_is_let_in() {
        let (rates, tenant) = (Rates::default(), "acme".parse::<TenantId>().unwrap());
        let rate = Rate { every: Duration::from_secs(1), burst: 3 };
        let start = Instant::now();
        let take = |count, after: u64| {
            let taken = Taken { count, most_owed: 100 };
            let at = start + Duration::from_secs(after);
            let (token, _) = rates.take_here(&tenant, Counted::Parts, rate, taken, at);
            (token.wait.map(|wait| wait.as_secs()), token.left, token.next.as_secs())
        };
        assert_eq!((take(1, 0), take(5, 0)), ((None, 2, 1), (None, 0, 4)));
        assert_eq!((take(1, 0), take(1, 3), take(1, 4)), ((Some(4), 0, 4), (Some(1), 0, 1), (None, 0, 1)));
        assert_eq!(
            (take(1_000_000, 5), take(1, 5)),
            ((None, 0, 101), (Some(101), 0, 101)),
            "more is let off"
        );
    }

    #[test]
    fn a_token_goes_back_to_the_bucket_that_it_was_taken_of_or_is_lost() {
        let (rates, tenant) = (Rates::default(), "acme".parse::<TenantId>().unwrap());
        let (counted, rate) = (Counted::Uploads, Rate { every: Duration::from_secs(60), burst: 2 });
        let start = Instant::now();
        let take = |after: u64| {
            rates.take_here(&tenant, counted, rate, Taken::ONE, start + Duration::from_secs(after))
        };
        let Bucket::Here(first) = take(0).1 else { unreachable!() };
        assert_eq!((take(0).0.left, take(0).0.wait), (0, Some(Duration::from_secs(60))));
        rates.give_here(&tenant, counted, rate, first);
        assert_eq!((take(0).0.wait, take(0).0.wait), (None, Some(Duration::from_secs(60))));
        (0..5).for_each(|_| rates.give_here(&tenant, counted, rate, first));
        assert_eq!((take(1).0.left, take(1).0.left), (1, 0), "a bucket holds its burst and no more");
        // Redis was back, and is away again.
        rates.lock().away_until = Some(start);
        rates.is_back();
        rates.give_here(&tenant, counted, rate, first);
        assert_eq!((take(2).0.left, take(2).0.left), (1, 0), "a bucket that is not there gets nothing");
        rates.give_here(&tenant, counted, rate, first);
        assert!(take(2).0.wait.is_some(), "the token was taken of another bucket");
    }

    #[test]
    fn without_a_limit_nothing_is_counted_and_a_burst_is_at_least_one() {
        assert_eq!(Counted::Requests.rate(&Limits::default()), None);
        let slow = Limits { requests_per_minute: 6, ..Limits::default() };
        assert_eq!(Counted::Requests.rate(&slow), Some(Rate { every: Duration::from_secs(10), burst: 1 }));
        let fast = Limits { requests_per_minute: 6_000, ..Limits::default() };
        assert_eq!(
            Counted::Requests.rate(&fast),
            Some(Rate { every: Duration::from_millis(10), burst: 100 })
        );
    }

    #[test]
    fn whole_seconds_are_rounded_up() {
        assert_eq!(seconds(Duration::from_micros(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
    }
}
