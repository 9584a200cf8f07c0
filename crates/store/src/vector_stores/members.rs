//! The documents of a collection as the files of a vector store.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, State, TenantId};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::batches::REFUSED_PLACE;
use crate::{
    Chunking, Error, Part, Reason, Store, Window,
    accept::{Fingerprint, LOCK_BY_ID},
    read, status,
    transaction::{Param, Scope, Tx},
};

/// The id of a file in a collection: that of the file which a document was made of, or the document's own where it was
/// uploaded without one.
pub type MemberId = Uuid;

/// A document of a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it is called by.
    pub id: MemberId,
    /// The document.
    pub document: DocumentId,
    /// The file that it was made of.
    pub file: Option<Uuid>,
    /// The file's name.
    pub filename: String,
    /// Attributes that searches can filter on.
    pub metadata: Map<String, Value>,
    /// State of the latest version.
    pub state: State,
    /// Why that failed.
    pub error: Option<Reason>,
    /// How it is cut.
    pub chunking: Chunking,
    /// The original's size; none while an upload is awaited.
    pub size: Option<u64>,
    /// When it came into the collection.
    pub created_at: DateTime<Utc>,
    /// When the latest version was accepted.
    pub accepted_at: DateTime<Utc>,
}

impl Member {
    fn read(row: &Row) -> Result<Self, Error> {
        let document = read::document(row, "document_id")?;
        let file: Option<Uuid> = row.try_get("file_id")?;
        Ok(Self {
            id: file.unwrap_or(document.0),
            document,
            file,
            filename: row.try_get("filename")?,
            metadata: object(row)?,
            state: read::state(row, "state")?,
            error: status::reason(row)?,
            chunking: chunking(row)?,
            size: read::size_opt(row, "size")?,
            created_at: row.try_get("created_at")?,
            accepted_at: row.try_get("accepted_at")?,
        })
    }
}

fn object(row: &Row) -> Result<Map<String, Value>, Error> {
    match row.try_get("metadata")? {
        Value::Object(metadata) => Ok(metadata),
        _ => Err(Error::Row("metadata that is no object".into())),
    }
}

fn chunking(row: &Row) -> Result<Chunking, Error> {
    serde_json::from_value(row.try_get("chunking")?).map_err(|error| Error::Row(error.to_string()))
}

impl Store {
    /// A document of a collection, by the file that it was made of or by its own id.
    pub async fn member(
        &self,
        tenant: &TenantId,
        collection: Uuid,
        id: MemberId,
    ) -> Result<Option<Member>, Error> {
        let params: [Param<'_>; 3] = [&tenant.as_str(), &id, &collection];
        let rows = self.single(Scope::tenant("member", tenant), GET, &params).await?;
        rows.first().map(Member::read).transpose()
    }

    /// What documents are called by, in whatever collection they are.
    pub async fn member_ids(
        &self,
        tenant: &TenantId,
        documents: &[DocumentId],
    ) -> Result<Vec<(DocumentId, MemberId)>, Error> {
        let ids: Vec<Uuid> = documents.iter().map(|document| document.0).collect();
        let params: [Param<'_>; 2] = [&tenant.as_str(), &ids];
        let rows = self.single(Scope::tenant("member_ids", tenant), IDS, &params).await?;
        rows.iter().map(|row| Ok((read::document(row, "id")?, row.try_get("member")?))).collect()
    }

    /// A part of a collection's documents, in some states where these are given. The window's places are those that members are
    /// called by.
    pub async fn members(
        &self,
        tenant: &TenantId,
        collection: Uuid,
        states: Option<&[State]>,
        window: &Window,
    ) -> Result<Part<Member>, Error> {
        let of = Of { tenant, collection, batch: None };
        self.transaction(Scope::tenant("members", tenant), |tx| async move {
            let bounds = of.bounds(&tx, window).await?;
            Ok(window.cut(of.list(&tx, states, window, bounds).await?))
        })
        .await
    }

    /// Puts attributes in place of a document's metadata, for the version that is live and for one on its way. Objects, arrays
    /// and nulls, which are no attributes, stay under keys that are not named. False: the document is not there.
    pub async fn set_attributes(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        attributes: &Map<String, Value>,
    ) -> Result<bool, Error> {
        let value = Value::Object(attributes.clone());
        let value = &value;
        self.transaction(Scope::tenant("set_attributes", tenant), |tx| async move {
            let params: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
            tx.query(LOCK_BY_ID, &params).await?;
            let changed: [Param<'_>; 3] = [&tenant.as_str(), &document.0, value];
            if tx.execute(SET, &changed).await? == 0 {
                return Ok(false);
            }
            for row in tx.query(SET_VERSIONS, &changed).await? {
                // An attachment's is of its own kind: no upload is the same as it.
                if row.try_get("is_attached")? {
                    continue;
                }
                let fingerprint = Fingerprint {
                    collection: row.try_get("collection_name")?,
                    external_id: row.try_get("external_id")?,
                    metadata: &object(&row)?,
                    chunking: &chunking(&row)?,
                }
                .hash();
                let version = read::signed(read::version(&row, "version")?);
                let params: [Param<'_>; 3] = [&document.0, &version, &fingerprint.as_slice()];
                tx.execute(SET_FINGERPRINT, &params).await?;
            }
            Ok(true)
        })
        .await
    }
}

/// What a list is of: a collection, or a batch of it.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) collection: Uuid,
    pub(super) batch: Option<Uuid>,
}

/// A place in a list.
type Place = (DateTime<Utc>, Uuid);

impl Of<'_> {
    /// The lower and the upper bound of a window.
    pub(super) async fn bounds(
        self,
        tx: &Tx,
        window: &Window,
    ) -> Result<(Option<Place>, Option<Place>), Error> {
        let (after, before) = (self.place(tx, window.after).await?, self.place(tx, window.before).await?);
        Ok(if window.ascending { (after, before) } else { (before, after) })
    }

    /// The place that a file has in the list. The document of one that was deleted is a place until it is purged, so that a list
    /// can be read on from what was just deleted.
    async fn place(self, tx: &Tx, id: Option<MemberId>) -> Result<Option<Place>, Error> {
        let Some(id) = id else { return Ok(None) };
        let tenant = self.tenant.as_str();
        let mut row = None;
        if let Some(batch) = self.batch {
            let params: [Param<'_>; 3] = [&tenant, &batch, &id];
            row = tx.query_opt(REFUSED_PLACE, &params).await?;
        }
        if row.is_none() {
            let params: [Param<'_>; 3] = [&tenant, &id, &self.collection];
            row = tx.query_opt(PLACE, &params).await?;
        }
        let row =
            row.ok_or_else(|| Error::Invalid("there is nothing in the list at `after` or `before`".into()))?;
        Ok(Some((row.try_get("created_at")?, row.try_get("id")?)))
    }

    /// The documents between two places, as many as the window reads, in its order.
    pub(super) async fn list(
        self,
        tx: &Tx,
        states: Option<&[State]>,
        window: &Window,
        (lower, upper): (Option<Place>, Option<Place>),
    ) -> Result<Vec<Member>, Error> {
        let Of { tenant, collection, batch } = self;
        let states: Option<Vec<&str>> = states.map(|states| states.iter().map(|s| s.as_str()).collect());
        let asked = Asked {
            batch: batch.is_some(),
            states: states.is_some(),
            lower: lower.is_some(),
            upper: upper.is_some(),
            order: window.choose("ASC", "DESC"),
        };
        let (lower_time, lower_id) = lower.unzip();
        let (upper_time, upper_id) = upper.unzip();
        let (tenant, rows, sql) = (tenant.as_str(), window.rows(), list_sql(asked));
        let params: [Param<'_>; 9] =
            [&tenant, &collection, &batch, &states, &lower_time, &lower_id, &upper_time, &upper_id, &rows];
        // Planned for these values, as the lists of documents are.
        tx.query_once(&sql, &params).await?.iter().map(Member::read).collect()
    }
}

macro_rules! column_names {
    () => {
        "d.id AS document_id, d.file_id, d.metadata, d.created_at, v.filename, v.state, v.error_code, v.error_message,
       v.chunking, v.size, v.created_at AS accepted_at
"
    };
}

macro_rules! columns {
    () => {
        concat!(
            column_names!(),
            "FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
"
        )
    };
}

const GET: &str = concat!(
    "-- store::vector_stores::member
SELECT ",
    columns!(),
    "WHERE d.tenant_id = $1 AND (d.file_id = $2 OR d.id = $2 AND d.file_id IS NULL) AND d.collection_id = $3
  AND d.deleted_at IS NULL
ORDER BY d.id DESC LIMIT 1"
);

const IDS: &str = "-- store::vector_stores::member_ids
SELECT id, coalesce(file_id, id) AS member FROM documents WHERE (tenant_id = $1) IS TRUE AND id = ANY ($2)";

/// What of a collection's documents is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) batch: bool,
    pub(crate) states: bool,
    pub(crate) lower: bool,
    pub(crate) upper: bool,
    pub(crate) order: &'static str,
}

/// The statement for a list: only what is asked for stands in it, and the page is cut before anything is joined that does not
/// choose, as for the lists of documents. The index that begins with the tenant is no choice: a collection may be all at its end.
pub(crate) fn list_sql(asked: Asked) -> String {
    let filters = [
        // Stands in the join below.
        (asked.batch, "true", "$3::uuid"),
        (asked.states, "v.state = ANY ($4)", "$4::text[]"),
        (asked.lower, "(d.created_at, d.id) > ($5, $6)", "$5::timestamptz"),
        // Stands in the line above, and below.
        (asked.lower, "true", "$6::uuid"),
        (asked.upper, "(d.created_at, d.id) < ($7, $8)", "$7::timestamptz"),
        (asked.upper, "true", "$8::uuid"),
    ];
    let filters: String = filters
        .map(|(is_asked, filter, absent)| match is_asked {
            true => format!(" AND {filter}"),
            // Every parameter has its type and its number, whether it is used or not.
            false => format!(" AND {absent} IS NULL"),
        })
        .concat();
    // Of a batch the version that it attached, whatever came after it.
    let (of, version) = match asked.batch {
        true => (" JOIN file_batch_documents AS b ON b.document_id = d.id AND b.batch_id = $3", "b.version"),
        false => ("", "d.latest_version"),
    };
    let by_state = match asked.states {
        true => format!(
            " JOIN document_versions AS v ON v.document_id = d.id AND v.version = {version} AND v.tenant_id = $1"
        ),
        false => String::new(),
    };
    format!(
        "-- store::vector_stores::members
SELECT {columns}FROM (
    SELECT d.*, {version} AS listed_version FROM documents AS d{of}{by_state}
    WHERE (d.tenant_id = $1) IS TRUE AND d.collection_id = $2 AND d.deleted_at IS NULL AND d.parent_id IS NULL{filters}
    ORDER BY d.created_at {order}, d.id {order} LIMIT $9) AS d
JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.listed_version
ORDER BY d.created_at {order}, d.id {order}",
        columns = column_names!(),
        order = asked.order,
    )
}

/// Every statement for lists.
pub(crate) fn list_statements() -> Vec<String> {
    let is = |bits: u32, bit: u32| bits & (1 << bit) != 0;
    let asked = |bits| Asked {
        batch: is(bits, 0),
        states: is(bits, 1),
        lower: is(bits, 2),
        upper: is(bits, 3),
        order: if is(bits, 4) { "ASC" } else { "DESC" },
    };
    (0..32).map(|bits| list_sql(asked(bits))).collect()
}

const PLACE: &str = "-- store::vector_stores::place
SELECT id, created_at FROM documents
WHERE tenant_id = $1 AND (file_id = $2 OR id = $2 AND file_id IS NULL) AND collection_id = $3
ORDER BY deleted_at IS NULL DESC, id DESC LIMIT 1";

/// Metadata in which attributes take the place of those that were there.
macro_rules! with_attributes {
    ($metadata:literal) => {
        concat!(
            "(SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(",
            $metadata,
            ") WHERE jsonb_typeof(value) IN ('object', 'array', 'null')) || $3::jsonb"
        )
    };
}

const SET: &str = concat!(
    "-- store::vector_stores::set_attributes
WITH changed AS (
    UPDATE documents SET metadata = ",
    with_attributes!("metadata"),
    ", updated_at = now()
    WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
    RETURNING tenant_id)
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT tenant_id, pg_backend_pid() % 16, 1 FROM changed
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1"
);

// The latest version is what another upload of the same bytes is compared with; those on their way may still go live.
const SET_VERSIONS: &str = concat!(
    "-- store::vector_stores::set_attributes
UPDATE document_versions AS v SET metadata = ",
    with_attributes!("coalesce(v.metadata, d.metadata)"),
    "
FROM documents AS d, collections AS c
WHERE d.tenant_id = $1 AND d.id = $2 AND v.document_id = d.id AND (v.version = d.latest_version OR v.finished_at IS NULL)
  AND c.id = coalesce(v.collection_id, d.collection_id)
RETURNING v.version, v.metadata, v.chunking, d.external_id, d.parent_id IS NOT NULL AS is_attached, c.name AS collection_name"
);

const SET_FINGERPRINT: &str = "-- store::vector_stores::set_attributes
UPDATE document_versions SET fingerprint = $3 WHERE document_id = $1 AND version = $2";

/// The statements of this file.
pub(super) const STATEMENTS: &[&str] = &[GET, IDS, PLACE, SET, SET_VERSIONS, SET_FINGERPRINT];
