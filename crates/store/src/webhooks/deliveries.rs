//! The outbox of webhooks: what is due, and how each attempt went.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use riacho_domain::{Secret, TenantId};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Conflict, Error, Page, Store,
    cursor::{decode_time, encode_time},
    read,
    transaction::{Param, Scope},
};

/// An attempt that does not say how it went after this long is made again: whoever made it is gone.
const ATTEMPT_LASTS: Duration = Duration::from_secs(120);

/// What no document is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewEvent<'a> {
    /// Whose webhooks are told.
    pub tenant: &'a TenantId,
    /// The event, such as `summary`.
    pub event: &'a str,
    /// What they are told.
    pub data: &'a Value,
}

/// The bytes that deliveries are signed with. Not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// The bytes, for the one call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret as Standard Webhooks writes it.
pub(super) fn shown(bytes: &[u8]) -> Secret {
    Secret::from(format!("whsec_{}", STANDARD.encode(bytes)))
}

/// A delivery whose attempt is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDelivery {
    /// Its id, the same with each attempt.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// The webhook.
    pub webhook: Uuid,
    /// Where it goes.
    pub url: String,
    /// The bytes to send.
    pub payload: String,
    /// The attempt that is begun, from 1.
    pub attempt: u32,
    /// When it was begun.
    pub begun_at: DateTime<Utc>,
    /// What it is signed with.
    pub key: SigningKey,
    /// W3C Trace Context of the request that made the version it is about; empty where it is about none, or that is gone.
    pub traceparent: String,
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It came through.
    Delivered {
        /// What was answered.
        status: u16,
    },
    /// It did not.
    Failed {
        /// What was answered, if anything was.
        status: Option<u16>,
        /// Why not.
        error: String,
        /// After how long it is tried again; none: never.
        again: Option<Duration>,
    },
}

/// A delivery as its webhook's owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// The event.
    pub event: String,
    /// What is sent.
    pub payload: String,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was last tried.
    pub last_attempt: Option<DateTime<Utc>>,
    /// When it is tried next.
    pub next_attempt: Option<DateTime<Utc>>,
    /// What was answered last.
    pub last_status: Option<u16>,
    /// Why it did not come through.
    pub last_error: Option<String>,
    /// When it came through.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Since when it is not tried any more.
    pub given_up_at: Option<DateTime<Utc>>,
}

impl Delivery {
    fn read(row: &Row) -> Result<Delivery, Error> {
        let status: Option<i32> = row.try_get("last_status")?;
        Ok(Delivery {
            id: row.try_get("id")?,
            event: row.try_get("event")?,
            payload: row.try_get("payload")?,
            created_at: row.try_get("created_at")?,
            attempts: read::count(row, "attempts")?,
            last_attempt: row.try_get("last_attempt")?,
            next_attempt: row.try_get("next_attempt")?,
            last_status: status.and_then(|status| u16::try_from(status).ok()),
            last_error: row.try_get("last_error")?,
            delivered_at: row.try_get("delivered_at")?,
            given_up_at: row.try_get("given_up_at")?,
        })
    }
}

impl Store {
    /// Begins attempts of deliveries that are due: so many of each webhook at most, with those that `running` says are on their way.
    pub async fn due_deliveries(
        &self,
        limit: u32,
        of_each: u32,
        running: &[(Uuid, u32)],
    ) -> Result<Vec<DueDelivery>, Error> {
        let (webhooks, counts): (Vec<Uuid>, Vec<i64>) =
            running.iter().map(|(webhook, count)| (*webhook, i64::from(*count))).unzip();
        let params: [Param<'_>; 5] =
            [&i64::from(limit), &i64::from(of_each), &webhooks, &counts, &ATTEMPT_LASTS.as_secs_f64()];
        let rows = self.single(Scope::all("due_deliveries"), DUE, &params).await?;
        rows.iter()
            .map(|row| {
                Ok(DueDelivery {
                    id: row.try_get("id")?,
                    tenant: read::tenant(row, "tenant_id")?,
                    webhook: row.try_get("webhook_id")?,
                    url: row.try_get("url")?,
                    payload: row.try_get("payload")?,
                    attempt: read::count(row, "attempts")?,
                    begun_at: row.try_get("last_attempt")?,
                    key: SigningKey(row.try_get("secret")?),
                    traceparent: row.try_get("traceparent")?,
                })
            })
            .collect()
    }

    /// Notes how an attempt went. A webhook is disabled, with the reason, where its address is gone, or where nothing came
    /// through for so long and this was a delivery's last attempt; true: it was, now. One that was disabled meanwhile is
    /// not tried again.
    pub async fn attempt_ended(
        &self,
        delivery: &DueDelivery,
        outcome: &AttemptOutcome,
        disable_after: Duration,
    ) -> Result<bool, Error> {
        let (status, error, again) = match outcome {
            AttemptOutcome::Delivered { status } => (Some(i32::from(*status)), None, None),
            AttemptOutcome::Failed { status, error, again } => {
                (status.map(i32::from), Some(error.as_str()), *again)
            }
        };
        let (is_delivered, attempt) = (error.is_none(), read::signed(delivery.attempt));
        let (again, patience) = (again.map(|again| again.as_secs_f64()), disable_after.as_secs_f64());
        self.transaction(Scope::all("attempt_ended"), |tx| async move {
            // Before the delivery, like whoever disables it: attempts that end together wait for each other here.
            let webhook = tx.query_opt(HOLD, &[&delivery.webhook]).await?;
            let is_disabled = webhook.map_or(Ok(false), |row| row.try_get("is_disabled"))?;
            let again = again.filter(|_| !is_disabled);
            let params: [Param<'_>; 7] =
                [&delivery.id, &attempt, &status, &error, &again, &is_delivered, &delivery.begun_at];
            tx.execute(ENDED, &params).await?;
            if is_delivered {
                tx.execute(CAME_THROUGH, &[&delivery.webhook]).await?;
                return Ok(false);
            }
            tx.execute(FAILS, &[&delivery.webhook]).await?;
            let is_gone = status == Some(410);
            let reason = match is_gone {
                true => "the address answered 410 Gone".to_owned(),
                false => format!("nothing came through for {} hours", disable_after.as_secs() / 3600),
            };
            let is_last = again.is_none();
            let params: [Param<'_>; 5] = [&delivery.webhook, &patience, &is_gone, &reason, &is_last];
            let disabled = tx.query_opt(DISABLE, &params).await?;
            if disabled.is_some() {
                tx.execute(GIVE_UP, &[&delivery.webhook]).await?;
            }
            Ok(disabled.is_some())
        })
        .await
    }

    /// How many deliveries are due.
    pub async fn due_delivery_count(&self) -> Result<u64, Error> {
        let rows = self.single(Scope::all("due_delivery_count"), COUNT_DUE, &[]).await?;
        let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Deliveries of a webhook, the newest first; none where there is no such webhook.
    pub async fn deliveries(
        &self,
        tenant: &TenantId,
        webhook: Uuid,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Option<Page<Delivery>>, Error> {
        let limit = limit.clamp(1, 200);
        let (before, before_id) = cursor.map(decode_time).transpose()?.unzip();
        let params: [Param<'_>; 5] = [&tenant.as_str(), &webhook, &before, &before_id, &i64::from(limit + 1)];
        let rows = self
            .transaction(Scope::tenant("deliveries", tenant), |tx| async move {
                if tx.query_opt(HAS, &params[..2]).await?.is_none() {
                    return Ok(None);
                }
                tx.query(LIST, &params).await.map(Some)
            })
            .await?;
        let Some(rows) = rows else { return Ok(None) };
        let found = rows.iter().map(Delivery::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Page::cut(found, limit as usize, |one| encode_time(one.created_at, one.id))))
    }

    /// Lets a delivery be tried again now, with all its attempts before it. False: there is none.
    ///
    /// # Errors
    /// [`Conflict::WebhookDisabled`].
    pub async fn redeliver(&self, tenant: &TenantId, webhook: Uuid, delivery: Uuid) -> Result<bool, Error> {
        let params: [Param<'_>; 3] = [&tenant.as_str(), &webhook, &delivery];
        self.transaction(Scope::tenant("redeliver", tenant), |tx| async move {
            let Some(row) = tx.query_opt(HAS, &params[..2]).await? else { return Ok(false) };
            if row.try_get::<_, bool>("is_disabled")? {
                return Err(Conflict::WebhookDisabled.into());
            }
            Ok(tx.execute(AGAIN, &params).await? > 0)
        })
        .await
    }
}

// Those that wait longest first, so that no webhooks that always have something due keep others from theirs.
const DUE: &str = "-- store::webhooks::due_deliveries
WITH due AS (
    SELECT d.id FROM webhooks AS w
    LEFT JOIN unnest($3::uuid[], $4::bigint[]) AS running (webhook, count) ON running.webhook = w.id
    CROSS JOIN LATERAL (
        SELECT id, next_attempt FROM webhook_deliveries WHERE webhook_id = w.id AND next_attempt <= now()
        ORDER BY next_attempt LIMIT greatest($2 - coalesce(running.count, 0), 0) FOR UPDATE SKIP LOCKED) AS d
    WHERE w.disabled_at IS NULL
    ORDER BY d.next_attempt LIMIT $1)
UPDATE webhook_deliveries AS d
SET attempts = d.attempts + 1, last_attempt = clock_timestamp(), next_attempt = clock_timestamp() + make_interval(secs => $5)
FROM due, webhooks AS w
WHERE d.id = due.id AND w.id = d.webhook_id
RETURNING d.id, d.tenant_id, d.webhook_id, w.url, d.payload, d.attempts, d.last_attempt, w.secret,
    coalesce((SELECT v.traceparent FROM document_versions AS v
              WHERE v.tenant_id = d.tenant_id AND v.document_id = (d.payload::jsonb #>> '{data,document_id}')::uuid
                AND v.version = (d.payload::jsonb #>> '{data,version}')::int), '') AS traceparent";

// One that was asked for again meanwhile keeps its turn, also where that has begun: it counts from 1 again, at another time.
const ENDED: &str = "-- store::webhooks::attempt_ended
UPDATE webhook_deliveries
SET last_status = $3, last_error = $4, next_attempt = clock_timestamp() + make_interval(secs => $5),
    delivered_at = CASE WHEN $6 THEN clock_timestamp() END,
    given_up_at = CASE WHEN NOT $6 AND $5::float8 IS NULL THEN clock_timestamp() END
WHERE id = $1 AND attempts = $2 AND last_attempt = $7";

const HOLD: &str = "-- store::webhooks::attempt_ended
SELECT disabled_at IS NOT NULL AS is_disabled FROM webhooks WHERE id = $1 FOR NO KEY UPDATE";

const CAME_THROUGH: &str = "-- store::webhooks::attempt_ended
UPDATE webhooks SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL";

const FAILS: &str = "-- store::webhooks::attempt_ended
UPDATE webhooks SET failing_since = now() WHERE id = $1 AND failing_since IS NULL";

// After an outage that a quiet webhook's only delivery did not outlive, it has failed for days; the next delivery is tried to its end.
const DISABLE: &str = "-- store::webhooks::attempt_ended
UPDATE webhooks SET disabled_at = now(), disabled_reason = $4
WHERE id = $1 AND disabled_at IS NULL AND ($3 OR ($5 AND failing_since < now() - make_interval(secs => $2)))
RETURNING id";

pub(super) const GIVE_UP: &str = "-- store::webhooks::give_up
UPDATE webhook_deliveries SET next_attempt = NULL, given_up_at = now() WHERE webhook_id = $1 AND next_attempt IS NOT NULL";

const COUNT_DUE: &str = "-- store::webhooks::due_delivery_count
SELECT count(*) FROM webhook_deliveries AS d JOIN webhooks AS w ON w.id = d.webhook_id
WHERE d.next_attempt <= now() AND w.disabled_at IS NULL";

const HAS: &str = "-- store::webhooks::deliveries
SELECT disabled_at IS NOT NULL AS is_disabled FROM webhooks WHERE tenant_id = $1 AND id = $2";

const LIST: &str = "-- store::webhooks::deliveries
SELECT id, event, payload, created_at, attempts, last_attempt, next_attempt, last_status, last_error, delivered_at, given_up_at
FROM webhook_deliveries
WHERE tenant_id = $1 AND webhook_id = $2 AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
ORDER BY created_at DESC, id DESC LIMIT $5";

const AGAIN: &str = "-- store::webhooks::redeliver
UPDATE webhook_deliveries SET next_attempt = clock_timestamp(), attempts = 0, delivered_at = NULL, given_up_at = NULL
WHERE tenant_id = $1 AND webhook_id = $2 AND id = $3";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] =
    &[DUE, HOLD, ENDED, CAME_THROUGH, FAILS, DISABLE, GIVE_UP, COUNT_DUE, HAS, LIST, AGAIN];
