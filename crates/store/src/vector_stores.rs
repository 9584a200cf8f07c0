//! Collections as vector stores: with a title, metadata of their own, an end without use, and counts by state.
//!
//! A vector store has no rows of its own. All of a tenant's collections are vector stores, and all documents in them that were
//! uploaded are their files (docs/adr/0024).

mod batches;
pub(crate) mod members;

use chrono::{DateTime, TimeDelta, Utc};
use riacho_domain::{State, TenantId};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

pub use self::{
    batches::{BatchFile, FileBatch, MAX_BATCH, RefusedFile},
    members::{Member, MemberId},
};
use crate::{
    Error, Part, Store, Window, commands,
    gone::Why,
    read,
    transaction::{Param, Scope},
};

/// The most documents that are deleted in one transaction.
const DELETED_AT_ONCE: u32 = 200;

/// A collection as a vector store.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorStore {
    /// The collection's id.
    pub id: Uuid,
    /// The collection's name: its address in searches and uploads. It never changes.
    pub collection: String,
    /// What it is called; none where nobody said.
    pub title: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// What the client keeps with it.
    pub metadata: Map<String, Value>,
    /// After how many days without use its documents are deleted.
    pub expires_after_days: Option<u32>,
    /// When it was last used, to the minute.
    pub last_active_at: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Its documents by state.
    pub counts: Counts,
    /// The bytes of those that are ready.
    pub bytes: u64,
}

impl VectorStore {
    /// When its documents are deleted if nobody uses it.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        let days = TimeDelta::try_days(i64::from(self.expires_after_days?))?;
        self.last_active_at.checked_add_signed(days)
    }

    /// Whether that time has passed.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires_at().is_some_and(|at| at < Utc::now())
    }
}

/// Documents by what became of their latest versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// On their way.
    pub in_progress: u64,
    /// Ready.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Cancelled or expired.
    pub cancelled: u64,
}

impl Counts {
    fn add(&mut self, state: State, documents: u64) {
        let of = match state {
            State::Ready => &mut self.completed,
            State::Failed => &mut self.failed,
            State::Cancelled | State::Expired => &mut self.cancelled,
            _ => &mut self.in_progress,
        };
        *of += documents;
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.in_progress + self.completed + self.failed + self.cancelled
    }
}

/// What a vector store is made with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewVectorStore {
    /// What it is called.
    pub title: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// What the client keeps with it.
    pub metadata: Map<String, Value>,
    /// After how many days without use its documents are deleted.
    pub expires_after_days: Option<u32>,
}

/// What of a vector store is changed; what is none stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChangedVectorStore {
    /// What it is called; inner none: nothing.
    pub title: Option<Option<String>>,
    /// What the client keeps with it, in place of what it kept.
    pub metadata: Option<Map<String, Value>>,
    /// After how many days without use its documents are deleted; inner none: never.
    pub expires_after_days: Option<Option<u32>>,
}

impl Store {
    /// Makes a collection whose name is the title, where that can be one and is free; else `name`, which has to be unique.
    pub async fn create_vector_store(
        &self,
        tenant: &TenantId,
        (id, name): (Uuid, &str),
        new: &NewVectorStore,
    ) -> Result<VectorStore, Error> {
        let title = new.title.as_deref().filter(|title| crate::collections::check_name(title).is_ok());
        let days = new.expires_after_days.map(read::signed);
        let metadata = &Value::Object(new.metadata.clone());
        self.transaction(Scope::tenant("create_vector_store", tenant), |tx| async move {
            for name in title.into_iter().chain([name]) {
                let params: [Param<'_>; 7] =
                    [&tenant.as_str(), &id, &name, &new.title, &new.description, metadata, &days];
                if let Some(row) = tx.query_opt(CREATE, &params).await? {
                    return vector_store(&row);
                }
            }
            Err(Error::Row("a collection's id that is taken".into()))
        })
        .await
    }

    /// A collection as a vector store.
    pub async fn vector_store(&self, tenant: &TenantId, id: Uuid) -> Result<Option<VectorStore>, Error> {
        self.transaction(Scope::tenant("vector_store", tenant), |tx| async move {
            let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
            let Some(row) = tx.query_opt(GET, &params).await? else { return Ok(None) };
            let mut stores = [vector_store(&row)?];
            let ids: &[Uuid] = &[id];
            add_counts(&mut stores, &tx.query(COUNTS, &[&tenant.as_str(), &ids]).await?)?;
            let [store] = stores;
            Ok(Some(store))
        })
        .await
    }

    /// The same without its counts, which are 0: to count takes as long as there are files.
    pub async fn vector_store_uncounted(
        &self,
        tenant: &TenantId,
        id: Uuid,
    ) -> Result<Option<VectorStore>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
        let rows = self.single(Scope::tenant("vector_store_uncounted", tenant), GET, &params).await?;
        rows.first().map(vector_store).transpose()
    }

    /// A part of the tenant's collections.
    pub async fn vector_stores(
        &self,
        tenant: &TenantId,
        window: &Window,
    ) -> Result<Part<VectorStore>, Error> {
        let (lower, upper) = window.bounds();
        let sql = window.choose(LIST_ASCENDING, LIST_DESCENDING);
        self.transaction(Scope::tenant("vector_stores", tenant), |tx| async move {
            let params: [Param<'_>; 4] = [&tenant.as_str(), &lower, &upper, &window.rows()];
            let rows = tx.query(sql, &params).await?;
            let mut part = window.cut(rows.iter().map(vector_store).collect::<Result<Vec<_>, _>>()?);
            let ids: Vec<Uuid> = part.items.iter().map(|store| store.id).collect();
            add_counts(&mut part.items, &tx.query(COUNTS, &[&tenant.as_str(), &ids]).await?)?;
            Ok(part)
        })
        .await
    }

    /// Changes a collection. False: it was not there.
    pub async fn change_vector_store(
        &self,
        tenant: &TenantId,
        id: Uuid,
        changed: &ChangedVectorStore,
    ) -> Result<bool, Error> {
        let (sets_title, title) = (changed.title.is_some(), changed.title.clone().flatten());
        let metadata = changed.metadata.clone().map(Value::Object);
        let (sets_days, days) =
            (changed.expires_after_days.is_some(), changed.expires_after_days.flatten().map(read::signed));
        let params: [Param<'_>; 7] =
            [&tenant.as_str(), &id, &sets_title, &title, &metadata, &sets_days, &days];
        let rows = self.single(Scope::tenant("change_vector_store", tenant), CHANGE, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Notes that a collection is used, at most once a minute.
    pub async fn touch_vector_store(&self, tenant: &TenantId, id: Uuid) -> Result<(), Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
        self.single(Scope::tenant("touch_vector_store", tenant), TOUCH, &params).await.map(|_| ())
    }

    /// Deletes a collection with all documents in it. False: it was not there.
    ///
    /// The collection is hidden first: nothing is added to it, and no search and no list shows what is in it. Then some of its
    /// documents are deleted. The janitor deletes the others, and removes the row when the last document is purged.
    pub async fn delete_vector_store(&self, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &id];
        if self.single(Scope::tenant("delete_vector_store", tenant), HIDE, &params).await?.is_empty() {
            return Ok(false);
        }
        self.single(Scope::tenant("delete_vector_store", tenant), TURN_AWAY, &params).await?;
        self.empty_collection(tenant, id, None).await?;
        Ok(true)
    }

    /// Deletes some of a collection's documents, those that did not change after `until`. Answers how many; none when there are
    /// no more.
    async fn empty_collection(
        &self,
        tenant: &TenantId,
        id: Uuid,
        until: Option<DateTime<Utc>>,
    ) -> Result<u64, Error> {
        self.transaction(Scope::tenant("empty_collection", tenant), |tx| async move {
            let params: [Param<'_>; 4] = [&tenant.as_str(), &id, &i64::from(DELETED_AT_ONCE), &until];
            let rows = tx.query(DOCUMENTS, &params).await?;
            for row in &rows {
                // What is attached to one that was just deleted is gone already.
                commands::delete_in(&tx, tenant, read::document(row, "id")?, Why::Collection).await?;
            }
            if until.is_none() && rows.len() < DELETED_AT_ONCE as usize {
                tx.execute(EMPTIED, &[&tenant.as_str(), &id]).await?;
            }
            Ok(rows.len() as u64)
        })
        .await
    }

    /// Deletes the documents of collections that were deleted, and those that were in one when it expired, of all tenants. Removes
    /// the rows of deleted ones that are empty. Answers how many documents.
    pub async fn empty_collections(&self, limit: u32) -> Result<u64, Error> {
        let rows = self.single(Scope::all("empty_collections"), OVER, &[&i64::from(limit)]).await?;
        let mut deleted = 0;
        for row in &rows {
            let (tenant, id, until) =
                (read::tenant(row, "tenant_id")?, row.try_get("id")?, row.try_get("until")?);
            while deleted < u64::from(limit) {
                match self.empty_collection(&tenant, id, until).await? {
                    0 => break,
                    documents => deleted += documents,
                }
            }
        }
        self.single(Scope::all("empty_collections"), REMOVE, &[]).await?;
        Ok(deleted)
    }
}

fn vector_store(row: &Row) -> Result<VectorStore, Error> {
    let Value::Object(metadata) = row.try_get("metadata")? else {
        return Err(Error::Row("metadata that is no object".into()));
    };
    Ok(VectorStore {
        id: row.try_get("id")?,
        collection: row.try_get("name")?,
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        metadata,
        expires_after_days: read::count_opt(row, "expires_after_days")?,
        last_active_at: row.try_get("last_active_at")?,
        created_at: row.try_get("created_at")?,
        counts: Counts::default(),
        bytes: 0,
    })
}

fn add_counts(stores: &mut [VectorStore], rows: &[Row]) -> Result<(), Error> {
    for row in rows {
        let id: Uuid = row.try_get("collection_id")?;
        let state = read::state(row, "state")?;
        if let Some(store) = stores.iter_mut().find(|store| store.id == id) {
            store.counts.add(state, row.try_get::<_, i64>("documents")?.unsigned_abs());
            if state == State::Ready {
                store.bytes = row.try_get::<_, i64>("bytes")?.unsigned_abs();
            }
        }
    }
    Ok(())
}

macro_rules! columns {
    () => {
        "id, name, title, description, metadata, expires_after_days, last_active_at, created_at"
    };
}

const CREATE: &str = concat!(
    "-- store::vector_stores::create_vector_store
INSERT INTO collections (tenant_id, id, name, title, description, metadata, expires_after_days)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, name) DO NOTHING RETURNING ",
    columns!()
);

const GET: &str = concat!(
    "-- store::vector_stores::vector_store
SELECT ",
    columns!(),
    " FROM collections WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL"
);

macro_rules! list {
    ($order:literal) => {
        concat!(
            "-- store::vector_stores::vector_stores
SELECT ",
            columns!(),
            " FROM collections
WHERE tenant_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR id > $2) AND ($3::uuid IS NULL OR id < $3)
ORDER BY id ",
            $order,
            " LIMIT $4"
        )
    };
}

const LIST_ASCENDING: &str = list!("ASC");
const LIST_DESCENDING: &str = list!("DESC");

// What is attached to a message is no upload of its own.
const COUNTS: &str = "-- store::vector_stores::add_counts
SELECT d.collection_id, v.state, count(*) AS documents, coalesce(sum(v.size), 0)::bigint AS bytes
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE d.tenant_id = $1 AND d.collection_id = ANY ($2) AND d.deleted_at IS NULL AND d.parent_id IS NULL
GROUP BY d.collection_id, v.state";

const CHANGE: &str = "-- store::vector_stores::change_vector_store
UPDATE collections
SET title = CASE WHEN $3 THEN $4 ELSE title END, metadata = coalesce($5, metadata),
    expires_after_days = CASE WHEN $6 THEN $7::int ELSE expires_after_days END, last_active_at = now()
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
RETURNING id";

const TOUCH: &str = "-- store::vector_stores::touch_vector_store
UPDATE collections SET last_active_at = now()
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND last_active_at < now() - interval '1 minute'
  AND (expires_after_days IS NULL OR last_active_at > now() - make_interval(days => expires_after_days))";

// Its name is free for another one at once, and nobody can give the one that it has now. It counts as a change of what can be found, as each deletion does.
const HIDE: &str = "-- store::vector_stores::delete_vector_store
WITH hidden AS (
    UPDATE collections SET deleted_at = now(), name = chr(1) || 'deleted ' || id::text
    WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
    RETURNING tenant_id)
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT tenant_id, pg_backend_pid() % 16, 1 FROM hidden
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1
RETURNING tenant_id";

const EMPTIED: &str = "-- store::vector_stores::empty_collection
UPDATE collections SET emptied_at = now()
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NOT NULL AND emptied_at IS NULL";

// Versions on their way that would have brought a document here leave it where it is.
const TURN_AWAY: &str = "-- store::vector_stores::delete_vector_store
UPDATE document_versions AS v SET collection_id = NULL
FROM documents AS d
WHERE v.tenant_id = $1 AND v.collection_id = $2 AND v.finished_at IS NULL
  AND d.id = v.document_id AND d.collection_id <> $2";

const DOCUMENTS: &str = "-- store::vector_stores::empty_collection
SELECT id FROM documents
WHERE tenant_id = $1 AND collection_id = $2 AND deleted_at IS NULL AND ($4::timestamptz IS NULL OR updated_at <= $4)
ORDER BY id LIMIT $3";

// What was accepted after the end, by who does not know of it, is owed as everywhere.
// Collections, and until when those that nobody uses any more were used: for the statement, and for the figures of `due`.
macro_rules! over {
    () => {
        "(SELECT tenant_id, id, deleted_at, emptied_at,
        CASE WHEN deleted_at IS NULL THEN last_active_at + make_interval(days => expires_after_days) END AS until
      FROM collections) AS c"
    };
}
pub(crate) use over;

const OVER: &str = concat!(
    "-- store::vector_stores::empty_collections
SELECT c.tenant_id, c.id, c.until
FROM ",
    over!(),
    "
WHERE (c.deleted_at IS NOT NULL OR c.until < now())
  AND (c.deleted_at IS NOT NULL AND c.emptied_at IS NULL
       OR EXISTS (SELECT FROM documents AS d WHERE d.collection_id = c.id AND d.deleted_at IS NULL
                  AND (c.until IS NULL OR d.updated_at <= c.until)))
ORDER BY c.id LIMIT $1"
);

const REMOVE: &str = "-- store::vector_stores::empty_collections
DELETE FROM collections AS c
WHERE c.deleted_at IS NOT NULL AND NOT EXISTS (SELECT FROM documents AS d WHERE d.collection_id = c.id)
RETURNING id";

/// The statements of this folder.
pub(crate) fn statements() -> Vec<&'static str> {
    let own = [
        CREATE,
        GET,
        LIST_ASCENDING,
        LIST_DESCENDING,
        COUNTS,
        CHANGE,
        TOUCH,
        HIDE,
        EMPTIED,
        TURN_AWAY,
        DOCUMENTS,
        OVER,
        REMOVE,
    ];
    [&own, members::STATEMENTS, batches::STATEMENTS].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_counted_once() {
        let mut counts = Counts::default();
        State::ALL.into_iter().for_each(|state| counts.add(state, 1));
        assert_eq!(counts.total(), State::ALL.len() as u64);
        assert_eq!(counts, Counts { in_progress: 6, completed: 1, failed: 1, cancelled: 2 });
    }
}
