//! Purging: chunks and vectors of versions that nobody can see any more, then the rows that named
//! them. An hour after the commit that allows it, re-reading the row, until nothing is left.
//!
//! What is purged of a version is limited to runs that began before `before`: run ids are ordered by
//! time, so a retry in the meantime keeps what its new run writes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, RunId, SpaceId, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Store, read,
    transaction::{Param, Scope, Tx},
};

/// Something to be purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The document's tenant.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// What of it.
    pub kind: PurgeKind,
    /// Only runs that began before this moment, of rows and of objects.
    pub before: DateTime<Utc>,
    /// The originals' keys; for a whole document only. Those of files are not among them.
    pub originals: Vec<String>,
    /// W3C Trace Context of the request that made the version, the latest of a document.
    pub traceparent: String,
    finished_at: Option<DateTime<Utc>>,
}

/// What of a document is to be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PurgeKind {
    /// Everything: it was deleted.
    Document,
    /// A version that is not live and has ended.
    Version(Version),
    /// What runs that lost left of a live version.
    LostRuns {
        /// The version.
        version: Version,
        /// The run that is the version.
        keep: RunId,
    },
}

/// The kinds of what is to be purged, each of which is asked for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeOf {
    /// Deleted documents.
    Documents,
    /// Versions that are not live and have ended.
    Versions,
    /// What runs that lost left of live versions.
    LostRuns,
}

impl PurgeOf {
    /// All of them.
    pub const ALL: &[PurgeOf] = &[PurgeOf::Documents, PurgeOf::Versions, PurgeOf::LostRuns];
}

/// How much is to be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PurgeFigures {
    /// Deleted documents.
    pub documents: u64,
    /// Versions that are not live and have ended.
    pub versions: u64,
    /// Live versions of which runs that lost left something.
    pub lost_runs: u64,
    /// Deleted files of which no document is left once these documents are purged.
    pub files: u64,
}

/// What a step of a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PurgeProgress {
    /// Chunks removed.
    pub chunks: u64,
    /// Vectors removed.
    pub vectors: u64,
    /// No row is left: remove the objects, then call [`Store::purge_done`].
    pub done: bool,
    /// The version is needed again: leave its objects alone.
    pub abandoned: bool,
}

/// What a purge removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Purged {
    /// Chunks.
    pub chunks: u64,
    /// Vectors.
    pub vectors: u64,
    /// Objects.
    pub objects: u64,
    /// Entries on the streams.
    pub entries: u64,
    /// Dead letters in the database.
    pub dead_letters: u64,
}

/// The proof that nothing of a document is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its id.
    pub id: Uuid,
    /// The document.
    pub document: DocumentId,
    /// How many versions it had.
    pub versions: u32,
    /// What was removed.
    pub purged: Purged,
}

/// The runs of a purge as parameters: (first version, last version, run to keep, bound of the run ids).
struct Range {
    first: i32,
    last: i32,
    keep: Uuid,
    bound: Uuid,
}

impl Purge {
    fn read(row: &Row, grace: Duration) -> Result<Self, Error> {
        let version: Option<u32> = read::count_opt(row, "version")?;
        let keep = read::run(row, "keep")?;
        let kind = match (version, keep) {
            (None, _) => PurgeKind::Document,
            (Some(version), None) => PurgeKind::Version(version),
            (Some(version), Some(keep)) => PurgeKind::LostRuns { version, keep },
        };
        let now: DateTime<Utc> = row.try_get("now")?;
        Ok(Self {
            tenant: read::tenant(row, "tenant_id")?,
            document: read::document(row, "document_id")?,
            kind,
            // Half of the grace is for clocks that differ.
            before: now - grace / 2,
            originals: row.try_get::<_, Option<Vec<String>>>("originals")?.unwrap_or_default(),
            traceparent: row.try_get::<_, Option<String>>("traceparent")?.unwrap_or_default(),
            finished_at: row.try_get("finished_at")?,
        })
    }

    fn range(&self) -> Range {
        let bound = bound(self.before);
        match self.kind {
            PurgeKind::Document => Range { first: 0, last: i32::MAX, keep: Uuid::nil(), bound: Uuid::max() },
            PurgeKind::Version(v) => {
                Range { first: read::signed(v), last: read::signed(v), keep: Uuid::nil(), bound }
            }
            PurgeKind::LostRuns { version: v, keep } => {
                Range { first: read::signed(v), last: read::signed(v), keep: keep.0, bound }
            }
        }
    }

    /// Whether an object of this run belongs to the purge.
    #[must_use]
    pub fn covers(&self, run: RunId) -> bool {
        let range = self.range();
        run.0 != range.keep && run.0 < range.bound
    }
}

/// The smallest run id of a moment.
fn bound(moment: DateTime<Utc>) -> Uuid {
    let milliseconds = u64::try_from(moment.timestamp_millis()).unwrap_or(0);
    let mut bytes = [0_u8; 16];
    bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

impl Store {
    /// What may be purged of the kinds, in their order: deleted documents, ended versions that are not live, and lost runs of
    /// live ones, each at least `grace` after the commit that allowed it. At most `limit` of each kind.
    pub async fn purge_candidates(
        &self,
        kinds: &[PurgeOf],
        grace: Duration,
        limit: u32,
    ) -> Result<Vec<Purge>, Error> {
        let params: [Param<'_>; 2] = [&grace.as_secs_f64(), &i64::from(limit)];
        let mut found = Vec::new();
        for kind in kinds {
            let sql = match kind {
                PurgeOf::Documents => DOCUMENTS,
                PurgeOf::Versions => VERSIONS,
                PurgeOf::LostRuns => LOST_RUNS,
            };
            for row in self.single(Scope::all("purge_candidates"), sql, &params).await? {
                found.push(Purge::read(&row, grace)?);
            }
        }
        Ok(found)
    }

    /// How much may be purged, of all of it.
    pub async fn purge_figures(&self, grace: Duration) -> Result<PurgeFigures, Error> {
        let rows = self.single(Scope::all("purge_figures"), FIGURES, &[&grace.as_secs_f64()]).await?;
        let Some(row) = rows.first() else { return Ok(PurgeFigures::default()) };
        Ok(PurgeFigures {
            documents: read::total(row, "documents")?,
            versions: read::total(row, "versions")?,
            lost_runs: read::total(row, "lost_runs")?,
            files: read::total(row, "files")?,
        })
    }

    /// Removes up to `batch` chunks, and vectors of each space. Call it until it is done.
    pub async fn purge_rows(&self, purge: &Purge, batch: u32) -> Result<PurgeProgress, Error> {
        let spaces: Vec<SpaceId> = self.spaces().await?.into_iter().map(|space| space.id).collect();
        let spaces = &spaces;
        self.transaction(Scope::all("purge_rows"), |tx| async move {
            if !still_purgeable(&tx, purge).await? {
                return Ok(PurgeProgress { abandoned: true, ..PurgeProgress::default() });
            }
            let (range, batch) = (purge.range(), i64::from(batch));
            let tenant = purge.tenant.as_str();
            let params: [Param<'_>; 7] =
                [&tenant, &purge.document.0, &range.first, &range.last, &range.keep, &range.bound, &batch];
            let chunks = tx.execute(DELETE_CHUNKS, &params).await?;
            let (mut vectors, mut full) = (0, chunks == u64::from(u32::try_from(batch).unwrap_or(u32::MAX)));
            for space in spaces {
                let deleted = tx.execute(&delete_vectors(*space), &params).await?;
                full |= i64::try_from(deleted).is_ok_and(|deleted| deleted == batch);
                vectors += deleted;
            }
            Ok(PurgeProgress { chunks, vectors, done: !full, abandoned: false })
        })
        .await
    }

    /// Nothing is left, no row, no entry and no object: the version is marked, or the document's row and its dead letters
    /// are removed, with a receipt.
    pub async fn purge_done(&self, purge: &Purge, purged: Purged) -> Result<Option<Receipt>, Error> {
        self.transaction(Scope::all("purge_done"), |tx| async move {
            match purge.kind {
                PurgeKind::Document => remove_document(&tx, purge, purged).await,
                PurgeKind::Version(version) => {
                    tx.execute(
                        MARK_VERSION,
                        &[&purge.document.0, &read::signed(version), &purge.finished_at],
                    )
                    .await?;
                    Ok(None)
                }
                PurgeKind::LostRuns { version, .. } => {
                    tx.execute(MARK_STRAYS, &[&purge.document.0, &read::signed(version)]).await?;
                    Ok(None)
                }
            }
        })
        .await
    }
}

/// Re-reads the rows under their locks. A version that is going to lose its rows loses its seal
/// first: a retry cuts it anew.
async fn still_purgeable(tx: &Tx, purge: &Purge) -> Result<bool, Error> {
    let rows = match purge.kind {
        PurgeKind::Document => tx.query(LOCK_DELETED, &[&purge.document.0]).await?,
        PurgeKind::Version(version) => {
            let params: [Param<'_>; 3] = [&purge.document.0, &read::signed(version), &purge.finished_at];
            let locked = tx.query(LOCK_VERSION, &params).await?;
            if !locked.is_empty() {
                tx.execute(CUT_LOOSE, &[&purge.document.0, &read::signed(version)]).await?;
            }
            locked
        }
        PurgeKind::LostRuns { version, keep } => {
            tx.query(LOCK_LIVE, &[&purge.document.0, &read::signed(version), &keep.0]).await?
        }
    };
    Ok(!rows.is_empty())
}

async fn remove_document(tx: &Tx, purge: &Purge, purged: Purged) -> Result<Option<Receipt>, Error> {
    let Some(row) = tx.query_opt(REMOVE_DOCUMENT, &[&purge.document.0]).await? else { return Ok(None) };
    // After the document's row, whose lock a letter needs that comes at the same time: later ones find no document.
    let dead_letters = tx.execute(REMOVE_LETTERS, &[&purge.document.0]).await?;
    let receipt = Receipt {
        id: Uuid::now_v7(),
        document: purge.document,
        versions: read::count(&row, "latest_version")?,
        purged: Purged { dead_letters, ..purged },
    };
    let purged = &receipt.purged;
    let deleted_at: DateTime<Utc> = row.try_get("deleted_at")?;
    let params: [Param<'_>; 10] = [
        &receipt.id,
        &purge.tenant.as_str(),
        &receipt.document.0,
        &read::signed(receipt.versions),
        &read::signed_size(purged.chunks),
        &read::signed_size(purged.vectors),
        &read::signed_size(purged.objects),
        &read::signed_size(purged.entries),
        &read::signed_size(purged.dead_letters),
        &deleted_at,
    ];
    tx.execute(ADD_RECEIPT, &params).await?;
    Ok(Some(receipt))
}

// What is purged, and when: for the candidates and for their figures.
macro_rules! deleted_documents {
    () => {
        "documents AS d WHERE d.deleted_at < now() - make_interval(secs => $1)"
    };
}

// A version that another one replaced may be seen by searches that began before the flip: the grace
// counts from when the live one was finished.
macro_rules! dead_versions {
    () => {
        "document_versions AS v JOIN documents AS d ON d.id = v.document_id
LEFT JOIN document_versions AS l ON l.document_id = d.id AND l.version = d.live_version
WHERE v.finished_at < now() - make_interval(secs => $1) AND v.purged_at IS NULL AND d.deleted_at IS NULL
  AND v.version IS DISTINCT FROM d.live_version
  AND (l.version IS NULL OR l.version < v.version OR l.finished_at < now() - make_interval(secs => $1))"
    };
}

macro_rules! lost_runs {
    () => {
        "document_versions AS v JOIN documents AS d ON d.id = v.document_id AND d.live_version = v.version
WHERE v.finished_at < now() - make_interval(secs => $1) AND v.purged_at IS NULL AND d.deleted_at IS NULL
  AND v.extractions > 1 AND v.strays_purged_at IS NULL AND v.state = 'ready' AND v.run_id = d.live_run"
    };
}

const DOCUMENTS: &str = concat!(
    "-- store::purge::purge_candidates
SELECT d.tenant_id, d.id AS document_id, NULL::int AS version, NULL::uuid AS keep, NULL::timestamptz AS finished_at,
       ARRAY(SELECT v.object_key FROM document_versions AS v WHERE v.document_id = d.id
             AND NOT EXISTS (SELECT FROM files AS f WHERE f.object_key = v.object_key)) AS originals, now() AS now,
       (SELECT v.traceparent FROM document_versions AS v WHERE v.document_id = d.id AND v.version = d.latest_version) AS traceparent
FROM ",
    deleted_documents!(),
    " ORDER BY d.deleted_at LIMIT $2"
);

const VERSIONS: &str = concat!(
    "-- store::purge::purge_candidates
SELECT v.tenant_id, v.document_id, v.version, NULL::uuid AS keep, v.finished_at, NULL::text[] AS originals, now() AS now, v.traceparent
FROM ",
    dead_versions!(),
    " ORDER BY v.finished_at LIMIT $2"
);

const LOST_RUNS: &str = concat!(
    "-- store::purge::purge_candidates
SELECT v.tenant_id, v.document_id, v.version, v.run_id AS keep, v.finished_at, NULL::text[] AS originals, now() AS now, v.traceparent
FROM ",
    lost_runs!(),
    " ORDER BY v.finished_at LIMIT $2"
);

const FIGURES: &str = concat!(
    "-- store::purge::purge_figures
SELECT (SELECT count(*) FROM ",
    deleted_documents!(),
    ") AS documents, (SELECT count(*) FROM ",
    dead_versions!(),
    ") AS versions, (SELECT count(*) FROM ",
    lost_runs!(),
    ") AS lost_runs,
(SELECT count(*) FROM files AS f WHERE f.deleted_at < now() - make_interval(secs => $1)
   AND NOT EXISTS (SELECT FROM documents AS d WHERE d.file_id = f.id
                   AND (d.deleted_at IS NULL OR d.deleted_at >= now() - make_interval(secs => $1)))) AS files"
);

const LOCK_DELETED: &str = "-- store::purge::still_purgeable
SELECT id FROM documents WHERE id = $1 AND deleted_at IS NOT NULL FOR UPDATE";

const LOCK_VERSION: &str = "-- store::purge::still_purgeable
SELECT v.version FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id
WHERE d.id = $1 AND v.version = $2 AND v.finished_at = $3 AND d.live_version IS DISTINCT FROM v.version
  AND v.state IN ('ready', 'failed', 'cancelled', 'expired')
FOR NO KEY UPDATE OF d, v";

const CUT_LOOSE: &str = "-- store::purge::still_purgeable
UPDATE document_versions
SET run_id = NULL, manifest = NULL, chunk_total = NULL, sealed_at = NULL, indexed_run = NULL, chunks_indexed = 0
WHERE document_id = $1 AND version = $2 AND (run_id IS NOT NULL OR indexed_run IS NOT NULL)";

const LOCK_LIVE: &str = "-- store::purge::still_purgeable
SELECT v.version FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id
WHERE d.id = $1 AND v.version = $2 AND v.run_id = $3 AND d.live_run = $3 AND v.state = 'ready'
FOR NO KEY UPDATE OF d, v";

const DELETE_CHUNKS: &str = "-- store::purge::purge_rows
DELETE FROM chunks WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM chunks
    WHERE tenant_id = $1 AND document_id = $2 AND version BETWEEN $3 AND $4 AND run_id <> $5 AND run_id < $6
    LIMIT $7))";

fn delete_vectors(space: SpaceId) -> String {
    format!(
        "-- store::purge::purge_rows
DELETE FROM vectors_{space} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM vectors_{space}
    WHERE tenant_id = $1 AND document_id = $2 AND version BETWEEN $3 AND $4 AND run_id <> $5 AND run_id < $6
    LIMIT $7))"
    )
}

const MARK_VERSION: &str = "-- store::purge::purge_done
UPDATE document_versions SET purged_at = now() WHERE document_id = $1 AND version = $2 AND finished_at = $3";

const MARK_STRAYS: &str = "-- store::purge::purge_done
UPDATE document_versions SET strays_purged_at = now() WHERE document_id = $1 AND version = $2 AND state = 'ready'";

const REMOVE_DOCUMENT: &str = "-- store::purge::remove_document
DELETE FROM documents WHERE id = $1 AND deleted_at IS NOT NULL RETURNING latest_version, deleted_at";

const REMOVE_LETTERS: &str = "-- store::purge::remove_document
DELETE FROM dead_letters WHERE document_id = $1";

const ADD_RECEIPT: &str = "-- store::purge::remove_document
INSERT INTO receipts (id, tenant_id, document_id, versions, chunks, vectors, objects, entries, dead_letters, deleted_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// The statements of this file, for a space.
pub(crate) fn statements(space: SpaceId) -> Vec<String> {
    let fixed = [
        DOCUMENTS,
        VERSIONS,
        LOST_RUNS,
        FIGURES,
        LOCK_DELETED,
        LOCK_VERSION,
        CUT_LOOSE,
        LOCK_LIVE,
        DELETE_CHUNKS,
        MARK_VERSION,
        MARK_STRAYS,
        REMOVE_DOCUMENT,
        REMOVE_LETTERS,
        ADD_RECEIPT,
    ];
    let mut all: Vec<String> = fixed.iter().map(|sql| (*sql).to_owned()).collect();
    all.push(delete_vectors(space));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_began_later_are_not_covered() {
        let now = Utc::now();
        let purge = |before| Purge {
            traceparent: String::new(),
            tenant: "acme".parse().unwrap_or_else(|_| unreachable!()),
            document: DocumentId::new(),
            kind: PurgeKind::Version(1),
            before,
            originals: Vec::new(),
            finished_at: None,
        };
        let run = RunId::new();
        assert!(!purge(now - Duration::from_secs(60)).covers(run));
        assert!(purge(now + Duration::from_secs(60)).covers(run));
    }
}
