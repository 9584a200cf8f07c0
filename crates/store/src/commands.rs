//! Commands on a document: cancel, retry, delete. They take the same row locks as the flip, so either
//! they come first or it does.

use riacho_domain::{DocumentId, Lane, State, TenantId, Version};

use crate::{
    Accepted, Conflict, Error, ReleasePlan, Status, Store,
    accept::{LOCK_BY_ID, version_now},
    attachments::{self, OfVersions},
    gone::Why,
    read, status,
    transaction::{Param, Scope, Tx},
};

/// The latest version of a document, whose row is locked.
pub(crate) struct Locked {
    pub(crate) version: Version,
    pub(crate) state: State,
    /// Whether its original is needed, because nothing is sealed, and is not there.
    pub(crate) original_gone: bool,
}

impl Store {
    /// Cancels the latest version; what is attached to it is deleted. One that is live stays live.
    pub async fn cancel(&self, tenant: &TenantId, document: DocumentId) -> Result<Status, Error> {
        self.cancel_latest(tenant, document, None).await
    }

    /// The same, where the latest version is `only` this one if one is given.
    pub(crate) async fn cancel_latest(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        only: Option<Version>,
    ) -> Result<Status, Error> {
        self.transaction(Scope::tenant("cancel", tenant), |tx| async move {
            let latest = lock(&tx, tenant, document).await?;
            if only.is_some_and(|version| version != latest.version) {
                return Err(Error::NotFound("version"));
            }
            if latest.state.is_terminal() {
                return Err(Conflict::NothingToCancel(latest.state).into());
            }
            let version = read::signed(latest.version);
            tx.execute(CANCEL, &[&document.0, &version]).await?;
            let attached = OfVersions(Some(version), version.saturating_add(1));
            attachments::delete_below(&tx, tenant, &[(document.0, attached)]).await?;
            let ids: &[uuid::Uuid] = &[document.0];
            let params: [Param<'_>; 2] = [&tenant.as_str(), &ids];
            Status::read(&tx.query_one(status::STATUS, &params).await?)
        })
        .await
    }

    /// Runs a version that failed or was cancelled once more, with a new release. What was sealed is
    /// kept, and not cut anew.
    pub async fn retry(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        lane: Option<Lane>,
        hold: bool,
    ) -> Result<Accepted, Error> {
        self.transaction(Scope::tenant("retry", tenant), |tx| async move {
            let latest = lock(&tx, tenant, document).await?;
            if !matches!(latest.state, State::Failed | State::Cancelled) {
                return Err(Conflict::NothingToRetry(latest.state).into());
            }
            if latest.original_gone {
                return Err(Conflict::OriginalGone.into());
            }
            let release = self.again(&tx, tenant, document, latest.version, (lane, hold)).await?;
            Ok(Accepted { release, ..version_now(&tx, document, latest.version).await? })
        })
        .await
    }

    /// Starts a version once more that failed or was cancelled, and whose row is locked: in another lane
    /// where one is given, and only waiting for its release where it is to be held.
    pub(crate) async fn again(
        &self,
        tx: &Tx,
        tenant: &TenantId,
        document: DocumentId,
        version: Version,
        (lane, hold): (Option<Lane>, bool),
    ) -> Result<Option<ReleasePlan>, Error> {
        let lane = lane.map(Lane::as_str);
        tx.execute(FRESH, &[&document.0, &read::signed(version), &lane]).await?;
        self.start_version(tx, tenant, document, version, hold).await
    }

    /// Deletes a document with what is attached to it: it is invisible at once, and purge removes it. False: it was
    /// not there.
    pub async fn delete_document(&self, tenant: &TenantId, document: DocumentId) -> Result<bool, Error> {
        self.transaction(Scope::tenant("delete_document", tenant), |tx| async move {
            delete_in(&tx, tenant, document, Why::Asked).await
        })
        .await
    }
}

/// Deletes a document with what is attached to it. False: it was not there.
pub(crate) async fn delete_in(
    tx: &Tx,
    tenant: &TenantId,
    document: DocumentId,
    why: Why,
) -> Result<bool, Error> {
    let params: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
    tx.prepare(&[LOCK_BY_ID, DELETE]).await?;
    let (locked, deleted) = futures::join!(tx.query(LOCK_BY_ID, &params), tx.execute(DELETE, &params));
    locked?;
    if deleted? == 0 {
        return Ok(false);
    }
    tx.deletes(tenant, [document], why);
    tx.execute(CANCEL_ALL, &params).await?;
    tx.execute(DETACH, &params).await?;
    attachments::delete_below(tx, tenant, &[(document.0, OfVersions::ALL)]).await?;
    Ok(true)
}

/// Locks a document and its latest version.
///
/// # Errors
///
/// [`Error::NotFound`] where the tenant has no such document, or has deleted it.
pub(crate) async fn lock(tx: &Tx, tenant: &TenantId, document: DocumentId) -> Result<Locked, Error> {
    let params: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
    tx.prepare(&[LOCK_BY_ID, LOCK_LATEST]).await?;
    let (document, row) = futures::join!(tx.query(LOCK_BY_ID, &params), tx.query_opt(LOCK_LATEST, &params));
    document?;
    let row = row?.ok_or(Error::NotFound("document"))?;
    Ok(Locked {
        version: read::version(&row, "version")?,
        state: read::state(&row, "state")?,
        original_gone: row.try_get("original_gone")?,
    })
}

// The file that it was made of is kept for as long as one that was never used.
const DETACH: &str = "-- store::commands::delete
UPDATE files SET used_at = now() FROM documents AS d
WHERE d.tenant_id = $1 AND d.id = $2 AND files.id = d.file_id AND files.deleted_at IS NULL";

const LOCK_LATEST: &str = "-- store::commands::lock
SELECT v.version, v.state,
       v.manifest IS NULL AND (v.original_purged_at IS NOT NULL OR v.sha256 IS NULL) AS original_gone
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL
FOR NO KEY UPDATE OF v";

const CANCEL: &str = "-- store::commands::cancel
UPDATE document_versions SET state = 'cancelled', ended_by = 'command', finished_at = now()
WHERE document_id = $1 AND version = $2";

const FRESH: &str = "-- store::commands::retry
UPDATE document_versions SET losses = 0, stalls = 0, lane = coalesce($3, lane) WHERE document_id = $1 AND version = $2";

const DELETE: &str = "-- store::commands::delete_document
WITH deleted AS (
    UPDATE documents SET deleted_at = now(), updated_at = now() WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
    RETURNING tenant_id)
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT tenant_id, pg_backend_pid() % 16, 1 FROM deleted
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1";

const CANCEL_ALL: &str = "-- store::commands::delete_document
UPDATE document_versions SET state = 'cancelled', ended_by = 'command', finished_at = now()
WHERE tenant_id = $1 AND document_id = $2
  AND state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting', 'embedding', 'indexing')";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[LOCK_LATEST, CANCEL, FRESH, DELETE, CANCEL_ALL, DETACH];
