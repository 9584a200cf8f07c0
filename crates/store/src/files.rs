//! Files: bytes that were uploaded by themselves, of which documents are made in any number of collections (docs/adr/0024).
//!
//! A file owns its object. The documents that are made of it name the same object, so nothing removes it before the last of
//! them is purged. A file's row is locked before the rows of its documents.

use std::time::Duration;

use chrono::{DateTime, Utc};
use riacho_domain::TenantId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Conflict, Error, Part, Quota, Store, Window, commands,
    gone::Why,
    limits::own_retention,
    read,
    transaction::{Param, Scope, Tx},
};

/// A file whose bytes are in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its key in the object store.
    pub object_key: String,
    /// Its name, without a path.
    pub filename: String,
    /// Its media type, as claimed or guessed.
    pub content_type: String,
    /// What the client says that it is for.
    pub purpose: String,
    /// The number of its bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// How long it lives from now. None: until it is deleted, or is past its retention in no collection.
    pub ttl: Option<Duration>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its id.
    pub id: Uuid,
    /// Its key in the object store.
    pub object_key: String,
    /// Its name.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// What the client says that it is for.
    pub purpose: String,
    /// The number of its bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// When it was uploaded.
    pub created_at: DateTime<Utc>,
    /// When it is deleted by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

impl File {
    fn read(row: &Row) -> Result<Self, Error> {
        let missing = || Error::Row("a file without bytes".into());
        Ok(Self {
            id: row.try_get("id")?,
            object_key: row.try_get("object_key")?,
            filename: row.try_get("filename")?,
            content_type: row.try_get("content_type")?,
            purpose: row.try_get("purpose")?,
            size: read::size_opt(row, "size")?.ok_or_else(missing)?,
            sha256: read::hash_opt(row, "sha256")?.ok_or_else(missing)?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

/// A deleted file of which no document is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePurge {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub file: Uuid,
    /// Its key in the object store.
    pub object_key: String,
}

impl Store {
    /// Writes a file's row.
    pub async fn create_file(&self, tenant: &TenantId, new: &NewFile) -> Result<File, Error> {
        let id = Uuid::now_v7();
        #[allow(clippy::cast_precision_loss)] // a time to live in seconds
        let ttl = new.ttl.map(|ttl| ttl.as_secs() as f64);
        self.transaction(Scope::tenant("create_file", tenant), |tx| async move {
            let row = tx.query_opt(MAY_CREATE, &[&tenant.as_str()]).await?;
            let row = row.ok_or(Conflict::TenantNotActive)?;
            if Quota::read(&row)?.contains(&Quota::Bytes) {
                return Err(Conflict::OverQuota(Quota::Bytes).into());
            }
            let params: [Param<'_>; 9] = [
                &tenant.as_str(),
                &id,
                &new.object_key,
                &new.filename,
                &new.content_type,
                &new.purpose,
                &read::signed_size(new.size),
                &new.sha256.as_slice(),
                &ttl,
            ];
            File::read(&tx.query_one(CREATE, &params).await?)
        })
        .await
    }

    /// A file; none when it is not there, deleted or past its time.
    pub async fn file(&self, tenant: &TenantId, id: Uuid) -> Result<Option<File>, Error> {
        Ok(self.files(tenant, &[id]).await?.into_iter().next())
    }

    /// Those of the files that are there, in no order.
    pub async fn files(&self, tenant: &TenantId, ids: &[Uuid]) -> Result<Vec<File>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &ids];
        let rows = self.single(Scope::tenant("files", tenant), GET, &params).await?;
        rows.iter().map(File::read).collect()
    }

    /// A part of the tenant's files, of one purpose where one is given.
    pub async fn list_files(
        &self,
        tenant: &TenantId,
        purpose: Option<&str>,
        window: &Window,
    ) -> Result<Part<File>, Error> {
        let (lower, upper) = window.bounds();
        let params: [Param<'_>; 5] = [&tenant.as_str(), &purpose, &lower, &upper, &window.rows()];
        let sql = window.choose(LIST_ASCENDING, LIST_DESCENDING);
        let rows = self.single(Scope::tenant("list_files", tenant), sql, &params).await?;
        Ok(window.cut(rows.iter().map(File::read).collect::<Result<_, _>>()?))
    }

    /// Deletes a file with all documents that were made of it: they are invisible at once, and purge removes them and then the
    /// file. False: it was not there.
    pub async fn delete_file(&self, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
        self.transaction(Scope::tenant("delete_file", tenant), |tx| async move {
            let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
            if tx.execute(DELETE, &params).await? == 0 {
                return Ok(false);
            }
            for row in tx.query(DOCUMENTS, &params).await? {
                commands::delete_in(&tx, tenant, read::document(&row, "id")?, Why::File).await?;
            }
            Ok(true)
        })
        .await
    }

    /// Deletes files past their time, of all tenants, with the documents that were made of them. Answers how many.
    pub async fn expire_files(&self, limit: u32) -> Result<u64, Error> {
        let rows = self.single(Scope::all("expire_files"), EXPIRED, &[&i64::from(limit)]).await?;
        let mut expired = 0;
        for row in &rows {
            let tenant = read::tenant(row, "tenant_id")?;
            expired += u64::from(self.delete_file(&tenant, row.try_get("id")?).await?);
        }
        Ok(expired)
    }

    /// Deletes files that have been in no collection for longer than the retention of their tenant, or than this one where it has
    /// none of its own; none is never. Answers how many.
    pub async fn forget_unused_files(&self, retention: Option<Duration>, limit: u32) -> Result<u64, Error> {
        let retention = retention.map(|retention| retention.as_secs_f64());
        let params: [Param<'_>; 2] = [&retention, &i64::from(limit)];
        Ok(self.single(Scope::all("forget_unused_files"), FORGET, &params).await?.len() as u64)
    }

    /// Files that were deleted at least `grace` ago and of which no document is left: remove the object, then call
    /// [`Store::file_purged`].
    pub async fn file_purges(&self, grace: Duration, limit: u32) -> Result<Vec<FilePurge>, Error> {
        let params: [Param<'_>; 2] = [&grace.as_secs_f64(), &i64::from(limit)];
        let rows = self.single(Scope::all("file_purges"), PURGES, &params).await?;
        let purge = |row: &Row| {
            Ok(FilePurge {
                tenant: read::tenant(row, "tenant_id")?,
                file: row.try_get("id")?,
                object_key: row.try_get("object_key")?,
            })
        };
        rows.iter().map(purge).collect()
    }

    /// Nothing is left of a file: its row is removed, with a receipt.
    pub async fn file_purged(&self, purge: &FilePurge, objects: u64) -> Result<(), Error> {
        self.transaction(Scope::all("file_purged"), |tx| async move {
            if tx.execute(REMOVE, &[&purge.file]).await? > 0 {
                let id = Uuid::now_v7();
                let objects = read::signed_size(objects);
                let params: [Param<'_>; 4] = [&id, &purge.tenant.as_str(), &purge.file, &objects];
                tx.execute(ADD_RECEIPT, &params).await?;
            }
            Ok(())
        })
        .await
    }
}

/// Locks a file of which a document is going to be made, so that it is not deleted meanwhile, and notes that it is used.
pub(crate) async fn use_file(tx: &Tx, tenant: &TenantId, id: Uuid) -> Result<(), Error> {
    match tx.execute(USE, &[&tenant.as_str(), &id]).await? {
        0 => Err(Error::NotFound("file")),
        _ => Ok(()),
    }
}

macro_rules! columns {
    () => {
        "id, object_key, filename, content_type, purpose, size, sha256, created_at, expires_at"
    };
}

const MAY_CREATE: &str = "-- store::files::create_file
SELECT over_quota FROM tenants WHERE id = $1 AND state = 'active'";

const CREATE: &str = concat!(
    "-- store::files::create_file
INSERT INTO files (tenant_id, id, object_key, filename, content_type, purpose, size, sha256, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9))
RETURNING ",
    columns!()
);

const GET: &str = concat!(
    "-- store::files::files
SELECT ",
    columns!(),
    " FROM files
WHERE tenant_id = $1 AND id = ANY ($2) AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
);

macro_rules! list {
    ($order:literal) => {
        concat!(
            "-- store::files::list_files
SELECT ",
            columns!(),
            " FROM files
WHERE tenant_id = $1 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > now())
  AND ($2::text IS NULL OR purpose = $2) AND ($3::uuid IS NULL OR id > $3) AND ($4::uuid IS NULL OR id < $4)
ORDER BY id ",
            $order,
            " LIMIT $5"
        )
    };
}

const LIST_ASCENDING: &str = list!("ASC");
const LIST_DESCENDING: &str = list!("DESC");

const DELETE: &str = "-- store::files::delete_file
UPDATE files SET deleted_at = now() WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL";

const DOCUMENTS: &str = "-- store::files::delete_file
SELECT id FROM documents WHERE tenant_id = $1 AND file_id = $2 AND deleted_at IS NULL ORDER BY id";

const USE: &str = "-- store::files::use_file
UPDATE files SET used_at = now()
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > now())";

// What ends by itself: for the statements, and for the figures of `due`.
macro_rules! expired_files {
    () => {
        "files WHERE expires_at < now() AND deleted_at IS NULL"
    };
}

macro_rules! unused_files {
    () => {
        concat!(
            "files AS f JOIN tenants AS t ON t.id = f.tenant_id
WHERE f.used_at < now() - make_interval(secs => ",
            $crate::limits::own_retention!(),
            ") AND f.deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM documents AS d WHERE d.file_id = f.id AND d.deleted_at IS NULL)"
        )
    };
}
pub(crate) use {expired_files, unused_files};

const EXPIRED: &str = concat!(
    "-- store::files::expire_files
SELECT tenant_id, id FROM ",
    expired_files!(),
    " ORDER BY expires_at LIMIT $1"
);

// Who attaches a file meanwhile changes `used_at`, which is looked at again once its row is unlocked.
const FORGET: &str = concat!(
    "-- store::files::forget_unused_files
UPDATE files SET deleted_at = now()
WHERE id = ANY (ARRAY(SELECT f.id FROM ",
    unused_files!(),
    " ORDER BY f.used_at LIMIT $2))
  AND used_at < now() - make_interval(secs => (SELECT ",
    own_retention!(),
    " FROM tenants AS t WHERE t.id = files.tenant_id)) AND deleted_at IS NULL
RETURNING id"
);

const PURGES: &str = "-- store::files::file_purges
SELECT f.tenant_id, f.id, f.object_key FROM files AS f
WHERE f.deleted_at < now() - make_interval(secs => $1) AND NOT EXISTS (SELECT FROM documents AS d WHERE d.file_id = f.id)
ORDER BY f.deleted_at LIMIT $2";

const REMOVE: &str = "-- store::files::file_purged
DELETE FROM files WHERE id = $1 AND deleted_at IS NOT NULL";

const ADD_RECEIPT: &str = "-- store::files::file_purged
INSERT INTO receipts (id, tenant_id, file_id, versions, chunks, vectors, objects) VALUES ($1, $2, $3, 0, 0, 0, $4)";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[
    MAY_CREATE,
    CREATE,
    GET,
    LIST_ASCENDING,
    LIST_DESCENDING,
    DELETE,
    DOCUMENTS,
    USE,
    EXPIRED,
    FORGET,
    PURGES,
    REMOVE,
    ADD_RECEIPT,
];
