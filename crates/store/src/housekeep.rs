//! What was kept for a while only: rows that are forgotten, and how many there are.

use crate::{Error, Store, gone::Why, read, transaction::Scope};

impl Store {
    /// Removes idempotency keys after 7 days, producers' events, resolved dead letters, batches of files, runs of tasks by hand, pauses and what webhooks were told after 30, acts after 400,
    /// and documents whose only upload never came after one. Answers how many rows.
    pub async fn housekeep(&self) -> Result<u64, Error> {
        let mut removed = 0;
        for sql in FORGET {
            removed += self.single(Scope::all("housekeep"), sql, &[]).await?.len() as u64;
        }
        Ok(removed + self.forget_uploads().await?)
    }

    /// How many rows [`Store::housekeep`] would answer.
    pub async fn housekeep_due(&self) -> Result<u64, Error> {
        let mut due = 0;
        for sql in DUE {
            for row in self.single(Scope::all("housekeep_due"), sql, &[]).await? {
                due += read::total(&row, "count")?;
            }
        }
        Ok(due)
    }

    async fn forget_uploads(&self) -> Result<u64, Error> {
        self.transaction(Scope::all("housekeep"), |tx| async move {
            let rows = tx.query(OLD_UPLOADS, &[]).await?;
            for row in &rows {
                tx.deletes(&read::tenant(row, "tenant_id")?, [read::document(row, "id")?], Why::Upload);
            }
            Ok(rows.len() as u64)
        })
        .await
    }
}

macro_rules! old_uploads {
    () => {
        "documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE v.state = 'expired' AND v.upload_expires_at < now() - interval '1 day' AND v.sha256 IS NULL
  AND d.latest_version = 1 AND d.deleted_at IS NULL"
    };
}

/// A statement that forgets rows, and one that counts them, for each kind.
macro_rules! forgotten {
    ($($rows:literal,)*) => {
        const FORGET: &[&str] = &[$(concat!("-- store::housekeep::housekeep\nDELETE FROM ", $rows, " RETURNING 1")),*];

        const DUE: &[&str] = &[
            $(concat!("-- store::housekeep::housekeep_due\nSELECT count(*) AS count FROM ", $rows),)*
            concat!("-- store::housekeep::housekeep_due\nSELECT count(*) AS count FROM ", old_uploads!()),
        ];
    };
}

forgotten! {
    "idempotency_keys WHERE created_at < now() - interval '7 days'",
    "intake_events WHERE created_at < now() - interval '30 days'",
    "dead_letters WHERE resolved_at < now() - interval '30 days'",
    "file_batches WHERE created_at < now() - interval '30 days'",
    "janitor_runs WHERE requested_at < now() - interval '30 days'",
    "stage_pauses WHERE settled_at < now() - interval '30 days'",
    "audit WHERE at < now() - interval '400 days'",
    "webhook_deliveries AS d WHERE d.created_at < now() - interval '30 days'
  AND (d.next_attempt IS NULL OR EXISTS (SELECT FROM webhooks AS w WHERE w.id = d.webhook_id AND w.disabled_at IS NOT NULL))",
}

const OLD_UPLOADS: &str = concat!(
    "-- store::housekeep::forget_uploads
UPDATE documents AS d SET deleted_at = now(), updated_at = now()
FROM (SELECT d.id FROM ",
    old_uploads!(),
    " ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED) AS late
WHERE d.id = late.id
RETURNING d.tenant_id, d.id"
);

/// The statements of this file.
pub(crate) fn statements() -> Vec<&'static str> {
    [FORGET, DUE, &[OLD_UPLOADS]].concat()
}
