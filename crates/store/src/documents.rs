//! Reading documents: one, many, their texts' runs and their originals.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, RunId, State, TenantId, Version};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, MissingPages, Page, Reason, Store, cursor, read, status,
    transaction::{Param, Scope},
};

/// The longest page of a list.
pub const MAX_PAGE: u32 = 1_000;

/// A document: how its latest version is, and what the live version says of it. Before one is live, the
/// latest one says that too.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its id.
    pub id: DocumentId,
    /// The client's own id.
    pub external_id: Option<String>,
    /// Where it belongs, if it is an attachment.
    pub parent: Option<Parent>,
    /// Its collection.
    pub collection: Uuid,
    /// The collection's name.
    pub collection_name: String,
    /// The file's name.
    pub filename: String,
    /// The media type that the client claimed.
    pub content_type: String,
    /// The original's size; none while an upload is awaited.
    pub size: Option<u64>,
    /// SHA-256 of the original; none while an upload is awaited.
    pub sha256: Option<[u8; 32]>,
    /// Attributes that searches can filter on.
    pub metadata: Map<String, Value>,
    /// The latest version.
    pub version: Version,
    /// The version that a search sees.
    pub live_version: Option<Version>,
    /// The latest version's state.
    pub state: State,
    /// Why the latest version failed.
    pub error: Option<Reason>,
    /// The text's language, ISO 639-1, or empty.
    pub language: Option<String>,
    /// The media type that the bytes turned out to be.
    pub detected_type: Option<String>,
    /// The character encoding of the original, where it has one.
    pub encoding: Option<String>,
    /// How certain that is: `certain`, `declared`, `likely` or `doubtful`.
    pub encoding_confidence: Option<String>,
    /// Pages, where the format has pages.
    pub pages: Option<u32>,
    /// The pages that have no text.
    pub missing: Vec<MissingPages>,
    /// Its chunks, once it is cut.
    pub chunk_total: Option<u32>,
    /// When it was first accepted.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When its time to live ends.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Where an attachment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The document that it is attached to.
    pub document: DocumentId,
    /// Which version of that.
    pub version: Version,
    /// Its place among the attachments, from 1.
    pub attachment: u32,
}

impl Parent {
    fn read(row: &Row) -> Result<Option<Self>, Error> {
        let Some(document) = row.try_get::<_, Option<Uuid>>("parent_id")? else { return Ok(None) };
        let (version, attachment) = (read::version(row, "parent_version")?, read::count(row, "attachment")?);
        Ok(Some(Self { document: DocumentId(document), version, attachment }))
    }
}

/// What of a tenant's documents to list.
#[derive(Debug, Clone, Default)]
pub struct ListDocuments {
    /// Only of this collection.
    pub collection: Option<Uuid>,
    /// Only with the latest version in this state.
    pub state: Option<State>,
    /// Only the one with this external id.
    pub external_id: Option<String>,
    /// Only what is attached to this document.
    pub parent: Option<DocumentId>,
    /// Where the page begins, as the page before answered.
    pub cursor: Option<String>,
    /// Documents of a page, at most [`MAX_PAGE`]; 0 for 100.
    pub limit: u32,
}

/// Which run's text to read from the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRef {
    /// The version.
    pub version: Version,
    /// Its sealed run.
    pub run: RunId,
    /// Its language, ISO 639-1, or empty.
    pub language: String,
    /// Whether it is the version that a search sees.
    pub live: bool,
}

/// An original in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The version.
    pub version: Version,
    /// Its key.
    pub object_key: String,
    /// The file's name.
    pub filename: String,
    /// The media type that the bytes turned out to be, else the one that the client claimed.
    pub content_type: String,
    /// Its size.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// When it was removed after its retention.
    pub purged_at: Option<DateTime<Utc>>,
}

impl Document {
    fn read(row: &Row) -> Result<Self, Error> {
        let Value::Object(metadata) = row.try_get("metadata")? else {
            return Err(Error::Row("metadata that is no object".into()));
        };
        Ok(Self {
            id: read::document(row, "id")?,
            external_id: row.try_get("external_id")?,
            parent: Parent::read(row)?,
            collection: row.try_get("collection_id")?,
            collection_name: row.try_get("collection_name")?,
            filename: row.try_get("filename")?,
            content_type: row.try_get("content_type")?,
            size: read::size_opt(row, "size")?,
            sha256: read::hash_opt(row, "sha256")?,
            metadata,
            version: read::version(row, "version")?,
            live_version: read::count_opt(row, "live_version")?,
            state: read::state(row, "state")?,
            error: status::reason(row)?,
            language: row.try_get("language")?,
            detected_type: row.try_get("detected_type")?,
            encoding: row.try_get("encoding")?,
            encoding_confidence: row.try_get("encoding_confidence")?,
            pages: read::count_opt(row, "pages_total")?,
            missing: status::missing(row)?,
            chunk_total: read::count_opt(row, "chunk_total")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

impl Store {
    /// A document; none when it is not there or deleted.
    pub async fn document(&self, tenant: &TenantId, document: DocumentId) -> Result<Option<Document>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
        let rows = self.single(Scope::tenant("document", tenant), GET, &params).await?;
        rows.first().map(Document::read).transpose()
    }

    /// A page of the tenant's documents, the newest first.
    pub async fn documents(&self, tenant: &TenantId, list: &ListDocuments) -> Result<Page<Document>, Error> {
        let after = list.cursor.as_deref().map(cursor::decode_time).transpose()?;
        let (time, id) = after.unzip();
        let limit = page_limit(list.limit);
        let state = list.state.map(State::as_str);
        let more = i64::from(limit) + 1;
        let parent = list.parent.map(|parent| parent.0);
        let params: [Param<'_>; 8] =
            [&tenant.as_str(), &list.collection, &state, &list.external_id, &time, &id, &more, &parent];
        let (scope, sql) = (Scope::tenant("documents", tenant), list_sql(list));
        let (sql, params) = (sql.as_str(), &params[..]);
        // Planned for these values: what is best for a state that nothing is in is the worst for one that all are in.
        let rows = self.transaction(scope, |tx| async move { tx.query_once(sql, params).await }).await?;
        let documents = rows.iter().map(Document::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(documents, limit as usize, |last| cursor::encode_time(last.created_at, last.id.0)))
    }

    /// The run whose text belongs to a version, the live one when none is named; none while nothing is
    /// sealed.
    pub async fn text_of(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        version: Option<Version>,
    ) -> Result<Option<TextRef>, Error> {
        let version = version.map(read::signed);
        let params: [Param<'_>; 3] = [&tenant.as_str(), &document.0, &version];
        let rows = self.single(Scope::tenant("text_of", tenant), TEXT, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let Some(run) = read::run(row, "run_id")? else { return Ok(None) };
        Ok(Some(TextRef {
            version: read::version(row, "version")?,
            run,
            language: row.try_get::<_, Option<String>>("language")?.unwrap_or_default(),
            live: row.try_get("live")?,
        }))
    }

    /// The original of a version, when none is named the live one, else the latest; none while an upload is
    /// awaited.
    pub async fn original(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        version: Option<Version>,
    ) -> Result<Option<Original>, Error> {
        let version = version.map(read::signed);
        let params: [Param<'_>; 3] = [&tenant.as_str(), &document.0, &version];
        let rows = self.single(Scope::tenant("original", tenant), ORIGINAL, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (Some(size), Some(sha256)) = (read::size_opt(row, "size")?, read::hash_opt(row, "sha256")?)
        else {
            return Ok(None);
        };
        Ok(Some(Original {
            version: read::version(row, "version")?,
            object_key: row.try_get("object_key")?,
            filename: row.try_get("filename")?,
            content_type: row.try_get("content_type")?,
            size,
            sha256,
            purged_at: row.try_get("original_purged_at")?,
        }))
    }
}

/// A page's length within its bounds.
pub(crate) fn page_limit(asked: u32) -> u32 {
    if asked == 0 { 100 } else { asked.min(MAX_PAGE) }
}

macro_rules! document_columns {
    () => {
        "d.id, d.external_id, d.parent_id, d.parent_version, d.attachment, d.collection_id, c.name AS collection_name, s.filename, s.content_type, s.size, s.sha256,
       d.metadata, v.version, d.live_version, v.state, v.error_code, v.error_message, s.language, s.detected_type,
       s.encoding, s.encoding_confidence, s.pages_total, s.missing_pages, s.chunk_total, d.created_at, d.updated_at, d.expires_at
"
    };
}

macro_rules! beside_document {
    () => {
        "JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
JOIN document_versions AS s ON s.document_id = d.id AND s.version = coalesce(d.live_version, d.latest_version)
JOIN collections AS c ON c.id = d.collection_id
"
    };
}

const GET: &str = concat!(
    "-- store::documents::document
SELECT ",
    document_columns!(),
    "FROM documents AS d ",
    beside_document!(),
    "WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL AND c.deleted_at IS NULL"
);

/// The statement for a list: only what is asked for stands in it, so that the plan goes by an index for that. The page is
/// cut before anything is joined that does not choose: what a join lets through is guessed, and a wrong guess walks all documents.
pub(crate) fn list_sql(list: &ListDocuments) -> String {
    let filters = [
        (list.collection.is_some(), "d.collection_id = $2", "$2::uuid"),
        (list.state.is_some(), "v.state = $3", "$3::text"),
        (list.external_id.is_some(), "d.external_id = $4", "$4::text"),
        (list.cursor.is_some(), "(d.created_at, d.id) < ($5, $6)", "$5::timestamptz"),
        // Stands in the line above.
        (list.cursor.is_some(), "true", "$6::uuid"),
        (list.parent.is_some(), "d.parent_id = $8", "$8::uuid"),
    ];
    let filters: String = filters
        .map(|(is_asked, filter, absent)| match is_asked {
            true => format!(" AND {filter}"),
            // Every parameter has its type and its number, whether it is used or not.
            false => format!(" AND {absent} IS NULL"),
        })
        .concat();
    let version = match list.state {
        Some(_) => {
            "JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version AND v.tenant_id = $1"
        }
        None => "",
    };
    // Of a collection, the index that begins with the tenant is no choice: the collection may be all at its end.
    let tenant = if list.collection.is_some() { "(d.tenant_id = $1) IS TRUE" } else { "d.tenant_id = $1" };
    format!(
        "-- store::documents::documents
SELECT {columns}FROM (
    SELECT d.* FROM documents AS d {version}
    WHERE {tenant} AND d.deleted_at IS NULL{filters}
      AND d.collection_id <> ALL (ARRAY(
          SELECT id FROM collections WHERE tenant_id = $1 AND deleted_at IS NOT NULL AND emptied_at IS NULL))
    ORDER BY d.created_at DESC, d.id DESC LIMIT $7) AS d
{beside}ORDER BY d.created_at DESC, d.id DESC",
        columns = document_columns!(),
        beside = beside_document!(),
    )
}

/// Every statement for lists.
pub(crate) fn list_statements() -> Vec<String> {
    let is = |bits: u32, bit: u32| bits & (1 << bit) != 0;
    let list = |bits| ListDocuments {
        collection: is(bits, 0).then(Uuid::nil),
        state: is(bits, 1).then_some(State::Failed),
        external_id: is(bits, 2).then(String::new),
        parent: is(bits, 3).then(|| DocumentId(Uuid::nil())),
        cursor: is(bits, 4).then(String::new),
        ..ListDocuments::default()
    };
    (0..32).map(|bits| list_sql(&list(bits))).collect()
}

const TEXT: &str = "-- store::documents::text_of
SELECT v.version, v.run_id, v.language, v.version IS NOT DISTINCT FROM d.live_version AS live
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = coalesce($3, d.live_version)
JOIN collections AS c ON c.id = d.collection_id AND c.deleted_at IS NULL
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL AND v.purged_at IS NULL";

const ORIGINAL: &str = "-- store::documents::original
SELECT v.version, v.object_key, v.filename, coalesce(nullif(v.detected_type, ''), v.content_type) AS content_type,
       v.size, v.sha256, v.original_purged_at
FROM documents AS d
JOIN document_versions AS v ON v.document_id = d.id AND v.version = coalesce($3, d.live_version, d.latest_version)
JOIN collections AS c ON c.id = d.collection_id AND c.deleted_at IS NULL
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[GET, TEXT, ORIGINAL];
