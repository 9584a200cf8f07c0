//! What embeddings cost: noted where a model answered, written behind it.
//!
//! What is noted is written after a while that the service chooses, and then together. Where it is none, all is
//! written at once, or with the next write if one is under way: a process that is killed loses what its last answers
//! cost. While PostgreSQL is away nothing is lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use riacho_domain::TenantId;
use riacho_models::{Call, Prices};
use riacho_store::{Purpose, Spending, Spent, Store};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::names;

/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long the last write may hold up the end.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Whose a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// The tokens of the text, or a guess: the share of a call's tokens that are the tenant's follows from it.
    pub tokens: u64,
}

/// Notes what tenants spend. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    prices: Prices,
    noted: Mutex<Spending>,
    wake: Notify,
    closed: CancellationToken,
    writer: TaskTracker,
}

impl Ledger {
    /// A ledger that writes what is noted when [`Ledger::write`] is called.
    #[must_use]
    pub fn new(store: Store, prices: Prices) -> Ledger {
        Ledger(Arc::new(Inner {
            store,
            prices,
            noted: Mutex::default(),
            wake: Notify::new(),
            closed: CancellationToken::new(),
            writer: TaskTracker::new(),
        }))
    }

    /// A ledger that writes what is noted by itself, `linger` after it was, until [`Ledger::close`].
    #[must_use]
    pub fn open(store: Store, prices: Prices, linger: Duration) -> Ledger {
        let ledger = Ledger::new(store, prices);
        let writing = ledger.clone();
        ledger.0.writer.spawn(async move { writing.keep_writing(linger).await });
        ledger.0.writer.close();
        ledger
    }

    /// Notes what a tenant spent on a model. The money follows from the tokens.
    pub fn note(&self, tenant: &TenantId, model: &str, purpose: Purpose, spent: Spent) {
        let money_nanos = self.0.prices.nanos(model, spent.tokens);
        let labels = [("model", model.to_owned()), ("purpose", purpose.as_str().to_owned())];
        metrics::counter!(names::SPENT, &labels).increment(money_nanos);
        metrics::counter!(names::SPENT_TOKENS, &labels).increment(spent.tokens);
        let spent = Spent { money_nanos, ..spent };
        let mut noted = self.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let all = noted.entry((tenant.clone(), model.to_owned(), purpose)).or_default();
        *all = all.and(spent);
        drop(noted);
        self.0.wake.notify_one();
    }

    /// Notes what calls of a model cost the owners of their texts, who stand in the order of the texts.
    pub fn note_calls(&self, model: &str, purpose: Purpose, owners: &[Owner], calls: &[Call]) {
        for (tenant, spent) in shares(owners, calls) {
            self.note(tenant, model, purpose, spent);
        }
    }

    /// Writes what is left, for a few seconds at most.
    pub async fn close(&self) {
        self.0.closed.cancel();
        if tokio::time::timeout(LAST_WRITE, self.0.writer.wait()).await.is_err() {
            tracing::warn!("what the last embeddings cost could not be written");
        }
    }

    async fn keep_writing(&self, linger: Duration) {
        loop {
            let is_last = tokio::select! {
                () = self.0.closed.cancelled() => true,
                () = self.0.wake.notified() => false,
            };
            if !is_last && !linger.is_zero() {
                self.0.closed.run_until_cancelled(tokio::time::sleep(linger)).await;
            }
            while !self.write().await {
                tokio::time::sleep(PAUSE).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Writes what is noted; false: it is still to be written.
    pub async fn write(&self) -> bool {
        let noted = std::mem::take(&mut *self.0.noted.lock().unwrap_or_else(PoisonError::into_inner));
        match self.0.store.add_spending(&noted).await {
            Ok(()) => true,
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "what embeddings cost is written later");
                let mut again = self.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
                for (key, spent) in noted {
                    let all = again.entry(key).or_default();
                    *all = all.and(spent);
                }
                false
            }
            Err(error) => {
                tracing::error!(%error, ?noted, "what embeddings cost cannot be written");
                true
            }
        }
    }
}

/// What calls cost each tenant. The tokens of a call are shared by the length of the texts; where the model did not
/// count them, they are as many as the texts are said to have.
fn shares<'o>(owners: &'o [Owner], calls: &[Call]) -> BTreeMap<&'o TenantId, Spent> {
    let mut all: BTreeMap<&TenantId, Spent> = BTreeMap::new();
    for call in calls {
        let owners = owners.get(call.texts.clone()).unwrap_or_default();
        let mut shares: BTreeMap<&TenantId, (u64, u64)> = BTreeMap::new();
        for owner in owners {
            let (texts, tokens) = shares.entry(&owner.tenant).or_default();
            *texts += 1;
            *tokens += owner.tokens.max(1);
        }
        let total: u64 = shares.values().map(|(_, tokens)| tokens).sum();
        let counted = if call.tokens > 0 { call.tokens } else { total };
        let (mut reached, mut given) = (0, 0);
        for (tenant, (texts, tokens)) in shares {
            reached += tokens;
            // What was given up to here, not each share, is rounded: the sum stays the model's.
            let share = part(counted, reached, total) - given;
            given += share;
            let spent = all.entry(tenant).or_default();
            *spent = spent.and(Spent { texts, tokens: share, requests: 1, money_nanos: 0 });
        }
    }
    all
}

/// So much of `whole` as `reached` is of `total`.
fn part(whole: u64, reached: u64, total: u64) -> u64 {
    let part = u128::from(whole) * u128::from(reached) / u128::from(total.max(1));
    u64::try_from(part).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_tokens_of_a_call_are_shared_by_the_tenants_of_its_texts() {
        let owner = |tenant: &str, tokens| Owner { tenant: tenant.parse().unwrap(), tokens };
        let owners = [owner("acme", 20), owner("acme", 0), owner("other", 1), owner("other", 1)];
        let calls = |tokens| [Call { texts: 0..3, tokens: 100 }, Call { texts: 3..4, tokens }];
        let counted = calls(7);
        let spent = shares(&owners, &counted);
        let of = |id: &str| spent[&id.parse::<TenantId>().unwrap()];
        assert_eq!(of("acme"), Spent { texts: 2, tokens: 95, requests: 1, money_nanos: 0 });
        assert_eq!(of("other"), Spent { texts: 2, tokens: 5 + 7, requests: 2, money_nanos: 0 });
        let uncounted = shares(&owners, &calls(0));
        assert_eq!(uncounted[&"other".parse::<TenantId>().unwrap()].tokens, 5 + 1);
        assert!(shares(&owners, &[]).is_empty());
    }
}
