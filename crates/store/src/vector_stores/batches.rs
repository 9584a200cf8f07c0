//! Batches: files that were attached to a collection with one request.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, TenantId};
use uuid::Uuid;

use super::Counts;
use crate::{
    Conflict, Error, Status, Store, read,
    transaction::{Param, Scope},
};

/// The most files of a batch.
pub const MAX_BATCH: usize = 2_000;

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBatch {
    /// Its id.
    pub id: Uuid,
    /// The collection that its files were attached to.
    pub collection: Uuid,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was cancelled.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Its documents by state; those that were deleted since are not counted.
    pub counts: Counts,
}

impl Store {
    /// Makes a batch for a collection.
    pub async fn create_batch(&self, tenant: &TenantId, collection: Uuid) -> Result<Uuid, Error> {
        let id = Uuid::now_v7();
        let params: [Param<'_>; 3] = [&tenant.as_str(), &id, &collection];
        let rows = self.single(Scope::tenant("create_batch", tenant), CREATE, &params).await?;
        rows.first().map(|_| id).ok_or(Error::NotFound("collection"))
    }

    /// Adds documents to a batch. Those that are in it already stay.
    pub async fn add_to_batch(
        &self,
        tenant: &TenantId,
        batch: Uuid,
        documents: &[DocumentId],
    ) -> Result<(), Error> {
        let ids: Vec<Uuid> = documents.iter().map(|document| document.0).collect();
        let params: [Param<'_>; 3] = [&tenant.as_str(), &batch, &ids];
        self.single(Scope::tenant("add_to_batch", tenant), ADD, &params).await.map(|_| ())
    }

    /// A batch of a collection, with its counts.
    pub async fn batch(
        &self,
        tenant: &TenantId,
        collection: Uuid,
        id: Uuid,
    ) -> Result<Option<FileBatch>, Error> {
        self.transaction(Scope::tenant("batch", tenant), |tx| async move {
            let params: [Param<'_>; 3] = [&tenant.as_str(), &id, &collection];
            let Some(row) = tx.query_opt(GET, &params).await? else { return Ok(None) };
            let mut counts = Counts::default();
            let of: [Param<'_>; 2] = [&tenant.as_str(), &id];
            for row in tx.query(COUNTS, &of).await? {
                counts.add(read::state(&row, "state")?, row.try_get::<_, i64>("documents")?.unsigned_abs());
            }
            Ok(Some(FileBatch {
                id,
                collection,
                created_at: row.try_get("created_at")?,
                cancelled_at: row.try_get("cancelled_at")?,
                counts,
            }))
        })
        .await
    }

    /// Cancels what of a batch is still on its way, and says of each document that it is. False: there is no such batch.
    pub async fn cancel_batch(
        &self,
        tenant: &TenantId,
        collection: Uuid,
        id: Uuid,
        is_cancelled: impl Fn(&Status),
    ) -> Result<bool, Error> {
        let params: [Param<'_>; 3] = [&tenant.as_str(), &id, &collection];
        if self.single(Scope::tenant("cancel_batch", tenant), CANCEL, &params).await?.is_empty() {
            return Ok(false);
        }
        let of: [Param<'_>; 2] = [&tenant.as_str(), &id];
        for row in self.single(Scope::tenant("cancel_batch", tenant), UNFINISHED, &of).await? {
            match self.cancel(tenant, read::document(&row, "document_id")?).await {
                Ok(status) => is_cancelled(&status),
                // It ended, or was deleted, a moment ago.
                Err(Error::NotFound(_) | Error::Conflict(Conflict::NothingToCancel(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

const CREATE: &str = "-- store::vector_stores::create_batch
INSERT INTO file_batches (tenant_id, id, collection_id)
SELECT tenant_id, $2, id FROM collections WHERE tenant_id = $1 AND id = $3 AND deleted_at IS NULL
RETURNING id";

const ADD: &str = "-- store::vector_stores::add_to_batch
INSERT INTO file_batch_documents (tenant_id, batch_id, document_id)
SELECT $1, $2, d.id FROM documents AS d WHERE (d.tenant_id = $1) IS TRUE AND d.id = ANY ($3)
ON CONFLICT (batch_id, document_id) DO NOTHING";

const GET: &str = "-- store::vector_stores::batch
SELECT created_at, cancelled_at FROM file_batches WHERE tenant_id = $1 AND id = $2 AND collection_id = $3";

const COUNTS: &str = "-- store::vector_stores::batch
SELECT v.state, count(*) AS documents
FROM file_batch_documents AS b JOIN documents AS d ON d.id = b.document_id
JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE b.tenant_id = $1 AND b.batch_id = $2 AND d.deleted_at IS NULL
GROUP BY v.state";

const CANCEL: &str = "-- store::vector_stores::cancel_batch
UPDATE file_batches SET cancelled_at = coalesce(cancelled_at, now())
WHERE tenant_id = $1 AND id = $2 AND collection_id = $3
RETURNING id";

const UNFINISHED: &str = "-- store::vector_stores::cancel_batch
SELECT b.document_id
FROM file_batch_documents AS b JOIN documents AS d ON d.id = b.document_id
JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE b.tenant_id = $1 AND b.batch_id = $2 AND d.deleted_at IS NULL AND v.finished_at IS NULL
ORDER BY b.document_id";

/// The statements of this file.
pub(super) const STATEMENTS: &[&str] = &[CREATE, ADD, GET, COUNTS, CANCEL, UNFINISHED];
