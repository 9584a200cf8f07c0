//! Attachments that go, and others that are found in their place.

use std::collections::HashSet;

use riacho_domain::{DocumentId, TenantId};
use uuid::Uuid;

use crate::{
    Error,
    gone::Why,
    transaction::{Param, Tx},
};

/// Which of a document's attachments: those of the versions from the first up to before the second. Without a
/// first one, those of the versions after the live one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfVersions(pub(crate) Option<i32>, pub(crate) i32);

impl OfVersions {
    pub(crate) const ALL: OfVersions = OfVersions(Some(0), i32::MAX);
    pub(crate) const NOT_LIVE: OfVersions = OfVersions(None, i32::MAX);
}

/// Deletes the attachments of some versions of documents whose rows are locked, with all that lies in them.
/// Answers what was deleted.
pub(crate) async fn delete_below(
    tx: &Tx,
    tenant: &TenantId,
    parents: &[(Uuid, OfVersions)],
) -> Result<HashSet<DocumentId>, Error> {
    let id = tenant.as_str();
    let (ids, versions): (Vec<Uuid>, Vec<OfVersions>) = parents.iter().copied().unzip();
    let from: Vec<Option<i32>> = versions.iter().map(|versions| versions.0).collect();
    let to: Vec<i32> = versions.iter().map(|versions| versions.1).collect();
    tx.prepare(&[LOCK_ROOTS, BELOW]).await?;
    let roots: [Param<'_>; 2] = [&id, &ids];
    let wanted: [Param<'_>; 4] = [&id, &ids, &from, &to];
    // The second statement sees what others added before the first one had its locks.
    let (locked, rows) = futures::join!(tx.query(LOCK_ROOTS, &roots), tx.query(BELOW, &wanted));
    locked?;
    let below = rows?.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>, _>>()?;
    if !below.is_empty() {
        let params: [Param<'_>; 2] = [&id, &below];
        tx.query(LOCK, &params).await?;
        tx.execute(DELETE, &params).await?;
        tx.execute(CANCEL, &params).await?;
    }
    let below: HashSet<DocumentId> = below.into_iter().map(DocumentId).collect();
    tx.deletes(tenant, below.iter().copied(), Why::Attached);
    Ok(below)
}

/// Versions become live, of documents whose rows are locked: what is attached to earlier ones is deleted, and what is
/// attached to them is found from now on. Answers what was deleted.
pub(crate) async fn replace(
    tx: &Tx,
    tenant: &TenantId,
    live: &[(Uuid, i32)],
) -> Result<HashSet<DocumentId>, Error> {
    let replaced: Vec<(Uuid, OfVersions)> =
        live.iter().map(|(document, version)| (*document, OfVersions(Some(0), *version))).collect();
    let gone = delete_below(tx, tenant, &replaced).await?;
    let (ids, versions): (Vec<Uuid>, Vec<i32>) = live.iter().copied().unzip();
    tx.execute(SHOW, &[&tenant.as_str(), &ids, &versions]).await?;
    Ok(gone)
}

// In all of these `IS TRUE` keeps the planner from an index that begins with the tenant; see migration 0006.
const LOCK_ROOTS: &str = "-- store::attachments::delete_below
SELECT id FROM documents
WHERE (tenant_id = $1) IS TRUE
  AND id = ANY (ARRAY(SELECT root_id FROM documents WHERE (tenant_id = $1) IS TRUE AND id = ANY ($2)))
ORDER BY id FOR NO KEY UPDATE";

const BELOW: &str = "-- store::attachments::delete_below
WITH RECURSIVE below AS (
    SELECT c.id
    FROM unnest($2::uuid[], $3::int[], $4::int[]) AS of (id, from_version, to_version)
    JOIN documents AS d ON d.id = of.id
    JOIN documents AS c ON c.parent_id = of.id AND c.parent_version < of.to_version
        AND c.parent_version >= coalesce(of.from_version, d.live_version + 1, 0)
    WHERE (d.tenant_id = $1) IS TRUE AND (c.tenant_id = $1) IS TRUE AND c.deleted_at IS NULL
    UNION
    SELECT c.id FROM below JOIN documents AS c ON c.parent_id = below.id
    WHERE (c.tenant_id = $1) IS TRUE AND c.deleted_at IS NULL)
SELECT id FROM below";

const LOCK: &str = "-- store::attachments::delete_below
SELECT id FROM documents WHERE (tenant_id = $1) IS TRUE AND id = ANY ($2) ORDER BY id FOR NO KEY UPDATE";

// Their places are free again, and they count no longer: a version that runs again brings them anew.
const DELETE: &str = "-- store::attachments::delete_below
WITH deleted AS (
    UPDATE documents SET deleted_at = now(), updated_at = now()
    WHERE (tenant_id = $1) IS TRUE AND id = ANY ($2) AND deleted_at IS NULL
    RETURNING tenant_id, parent_id, parent_version, attachment, root_id, root_version),
freed AS (
    SELECT document, version, array_agg(place) FILTER (WHERE place IS NOT NULL) AS places, sum(counted)::int AS counted
    FROM (SELECT parent_id AS document, parent_version AS version, attachment AS place, 0 AS counted FROM deleted
          UNION ALL SELECT root_id, root_version, NULL, 1 FROM deleted) AS of_each
    GROUP BY document, version),
noted AS (
    UPDATE document_versions AS v
    SET attached = ARRAY(SELECT place FROM unnest(v.attached) AS place WHERE place <> ALL (coalesce(freed.places, '{}'))),
        below = v.below - freed.counted
    FROM freed WHERE v.tenant_id = $1 AND v.document_id = freed.document AND v.version = freed.version)
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT DISTINCT tenant_id, pg_backend_pid() % 16, 1 FROM deleted
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1";

const CANCEL: &str = "-- store::attachments::delete_below
UPDATE document_versions SET state = 'cancelled', ended_by = 'command', finished_at = now()
WHERE tenant_id = $1 AND document_id = ANY ($2)
  AND state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting', 'embedding', 'indexing')";

// What lies in attachments is found with them, unless it is of a version of one that is itself not live.
const SHOW: &str = "-- store::attachments::replace
WITH RECURSIVE of AS (SELECT id, version FROM unnest($2::uuid[], $3::int[]) AS of (id, version)),
shown AS (
    SELECT c.id FROM of JOIN documents AS d ON d.id = of.id
    JOIN documents AS c ON c.parent_id = of.id AND c.parent_version = of.version
    WHERE (d.tenant_id = $1) IS TRUE AND NOT d.withheld AND (c.tenant_id = $1) IS TRUE AND c.deleted_at IS NULL
    UNION
    SELECT c.id FROM shown JOIN documents AS d ON d.id = shown.id LEFT JOIN of ON of.id = d.id
    JOIN documents AS c ON c.parent_id = d.id AND c.parent_version = coalesce(of.version, d.live_version, c.parent_version)
    WHERE (d.tenant_id = $1) IS TRUE AND (c.tenant_id = $1) IS TRUE AND c.deleted_at IS NULL)
UPDATE documents SET withheld = false, updated_at = now()
WHERE (tenant_id = $1) IS TRUE AND id = ANY (ARRAY(SELECT id FROM shown)) AND withheld";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[LOCK_ROOTS, BELOW, LOCK, DELETE, CANCEL, SHOW];
