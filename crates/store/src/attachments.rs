//! Attachments: documents of their own that belong to a version of another document. They come with it and
//! go with it.
//!
//! Whatever adds to the documents below an upload, or takes some of them away, locks the row of the upload's
//! document first. So none is added below what is being taken away, and they can be counted.

mod replace;

use riacho_domain::State;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    Error, Release, Store,
    accept::{LOCK_BY_ID, wake},
    read,
    stages::superseded,
    transaction::{Param, Scope, Tx},
};

pub(crate) use self::replace::{OfVersions, STATEMENTS as REPLACE_STATEMENTS, delete_below, replace};

/// How deep attachments may lie in attachments. Deeper ones are only named in the text of what they are in.
const MAX_DEPTH: i16 = 3;
/// The most documents below a version of one that was uploaded.
const MOST_BELOW: i32 = 500;

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

impl Store {
    /// Which of the places from 1 to `places` would be accepted now: what is in the others was accepted before, or is
    /// more than may be. Ask before the bytes are stored. None: the release is no longer current.
    pub async fn wanted_attachments(&self, parent: &Release, places: u32) -> Result<Option<Vec<u32>>, Error> {
        let rows = self
            .single(Scope::tenant("wanted_attachments", &parent.tenant), PARENT, &parent.fence().params())
            .await?;
        let Some(row) = rows.first() else { return Ok(superseded("wanted_attachments", None)) };
        Ok(Some(Parent::read(row)?.take(1..=places, |place| *place)))
    }

    /// Accepts what is attached to a version, as documents that wait for their release. What was accepted
    /// before stays as it is, so a repetition changes nothing. Answers how many are new; none where the
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

/// What a version is attached to, and what is attached to it.
struct Parent {
    root: Uuid,
    root_version: i32,
    /// How deep its attachments lie.
    depth: i16,
    /// Its attachments are found by no search for now.
    withheld: bool,
    /// The places that were taken.
    known: Vec<i32>,
    /// How many more may be below the upload.
    room: usize,
}

impl Parent {
    fn read(row: &tokio_postgres::Row) -> Result<Self, Error> {
        let depth = row.try_get::<_, i16>("depth")? + 1;
        let below: i32 = row.try_get("below")?;
        let room = if depth > MAX_DEPTH { 0 } else { MOST_BELOW.saturating_sub(below) };
        Ok(Self {
            root: row.try_get("root")?,
            root_version: row.try_get("root_version")?,
            depth,
            withheld: row.try_get("withheld")?,
            known: row.try_get("attached")?,
            room: usize::try_from(room).unwrap_or(0),
        })
    }

    /// Those whose places are free, as many as there is room for.
    fn take<T>(&self, all: impl IntoIterator<Item = T>, place: impl Fn(&T) -> u32) -> Vec<T> {
        let is_new = |one: &T| !self.known.contains(&read::signed(place(one)));
        all.into_iter().filter(is_new).take(self.room).collect()
    }
}

async fn accept(tx: &Tx, parent: &Release, attachments: &[Attachment]) -> Result<Option<u32>, Error> {
    let lock: [Param<'_>; 2] = [&parent.tenant.as_str(), &parent.document.0];
    tx.query(LOCK_BY_ID, &lock).await?;
    let Some(row) = tx.query_opt(PARENT, &parent.fence().params()).await? else {
        return Ok(superseded("accept_attachments", None));
    };
    let place = Parent::read(&row)?;
    let new = place.take(attachments, |attachment| attachment.ordinal);
    if !new.is_empty() {
        add(tx, parent, &place, &new).await?;
        wake(tx, State::Waiting).await?;
    }
    Ok(u32::try_from(new.len()).ok())
}

async fn add(tx: &Tx, parent: &Release, place: &Parent, attachments: &[&Attachment]) -> Result<(), Error> {
    let ids: Vec<Uuid> = attachments.iter().map(|_| Uuid::now_v7()).collect();
    let ordinals: Vec<i32> = attachments.iter().map(|a| read::signed(a.ordinal)).collect();
    let keys: Vec<&str> = attachments.iter().map(|a| a.object_key.as_str()).collect();
    let names: Vec<&str> = attachments.iter().map(|a| a.filename.as_str()).collect();
    let sizes: Vec<i64> = attachments.iter().map(|a| read::signed_size(a.size)).collect();
    let hashes: Vec<&[u8]> = attachments.iter().map(|a| a.sha256.as_slice()).collect();
    let fingerprints: Vec<[u8; 32]> = ids.iter().map(fingerprint).collect();
    let fingerprints: Vec<&[u8]> = fingerprints.iter().map(<[u8; 32]>::as_slice).collect();
    let params: [Param<'_>; 14] = [
        &parent.tenant.as_str(),
        &parent.document.0,
        &read::signed(parent.version),
        &place.root,
        &place.root_version,
        &place.depth,
        &place.withheld,
        &ids,
        &ordinals,
        &keys,
        &names,
        &sizes,
        &hashes,
        &fingerprints,
    ];
    tx.execute(ADD, &params).await?;
    let [tenant, document, version, root, root_version, ..] = params;
    tx.execute(COUNT, &[tenant, document, version, root, root_version, &ordinals]).await?;
    Ok(())
}

/// One that no upload has: the same bytes uploaded are a document that does not go with this one's parent.
fn fingerprint(id: &Uuid) -> [u8; 32] {
    Sha256::new_with_prefix(b"attachment").chain_update(id.as_bytes()).finalize().into()
}

const PARENT: &str = "-- store::attachments::accept
SELECT d.depth, r.document_id AS root, r.version AS root_version, r.below, v.attached,
       d.withheld OR coalesce(d.live_version <> v.version, false) AS withheld
FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = $3
JOIN document_versions AS r ON r.document_id = coalesce(d.root_id, d.id) AND r.version = coalesce(d.root_version, v.version)
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL AND v.release_id = $4
  AND v.state IN ('releasing', 'extracting', 'embedding', 'indexing')";

// What the parent's version brings, its attachments bring too.
const ADD: &str = "-- store::attachments::add
WITH parent AS (
    SELECT v.lane, v.chunking, v.traceparent, coalesce(v.collection_id, d.collection_id) AS collection_id,
           coalesce(v.metadata, d.metadata) AS metadata, coalesce(v.expires_at, d.expires_at) AS expires_at
    FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = $3
    WHERE d.tenant_id = $1 AND d.id = $2),
new AS (
    SELECT * FROM unnest($8::uuid[], $9::int[], $10::text[], $11::text[], $12::bigint[], $13::bytea[], $14::bytea[])
        AS new (id, ordinal, object_key, filename, size, sha256, fingerprint)),
added AS (
    INSERT INTO documents (tenant_id, id, collection_id, metadata, latest_version, expires_at, parent_id, parent_version,
        attachment, root_id, root_version, depth, withheld)
    SELECT $1, new.id, parent.collection_id, parent.metadata, 1, parent.expires_at, $2, $3, new.ordinal, $4, $5, $6, $7
    FROM new, parent)
INSERT INTO document_versions (tenant_id, document_id, version, state, lane, object_key, filename, size, sha256, chunking,
    fingerprint, traceparent, collection_id, metadata, expires_at)
SELECT $1, new.id, 1, 'waiting', parent.lane, new.object_key, new.filename, new.size, new.sha256, parent.chunking,
    new.fingerprint, parent.traceparent, parent.collection_id, parent.metadata, parent.expires_at
FROM new, parent";

// The parent's version may be that of the upload itself.
const COUNT: &str = "-- store::attachments::add
UPDATE document_versions AS v
SET attached = CASE WHEN v.document_id = $2 AND v.version = $3 THEN v.attached || $6::int[] ELSE v.attached END,
    below = CASE WHEN v.document_id = $4 AND v.version = $5 THEN v.below + cardinality($6::int[]) ELSE v.below END
WHERE v.tenant_id = $1 AND (v.document_id = $2 AND v.version = $3 OR v.document_id = $4 AND v.version = $5)";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[PARENT, ADD, COUNT];
