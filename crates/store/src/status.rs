//! How far a document is.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, Lane, State, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Store, read,
    transaction::{Param, Scope},
};

/// Why a version failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reason {
    /// A stable code.
    pub code: String,
    /// A sentence.
    pub message: String,
}

/// Pages of a version that have no text, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MissingPages {
    /// The reason.
    #[serde(flatten)]
    pub reason: Reason,
    /// The pages: first and last of each row of them, ascending.
    pub pages: Vec<(u32, u32)>,
}

/// True counts of what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Progress {
    /// Pages extracted.
    pub pages_done: u32,
    /// Pages of the original, where they are known.
    pub pages_total: Option<u32>,
    /// Chunks searchable or about to be.
    pub chunks_done: u32,
    /// Chunks of the version, once it is cut.
    pub chunks_total: Option<u32>,
}

/// The status of a document: that of its latest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The document.
    pub document: DocumentId,
    /// The latest version.
    pub version: Version,
    /// Its state.
    pub state: State,
    /// Its lane.
    pub lane: Lane,
    /// The version that a search sees.
    pub live_version: Option<Version>,
    /// The file's name.
    pub filename: String,
    /// What is done.
    pub progress: Progress,
    /// Why it failed.
    pub error: Option<Reason>,
    /// The pages that have no text.
    pub missing: Vec<MissingPages>,
    /// Why it was cancelled: `command` or `superseded`.
    pub ended_by: Option<String>,
    /// When the document was first accepted.
    pub created_at: DateTime<Utc>,
    /// When the version was accepted.
    pub accepted_at: DateTime<Utc>,
    /// When its state last changed.
    pub state_changed_at: DateTime<Utc>,
    /// When it came into the states of its way, in their order, since it was accepted or tried again.
    pub way: Vec<(State, DateTime<Utc>)>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The partition of its release.
    pub partition: Option<u16>,
    /// When it fails if it is not ready by then.
    pub deadline: Option<DateTime<Utc>>,
    /// How often its release was lost with the streams.
    pub losses: u32,
    /// How often it did not get on.
    pub stalls: u32,
    /// The model that it is embedded with in place of the live space's, since a budget is used up; none where the live space
    /// has it, or will have it on its way.
    pub fallback: Option<String>,
}

/// Why a tenant's documents wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// It has as much in flight as it may.
    Tenant,
    /// All tenants together have.
    Total,
    /// Others of its documents wait already.
    Waiting,
    /// A budget of the month is used up.
    Budget,
    /// One of all tenants together is.
    TotalBudget,
}

impl HeldBy {
    fn read(row: &Row) -> Result<Option<Self>, Error> {
        match row.try_get("held_by")? {
            None => Ok(None),
            Some("tenant") => Ok(Some(HeldBy::Tenant)),
            Some("total") => Ok(Some(HeldBy::Total)),
            Some("waiting") => Ok(Some(HeldBy::Waiting)),
            Some("budget") => Ok(Some(HeldBy::Budget)),
            Some("total_budget") => Ok(Some(HeldBy::TotalBudget)),
            Some(other) => Err(Error::Row(format!("held by {other}"))),
        }
    }
}

/// What is before a version that waits to be released. Counts end at [`Place::MOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Why the tenant's documents wait; nothing where its next one is released at once.
    pub held_by: Option<HeldBy>,
    /// How many of the tenant's documents are released before it.
    pub ahead: u64,
    /// How many of the tenant's documents are in flight.
    pub in_flight: u64,
    /// Whether the tenant would go on over its budget if the deployment had a fallback space.
    pub lacks_fallback: bool,
}

impl Place {
    /// The largest count: what is more is as much.
    pub const MOST: u64 = 10_000;
}

pub(crate) fn reason(row: &Row) -> Result<Option<Reason>, Error> {
    let code: Option<String> = row.try_get("error_code")?;
    let message: Option<String> = row.try_get("error_message")?;
    Ok(code.map(|code| Reason { code, message: message.unwrap_or_default() }))
}

pub(crate) fn missing(row: &Row) -> Result<Vec<MissingPages>, Error> {
    let missing: Option<serde_json::Value> = row.try_get("missing_pages")?;
    let missing = missing.map(serde_json::from_value).transpose();
    Ok(missing.map_err(|error| Error::Row(format!("missing pages: {error}")))?.unwrap_or_default())
}

/// The states that a version came into, with the times.
fn way(row: &Row) -> Result<Vec<(State, DateTime<Utc>)>, Error> {
    let mut way = Vec::new();
    for (state, column) in [
        (State::Waiting, "waiting_since"),
        (State::Extracting, "extracting_at"),
        (State::Embedding, "embedding_at"),
        (State::Indexing, "indexing_at"),
    ] {
        way.extend(row.try_get::<_, Option<DateTime<Utc>>>(column)?.map(|at| (state, at)));
    }
    Ok(way)
}

impl Status {
    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            document: read::document(row, "document_id")?,
            version: read::version(row, "version")?,
            state: read::state(row, "state")?,
            lane: read::lane(row, "lane")?,
            live_version: read::count_opt(row, "live_version")?,
            filename: row.try_get("filename")?,
            progress: Progress {
                pages_done: read::count(row, "pages_done")?,
                pages_total: read::count_opt(row, "pages_total")?,
                chunks_done: read::count(row, "chunks_indexed")?,
                chunks_total: read::count_opt(row, "chunk_total")?,
            },
            error: reason(row)?,
            missing: missing(row)?,
            ended_by: row.try_get("ended_by")?,
            created_at: row.try_get("created_at")?,
            accepted_at: row.try_get("accepted_at")?,
            state_changed_at: row.try_get("state_changed_at")?,
            way: way(row)?,
            finished_at: row.try_get("finished_at")?,
            partition: row.try_get::<_, Option<i16>>("partition")?.and_then(|p| u16::try_from(p).ok()),
            deadline: row.try_get("deadline")?,
            losses: read::count(row, "losses")?,
            stalls: read::count(row, "stalls")?,
            fallback: row.try_get("fallback")?,
        })
    }
}

impl Store {
    /// The document's status; none when it is not there or deleted.
    pub async fn status(&self, tenant: &TenantId, document: DocumentId) -> Result<Option<Status>, Error> {
        Ok(self.statuses(tenant, &[document]).await?.into_iter().next())
    }

    /// The status of each of the documents that is there, in no order.
    pub async fn statuses(&self, tenant: &TenantId, documents: &[DocumentId]) -> Result<Vec<Status>, Error> {
        let ids: Vec<Uuid> = documents.iter().map(|document| document.0).collect();
        let params: [Param<'_>; 2] = [&tenant.as_str(), &ids];
        let rows = self.single(Scope::tenant("status", tenant), STATUS, &params).await?;
        rows.iter().map(Status::read).collect()
    }

    /// What is before a version that waits to be released; none when there is no such version.
    pub async fn place(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        version: Version,
    ) -> Result<Option<Place>, Error> {
        let most = i64::try_from(Place::MOST).unwrap_or(i64::MAX);
        let params: [Param<'_>; 4] = [&tenant.as_str(), &document.0, &read::signed(version), &most];
        let rows = self.single(Scope::tenant("place", tenant), PLACE, &params).await?;
        let of = |row: &Row, column: &str| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
        let place = |row: &Row| {
            let (ahead, in_flight) = (of(row, "ahead")?, of(row, "in_flight")?);
            let lacks_fallback = row.try_get("lacks_fallback")?;
            Ok(Place { held_by: HeldBy::read(row)?, ahead, in_flight, lacks_fallback })
        };
        rows.first().map(place).transpose()
    }

    /// How many documents are in each state, by their latest versions.
    pub async fn state_counts(&self, tenant: &TenantId) -> Result<Vec<(State, u64)>, Error> {
        let rows = self.single(Scope::tenant("state_counts", tenant), COUNTS, &[&tenant.as_str()]).await?;
        rows.iter()
            .map(|row| {
                let documents: i64 = row.try_get("documents")?;
                Ok((read::state(row, "state")?, u64::try_from(documents).unwrap_or(0)))
            })
            .collect()
    }
}

// `IS TRUE` keeps the planner from an index that begins with the tenant; see migration 0006.
pub(crate) const STATUS: &str = "-- store::status::statuses
SELECT d.id AS document_id, v.version, v.state, v.lane, d.live_version, v.filename, v.pages_done, v.pages_total,
       v.chunks_indexed, v.chunk_total, v.error_code, v.error_message, v.missing_pages, v.ended_by, d.created_at,
       v.created_at AS accepted_at, v.state_changed_at, v.finished_at, v.partition, v.deadline, v.losses, v.stalls,
       coalesce(v.waiting_at, v.created_at) AS waiting_since, v.extracting_at, v.embedding_at, v.indexing_at,
       (SELECT f.model FROM embedding_spaces AS f
        WHERE f.id = v.space_id AND f.state = 'fallback'
          AND (v.state IN ('releasing', 'extracting', 'embedding', 'indexing')
               OR v.state = 'ready' AND EXISTS (
                   SELECT FROM embedding_spaces AS l JOIN space_gaps AS g ON g.space_id = l.id AND g.document_id = d.id
                   WHERE l.state = 'live'))) AS fallback
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE (d.tenant_id = $1) IS TRUE AND d.id = ANY ($2) AND d.deleted_at IS NULL";

const COUNTS: &str = "-- store::status::state_counts
SELECT v.state, count(*) AS documents
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE d.tenant_id = $1 AND d.deleted_at IS NULL
GROUP BY v.state ORDER BY v.state";

// In the order of the release: by urgency, then by age.
const PLACE: &str = "-- store::status::place
SELECT t.held_by,
       t.wants_fallback AND NOT EXISTS (SELECT FROM embedding_spaces WHERE state = 'fallback') AS lacks_fallback,
       (SELECT count(*) FROM (
            SELECT FROM document_versions AS o
            WHERE o.tenant_id = $1 AND o.state = 'waiting'
              AND (o.lane > v.lane OR (o.lane = v.lane AND o.created_at < v.created_at))
            LIMIT $4) AS before) AS ahead,
       (SELECT count(*) FROM (
            SELECT FROM document_versions AS o
            WHERE o.tenant_id = $1 AND o.state IN ('releasing', 'extracting', 'embedding', 'indexing')
            LIMIT $4) AS flying) AS in_flight
FROM document_versions AS v JOIN tenants AS t ON t.id = v.tenant_id
WHERE v.tenant_id = $1 AND v.document_id = $2 AND v.version = $3";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[STATUS, COUNTS, PLACE];
