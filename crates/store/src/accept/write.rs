//! Writing a version that was accepted.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, ReleaseId, State, Version};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Accept, Body, Existing, Found};
use crate::{
    Accepted, Conflict, Error, ReleasePlan, Store,
    attachments::{self, OfVersions},
    collections::DEFAULT_COLLECTION,
    intake::{self, EventKey},
    read,
    topology::partition_of,
    transaction::{Param, Tx},
};

/// A new version with its release, or without one when it waits.
struct Start {
    document: DocumentId,
    version: Version,
    state: State,
    release: Option<ReleaseId>,
    partition: Option<i16>,
    space: Option<i32>,
}

impl Start {
    fn of(accept: &Accept, found: &Found) -> Result<Self, Error> {
        let document = found.existing.as_ref().map_or_else(DocumentId::new, |existing| existing.id);
        let version = found.existing.as_ref().map_or(1, |existing| existing.latest + 1);
        let nothing = |state| Self { document, version, state, release: None, partition: None, space: None };
        if matches!(accept.body, Body::Awaited { .. }) {
            return Ok(nothing(State::AwaitingUpload));
        }
        let space = found.space.ok_or(Conflict::NoLiveSpace)?;
        if accept.hold || found.held {
            return Ok(nothing(State::Waiting));
        }
        Ok(Self {
            document,
            version,
            state: State::Releasing,
            release: Some(ReleaseId::new()),
            partition: Some(partition_of(&accept.tenant, document, &found.partitions)),
            space: Some(space),
        })
    }
}

impl Store {
    pub(super) async fn write_version(
        &self,
        tx: &Tx,
        accept: &Accept,
        event: Option<&EventKey>,
        found: &Found,
        fingerprint: &[u8; 32],
    ) -> Result<Accepted, Error> {
        let start = Start::of(accept, found)?;
        let (document, version) = (start.document, start.version);
        let collection = collection(tx, accept, found).await?;
        let brings = Brings::of(accept, found.existing.as_ref(), collection);
        tx.prepare(&[ADD_DOCUMENT, NEW_VERSION, SUPERSEDE, ADD_VERSION, WAKE, REMEMBER, intake::REMEMBER])
            .await?;
        if let Some(existing) = &found.existing
            && matches!(accept.body, Body::Stored { .. })
        {
            // Of versions that never became live, and now never will.
            let attached = [(existing.id.0, OfVersions::NOT_LIVE)];
            attachments::delete_below(tx, &accept.tenant, &attached).await?;
        }
        // In the order of the locks: the document, its older versions, the new one.
        let (documented, added, remembered, woken, committed) = futures::join!(
            write_document(tx, accept, found.existing.as_ref(), document, collection),
            self.add_version(tx, accept, &start, &brings, fingerprint),
            remember(tx, accept, event, document, version, false),
            wake(tx, start.state),
            tx.commit(),
        );
        documented?;
        let accepted_at = added?;
        remembered?;
        woken?;
        committed?;
        let release = start.plan(accept)?;
        Ok(Accepted {
            document,
            version,
            state: start.state,
            release,
            duplicate: false,
            replayed: false,
            accepted_at,
        })
    }

    async fn add_version(
        &self,
        tx: &Tx,
        accept: &Accept,
        start: &Start,
        brings: &Brings,
        fingerprint: &[u8; 32],
    ) -> Result<DateTime<Utc>, Error> {
        let (size, sha256, upload_expires_at) = match &accept.body {
            Body::Stored { size, sha256 } => (Some(read::signed_size(*size)), Some(sha256.as_slice()), None),
            Body::Awaited { expires_at } => (None, None, Some(*expires_at)),
        };
        let chunking =
            serde_json::to_value(&accept.chunking).map_err(|error| Error::Invalid(error.to_string()))?;
        let release = start.release.map(|release| release.0);
        let params: [Param<'_>; 21] = [
            &accept.tenant.as_str(),
            &start.document.0,
            &read::signed(start.version),
            &start.state.as_str(),
            &accept.lane.as_str(),
            &accept.object_key,
            &accept.filename,
            &accept.content_type,
            &size,
            &sha256,
            &upload_expires_at,
            &chunking,
            &fingerprint.as_slice(),
            &release,
            &start.partition,
            &start.space,
            &self.inner.deadline_hours,
            &accept.traceparent,
            &brings.collection,
            &brings.metadata,
            &ttl_seconds(accept),
        ];
        Ok(tx.query_one(ADD_VERSION, &params).await?.try_get("created_at")?)
    }
}

impl Start {
    fn plan(&self, accept: &Accept) -> Result<Option<ReleasePlan>, Error> {
        let (Some(release), Some(partition), Some(space), Body::Stored { size, sha256 }) =
            (self.release, self.partition, self.space, &accept.body)
        else {
            return Ok(None);
        };
        Ok(Some(ReleasePlan {
            tenant: accept.tenant.clone(),
            document: self.document,
            version: self.version,
            release,
            partition: u16::try_from(partition).map_err(|_| Error::Row("a negative partition".into()))?,
            lane: accept.lane,
            space: read::unsigned(space),
            object_key: accept.object_key.clone(),
            filename: accept.filename.clone(),
            content_type: accept.content_type.clone(),
            size: *size,
            sha256: *sha256,
            chunking: accept.chunking.clone(),
            traceparent: accept.traceparent.clone(),
        }))
    }
}

/// What the version makes the document's when it goes live.
struct Brings {
    collection: Option<Uuid>,
    metadata: Option<Value>,
}

impl Brings {
    /// What the upload does not name is as the document has it: now, or for a presigned upload, during
    /// which the document goes on, when its bytes come.
    fn of(accept: &Accept, existing: Option<&Existing>, collection: Uuid) -> Self {
        let own = accept.metadata.as_ref();
        if existing.is_some() && matches!(accept.body, Body::Awaited { .. }) {
            let named = accept.collection.is_some().then_some(collection);
            return Self { collection: named, metadata: own.cloned().map(Value::Object) };
        }
        let metadata = own.or(existing.map(|existing| &existing.metadata)).cloned().unwrap_or_default();
        Self { collection: Some(collection), metadata: Some(Value::Object(metadata)) }
    }
}

#[allow(clippy::cast_precision_loss)] // a time to live in seconds
fn ttl_seconds(accept: &Accept) -> Option<f64> {
    accept.ttl.map(|ttl| ttl.as_secs().min(100 * 366 * 86_400) as f64)
}

/// The collection's id; it is made when it is not there.
async fn collection(tx: &Tx, accept: &Accept, found: &Found) -> Result<Uuid, Error> {
    let name = match (&accept.collection, &found.existing) {
        (None, Some(existing)) => return Ok(existing.collection),
        (None, None) => DEFAULT_COLLECTION,
        (Some(name), _) => name,
    };
    if let Some(id) = found.collection {
        return Ok(id);
    }
    let row = tx.query_one(ENSURE_COLLECTION, &[&accept.tenant.as_str(), &Uuid::now_v7(), &name]).await?;
    Ok(row.try_get("id")?)
}

async fn write_document(
    tx: &Tx,
    accept: &Accept,
    existing: Option<&Existing>,
    document: DocumentId,
    collection: Uuid,
) -> Result<(), Error> {
    let tenant = accept.tenant.as_str();
    let ttl_seconds = ttl_seconds(accept);
    let metadata = accept.metadata.clone().map(Value::Object);
    let file = accept.made_of.map(|made_of| made_of.file);
    let Some(_) = existing else {
        let metadata = metadata.unwrap_or_else(|| Value::Object(Map::new()));
        let params: [Param<'_>; 7] =
            [&tenant, &document.0, &collection, &accept.external_id, &metadata, &ttl_seconds, &file];
        tx.execute(ADD_DOCUMENT, &params).await?;
        return Ok(());
    };
    let params: [Param<'_>; 6] = [&document.0, &collection, &metadata, &ttl_seconds, &tenant, &file];
    let supersede: [Param<'_>; 2] = [&tenant, &document.0];
    // A presigned upload may never come; the version in flight goes on until it does.
    let supersedes = matches!(accept.body, Body::Stored { .. });
    let (updated, superseded) = futures::join!(tx.execute(NEW_VERSION, &params), async {
        if supersedes { tx.execute(SUPERSEDE, &supersede).await } else { Ok(0) }
    });
    updated?;
    superseded?;
    Ok(())
}

/// Writes the answer down for a repetition of the request or the event.
pub(super) async fn remember(
    tx: &Tx,
    accept: &Accept,
    event: Option<&EventKey>,
    document: DocumentId,
    version: Version,
    duplicate: bool,
) -> Result<(), Error> {
    let number = read::signed(version);
    let request = async {
        let Some(idempotency) = &accept.idempotency else { return Ok(0) };
        let hash = idempotency.request_hash.as_slice();
        let params: [Param<'_>; 6] =
            [&accept.tenant.as_str(), &idempotency.key, &hash, &document.0, &number, &duplicate];
        tx.execute(REMEMBER, &params).await
    };
    let answer = async {
        match event {
            Some(event) => intake::remember(tx, event, document, version).await,
            None => Ok(()),
        }
    };
    // Sent together: what came after the commit would be in no transaction.
    let (requested, answered) = futures::join!(request, answer);
    requested?;
    answered
}

/// Wakes the janitor when something waits for it.
pub(crate) async fn wake(tx: &Tx, state: State) -> Result<(), Error> {
    if state == State::Waiting {
        tx.query(WAKE, &[]).await?;
    }
    Ok(())
}

const ENSURE_COLLECTION: &str = "-- store::accept::collection
INSERT INTO collections (tenant_id, id, name) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, name) DO UPDATE SET name = excluded.name
RETURNING id";

const ADD_DOCUMENT: &str = "-- store::accept::write_document
INSERT INTO documents (tenant_id, id, collection_id, external_id, metadata, latest_version, expires_at, file_id)
VALUES ($1, $2, $3, $4, $5, 1, now() + make_interval(secs => $6), $7)";

// What is live stays as it is: the flip brings what the version brings. `IS TRUE` keeps the planner from an index that begins
// with the tenant; see migration 0006.
const NEW_VERSION: &str = "-- store::accept::write_document
UPDATE documents
SET latest_version = latest_version + 1, updated_at = now(), file_id = coalesce($6, file_id),
    collection_id = CASE WHEN live_version IS NULL THEN $2 ELSE collection_id END,
    metadata = CASE WHEN live_version IS NULL THEN coalesce($3, metadata) ELSE metadata END,
    expires_at = CASE WHEN live_version IS NULL THEN coalesce(now() + make_interval(secs => $4), expires_at)
                      ELSE expires_at END
WHERE id = $1 AND (tenant_id = $5) IS TRUE";

pub(crate) const SUPERSEDE: &str = "-- store::accept::write_document
UPDATE document_versions SET state = 'cancelled', ended_by = 'superseded', finished_at = now()
WHERE tenant_id = $1 AND document_id = $2
  AND state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting', 'embedding', 'indexing')";

const ADD_VERSION: &str = "-- store::accept::add_version
INSERT INTO document_versions (tenant_id, document_id, version, state, lane, object_key, filename, content_type, size,
    sha256, upload_expires_at, chunking, fingerprint, release_id, partition, space_id, deadline, traceparent,
    collection_id, metadata, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
    CASE WHEN $14::uuid IS NOT NULL THEN now() + make_interval(hours => $17) END, $18, $19, $20,
    now() + make_interval(secs => $21))
RETURNING created_at";

const REMEMBER: &str = "-- store::accept::remember
INSERT INTO idempotency_keys (tenant_id, key, request_hash, document_id, version, duplicate)
VALUES ($1, $2, $3, $4, $5, $6)";

const WAKE: &str = "-- store::accept::wake
SELECT pg_notify('riacho_waiting', '')::text";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] =
    &[ENSURE_COLLECTION, ADD_DOCUMENT, NEW_VERSION, SUPERSEDE, ADD_VERSION, REMEMBER, WAKE];
