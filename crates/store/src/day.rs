//! A stretch of time in numbers, by tenant: what came, what became of it, and what waits. What was purged is counted as deleted, by
//! its receipt, and as nothing else.

use chrono::{DateTime, Utc};
use riacho_domain::TenantId;
use serde::Serialize;

use crate::{
    Error, Store, read,
    transaction::{Param, Scope},
};

/// A stretch of time: from its beginning up to, and without, its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
}

/// What a tenant did in a stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantDay {
    /// The tenant.
    pub tenant: TenantId,
    /// Versions of documents that were accepted.
    pub accepted: u64,
    /// Their bytes, as far as they are known.
    pub bytes: u64,
    /// Versions that became ready.
    pub ready: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Versions that failed.
    pub failed: u64,
    /// Documents that were deleted or ended at their time to live.
    pub deleted: u64,
    /// Events that were given up.
    pub dead_letters: u64,
    /// Versions that are not finished at the moment.
    pub unfinished: u64,
    /// The median of the seconds from accepted to ready; none where nothing became ready.
    pub median_seconds: Option<f64>,
}

impl Store {
    /// What each tenant did in a stretch of time. Tenants that did nothing and have nothing to do are left out.
    pub async fn day(&self, day: Day) -> Result<Vec<TenantDay>, Error> {
        let params: [Param<'_>; 2] = [&day.from, &day.to];
        let rows = self.single(Scope::all("day"), DAY, &params).await?;
        rows.iter()
            .map(|row| {
                let count =
                    |name: &str| row.try_get::<_, i64>(name).map(|count| u64::try_from(count).unwrap_or(0));
                Ok(TenantDay {
                    tenant: read::tenant(row, "tenant_id")?,
                    accepted: count("accepted")?,
                    bytes: count("bytes")?,
                    ready: count("ready")?,
                    chunks: count("chunks")?,
                    failed: count("failed")?,
                    deleted: count("deleted")?,
                    dead_letters: count("dead_letters")?,
                    unfinished: count("unfinished")?,
                    median_seconds: row.try_get("median_seconds")?,
                })
            })
            .collect()
    }
}

const DAY: &str = "-- store::day::day
WITH versions AS (
    SELECT tenant_id,
           count(*) FILTER (WHERE created_at >= $1 AND created_at < $2) AS accepted,
           coalesce(sum(size) FILTER (WHERE created_at >= $1 AND created_at < $2), 0)::bigint AS bytes,
           count(*) FILTER (WHERE state = 'ready' AND finished_at >= $1 AND finished_at < $2) AS ready,
           coalesce(sum(chunk_total) FILTER (WHERE state = 'ready' AND finished_at >= $1 AND finished_at < $2), 0)::bigint AS chunks,
           count(*) FILTER (WHERE state = 'failed' AND finished_at >= $1 AND finished_at < $2) AS failed,
           count(*) FILTER (WHERE finished_at IS NULL) AS unfinished,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - created_at)::float8)
               FILTER (WHERE state = 'ready' AND finished_at >= $1 AND finished_at < $2) AS median_seconds
    FROM document_versions
    WHERE created_at >= $1 AND created_at < $2 OR finished_at >= $1 AND finished_at < $2 OR finished_at IS NULL
    GROUP BY tenant_id),
deletions AS (
    SELECT tenant_id, count(*) AS deleted
    FROM (SELECT tenant_id FROM documents WHERE deleted_at >= $1 AND deleted_at < $2
          UNION ALL
          SELECT tenant_id FROM receipts
          WHERE document_id IS NOT NULL AND coalesce(deleted_at, created_at) >= $1 AND coalesce(deleted_at, created_at) < $2) AS gone
    GROUP BY tenant_id),
letters AS (
    SELECT tenant_id, count(*) AS dead_letters FROM dead_letters
    WHERE tenant_id IS NOT NULL AND created_at >= $1 AND created_at < $2 GROUP BY tenant_id)
SELECT t.id AS tenant_id, coalesce(v.accepted, 0) AS accepted, coalesce(v.bytes, 0) AS bytes, coalesce(v.ready, 0) AS ready,
       coalesce(v.chunks, 0) AS chunks, coalesce(v.failed, 0) AS failed, coalesce(d.deleted, 0) AS deleted,
       coalesce(l.dead_letters, 0) AS dead_letters, coalesce(v.unfinished, 0) AS unfinished, v.median_seconds
FROM tenants AS t
LEFT JOIN versions AS v ON v.tenant_id = t.id
LEFT JOIN deletions AS d ON d.tenant_id = t.id
LEFT JOIN letters AS l ON l.tenant_id = t.id
WHERE v.tenant_id IS NOT NULL OR d.tenant_id IS NOT NULL OR l.tenant_id IS NOT NULL
ORDER BY t.id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[DAY];
