//! The entries that this process holds, by its own account.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use riacho_domain::Lane;
use tokio::sync::Notify;

/// The entries of a stage that this process holds, from reading to the answer of their settlement.
#[derive(Default)]
pub(crate) struct Held {
    entries: Mutex<HashSet<(u16, Lane, String)>>,
    emptied: Notify,
}

impl Held {
    /// Adds an entry; false where it is held already.
    pub(crate) fn insert(&self, partition: u16, lane: Lane, id: &str) -> bool {
        self.lock().insert((partition, lane, id.to_owned()))
    }

    pub(crate) fn contains(&self, partition: u16, lane: Lane, id: &str) -> bool {
        self.lock().contains(&(partition, lane, id.to_owned()))
    }

    pub(crate) fn remove(&self, partition: u16, lane: Lane, id: &str) {
        let mut entries = self.lock();
        entries.remove(&(partition, lane, id.to_owned()));
        if entries.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Waits until nothing is held.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(u16, Lane, String)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
