//! Collections: named sets of a tenant's documents.

use chrono::{DateTime, Utc};
use riacho_domain::TenantId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Conflict, Error, Store,
    transaction::{Param, Scope},
};

/// The collection of documents that name none.
pub const DEFAULT_COLLECTION: &str = "default";

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Collection {
    /// Its id.
    pub id: Uuid,
    /// Its name, unique for the tenant.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Documents in it that are not deleted.
    pub documents: u64,
}

impl Collection {
    fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
            documents: u64::try_from(row.try_get::<_, i64>("documents")?).unwrap_or(0),
        })
    }
}

/// Refuses a name that cannot be a collection's.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let length = name.chars().count();
    if (1..=200).contains(&length) && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Error::Invalid("a collection's name has 1 to 200 characters and no control characters".into()))
    }
}

impl Store {
    /// Makes a collection.
    pub async fn create_collection(&self, tenant: &TenantId, name: &str) -> Result<Collection, Error> {
        check_name(name)?;
        let id = Uuid::now_v7();
        let rows = self
            .single(Scope::tenant("create_collection", tenant), CREATE, &[&tenant.as_str(), &id, &name])
            .await?;
        rows.first().map(Collection::read).transpose()?.ok_or(Error::Conflict(Conflict::Exists("collection")))
    }

    /// The tenant's collections, by name.
    pub async fn collections(&self, tenant: &TenantId) -> Result<Vec<Collection>, Error> {
        let rows = self.single(Scope::tenant("collections", tenant), LIST, &[&tenant.as_str()]).await?;
        rows.iter().map(Collection::read).collect()
    }

    /// The id of the collection with a name.
    pub async fn collection_named(&self, tenant: &TenantId, name: &str) -> Result<Option<Uuid>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &name];
        let rows = self.single(Scope::tenant("collection_named", tenant), NAMED, &params).await?;
        Ok(rows.first().map(|row| row.try_get("id")).transpose()?)
    }

    /// One collection.
    pub async fn collection(&self, tenant: &TenantId, id: Uuid) -> Result<Option<Collection>, Error> {
        let rows = self.single(Scope::tenant("collection", tenant), GET, &[&tenant.as_str(), &id]).await?;
        rows.first().map(Collection::read).transpose()
    }

    /// Deletes a collection without documents, to which no version is on its way. Deleted documents count
    /// until they are purged.
    pub async fn delete_collection(&self, tenant: &TenantId, id: Uuid) -> Result<(), Error> {
        let scope = Scope::tenant("delete_collection", tenant);
        let deleted = self
            .transaction(scope, |tx| async move {
                let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
                // Its lock keeps new versions out until the answer is committed.
                tx.query_opt(LOCK, &params).await?.ok_or(Error::NotFound("collection"))?;
                if tx.query_opt(ON_ITS_WAY, &params).await?.is_some() {
                    return Err(Conflict::NotEmpty.into());
                }
                tx.execute(DELETE, &params).await
            })
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error) if error.constraint() == Some("documents_collection_id_fkey") => {
                Err(Conflict::NotEmpty.into())
            }
            Err(error) => Err(error),
        }
    }
}

const CREATE: &str = "-- store::collections::create_collection
INSERT INTO collections (tenant_id, id, name) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING id, name, created_at, 0::bigint AS documents";

const LIST: &str = "-- store::collections::collections
SELECT c.id, c.name, c.created_at,
       (SELECT count(*) FROM documents AS d
        WHERE d.tenant_id = $1 AND d.collection_id = c.id AND d.deleted_at IS NULL) AS documents
FROM collections AS c WHERE c.tenant_id = $1 AND c.deleted_at IS NULL ORDER BY c.name";

const GET: &str = "-- store::collections::collection
SELECT c.id, c.name, c.created_at,
       (SELECT count(*) FROM documents AS d
        WHERE d.tenant_id = $1 AND d.collection_id = c.id AND d.deleted_at IS NULL) AS documents
FROM collections AS c WHERE c.tenant_id = $1 AND c.id = $2 AND c.deleted_at IS NULL";

const NAMED: &str = "-- store::collections::collection_named
SELECT id FROM collections WHERE tenant_id = $1 AND name = $2 AND deleted_at IS NULL";

const LOCK: &str = "-- store::collections::delete_collection
SELECT id FROM collections WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL FOR UPDATE";

const ON_ITS_WAY: &str = "-- store::collections::delete_collection
SELECT version FROM document_versions
WHERE tenant_id = $1 AND collection_id = $2 AND finished_at IS NULL LIMIT 1";

const DELETE: &str = "-- store::collections::delete_collection
DELETE FROM collections WHERE tenant_id = $1 AND id = $2";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[CREATE, LIST, GET, NAMED, LOCK, ON_ITS_WAY, DELETE];
