//! What a document holds on its way in, and does not keep where it becomes no document: an upload of its tenant's rate,
//! and its original. Whoever gives up, at whatever place, only has to drop them.

use std::sync::Arc;

use riacho_domain::{TenantId, UploadId};
use riacho_objects::Key;
use tokio::runtime::Handle;

use super::run::Intake;
use crate::{http::App, rates::Receipt};

/// An upload of the tenant's rate that was taken. It is given back unless it is used.
pub(super) struct Paid {
    intake: Arc<Intake>,
    receipt: Option<Receipt>,
}

impl Paid {
    pub(super) fn new(intake: Arc<Intake>, receipt: Receipt) -> Self {
        Self { intake, receipt: Some(receipt) }
    }

    /// A new document or version was made of it.
    pub(super) fn used(mut self) {
        self.receipt = None;
    }

    /// Gives it back, and waits for that: whoever asks next finds it there.
    pub(super) async fn give_back(mut self) {
        if let Some(receipt) = self.receipt.take() {
            give_back(&self.intake, receipt).await;
        }
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        let (Some(receipt), Ok(runtime)) = (self.receipt.take(), Handle::try_current()) else { return };
        let intake = Arc::clone(&self.intake);
        runtime.spawn(async move { give_back(&intake, receipt).await });
    }
}

async fn give_back(intake: &Intake, receipt: Receipt) {
    intake.app.rates().give_upload_back(intake.app.streams(), &intake.tenant, receipt).await;
}

/// An original in the object store, or on its way there. It is deleted unless somebody else answers for it.
pub(super) struct Original {
    app: App,
    key: Key,
    is_ours: bool,
}

impl Original {
    /// A new key. Nothing is there yet.
    pub(super) fn new(app: &App, tenant: &TenantId) -> Self {
        Self { app: app.clone(), key: Key::original(tenant, UploadId::new()), is_ours: true }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// From now on somebody else answers for it.
    pub(super) fn release(mut self) -> Key {
        self.is_ours = false;
        self.key.clone()
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        if self.is_ours && Handle::try_current().is_ok() {
            self.app.discard(self.key.clone());
        }
    }
}
