//! Who is sent events: so many places, and the counts that all who watch for one tenant share.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use riacho_domain::{State, TenantId};
use riacho_store::Store;

use crate::places::{Place, Places};

/// Counting may take this share of the time: where it takes a while, counts are that much older.
const COUNTING_SHARE: u32 = 10;

/// The places of those who are sent events.
pub(crate) type Watchers = Places<LastTally>;
/// A place among them.
pub(crate) type Watcher = Place<LastTally>;

/// A tenant's counts as they were taken last.
#[derive(Debug, Default)]
pub(crate) struct LastTally(tokio::sync::Mutex<Option<Last>>);

/// How the last count ended.
#[derive(Debug)]
enum Last {
    Counted(Arc<Tally>),
    /// All who waited for it are told, instead of trying again one after the other.
    Failed(riacho_store::Error, Instant),
}

/// A tenant's documents and letters, counted.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: Instant,
    took: Duration,
    /// Documents by the state of their latest version.
    pub(crate) documents: Vec<(State, u64)>,
    /// Dead letters that nobody has resolved, by the stage that gave up.
    pub(crate) unresolved: BTreeMap<String, u64>,
}

impl Watcher {
    /// The tenant's counts, `max_age` old at most where counting is quick. They are taken once for all who watch.
    pub(crate) async fn tally(
        &self,
        store: &Store,
        tenant: &TenantId,
        max_age: Duration,
    ) -> Result<Arc<Tally>, riacho_store::Error> {
        let mut last = self.shared().0.lock().await;
        match &*last {
            Some(Last::Counted(tally)) if tally.is_fresh(max_age) => return Ok(Arc::clone(tally)),
            Some(Last::Failed(error, at)) if at.elapsed() < max_age => return Err(error.clone()),
            _ => {}
        }
        let counted = Tally::count(store, tenant).await.map(Arc::new);
        *last = Some(match &counted {
            Ok(tally) => Last::Counted(Arc::clone(tally)),
            Err(error) => Last::Failed(error.clone(), Instant::now()),
        });
        counted
    }
}

impl Tally {
    /// Counts now.
    pub(crate) async fn count(store: &Store, tenant: &TenantId) -> Result<Tally, riacho_store::Error> {
        let begun = Instant::now();
        let (documents, unresolved) =
            tokio::try_join!(store.state_counts(tenant), store.unresolved_letters(tenant))?;
        let unresolved = unresolved.into_iter().collect();
        Ok(Tally { begun, took: begun.elapsed(), documents, unresolved })
    }

    fn is_fresh(&self, max_age: Duration) -> bool {
        self.begun.elapsed() < max_age.max(self.took * COUNTING_SHARE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_takes_long_to_count_is_counted_less_often() {
        let tally = |took: u64| Tally {
            begun: Instant::now().checked_sub(Duration::from_secs(3)).unwrap(),
            took: Duration::from_millis(took),
            documents: Vec::new(),
            unresolved: BTreeMap::new(),
        };
        assert!(!tally(20).is_fresh(Duration::from_secs(1)));
        assert!(tally(600).is_fresh(Duration::from_secs(1)), "a tenth of the time at most");
    }
}
