//! Webhooks: who is told what of a tenant's documents.
//!
//! What is told is written by triggers, in the transactions that make it true (migration 0028); [`crate::Store::due_deliveries`]
//! and its company send it.

mod deliveries;

use chrono::{DateTime, Utc};
use rand::RngCore;
use riacho_domain::{Secret, TenantId};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

pub use self::deliveries::{AttemptOutcome, Delivery, DueDelivery, NewEvent, SigningKey};
use crate::{
    Error, Store,
    transaction::{Param, Scope},
};

/// The events that a webhook may want.
pub const WEBHOOK_EVENTS: [&str; 4] = ["document.ready", "document.failed", "document.deleted", "summary"];

/// The most webhooks of a tenant.
pub const MAX_WEBHOOKS: usize = 20;

/// A webhook to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWebhook {
    /// Whose documents it is told of.
    pub tenant: TenantId,
    /// Where it is told.
    pub url: String,
    /// What it is told.
    pub events: Vec<String>,
    /// A note for people.
    pub description: String,
}

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// Its id.
    pub id: Uuid,
    /// Where it is told.
    pub url: String,
    /// What it is told.
    pub events: Vec<String>,
    /// A note for people.
    pub description: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Since when nothing came through; none where the last delivery did.
    pub failing_since: Option<DateTime<Utc>>,
    /// Since when it is told nothing.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why.
    pub disabled_reason: Option<String>,
}

/// A new webhook with the bytes that its deliveries are signed with: the only time that they are known outside.
#[derive(Debug, Clone)]
pub struct CreatedWebhook {
    /// The webhook.
    pub webhook: Webhook,
    /// `whsec_` with the bytes in base64, as Standard Webhooks writes it.
    pub secret: Secret,
}

impl Webhook {
    fn read(row: &Row) -> Result<Webhook, Error> {
        Ok(Webhook {
            id: row.try_get("id")?,
            url: row.try_get("url")?,
            events: row.try_get("events")?,
            description: row.try_get("description")?,
            created_at: row.try_get("created_at")?,
            failing_since: row.try_get("failing_since")?,
            disabled_at: row.try_get("disabled_at")?,
            disabled_reason: row.try_get("disabled_reason")?,
        })
    }
}

impl Store {
    /// Makes a webhook.
    ///
    /// # Errors
    /// [`Error::Invalid`] where an event is unknown, there is none, or the tenant has as many webhooks as it may.
    pub async fn create_webhook(&self, new: &NewWebhook) -> Result<CreatedWebhook, Error> {
        if new.events.is_empty() || !new.events.iter().all(|event| WEBHOOK_EVENTS.contains(&event.as_str())) {
            return Err(Error::Invalid(format!("a webhook's events are of {}", WEBHOOK_EVENTS.join(", "))));
        }
        if new.description.chars().count() > 200 {
            return Err(Error::Invalid("a webhook's description has at most 200 characters".into()));
        }
        let mut events = new.events.clone();
        events.sort_unstable();
        events.dedup();
        let mut secret = [0_u8; 32];
        rand::rng().fill_bytes(&mut secret);
        let (id, bytes) = (Uuid::now_v7(), secret.to_vec());
        let most = i64::try_from(MAX_WEBHOOKS).unwrap_or(i64::MAX);
        let params: [Param<'_>; 7] =
            [&id, &new.tenant.as_str(), &new.url, &events, &new.description, &bytes, &most];
        let rows = self.single(Scope::tenant("create_webhook", &new.tenant), CREATE, &params).await?;
        let row = rows.first();
        let row =
            row.ok_or_else(|| Error::Invalid(format!("a tenant has at most {MAX_WEBHOOKS} webhooks")))?;
        Ok(CreatedWebhook { webhook: Webhook::read(row)?, secret: deliveries::shown(&secret) })
    }

    /// A tenant's webhooks, the oldest first.
    pub async fn webhooks(&self, tenant: &TenantId) -> Result<Vec<Webhook>, Error> {
        let rows = self.single(Scope::tenant("webhooks", tenant), LIST, &[&tenant.as_str()]).await?;
        rows.iter().map(Webhook::read).collect()
    }

    /// Removes a webhook, with what it was not told yet. False: there is none.
    pub async fn delete_webhook(&self, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
        let rows = self.single(Scope::tenant("delete_webhook", tenant), DELETE, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Lets a webhook that was disabled be told again what happens from now on. None: there is no such webhook.
    pub async fn enable_webhook(&self, tenant: &TenantId, id: Uuid) -> Result<Option<Webhook>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
        let row = self
            .transaction(Scope::tenant("enable_webhook", tenant), |tx| async move {
                // What was written by transactions that were under way when it was disabled was not given up then.
                if tx.query_opt(HOLD_DISABLED, &params).await?.is_some() {
                    tx.execute(deliveries::GIVE_UP, &[&id]).await?;
                }
                tx.query_opt(ENABLE, &params).await
            })
            .await?;
        row.as_ref().map(Webhook::read).transpose()
    }

    /// Tells the webhooks of a tenant that want it of an event that is no document's. Answers how many those are.
    pub async fn tell_webhooks(&self, event: &NewEvent<'_>) -> Result<u64, Error> {
        let params: [Param<'_>; 3] = [&event.tenant.as_str(), &event.event, event.data];
        let rows = self.single(Scope::tenant("tell_webhooks", event.tenant), TELL, &params).await?;
        let told: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok(u64::try_from(told).unwrap_or(0))
    }
}

macro_rules! columns {
    () => {
        "id, url, events, description, created_at, failing_since, disabled_at, disabled_reason"
    };
}

const CREATE: &str = concat!(
    "-- store::webhooks::create_webhook
INSERT INTO webhooks (id, tenant_id, url, events, description, secret)
SELECT $1, $2, $3, $4, $5, $6 WHERE (SELECT count(*) FROM webhooks WHERE tenant_id = $2) < $7
RETURNING ",
    columns!()
);

const LIST: &str = concat!(
    "-- store::webhooks::webhooks
SELECT ",
    columns!(),
    " FROM webhooks WHERE tenant_id = $1 ORDER BY created_at, id"
);

const DELETE: &str = "-- store::webhooks::delete_webhook
DELETE FROM webhooks WHERE tenant_id = $1 AND id = $2 RETURNING id";

const HOLD_DISABLED: &str = "-- store::webhooks::enable_webhook
SELECT id FROM webhooks WHERE tenant_id = $1 AND id = $2 AND disabled_at IS NOT NULL FOR NO KEY UPDATE";

const ENABLE: &str = concat!(
    "-- store::webhooks::enable_webhook
UPDATE webhooks SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL WHERE tenant_id = $1 AND id = $2
RETURNING ",
    columns!()
);

const TELL: &str = "-- store::webhooks::tell_webhooks
SELECT tell_webhooks($1, $2, $3)";

/// The statements of this file and of the outbox.
pub(crate) const STATEMENTS: &[&[&str]] =
    &[&[CREATE, LIST, DELETE, HOLD_DISABLED, ENABLE, TELL], deliveries::STATEMENTS];
