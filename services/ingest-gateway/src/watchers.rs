//! Who is sent events: so many places in all and for each tenant, and the counts that all who watch for one tenant share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use riacho_domain::{State, TenantId};
use riacho_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counting may take this share of the time: where it takes a while, counts are that much older.
const COUNTING_SHARE: u32 = 10;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All places are taken.
    All,
    /// Those of the tenant are.
    Tenant,
}

/// The places of this gateway.
#[derive(Debug)]
pub(crate) struct Watchers {
    places: Arc<Semaphore>,
    per_tenant: usize,
    tenants: Mutex<HashMap<TenantId, Weak<Watched>>>,
}

/// What those who watch for one tenant have in common.
#[derive(Debug)]
struct Watched {
    places: Arc<Semaphore>,
    last: tokio::sync::Mutex<Option<Last>>,
}

/// How the last count ended.
#[derive(Debug)]
enum Last {
    Counted(Arc<Tally>),
    /// All who waited for it are told, instead of trying again one after the other.
    Failed(riacho_store::Error, Instant),
}

/// A place among those who are sent events; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    watched: Arc<Watched>,
    _permits: [OwnedSemaphorePermit; 2],
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

impl Watchers {
    pub(crate) fn new(places: usize, per_tenant: usize) -> Watchers {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Watchers { places, per_tenant: per_tenant.min(Semaphore::MAX_PERMITS), tenants: Mutex::default() }
    }

    /// A place for somebody of a tenant.
    pub(crate) fn enter(&self, tenant: &TenantId) -> Result<Place, Full> {
        let watched = self.watched(tenant);
        let own = Arc::clone(&watched.places).try_acquire_owned().map_err(|_| Full::Tenant)?;
        let any = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full::All)?;
        Ok(Place { watched, _permits: [own, any] })
    }

    fn watched(&self, tenant: &TenantId) -> Arc<Watched> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = tenants.get(tenant).and_then(Weak::upgrade) {
            return watched;
        }
        tenants.retain(|_, watched| watched.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.per_tenant));
        let watched = Arc::new(Watched { places, last: tokio::sync::Mutex::default() });
        tenants.insert(tenant.clone(), Arc::downgrade(&watched));
        watched
    }
}

impl Place {
    /// The tenant's counts, `max_age` old at most where counting is quick. They are taken once for all who watch.
    pub(crate) async fn tally(
        &self,
        store: &Store,
        tenant: &TenantId,
        max_age: Duration,
    ) -> Result<Arc<Tally>, riacho_store::Error> {
        let mut last = self.watched.last.lock().await;
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
    fn places_are_few_in_all_and_for_each_tenant_and_come_back() {
        let watchers = Watchers::new(3, 2);
        let tenant = |name: &str| name.parse::<TenantId>().unwrap();
        let (acme, other) = (tenant("acme"), tenant("other"));
        let first = watchers.enter(&acme).unwrap();
        let _second = watchers.enter(&acme).unwrap();
        assert_eq!(watchers.enter(&acme).unwrap_err(), Full::Tenant);
        let _third = watchers.enter(&other).unwrap();
        assert_eq!(watchers.enter(&other).unwrap_err(), Full::All);
        drop(first);
        let again = watchers.enter(&acme).unwrap();
        assert!(Arc::ptr_eq(&again.watched, &_second.watched), "they share their counts");
    }

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
