//! What a process remembers of the database because it never changes there: the dimensions of spaces,
//! and the languages that were noted for tenants.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use riacho_domain::{SpaceId, TenantId};

/// Over this many languages of tenants, the memory starts anew.
const MOST: usize = 100_000;

#[derive(Default)]
pub(crate) struct Known {
    spaces: Mutex<HashMap<SpaceId, u32>>,
    languages: Mutex<HashSet<(TenantId, &'static str)>>,
}

impl Known {
    pub(crate) fn dimensions(&self, space: SpaceId) -> Option<u32> {
        locked(&self.spaces).get(&space).copied()
    }

    pub(crate) fn add_space(&self, space: SpaceId, dimensions: u32) {
        locked(&self.spaces).insert(space, dimensions);
    }

    pub(crate) fn has_language(&self, tenant: &TenantId, config: &'static str) -> bool {
        locked(&self.languages).contains(&(tenant.clone(), config))
    }

    pub(crate) fn add_language(&self, tenant: &TenantId, config: &'static str) {
        let mut languages = locked(&self.languages);
        if languages.len() >= MOST {
            languages.clear();
        }
        languages.insert((tenant.clone(), config));
    }
}

/// A panic elsewhere leaves these maps whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
