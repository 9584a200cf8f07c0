//! An event's last run is alone in its process, so that no neighbour is condemned for a poison.

use std::{sync::LazyLock, time::Duration};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

/// Held for reading by every run of every stage in this process, for writing by a last run.
static PROCESS: RwLock<()> = RwLock::const_new(());

/// How many last runs wait for their process to be quiet, and whether it is quiet for one.
static QUIET: LazyLock<watch::Sender<Quiet>> = LazyLock::new(watch::Sender::default);

#[derive(Default)]
struct Quiet {
    waiting: usize,
    is_given: bool,
}

/// Counted while a last run waits.
struct Waiting;

impl Waiting {
    fn begin() -> Waiting {
        QUIET.send_modify(|quiet| quiet.waiting += 1);
        Waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        QUIET.send_modify(|quiet| quiet.waiting -= 1);
    }
}

/// Held by a last run: nothing else of the process runs.
pub(super) struct Alone {
    _guard: RwLockWriteGuard<'static, ()>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        QUIET.send_modify(|quiet| quiet.is_given = false);
    }
}

/// Comes when a last run waits for this process to be quiet. A run that itself only waits, for its turn at a provider say,
/// ends then without an attempt: otherwise the last run would wait for as long as others have something to wait for. A
/// last run that is alone is not disturbed.
pub async fn quiet_wanted() {
    // The sender is never dropped.
    let _ = QUIET.subscribe().wait_for(|quiet| quiet.waiting > 0 && !quiet.is_given).await;
}

/// For a run like any other.
pub(super) async fn beside_others() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().await
}

/// For a last run: nothing new starts from now on, and what runs may end within `patience`.
pub(super) async fn alone(patience: Duration) -> Option<Alone> {
    let _waiting = Waiting::begin();
    let guard = tokio::time::timeout(patience, PROCESS.write()).await.ok()?;
    QUIET.send_modify(|quiet| quiet.is_given = true);
    Some(Alone { _guard: guard })
}
