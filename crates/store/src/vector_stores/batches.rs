//! Batches: files that were attached to a collection with one request.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, State, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Counts, Member};
use crate::{
    Conflict, Error, Part, Reason, Status, Store, Window, read,
    transaction::{Param, Scope},
    vector_stores::members,
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
    /// Its documents by the state of the versions that it attached, and the files that were refused as failed; documents that were deleted since are not counted.
    pub counts: Counts,
}

/// A file that could not be attached with its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    /// The file.
    pub file: Uuid,
    /// Why.
    pub reason: Reason,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// A file of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchFile {
    /// It became a document.
    Attached(Box<Member>),
    /// It did not.
    Refused(RefusedFile),
}

impl BatchFile {
    /// Its place in lists.
    fn place(&self) -> (DateTime<Utc>, Uuid) {
        match self {
            Self::Attached(member) => (member.created_at, member.document.0),
            Self::Refused(refused) => (refused.created_at, refused.file),
        }
    }
}

impl Store {
    /// Makes a batch for a collection.
    pub async fn create_batch(&self, tenant: &TenantId, collection: Uuid) -> Result<Uuid, Error> {
        let id = Uuid::now_v7();
        let params: [Param<'_>; 3] = [&tenant.as_str(), &id, &collection];
        let rows = self.single(Scope::tenant("create_batch", tenant), CREATE, &params).await?;
        rows.first().map(|_| id).ok_or(Error::NotFound("collection"))
    }

    /// Adds documents to a batch, in the versions that it attached. Those that are in it already stay.
    pub async fn add_to_batch(
        &self,
        tenant: &TenantId,
        batch: Uuid,
        documents: &[(DocumentId, Version)],
    ) -> Result<(), Error> {
        let ids: Vec<Uuid> = documents.iter().map(|(document, _)| document.0).collect();
        let versions: Vec<i32> = documents.iter().map(|(_, version)| read::signed(*version)).collect();
        let params: [Param<'_>; 4] = [&tenant.as_str(), &batch, &ids, &versions];
        self.single(Scope::tenant("add_to_batch", tenant), ADD, &params).await.map(|_| ())
    }

    /// Notes which files could not be attached with a batch, and why.
    pub async fn add_refused(
        &self,
        tenant: &TenantId,
        batch: Uuid,
        refused: &[(Uuid, Reason)],
    ) -> Result<(), Error> {
        let files: Vec<Uuid> = refused.iter().map(|(file, _)| *file).collect();
        let codes: Vec<&str> = refused.iter().map(|(_, reason)| reason.code.as_str()).collect();
        let messages: Vec<&str> = refused.iter().map(|(_, reason)| reason.message.as_str()).collect();
        let params: [Param<'_>; 5] = [&tenant.as_str(), &batch, &files, &codes, &messages];
        self.single(Scope::tenant("add_refused", tenant), ADD_REFUSED, &params).await.map(|_| ())
    }

    /// A part of a batch's files, in some states where these are given. The window's places are those that members are called
    /// by.
    pub async fn batch_files(
        &self,
        tenant: &TenantId,
        (collection, batch): (Uuid, Uuid),
        states: Option<&[State]>,
        window: &Window,
    ) -> Result<Part<BatchFile>, Error> {
        let of = members::Of { tenant, collection, batch: Some(batch) };
        self.transaction(Scope::tenant("batch_files", tenant), |tx| async move {
            let bounds = of.bounds(&tx, window).await?;
            let attached = of.list(&tx, states, window, bounds).await?;
            let attached = attached.into_iter().map(|member| BatchFile::Attached(Box::new(member)));
            let mut files: Vec<BatchFile> = attached.collect();
            if states.is_none_or(|states| states.contains(&State::Failed)) {
                let ((lower_time, lower_id), (upper_time, upper_id)) = (bounds.0.unzip(), bounds.1.unzip());
                let params: [Param<'_>; 7] = [
                    &tenant.as_str(),
                    &batch,
                    &lower_time,
                    &lower_id,
                    &upper_time,
                    &upper_id,
                    &window.rows(),
                ];
                let sql = window.choose(REFUSED_ASCENDING, REFUSED_DESCENDING);
                for row in tx.query(sql, &params).await? {
                    files.push(BatchFile::Refused(refused(&row)?));
                }
                // Each of the two lists is long enough for the page, whatever the other one has.
                files.sort_by_key(BatchFile::place);
                if window.choose("ASC", "DESC") == "DESC" {
                    files.reverse();
                }
            }
            Ok(window.cut(files))
        })
        .await
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
            let refused = tx.query_one(COUNT_REFUSED, &of).await?;
            counts.add(State::Failed, refused.try_get::<_, i64>("files")?.unsigned_abs());
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

    /// Cancels what of a batch is still on its way, and says of each document that it is. A version that another one took the
    /// place of is not the batch's. False: there is no such batch.
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
            let (document, version) = (read::document(&row, "document_id")?, read::version(&row, "version")?);
            match self.cancel_latest(tenant, document, Some(version)).await {
                Ok(status) => is_cancelled(&status),
                // It ended, or was deleted, a moment ago.
                Err(Error::NotFound(_) | Error::Conflict(Conflict::NothingToCancel(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn refused(row: &Row) -> Result<RefusedFile, Error> {
    Ok(RefusedFile {
        file: row.try_get("file_id")?,
        reason: Reason { code: row.try_get("error_code")?, message: row.try_get("error_message")? },
        created_at: row.try_get("created_at")?,
    })
}

const CREATE: &str = "-- store::vector_stores::create_batch
INSERT INTO file_batches (tenant_id, id, collection_id)
SELECT tenant_id, $2, id FROM collections WHERE tenant_id = $1 AND id = $3 AND deleted_at IS NULL
RETURNING id";

const ADD: &str = "-- store::vector_stores::add_to_batch
INSERT INTO file_batch_documents (tenant_id, batch_id, document_id, version)
SELECT $1::text, $2::uuid, d.id, max(attached.version)
FROM unnest($3::uuid[], $4::int[]) AS attached (id, version)
JOIN documents AS d ON d.id = attached.id AND (d.tenant_id = $1) IS TRUE
GROUP BY d.id
ON CONFLICT (batch_id, document_id) DO UPDATE SET version = greatest(file_batch_documents.version, excluded.version)";

const ADD_REFUSED: &str = "-- store::vector_stores::add_refused
INSERT INTO file_batch_refusals (tenant_id, batch_id, file_id, error_code, error_message)
SELECT $1, $2, * FROM unnest($3::uuid[], $4::text[], $5::text[])
ON CONFLICT (batch_id, file_id) DO NOTHING";

macro_rules! list_refused {
    ($order:literal) => {
        concat!(
            "-- store::vector_stores::batch_files
SELECT file_id, error_code, error_message, created_at FROM file_batch_refusals
WHERE (tenant_id = $1) IS TRUE AND batch_id = $2
  AND ($3::timestamptz IS NULL OR (created_at, file_id) > ($3, $4::uuid))
  AND ($5::timestamptz IS NULL OR (created_at, file_id) < ($5, $6::uuid))
ORDER BY created_at ",
            $order,
            ", file_id ",
            $order,
            " LIMIT $7"
        )
    };
}

const REFUSED_ASCENDING: &str = list_refused!("ASC");
const REFUSED_DESCENDING: &str = list_refused!("DESC");

/// Where a file that was refused stands in the list of its batch.
pub(super) const REFUSED_PLACE: &str = "-- store::vector_stores::place
SELECT file_id AS id, created_at FROM file_batch_refusals
WHERE (tenant_id = $1) IS TRUE AND batch_id = $2 AND file_id = $3";

const COUNT_REFUSED: &str = "-- store::vector_stores::batch
SELECT count(*) AS files FROM file_batch_refusals WHERE (tenant_id = $1) IS TRUE AND batch_id = $2";

const GET: &str = "-- store::vector_stores::batch
SELECT created_at, cancelled_at FROM file_batches WHERE tenant_id = $1 AND id = $2 AND collection_id = $3";

const COUNTS: &str = "-- store::vector_stores::batch
SELECT v.state, count(*) AS documents
FROM file_batch_documents AS b JOIN documents AS d ON d.id = b.document_id
JOIN document_versions AS v ON v.document_id = d.id AND v.version = b.version
WHERE b.tenant_id = $1 AND b.batch_id = $2 AND d.deleted_at IS NULL
GROUP BY v.state";

/// What of a batch can be cancelled.
macro_rules! unfinished {
    () => {
        "FROM file_batch_documents AS b JOIN documents AS d ON d.id = b.document_id AND d.latest_version = b.version
    JOIN document_versions AS v ON v.document_id = d.id AND v.version = b.version
    WHERE b.tenant_id = $1 AND b.batch_id = $2 AND d.deleted_at IS NULL AND v.finished_at IS NULL"
    };
}

// One of which everything has ended stays what it is.
const CANCEL: &str = concat!(
    "-- store::vector_stores::cancel_batch
UPDATE file_batches SET cancelled_at = CASE WHEN EXISTS (SELECT ",
    unfinished!(),
    ")
    THEN coalesce(cancelled_at, now()) ELSE cancelled_at END
WHERE tenant_id = $1 AND id = $2 AND collection_id = $3
RETURNING id"
);

const UNFINISHED: &str = concat!(
    "-- store::vector_stores::cancel_batch
SELECT b.document_id, b.version ",
    unfinished!(),
    "
ORDER BY b.document_id"
);

/// The statements of this file.
pub(super) const STATEMENTS: &[&str] = &[
    CREATE,
    ADD,
    ADD_REFUSED,
    REFUSED_ASCENDING,
    REFUSED_DESCENDING,
    REFUSED_PLACE,
    COUNT_REFUSED,
    GET,
    COUNTS,
    CANCEL,
    UNFINISHED,
];
