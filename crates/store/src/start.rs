//! Starting a version that is there: with a new release, or waiting for one.

use riacho_domain::{DocumentId, ReleaseId, State, TenantId, Version};

use crate::{
    Conflict, Error, ReleasePlan, Store,
    accept::wake,
    read,
    release::plan_columns,
    topology::partition_of,
    transaction::{Param, Tx},
};

impl Store {
    /// Releases a version whose row is locked and whose bytes are there, or lets it wait.
    pub(crate) async fn start_version(
        &self,
        tx: &Tx,
        tenant: &TenantId,
        document: DocumentId,
        version: Version,
        hold: bool,
    ) -> Result<Option<ReleasePlan>, Error> {
        let version = read::signed(version);
        if hold || is_held(tx, tenant).await? {
            tx.execute(WAIT, &[&document.0, &version]).await?;
            wake(tx, State::Waiting).await?;
            return Ok(None);
        }
        let (release, partition, space) = choose(tx, tenant, document).await?;
        let params: [Param<'_>; 6] =
            [&document.0, &version, &release.0, &partition, &space, &self.inner.deadline_hours];
        Ok(Some(ReleasePlan::read(&tx.query_one(START, &params).await?)?))
    }
}

/// Whether what the tenant begins now has to wait in line.
async fn is_held(tx: &Tx, tenant: &TenantId) -> Result<bool, Error> {
    Ok(tx.query_one(HELD, &[&tenant.as_str()]).await?.try_get("held")?)
}

/// A new release id, the document's partition, and the space that the tenant's documents are embedded for at present.
pub(crate) async fn choose(
    tx: &Tx,
    tenant: &TenantId,
    document: DocumentId,
) -> Result<(ReleaseId, i16, i32), Error> {
    let row = tx.query_one(ROAD, &[&tenant.as_str()]).await?;
    let space: Option<i32> = row.try_get("space_id")?;
    let partitions: Vec<i16> = row.try_get("partitions")?;
    let space = space.ok_or(Conflict::NoLiveSpace)?;
    Ok((ReleaseId::new(), partition_of(tenant, document, &partitions), space))
}

const HELD: &str = "-- store::start::is_held
SELECT coalesce(bool_or(held), false) AS held FROM tenants WHERE id = $1";

// Without a tenant, the live space.
pub(crate) const ROAD: &str = "-- store::start::choose
SELECT release_space($1) AS space_id,
       ARRAY(SELECT partition FROM topology WHERE state = 'active' ORDER BY partition) AS partitions";

// Rows of an earlier release may be there, so they are counted again (the nil UUID); with another
// space they count from nothing, which the same count finds out.
pub(crate) const START: &str = concat!(
    "-- store::start::start_version
UPDATE document_versions AS v
SET state = 'releasing', release_id = $3, partition = $4, space_id = $5, deadline = now() + make_interval(hours => $6),
    released_at = NULL, error_code = NULL, error_message = NULL, ended_by = NULL, finished_at = NULL, pages_done = 0,
    chunks_indexed = 0, purged_at = NULL, strays_purged_at = NULL,
    indexed_run = CASE WHEN indexed_run IS NULL THEN NULL ELSE '00000000-0000-0000-0000-000000000000'::uuid END
WHERE v.document_id = $1 AND v.version = $2
RETURNING ",
    plan_columns!()
);

/// Cancels what of the document is unfinished and older than a version.
pub(crate) const SUPERSEDE_OLDER: &str = "-- store::uploads::complete_upload
UPDATE document_versions SET state = 'cancelled', ended_by = 'superseded', finished_at = now()
WHERE tenant_id = $1 AND document_id = $2 AND version < $3
  AND state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting', 'embedding', 'indexing')";

const WAIT: &str = "-- store::start::start_version
UPDATE document_versions
SET state = 'waiting', release_id = NULL, partition = NULL, error_code = NULL, error_message = NULL,
    ended_by = NULL, finished_at = NULL
WHERE document_id = $1 AND version = $2";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[HELD, ROAD, START, SUPERSEDE_OLDER, WAIT];
