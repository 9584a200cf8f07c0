//! An event's last run is alone in its process, so that no neighbour is condemned for a poison.

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Held for reading by every run of every stage in this process, for writing by a last run.
static PROCESS: RwLock<()> = RwLock::const_new(());

/// For a run like any other.
pub(super) async fn beside_others() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().await
}

/// For a last run: nothing new starts from now on, and what runs may end within `patience`.
pub(super) async fn alone(patience: Duration) -> Option<RwLockWriteGuard<'static, ()>> {
    tokio::time::timeout(patience, PROCESS.write()).await.ok()
}
