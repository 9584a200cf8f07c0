//! Attachments: documents of their own that belong to a version of another document. They come with it and
//! go with it.

use std::collections::HashSet;

use riacho_domain::{State, TenantId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    Error, Release, Store,
    accept::{LOCK_BY_ID, wake},
    read,
    stages::superseded,
    transaction::{Param, Scope, Tx},
};

/// How deep attachments may lie in attachments. Deeper ones are only named in the text of what they are in.
const MAX_DEPTH: i16 = 3;
/// The most documents below one that was uploaded, whatever became of them.
const MOST_BELOW: i64 = 500;
/// How many ids an attachment may need: one more each time that its version ran again after it was deleted.
const MOST_IDS: usize = 16;

/// A file that was attached to a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its place among the attachments, from 1.
    pub ordinal: u32,
    /// Its name.
    pub filename: String,
    /// Where its bytes are stored.
    pub object_key: String,
    /// Their number.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

/// Which of a document's attachments: those of the versions from the first up to before the second. Without a
/// first one, those of the versions after the live one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfVersions(pub(crate) Option<i32>, pub(crate) i32);

impl OfVersions {
    pub(crate) const ALL: OfVersions = OfVersions(Some(0), i32::MAX);
    pub(crate) const NOT_LIVE: OfVersions = OfVersions(None, i32::MAX);
}

impl Store {
    /// Accepts what is attached to a version, as documents that wait for their release. What is there
    /// already stays as it is, so a repetition changes nothing. Answers how many are new; none where the
    /// release is no longer current.
    pub async fn accept_attachments(
        &self,
        parent: &Release,
        attachments: &[Attachment],
    ) -> Result<Option<u32>, Error> {
        let scope = Scope::tenant("accept_attachments", &parent.tenant);
        self.transaction(scope, |tx| async move { accept(&tx, parent, attachments).await }).await
    }
}

async fn accept(tx: &Tx, parent: &Release, attachments: &[Attachment]) -> Result<Option<u32>, Error> {
    let fence = parent.fence();
    let lock: [Param<'_>; 2] = [&parent.tenant.as_str(), &parent.document.0];
    tx.query(LOCK_BY_ID, &lock).await?;
    let Some(row) = tx.query_opt(PARENT, &fence.params()).await? else {
        return Ok(superseded("accept_attachments", None));
    };
    let depth = row.try_get::<_, i16>("depth")? + 1;
    let (root, below): (Uuid, i64) = (row.try_get("root")?, row.try_get("below")?);
    let known: Vec<i32> = row.try_get("known")?;
    let room = if depth > MAX_DEPTH { 0 } else { usize::try_from(MOST_BELOW - below).unwrap_or(0) };
    let new = attachments.iter().filter(|attachment| !known.contains(&read::signed(attachment.ordinal)));
    let new: Vec<&Attachment> = new.take(room).collect();
    if new.is_empty() {
        return Ok(Some(0));
    }
    let ids = free_ids(tx, parent, &new).await?;
    add(tx, parent, root, depth, &new, &ids).await?;
    wake(tx, State::Waiting).await?;
    Ok(u32::try_from(new.len()).ok())
}

/// An id for each, derived from the document, its version and the attachment's place, so that a repetition
/// makes the same. Ids of attachments that were deleted are never given again.
async fn free_ids(tx: &Tx, parent: &Release, attachments: &[&Attachment]) -> Result<Vec<Uuid>, Error> {
    let candidates: Vec<Vec<Uuid>> = attachments
        .iter()
        .map(|attachment| (0..MOST_IDS).map(|n| derived(parent, attachment.ordinal, n)).collect())
        .collect();
    let all: Vec<Uuid> = candidates.iter().flatten().copied().collect();
    let rows = tx.query(TAKEN, &[&parent.tenant.as_str(), &all]).await?;
    let taken = rows.iter().map(|row| row.try_get("id")).collect::<Result<HashSet<Uuid>, _>>()?;
    let free = |ids: &Vec<Uuid>| ids.iter().copied().find(|id| !taken.contains(id));
    let ids = candidates.iter().map(free).collect::<Option<Vec<_>>>();
    ids.ok_or_else(|| Error::Invalid("the version has run too often with its attachments deleted".into()))
}

fn derived(parent: &Release, ordinal: u32, attempt: usize) -> Uuid {
    Uuid::new_v5(&parent.document.0, format!("{}/{ordinal}/{attempt}", parent.version).as_bytes())
}

async fn add(
    tx: &Tx,
    parent: &Release,
    root: Uuid,
    depth: i16,
    attachments: &[&Attachment],
    ids: &[Uuid],
) -> Result<(), Error> {
    let ordinals: Vec<i32> = attachments.iter().map(|a| read::signed(a.ordinal)).collect();
    let keys: Vec<&str> = attachments.iter().map(|a| a.object_key.as_str()).collect();
    let names: Vec<&str> = attachments.iter().map(|a| a.filename.as_str()).collect();
    let sizes: Vec<i64> = attachments.iter().map(|a| read::signed_size(a.size)).collect();
    let hashes: Vec<&[u8]> = attachments.iter().map(|a| a.sha256.as_slice()).collect();
    let fingerprints: Vec<[u8; 32]> = ids.iter().map(fingerprint).collect();
    let fingerprints: Vec<&[u8]> = fingerprints.iter().map(<[u8; 32]>::as_slice).collect();
    let params: [Param<'_>; 12] = [
        &parent.tenant.as_str(),
        &parent.document.0,
        &read::signed(parent.version),
        &root,
        &depth,
        &ids,
        &ordinals,
        &keys,
        &names,
        &sizes,
        &hashes,
        &fingerprints,
    ];
    tx.execute(ADD, &params).await?;
    Ok(())
}

/// One that no upload has: the same bytes uploaded are a document that does not go with this one's parent.
fn fingerprint(id: &Uuid) -> [u8; 32] {
    Sha256::new_with_prefix(b"attachment").chain_update(id.as_bytes()).finalize().into()
}

/// Deletes the attachments of some versions of documents whose rows are locked, with all that lies in them.
pub(crate) async fn delete_below(
    tx: &Tx,
    tenant: &TenantId,
    parents: &[(Uuid, OfVersions)],
) -> Result<(), Error> {
    let tenant = tenant.as_str();
    let (ids, versions): (Vec<Uuid>, Vec<OfVersions>) = parents.iter().copied().unzip();
    let from: Vec<Option<i32>> = versions.iter().map(|versions| versions.0).collect();
    let to: Vec<i32> = versions.iter().map(|versions| versions.1).collect();
    let rows = tx.query(BELOW, &[&tenant, &ids, &from, &to]).await?;
    let below = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>, _>>()?;
    if below.is_empty() {
        return Ok(());
    }
    let params: [Param<'_>; 2] = [&tenant, &below];
    tx.query(LOCK, &params).await?;
    tx.execute(DELETE, &params).await?;
    tx.execute(CANCEL, &params).await?;
    Ok(())
}

const PARENT: &str = "-- store::attachments::accept
SELECT d.depth, coalesce(d.root_id, d.id) AS root,
       (SELECT count(*) FROM documents AS o WHERE o.root_id = coalesce(d.root_id, d.id)) AS below,
       ARRAY(SELECT c.attachment FROM documents AS c
             WHERE c.parent_id = $2 AND c.parent_version = $3 AND c.deleted_at IS NULL) AS known
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = $3
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL AND v.release_id = $4
  AND v.state IN ('releasing', 'extracting', 'embedding', 'indexing')";

const TAKEN: &str = "-- store::attachments::free_ids
SELECT id FROM documents WHERE tenant_id = $1 AND id = ANY ($2)";

// What the parent's version brings, its attachments bring too.
const ADD: &str = "-- store::attachments::add
WITH parent AS (
    SELECT v.lane, v.chunking, v.traceparent, coalesce(v.collection_id, d.collection_id) AS collection_id,
           coalesce(v.metadata, d.metadata) AS metadata, coalesce(v.expires_at, d.expires_at) AS expires_at
    FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = $3
    WHERE d.tenant_id = $1 AND d.id = $2),
new AS (
    SELECT * FROM unnest($6::uuid[], $7::int[], $8::text[], $9::text[], $10::bigint[], $11::bytea[], $12::bytea[])
        AS new (id, ordinal, object_key, filename, size, sha256, fingerprint)),
added AS (
    INSERT INTO documents (tenant_id, id, collection_id, metadata, latest_version, expires_at, parent_id, parent_version,
        attachment, root_id, depth)
    SELECT $1, new.id, parent.collection_id, parent.metadata, 1, parent.expires_at, $2, $3, new.ordinal, $4, $5
    FROM new, parent)
INSERT INTO document_versions (tenant_id, document_id, version, state, lane, object_key, filename, size, sha256, chunking,
    fingerprint, traceparent, collection_id, metadata, expires_at)
SELECT $1, new.id, 1, 'waiting', parent.lane, new.object_key, new.filename, new.size, new.sha256, parent.chunking,
    new.fingerprint, parent.traceparent, parent.collection_id, parent.metadata, parent.expires_at
FROM new, parent";

const BELOW: &str = "-- store::attachments::delete_below
WITH RECURSIVE below AS (
    SELECT c.id
    FROM unnest($2::uuid[], $3::int[], $4::int[]) AS of (id, from_version, to_version)
    JOIN documents AS d ON d.id = of.id
    JOIN documents AS c ON c.parent_id = of.id AND c.parent_version < of.to_version
        AND c.parent_version >= coalesce(of.from_version, d.live_version + 1, 0)
    WHERE d.tenant_id = $1 AND c.tenant_id = $1 AND c.deleted_at IS NULL
    UNION
    SELECT c.id FROM below JOIN documents AS c ON c.parent_id = below.id
    WHERE c.tenant_id = $1 AND c.deleted_at IS NULL)
SELECT id FROM below";

const LOCK: &str = "-- store::attachments::delete_below
SELECT id FROM documents WHERE tenant_id = $1 AND id = ANY ($2) ORDER BY id FOR NO KEY UPDATE";

const DELETE: &str = "-- store::attachments::delete_below
WITH deleted AS (
    UPDATE documents SET deleted_at = now(), updated_at = now()
    WHERE tenant_id = $1 AND id = ANY ($2) AND deleted_at IS NULL RETURNING tenant_id)
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT DISTINCT tenant_id, pg_backend_pid() % 16, 1 FROM deleted
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1";

const CANCEL: &str = "-- store::attachments::delete_below
UPDATE document_versions SET state = 'cancelled', ended_by = 'command', finished_at = now()
WHERE tenant_id = $1 AND document_id = ANY ($2)
  AND state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting', 'embedding', 'indexing')";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[PARENT, TAKEN, ADD, BELOW, LOCK, DELETE, CANCEL];
