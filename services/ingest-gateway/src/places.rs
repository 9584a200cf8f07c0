//! So many places for what takes long, in all and for each tenant: no tenant keeps the others out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use riacho_domain::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All places are taken.
    All,
    /// Those of the tenant are.
    Tenant,
}

/// The places of this gateway. Who has one shares a `T` with the others of the same tenant.
#[derive(Debug)]
pub(crate) struct Places<T> {
    all: Arc<Semaphore>,
    per_tenant: usize,
    tenants: Mutex<HashMap<TenantId, Weak<Tenant<T>>>>,
}

/// What those of one tenant have in common.
#[derive(Debug)]
struct Tenant<T> {
    places: Arc<Semaphore>,
    shared: T,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<T> {
    tenant: Arc<Tenant<T>>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl<T: Default> Places<T> {
    pub(crate) fn new(all: usize, per_tenant: usize) -> Self {
        let all = Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS)));
        Self { all, per_tenant: per_tenant.min(Semaphore::MAX_PERMITS), tenants: Mutex::default() }
    }

    /// A place for somebody of a tenant, if there is one.
    pub(crate) fn enter(&self, tenant: &TenantId) -> Result<Place<T>, Full> {
        let tenant = self.tenant(tenant);
        let own = Arc::clone(&tenant.places).try_acquire_owned().map_err(|_| Full::Tenant)?;
        let any = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Full::All)?;
        Ok(Place { tenant, _permits: [own, any] })
    }

    fn tenant(&self, name: &TenantId) -> Arc<Tenant<T>> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = tenants.get(name).and_then(Weak::upgrade) {
            return tenant;
        }
        tenants.retain(|_, tenant| tenant.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.per_tenant));
        let tenant = Arc::new(Tenant { places, shared: T::default() });
        tenants.insert(name.clone(), Arc::downgrade(&tenant));
        tenant
    }
}

impl<T> Place<T> {
    /// What those of the tenant share.
    pub(crate) fn shared(&self) -> &T {
        &self.tenant.shared
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_few_in_all_and_for_each_tenant_and_come_back() {
        let places = Places::<Mutex<u32>>::new(3, 2);
        let tenant = |name: &str| name.parse::<TenantId>().unwrap();
        let (acme, other) = (tenant("acme"), tenant("other"));
        let first = places.enter(&acme).unwrap();
        let _second = places.enter(&acme).unwrap();
        assert_eq!(places.enter(&acme).unwrap_err(), Full::Tenant);
        let third = places.enter(&other).unwrap();
        assert_eq!(places.enter(&other).unwrap_err(), Full::All);
        *first.shared().lock().unwrap() = 7;
        drop(first);
        let again = places.enter(&acme).unwrap();
        assert_eq!((*again.shared().lock().unwrap(), *third.shared().lock().unwrap()), (7, 0));
    }
}
