//! Presigned uploads: a version that waits for its bytes.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, State, TenantId, Version};
use serde_json::Value;

use crate::{
    Accepted, Chunking, Conflict, Error, Quota, Store,
    accept::{Fingerprint, LOCK_BY_ID, version_now},
    attachments::{self, OfVersions},
    read,
    start::SUPERSEDE_OLDER,
    transaction::{Param, Scope, Tx},
};

/// An upload that was handed out and not completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedUpload {
    /// The version that waits.
    pub version: Version,
    /// Where the bytes are to be.
    pub object_key: String,
    /// Until when it is waited for: a while after the signed request stops working.
    pub expires_at: DateTime<Utc>,
    /// The file's name.
    pub filename: String,
    /// The media type that the client claimed.
    pub content_type: String,
}

/// What has become of an upload that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadStage {
    /// Its bytes may be sent.
    Awaited,
    /// Its bytes are those of a version.
    Taken,
    /// It ended without bytes, in this state.
    Over(State),
}

impl Store {
    /// What has become of the upload with this object key; nothing where there is none.
    pub async fn upload_stage(
        &self,
        tenant: &TenantId,
        object_key: &str,
    ) -> Result<Option<UploadStage>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &object_key];
        let rows = self.single(Scope::tenant("upload_stage", tenant), STAGE, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let taken: bool = row.try_get("taken")?;
        Ok(Some(match read::state(row, "state")? {
            State::AwaitingUpload => UploadStage::Awaited,
            _ if taken => UploadStage::Taken,
            state => UploadStage::Over(state),
        }))
    }

    /// The upload that the document waits for.
    pub async fn awaited_upload(
        &self,
        tenant: &TenantId,
        document: DocumentId,
    ) -> Result<Option<AwaitedUpload>, Error> {
        let params: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
        let rows = self.single(Scope::tenant("awaited_upload", tenant), AWAITED, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(AwaitedUpload {
            version: read::version(row, "version")?,
            object_key: row.try_get("object_key")?,
            expires_at: row.try_get("upload_expires_at")?,
            filename: row.try_get("filename")?,
            content_type: row.try_get("content_type")?,
        }))
    }

    /// The bytes are in the object store: the version is released, or waits when `hold` is set. Called
    /// again it answers the version as it is.
    pub async fn complete_upload(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        (size, sha256): (u64, [u8; 32]),
        traceparent: &str,
        hold: bool,
    ) -> Result<Accepted, Error> {
        let size = read::signed_size(size);
        let traceparent =
            if traceparent.len() > 256 || traceparent.contains('\0') { "" } else { traceparent };
        self.transaction(Scope::tenant("complete_upload", tenant), |tx| async move {
            let latest = latest(&tx, tenant, document).await?;
            if latest.state != State::AwaitingUpload {
                return if latest.had_upload && !matches!(latest.state, State::Cancelled | State::Expired) {
                    version_now(&tx, document, latest.version).await
                } else {
                    Err(Conflict::NoUploadAwaited(latest.state).into())
                };
            }
            // Its size was not known when it was reserved.
            let over = tx.query_one(OVER_QUOTA, &[&tenant.as_str()]).await?;
            if Quota::read(&over)?.contains(&Quota::Bytes) {
                return Err(Conflict::OverQuota(Quota::Bytes).into());
            }
            let supersede: [Param<'_>; 3] = [&tenant.as_str(), &document.0, &read::signed(latest.version)];
            tx.execute(SUPERSEDE_OLDER, &supersede).await?;
            let attached = [(document.0, OfVersions::NOT_LIVE)];
            attachments::delete_below(&tx, tenant, &attached).await?;
            let fingerprint = settings(&tx, tenant, document, latest.version).await?;
            let params: [Param<'_>; 6] = [
                &document.0,
                &read::signed(latest.version),
                &size,
                &sha256.as_slice(),
                &traceparent,
                &fingerprint.as_slice(),
            ];
            tx.execute(COMPLETE, &params).await?;
            let release = self.start_version(&tx, tenant, document, latest.version, hold).await?;
            let now = version_now(&tx, document, latest.version).await?;
            Ok(Accepted { release, ..now })
        })
        .await
    }
}

struct Latest {
    version: Version,
    state: State,
    had_upload: bool,
}

/// The document's latest version, both rows locked.
async fn latest(tx: &Tx, tenant: &TenantId, document: DocumentId) -> Result<Latest, Error> {
    let params: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
    tx.prepare(&[LOCK_BY_ID, LOCK_LATEST]).await?;
    let (document, row) = futures::join!(tx.query(LOCK_BY_ID, &params), tx.query_opt(LOCK_LATEST, &params));
    document?;
    let row = row?.ok_or(Error::NotFound("document"))?;
    Ok(Latest {
        version: read::version(&row, "version")?,
        state: read::state(&row, "state")?,
        had_upload: row.try_get("had_upload")?,
    })
}

/// Settles what the upload did not name as the document has it now, and answers the fingerprint.
async fn settings(
    tx: &Tx,
    tenant: &TenantId,
    document: DocumentId,
    version: Version,
) -> Result<[u8; 32], Error> {
    let params: [Param<'_>; 3] = [&tenant.as_str(), &document.0, &read::signed(version)];
    let row = tx.query_one(SETTLE, &params).await?;
    let Value::Object(metadata) = row.try_get("metadata")? else {
        return Err(Error::Row("metadata that is no object".into()));
    };
    let chunking: Chunking =
        serde_json::from_value(row.try_get("chunking")?).map_err(|error| Error::Row(error.to_string()))?;
    Ok(Fingerprint {
        collection: row.try_get("collection_name")?,
        external_id: row.try_get("external_id")?,
        metadata: &metadata,
        chunking: &chunking,
    }
    .hash())
}

const STAGE: &str = "-- store::uploads::upload_stage
SELECT state, sha256 IS NOT NULL AS taken FROM document_versions WHERE tenant_id = $1 AND object_key = $2";

const AWAITED: &str = "-- store::uploads::awaited_upload
SELECT v.version, v.object_key, v.upload_expires_at, v.filename, v.content_type
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL AND v.state = 'awaiting_upload'";

const LOCK_LATEST: &str = "-- store::uploads::latest
SELECT v.version, v.state, v.upload_expires_at IS NOT NULL AS had_upload
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.latest_version
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL
FOR NO KEY UPDATE OF v";

const OVER_QUOTA: &str = "-- store::uploads::complete_upload
SELECT coalesce((SELECT over_quota FROM tenants WHERE id = $1), '{}') AS over_quota";

const COMPLETE: &str = "-- store::uploads::complete_upload
UPDATE document_versions SET size = $3, sha256 = $4, traceparent = $5, fingerprint = $6
WHERE document_id = $1 AND version = $2";

const SETTLE: &str = "-- store::uploads::settings
UPDATE document_versions AS v
SET collection_id = c.id, metadata = coalesce(v.metadata, d.metadata)
FROM documents AS d, collections AS c
WHERE d.tenant_id = $1 AND d.id = $2 AND v.document_id = d.id AND v.version = $3
  AND c.id = coalesce(v.collection_id, d.collection_id)
RETURNING c.name AS collection_name, d.external_id, v.metadata, v.chunking";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[STAGE, AWAITED, LOCK_LATEST, SETTLE, OVER_QUOTA, COMPLETE];
