//! What a census compares with the streams, and the new releases of what they lost.

use std::time::Duration;

use riacho_domain::{ReasonCode, ReleaseId};
use uuid::Uuid;

use crate::{
    Error, Release, ReleasePlan, Store, Touched, metrics, read,
    release::plan_columns,
    start::ROAD,
    topology::partition_of,
    transaction::{Param, Scope, Tx},
};

/// A version fails when the streams lost it more often than this.
const MAX_LOSSES: i32 = 20;
/// A version fails when it was missing more often than this although nothing is known to have been lost.
const MAX_STALLS: i32 = 3;

/// A release that should stand on a partition's streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// The release.
    pub release: Release,
    /// How long its version has been in its state.
    pub since: Duration,
}

/// How a release came to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Redis lost data.
    Loss,
    /// Nothing is known to have been lost, and it is on no stream all the same.
    Stall,
}

/// What became of releases that were lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LostAgain {
    /// New releases, to be put onto their streams.
    pub plans: Vec<ReleasePlan>,
    /// Versions that were lost too often, and failed.
    pub failed: Vec<Touched>,
}

impl Store {
    /// The releases that were put onto a partition and are not at their end, those first that are longest in
    /// their state. Each has an entry on the partition's streams, or is lost.
    pub async fn in_flight(&self, partition: u16, limit: u32) -> Result<Vec<InFlight>, Error> {
        let number = i16::try_from(partition).unwrap_or(i16::MAX);
        let params: [Param<'_>; 2] = [&number, &i64::from(limit)];
        let rows = self.single(Scope::all("in_flight"), IN_FLIGHT, &params).await?;
        rows.iter()
            .map(|row| {
                let since: f64 = row.try_get("seconds")?;
                Ok(InFlight {
                    release: Release {
                        tenant: read::tenant(row, "tenant_id")?,
                        document: read::document(row, "document_id")?,
                        version: read::version(row, "version")?,
                        release: ReleaseId(row.try_get("release_id")?),
                    },
                    since: Duration::try_from_secs_f64(since).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Gives lost releases that are still current a new one each, which keeps its deadline and what was sealed.
    /// A version that was lost too often fails instead.
    pub async fn release_lost(&self, lost: &[Release], how: Lost) -> Result<LostAgain, Error> {
        let again = self
            .transaction(Scope::all("release_lost"), |tx| async move {
                let documents: Vec<Uuid> = lost.iter().map(|release| release.document.0).collect();
                let versions: Vec<i32> = lost.iter().map(|release| read::signed(release.version)).collect();
                let releases: Vec<Uuid> = lost.iter().map(|release| release.release.0).collect();
                let locked = tx.query(LOCK, &[&documents, &versions, &releases]).await?;
                let failed = fail(&tx, &documents, &versions, &releases, how).await?;
                let road = tx.query_one(ROAD, &[&None::<&str>]).await?;
                if road.try_get::<_, Option<i32>>("space_id")?.is_none() {
                    return Ok(LostAgain { plans: Vec::new(), failed });
                }
                let partitions: Vec<i16> = road.try_get("partitions")?;
                let (mut ids, mut numbers, mut again, mut places) = (vec![], vec![], vec![], vec![]);
                for row in &locked {
                    let (tenant, document) =
                        (read::tenant(row, "tenant_id")?, read::document(row, "document_id")?);
                    ids.push(document.0);
                    numbers.push(row.try_get::<_, i32>("version")?);
                    again.push(ReleaseId::new().0);
                    places.push(partition_of(&tenant, document, &partitions));
                }
                let (losses, stalls) = how.counts();
                let params: [Param<'_>; 6] = [&ids, &numbers, &again, &places, &losses, &stalls];
                let rows = tx.query(RELEASE_AGAIN, &params).await?;
                let plans = rows.iter().map(ReleasePlan::read).collect::<Result<_, _>>()?;
                Ok(LostAgain { plans, failed })
            })
            .await?;
        metrics::failed(ReasonCode::Stalled.as_str(), again.failed.len() as u64);
        Ok(again)
    }
}

impl Lost {
    /// What it adds to a version's losses and stalls.
    fn counts(self) -> (i32, i32) {
        match self {
            Lost::Loss => (1, 0),
            Lost::Stall => (0, 1),
        }
    }
}

async fn fail(
    tx: &Tx,
    documents: &[Uuid],
    versions: &[i32],
    releases: &[Uuid],
    how: Lost,
) -> Result<Vec<Touched>, Error> {
    let (losses, stalls) = how.counts();
    let (most_losses, most_stalls) = (MAX_LOSSES - losses, MAX_STALLS - stalls);
    let code = ReasonCode::Stalled.as_str();
    let params: [Param<'_>; 6] = [&documents, &versions, &releases, &most_losses, &most_stalls, &code];
    tx.query(FAIL, &params).await?.iter().map(Touched::read).collect()
}

const IN_FLIGHT: &str = "-- store::census::in_flight
SELECT tenant_id, document_id, version, release_id,
       greatest(0, extract(epoch FROM now() - state_changed_at))::float8 AS seconds
FROM document_versions
WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing') AND state <> 'releasing' AND partition = $1
ORDER BY state_changed_at LIMIT $2";

// In the order of the locks.
const LOCK: &str = "-- store::census::release_lost
SELECT v.tenant_id, v.document_id, v.version
FROM document_versions AS v
JOIN unnest($1::uuid[], $2::int[], $3::uuid[]) AS lost (document, number, release)
  ON v.document_id = lost.document AND v.version = lost.number
WHERE v.release_id = lost.release AND v.state IN ('extracting', 'embedding', 'indexing')
ORDER BY v.document_id, v.version FOR NO KEY UPDATE OF v";

const FAIL: &str = "-- store::census::fail
UPDATE document_versions AS v
SET state = 'failed', error_code = $6, finished_at = now(),
    error_message = 'the document was lost on its way ' || v.losses || ' times, and was missing '
        || v.stalls || ' more times without a known loss'
FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS lost (document, number, release)
WHERE v.document_id = lost.document AND v.version = lost.number AND v.release_id = lost.release
  AND v.state IN ('extracting', 'embedding', 'indexing') AND (v.losses > $4 OR v.stalls > $5)
RETURNING v.tenant_id, v.document_id, v.version, v.traceparent";

// The deadline stays: a document that circles comes to its end.
const RELEASE_AGAIN: &str = concat!(
    "-- store::census::release_lost
UPDATE document_versions AS v
SET state = 'releasing', release_id = new.release, partition = new.partition, space_id = release_space(v.tenant_id), released_at = NULL,
    losses = v.losses + $5, stalls = v.stalls + $6, pages_done = 0, chunks_indexed = 0,
    indexed_run = CASE WHEN indexed_run IS NULL THEN NULL ELSE '00000000-0000-0000-0000-000000000000'::uuid END
FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::smallint[]) AS new (document, number, release, partition)
WHERE v.document_id = new.document AND v.version = new.number AND v.state IN ('extracting', 'embedding', 'indexing')
RETURNING ",
    plan_columns!()
);

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[IN_FLIGHT, LOCK, FAIL, RELEASE_AGAIN];
