//! The janitor's tasks over all tenants. Each is a compare-and-set and right with two leaders.

use std::{collections::HashSet, time::Duration};

use riacho_domain::{DocumentId, ReasonCode, ReleaseId, State, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, ReleasePlan, Store,
    metrics::failed,
    read,
    release::plan_columns,
    start::ROAD,
    topology::partition_of,
    transaction::{Param, Scope, Tx},
};

/// How much may be on the streams at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReleaseCaps {
    /// Releases in flight of one tenant.
    pub per_tenant: Option<u32>,
    /// Releases in flight of all tenants.
    pub total: Option<u32>,
}

/// What waits and what is in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Versions in each state that is not an end.
    pub unfinished: Vec<(State, u64)>,
    /// Versions that wait for their release.
    pub waiting: u64,
    /// Those of them whose tenant is active and over no budget of the month: what is held back by these comes to no stage soon.
    pub releasable: u64,
    /// Releases in flight.
    pub in_flight: u64,
    /// How long the oldest has been waiting.
    pub oldest_waiting: Option<Duration>,
}

/// An original past its retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeOriginal {
    /// The document's tenant.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// Its version.
    pub version: Version,
    /// The original's key.
    pub object_key: String,
}

/// A version that a task of the janitor changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The document's tenant.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// Its version.
    pub version: Version,
    /// W3C Trace Context of the request that made the version.
    pub traceparent: String,
}

impl Touched {
    pub(crate) fn read(row: &Row) -> Result<Touched, Error> {
        Ok(Touched {
            tenant: read::tenant(row, "tenant_id")?,
            document: read::document(row, "document_id")?,
            version: read::version(row, "version")?,
            traceparent: row.try_get("traceparent")?,
        })
    }
}

impl Store {
    /// Releases versions that wait, in turns by tenant, as far as the caps and the tenants' budgets allow. Those of a
    /// tenant that goes on over its budget are pinned to the fallback space.
    pub async fn release_waiting(&self, limit: u32, caps: ReleaseCaps) -> Result<Vec<ReleasePlan>, Error> {
        self.transaction(Scope::all("release_waiting"), |tx| async move {
            let per_tenant = caps.per_tenant.map(|cap| i64::from(read::signed(cap)));
            let total = caps.total.map(|cap| i64::from(read::signed(cap)));
            let params: [Param<'_>; 3] = [&i64::from(limit), &per_tenant, &total];
            let chosen = tx.query(CHOOSE, &params).await?;
            if chosen.is_empty() {
                return Ok(Vec::new());
            }
            let documents = chosen.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            let versions = chosen.iter().map(|row| row.try_get(1)).collect::<Result<Vec<i32>, _>>()?;
            self.release_chosen(&tx, &documents, &versions).await
        })
        .await
    }

    async fn release_chosen(
        &self,
        tx: &Tx,
        documents: &[Uuid],
        versions: &[i32],
    ) -> Result<Vec<ReleasePlan>, Error> {
        let road = tx.query_one(ROAD, &[&None::<&str>]).await?;
        if road.try_get::<_, Option<i32>>("space_id")?.is_none() {
            return Ok(Vec::new());
        }
        let partitions: Vec<i16> = road.try_get("partitions")?;
        let locked = tx.query(LOCK_CHOSEN, &[&documents, &versions]).await?;
        let (mut ids, mut numbers, mut releases, mut places) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in &locked {
            let (tenant, document) = (read::tenant(row, "tenant_id")?, read::document(row, "document_id")?);
            ids.push(document.0);
            numbers.push(row.try_get::<_, i32>("version")?);
            releases.push(ReleaseId::new().0);
            places.push(partition_of(&tenant, document, &partitions));
        }
        let params: [Param<'_>; 5] = [&ids, &numbers, &releases, &places, &self.inner.deadline_hours];
        tx.query(RELEASE, &params).await?.iter().map(ReleasePlan::read).collect()
    }

    /// Tells the gateways which tenants have as much in flight as they may, have used up a budget, or have something that
    /// waits: what comes next of these waits as well. Answers how many it is said of anew, one way or the other.
    pub async fn hold_tenants(&self, caps: ReleaseCaps) -> Result<u64, Error> {
        let per_tenant = caps.per_tenant.map(|cap| i64::from(read::signed(cap)));
        let total = caps.total.map(|cap| i64::from(read::signed(cap)));
        let params: [Param<'_>; 2] = [&per_tenant, &total];
        Ok(self.single(Scope::all("hold_tenants"), HOLD, &params).await?.len() as u64)
    }

    /// Releases that were fixed and are not known to be on a stream: send them again, with their ids.
    pub async fn stale_releasing(&self, older_than: Duration, limit: u32) -> Result<Vec<ReleasePlan>, Error> {
        let params: [Param<'_>; 2] = [&older_than.as_secs_f64(), &i64::from(limit)];
        let rows = self.single(Scope::all("stale_releasing"), STALE, &params).await?;
        rows.iter().map(ReleasePlan::read).collect()
    }

    /// Ends uploads whose signed request ran out. Answers which.
    pub async fn expire_uploads(&self, limit: u32) -> Result<Vec<Touched>, Error> {
        let rows = self.single(Scope::all("expire_uploads"), EXPIRE_UPLOADS, &[&i64::from(limit)]).await?;
        rows.iter().map(Touched::read).collect()
    }

    /// Ends documents past their time to live; they are invisible, and purge removes them. Answers which.
    pub async fn expire_documents(&self, limit: u32) -> Result<Vec<Touched>, Error> {
        self.transaction(Scope::all("expire_documents"), |tx| async move {
            let rows = tx.query(EXPIRE_DOCUMENTS, &[&i64::from(limit)]).await?;
            let ended = rows.iter().map(Touched::read).collect::<Result<Vec<_>, _>>()?;
            let ids: Vec<Uuid> = ended.iter().map(|one| one.document.0).collect();
            tx.execute(EXPIRE_VERSIONS, &[&ids]).await?;
            Ok(ended)
        })
        .await
    }

    /// Fails releases that passed their deadline; none while a stage is paused, or a pause is not settled. Answers which.
    pub async fn fail_overdue(&self, limit: u32) -> Result<Vec<Touched>, Error> {
        let rows = self.single(Scope::all("fail_overdue"), FAIL_OVERDUE, &[&i64::from(limit)]).await?;
        let overdue = rows.iter().map(Touched::read).collect::<Result<Vec<_>, _>>()?;
        failed(ReasonCode::DeadlineExceeded.as_str(), overdue.len() as u64);
        Ok(overdue)
    }

    /// Originals of versions that ended longer ago than the retention of their tenant, or than this one where it has none of its
    /// own; none is never. Mark one with [`Store::original_purged`] before removing its object.
    pub async fn originals_past(
        &self,
        retention: Option<Duration>,
        limit: u32,
    ) -> Result<Vec<PurgeOriginal>, Error> {
        let retention = retention.map(|retention| retention.as_secs_f64());
        let params: [Param<'_>; 2] = [&retention, &i64::from(limit)];
        let rows = self.single(Scope::all("originals_past"), ORIGINALS, &params).await?;
        rows.iter()
            .map(|row| {
                Ok(PurgeOriginal {
                    tenant: read::tenant(row, "tenant_id")?,
                    document: read::document(row, "document_id")?,
                    version: read::version(row, "version")?,
                    object_key: row.try_get("object_key")?,
                })
            })
            .collect()
    }

    /// Notes that an original is going to be removed. False: keep it, the version is needed again.
    pub async fn original_purged(&self, original: &PurgeOriginal) -> Result<bool, Error> {
        let params: [Param<'_>; 2] = [&original.document.0, &read::signed(original.version)];
        let rows = self.single(Scope::all("original_purged"), ORIGINAL_PURGED, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Which of the originals' keys belong to a version or a file. The others are orphans, once they are old.
    pub async fn known_objects(&self, keys: &[String]) -> Result<HashSet<String>, Error> {
        let rows = self.single(Scope::all("known_objects"), KNOWN_OBJECTS, &[&keys]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Which of the versions are there. Texts and claim checks of the others are orphans.
    pub async fn known_versions(
        &self,
        versions: &[(DocumentId, Version)],
    ) -> Result<HashSet<(DocumentId, Version)>, Error> {
        let documents: Vec<Uuid> = versions.iter().map(|version| version.0.0).collect();
        let numbers: Vec<i32> = versions.iter().map(|version| read::signed(version.1)).collect();
        let rows = self.single(Scope::all("known_versions"), KNOWN_VERSIONS, &[&documents, &numbers]).await?;
        rows.iter()
            .map(|row| Ok((read::document(row, "document_id")?, read::version(row, "version")?)))
            .collect()
    }

    /// What waits and what is in flight, of all tenants.
    pub async fn queue_figures(&self) -> Result<QueueFigures, Error> {
        let rows = self.single(Scope::all("queue_figures"), FIGURES, &[]).await?;
        let mut figures = QueueFigures::default();
        for row in &rows {
            let state = read::state(row, "state")?;
            let versions = u64::try_from(row.try_get::<_, i64>("versions")?).unwrap_or(0);
            let oldest: f64 = row.try_get("oldest_seconds")?;
            if state == State::Waiting {
                figures.waiting = versions;
                figures.releasable = u64::try_from(row.try_get::<_, i64>("releasable")?).unwrap_or(0);
                figures.oldest_waiting = Duration::try_from_secs_f64(oldest).ok();
            } else if state.is_in_flight() {
                figures.in_flight += versions;
            }
            figures.unfinished.push((state, versions));
        }
        Ok(figures)
    }
}

// What tasks end: for their statements, and for the figures of `due`.
macro_rules! late_uploads {
    () => {
        "document_versions WHERE state = 'awaiting_upload' AND upload_expires_at < now() - interval '5 minutes'"
    };
}

// A version that is on its way and lives longer prolongs the document when it goes live.
macro_rules! late_documents {
    () => {
        "documents AS o WHERE o.expires_at < now() AND o.deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM document_versions AS v
                  WHERE v.document_id = o.id AND v.expires_at > now() AND v.finished_at IS NULL)"
    };
}

macro_rules! overdue {
    () => {
        "document_versions
WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing') AND deadline < now()
  AND NOT EXISTS (SELECT FROM stage_pauses WHERE settled_at IS NULL)"
    };
}

// An object of a file is the file's, and goes with it. The shortest retention of all lets an index find the old ones.
macro_rules! old_originals {
    () => {
        concat!(
            "document_versions AS v JOIN tenants AS t ON t.id = v.tenant_id
WHERE v.finished_at < now() - make_interval(secs => (SELECT min(",
            $crate::limits::own_retention!(),
            ") FROM tenants AS t))
  AND v.finished_at < now() - make_interval(secs => ",
            $crate::limits::own_retention!(),
            ") AND v.original_purged_at IS NULL AND v.state IN ('ready', 'failed', 'cancelled', 'expired')
  AND NOT EXISTS (SELECT FROM files AS f WHERE f.object_key = v.object_key)"
        )
    };
}
pub(crate) use {late_documents, late_uploads, old_originals, overdue};

// Round by round: of each tenant as many as its weight, by urgency and age.
const CHOOSE: &str = "-- store::janitor::release_waiting
WITH flying AS (
    SELECT tenant_id, count(*) AS releases FROM document_versions
    WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing') GROUP BY tenant_id)
SELECT w.document_id, w.version
FROM tenants AS t
CROSS JOIN LATERAL (
    SELECT v.document_id, v.version, v.created_at,
           row_number() OVER (ORDER BY v.lane DESC, v.created_at) AS place
    FROM document_versions AS v WHERE v.tenant_id = t.id AND v.state = 'waiting'
    ORDER BY v.lane DESC, v.created_at LIMIT $1) AS w
LEFT JOIN flying AS f ON f.tenant_id = t.id
WHERE t.state = 'active'
  AND (t.over_budget = '{}' OR t.wants_fallback AND EXISTS (SELECT FROM embedding_spaces WHERE state = 'fallback'))
  AND ($2::bigint IS NULL OR coalesce(f.releases, 0) + w.place <= $2)
ORDER BY (w.place - 1) / t.weight, w.created_at
LIMIT CASE WHEN $3::bigint IS NULL THEN $1
           ELSE least($1, greatest(0, $3 - (SELECT coalesce(sum(releases), 0)::bigint FROM flying))) END";

const HOLD: &str = "-- store::janitor::hold_tenants
WITH flying AS (
    SELECT tenant_id, count(*) AS releases FROM document_versions
    WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing') GROUP BY tenant_id),
new AS (
    SELECT t.id,
           CASE WHEN t.over_budget <> '{}' AND NOT (t.wants_fallback AND EXISTS (SELECT FROM embedding_spaces WHERE state = 'fallback'))
                THEN CASE WHEN t.over_budget && ARRAY['tokens', 'money'] THEN 'budget' ELSE 'total_budget' END
                WHEN coalesce(f.releases, 0) >= $1::bigint THEN 'tenant'
                WHEN (SELECT sum(releases) FROM flying) >= $2::bigint THEN 'total'
                WHEN EXISTS (SELECT FROM document_versions AS v WHERE v.tenant_id = t.id AND v.state = 'waiting')
                THEN 'waiting' END AS held_by
    FROM tenants AS t LEFT JOIN flying AS f ON f.tenant_id = t.id)
UPDATE tenants AS t SET held = new.held_by IS NOT NULL, held_by = new.held_by
FROM new WHERE t.id = new.id AND t.held_by IS DISTINCT FROM new.held_by
RETURNING t.id";

const LOCK_CHOSEN: &str = "-- store::janitor::release_waiting
SELECT v.tenant_id, v.document_id, v.version FROM document_versions AS v
WHERE (v.document_id, v.version) IN (SELECT document, version FROM unnest($1::uuid[], $2::int[]) AS chosen (document, version))
  AND v.state = 'waiting'
ORDER BY v.document_id, v.version FOR NO KEY UPDATE SKIP LOCKED";

const RELEASE: &str = concat!(
    "-- store::janitor::release_waiting
UPDATE document_versions AS v
SET state = 'releasing', release_id = new.release, partition = new.partition, space_id = release_space(v.tenant_id),
    deadline = now() + make_interval(hours => $5), released_at = NULL, pages_done = 0, chunks_indexed = 0,
    purged_at = NULL, strays_purged_at = NULL,
    indexed_run = CASE WHEN indexed_run IS NULL THEN NULL ELSE '00000000-0000-0000-0000-000000000000'::uuid END
FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::smallint[]) AS new (document, number, release, partition)
WHERE v.document_id = new.document AND v.version = new.number AND v.state = 'waiting'
RETURNING ",
    plan_columns!()
);

const STALE: &str = concat!(
    "-- store::janitor::stale_releasing
SELECT ",
    plan_columns!(),
    " FROM document_versions AS v
WHERE v.state = 'releasing' AND v.state_changed_at < now() - make_interval(secs => $1)
ORDER BY v.state_changed_at LIMIT $2"
);

const EXPIRE_UPLOADS: &str = concat!(
    "-- store::janitor::expire_uploads
UPDATE document_versions AS v SET state = 'expired', finished_at = now()
FROM (SELECT document_id, version FROM ",
    late_uploads!(),
    " ORDER BY document_id, version LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) AS late
WHERE v.document_id = late.document_id AND v.version = late.version
RETURNING v.tenant_id, v.document_id, v.version, v.traceparent"
);

const EXPIRE_DOCUMENTS: &str = concat!(
    "-- store::janitor::expire_documents
UPDATE documents AS d SET deleted_at = now(), updated_at = now()
FROM (SELECT o.id FROM ",
    late_documents!(),
    " ORDER BY o.id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) AS late
WHERE d.id = late.id
RETURNING d.tenant_id, d.id AS document_id, d.latest_version AS version,
    coalesce((SELECT v.traceparent FROM document_versions AS v WHERE v.document_id = d.id AND v.version = d.latest_version), '') AS traceparent"
);

const EXPIRE_VERSIONS: &str = "-- store::janitor::expire_documents
UPDATE document_versions AS v
SET state = 'expired', error_code = NULL, ended_by = NULL, finished_at = coalesce(v.finished_at, now())
FROM (SELECT document_id, version FROM document_versions WHERE document_id = ANY ($1) AND state <> 'expired'
      ORDER BY document_id, version FOR NO KEY UPDATE) AS late
WHERE v.document_id = late.document_id AND v.version = late.version";

const FAIL_OVERDUE: &str = concat!(
    "-- store::janitor::fail_overdue
UPDATE document_versions AS v
SET state = 'failed', error_code = 'deadline_exceeded', finished_at = now(),
    error_message = 'the document was not ready by its deadline'
FROM (SELECT document_id, version FROM ",
    overdue!(),
    " ORDER BY document_id, version LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) AS late
WHERE v.document_id = late.document_id AND v.version = late.version
RETURNING v.tenant_id, v.document_id, v.version, v.traceparent"
);

const ORIGINALS: &str = concat!(
    "-- store::janitor::originals_past
SELECT v.tenant_id, v.document_id, v.version, v.object_key FROM ",
    old_originals!(),
    " ORDER BY v.finished_at LIMIT $2"
);

const ORIGINAL_PURGED: &str = "-- store::janitor::original_purged
UPDATE document_versions SET original_purged_at = now()
WHERE document_id = $1 AND version = $2 AND original_purged_at IS NULL
  AND state IN ('ready', 'failed', 'cancelled', 'expired')
RETURNING version";

const KNOWN_OBJECTS: &str = "-- store::janitor::known_objects
SELECT object_key FROM document_versions WHERE object_key = ANY ($1) AND original_purged_at IS NULL
UNION SELECT object_key FROM files WHERE object_key = ANY ($1)";

const KNOWN_VERSIONS: &str = "-- store::janitor::known_versions
SELECT v.document_id, v.version FROM document_versions AS v
WHERE (v.document_id, v.version) IN (SELECT document, version FROM unnest($1::uuid[], $2::int[]) AS asked (document, version))";

const FIGURES: &str = "-- store::janitor::queue_figures
WITH held AS (
    SELECT id FROM tenants AS t
    WHERE t.state <> 'active' OR t.over_budget <> '{}'
        AND NOT (t.wants_fallback AND EXISTS (SELECT FROM embedding_spaces WHERE state = 'fallback')))
SELECT state, count(*) AS versions, extract(epoch FROM now() - min(created_at))::float8 AS oldest_seconds,
       count(*) FILTER (WHERE tenant_id NOT IN (SELECT id FROM held)) AS releasable
FROM document_versions
WHERE state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting', 'embedding', 'indexing')
GROUP BY state";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[
    CHOOSE,
    HOLD,
    LOCK_CHOSEN,
    RELEASE,
    STALE,
    EXPIRE_UPLOADS,
    EXPIRE_DOCUMENTS,
    EXPIRE_VERSIONS,
    FAIL_OVERDUE,
    ORIGINALS,
    ORIGINAL_PURGED,
    KNOWN_OBJECTS,
    KNOWN_VERSIONS,
    FIGURES,
];
