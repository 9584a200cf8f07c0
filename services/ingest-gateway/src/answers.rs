//! Answers to searches, kept in Redis for whoever asks the same again.
//!
//! The key of an answer names the state of all that the tenant's searches can see, as PostgreSQL has it at the moment. So an
//! answer is not found any more from the commit on that changes what is visible, whoever made it and whatever Redis knows.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use riacho_domain::TenantId;
use riacho_streams::{AnswerBudget, Streams};
use sha2::{Digest, Sha256};

use crate::metrics::names;

/// For how long Redis is not asked after it failed to answer.
const AWAY: Duration = Duration::from_secs(1);
/// Larger answers are not kept.
const MAX_BYTES: usize = 128 << 10;
/// A tenant's answers use up this part of the budget at most.
const TENANTS: u64 = 4;

/// Which answers are kept.
#[derive(Debug)]
pub(crate) struct Answers {
    lifetime: Duration,
    budget: AnswerBudget,
    /// Redis is not asked before.
    away_until: Mutex<Option<Instant>>,
}

impl Answers {
    /// Keeps answers for `lifetime`, none where that is zero, and so many bytes of them in this time, of which a tenant
    /// has a part.
    pub(crate) fn new(lifetime: Duration, bytes: u64) -> Answers {
        let budget = AnswerBudget { window: lifetime, bytes, tenant_bytes: bytes / TENANTS };
        Answers { lifetime, budget, away_until: Mutex::default() }
    }

    pub(crate) fn are_kept(&self) -> bool {
        !self.lifetime.is_zero() && self.budget.bytes > 0
    }

    /// The key of the answer to a request, which is given as the text that says all of it.
    pub(crate) fn key(tenant: &TenantId, state: &str, request: &str) -> String {
        let mut hash = Sha256::new();
        // Neither a tenant's id nor a state has a line end.
        hash.update(format!("{tenant}\n{state}\n{request}"));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The answer under a key.
    pub(crate) async fn get(&self, streams: &Streams, key: &str) -> Option<Bytes> {
        if self.is_away() {
            return None;
        }
        let kept = streams.kept_answer(key).await.unwrap_or_else(|error| {
            self.went_away(&error);
            None
        });
        let answer = kept.and_then(|kept| unpacked(kept, Utc::now()));
        let outcome = if answer.is_some() { "hit" } else { "miss" };
        metrics::counter!(names::SEARCH_CACHE, "outcome" => outcome).increment(1);
        answer
    }

    /// Keeps an answer, which is true until `end`.
    pub(crate) async fn keep(
        &self,
        streams: &Streams,
        (key, tenant): (&str, &TenantId),
        answer: Bytes,
        end: Option<DateTime<Utc>>,
    ) {
        let left = end.map(|end| (end - Utc::now()).to_std().unwrap_or_default());
        let lifetime = left.map_or(self.lifetime, |left| left.min(self.lifetime));
        if self.is_away() || lifetime.is_zero() || answer.len() > MAX_BYTES {
            return;
        }
        let answer = packed(&answer, end);
        if let Err(error) = streams.keep_answer(key, tenant, answer, lifetime, &self.budget).await {
            self.went_away(&error);
        }
    }

    fn is_away(&self) -> bool {
        let until = *self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn went_away(&self, error: &riacho_streams::Error) {
        tracing::debug!(%error, "answers to searches are not kept for a moment");
        *self.away_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + AWAY);
    }
}

/// An answer with the time until which it is true. Redis forgets it about then: its way there takes time.
fn packed(answer: &Bytes, end: Option<DateTime<Utc>>) -> Bytes {
    let mut packed = Vec::with_capacity(answer.len() + 8);
    packed.extend_from_slice(&end.map_or(i64::MAX, |end| end.timestamp_micros()).to_be_bytes());
    packed.extend_from_slice(answer);
    packed.into()
}

/// The answer, if it is still true.
fn unpacked(mut kept: Bytes, now: DateTime<Utc>) -> Option<Bytes> {
    let end = i64::from_be_bytes(kept.get(..8)?.try_into().ok()?);
    (now.timestamp_micros() < end).then(|| kept.split_off(8))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_ends_at_its_time_whenever_it_reached_redis() {
        let (now, answer) = (Utc::now(), Bytes::from_static(b"{}"));
        let (later, before) = (now + Duration::from_secs(1), now - Duration::from_millis(1));
        assert_eq!(unpacked(packed(&answer, None), later), Some(answer.clone()));
        assert_eq!(unpacked(packed(&answer, Some(now)), before), Some(answer.clone()));
        assert_eq!(unpacked(packed(&answer, Some(now)), now), None);
        assert_eq!(unpacked(Bytes::from_static(b"{}"), now), None, "it was not made here");
    }

    #[test]
    fn keys_differ_by_tenant_state_and_request() {
        let (acme, other): (TenantId, TenantId) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let key = Answers::key(&acme, "1-0", "{}");
        assert_eq!((key.len(), &key), (64, &Answers::key(&acme, "1-0", "{}")));
        for different in [
            Answers::key(&other, "1-0", "{}"),
            Answers::key(&acme, "1-1", "{}"),
            Answers::key(&acme, "1-0", "{ }"),
        ] {
            assert_ne!(key, different);
        }
    }
}
