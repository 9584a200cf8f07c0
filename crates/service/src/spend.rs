//! What embeddings cost: noted where a model answered, written behind it.
//!
//! What is noted is written after a while that the service chooses, and then together. Where it is none, all is
//! written at once, or with the next write if one is under way: a process that is killed loses what its last answers
//! cost. While PostgreSQL is away nothing is lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use riacho_domain::TenantId;
use riacho_models::Prices;
use riacho_store::{Spending, Spent, Store};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long the last write may hold up the end.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// The name of the metric of money.
pub const SPENT: &str = "riacho_embedding_spend_nanos_total";

pub(crate) fn describe() {
    metrics::describe_counter!(
        SPENT,
        "What embeddings cost, in thousand-millionths of the currency of models.prices, by kind"
    );
}

/// Notes what tenants spend. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    prices: Prices,
    linger: Duration,
    noted: Mutex<Spending>,
    wake: Notify,
    closed: CancellationToken,
    writer: TaskTracker,
}

impl Ledger {
    /// Begins to write what is noted, `linger` after it was, until [`Ledger::close`].
    #[must_use]
    pub fn open(store: Store, prices: Prices, linger: Duration) -> Ledger {
        let ledger = Ledger(Arc::new(Inner {
            store,
            prices,
            linger,
            noted: Mutex::default(),
            wake: Notify::new(),
            closed: CancellationToken::new(),
            writer: TaskTracker::new(),
        }));
        let writing = ledger.clone();
        ledger.0.writer.spawn(async move { writing.write().await });
        ledger.0.writer.close();
        ledger
    }

    /// Notes what a tenant spent on a model. The money follows from the tokens.
    pub fn note(&self, tenant: &TenantId, model: &str, spent: Spent) {
        let money_nanos = self.0.prices.nanos(model, spent.tokens);
        metrics::counter!(SPENT).increment(money_nanos);
        let spent = Spent { money_nanos, ..spent };
        let mut noted = self.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let all = noted.entry((tenant.clone(), model.to_owned())).or_default();
        *all = all.and(spent);
        drop(noted);
        self.0.wake.notify_one();
    }

    /// Writes what is left, for a few seconds at most.
    pub async fn close(&self) {
        self.0.closed.cancel();
        if tokio::time::timeout(LAST_WRITE, self.0.writer.wait()).await.is_err() {
            tracing::warn!("what the last embeddings cost could not be written");
        }
    }

    async fn write(&self) {
        loop {
            let is_last = tokio::select! {
                () = self.0.closed.cancelled() => true,
                () = self.0.wake.notified() => false,
            };
            if !is_last && !self.0.linger.is_zero() {
                self.0.closed.run_until_cancelled(tokio::time::sleep(self.0.linger)).await;
            }
            while !self.write_noted().await {
                tokio::time::sleep(PAUSE).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Writes what is noted; false: it is still to be written.
    async fn write_noted(&self) -> bool {
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
