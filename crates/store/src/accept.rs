//! Accepting a document: one transaction that answers from what is there, or writes the version with
//! its release. From its commit on the document is owed.

mod request;
mod write;

use riacho_domain::{DocumentId, State, TenantId, Version};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use uuid::Uuid;

pub(crate) use self::request::Fingerprint;
use self::request::advisory_keys;
pub use self::request::{Accept, Body, Idempotency, MadeOf, Target};
pub(crate) use self::write::{STATEMENTS as WRITE_STATEMENTS, wake};
use crate::{
    Accepted, Conflict, Error, Quota, Store,
    collections::DEFAULT_COLLECTION,
    commands, files,
    gone::Why,
    intake::{self, AcceptedEvent, EventAnswer, EventKey},
    read,
    transaction::{Param, Scope, Tx},
};

/// What a document of the tenant must look like to take a new version, read under its row lock.
struct Existing {
    id: DocumentId,
    collection: Uuid,
    collection_name: String,
    external_id: Option<String>,
    metadata: Map<String, Value>,
    latest: Version,
}

/// What the first round trip found.
struct Found {
    space: Option<i32>,
    /// The tenant has enough in flight: the version waits.
    held: bool,
    /// The quotas of the tenant that are used up.
    over_quota: Vec<Quota>,
    partitions: Vec<i16>,
    collection: Option<Uuid>,
    replay: Option<Replay>,
    existing: Option<Existing>,
    duplicate: Option<(DocumentId, Version)>,
    event: Option<EventAnswer>,
}

impl Store {
    /// Accepts a document, or answers with the one that is there already.
    pub async fn accept(&self, accept: &Accept) -> Result<Accepted, Error> {
        let accepted = self.accept_with(accept, None).await?.accepted;
        accepted.ok_or_else(|| Error::Row("an acceptance without an answer".into()))
    }

    pub(crate) async fn accept_with(
        &self,
        accept: &Accept,
        event: Option<&EventKey>,
    ) -> Result<AcceptedEvent, Error> {
        accept.check()?;
        let scope = Scope::tenant("accept", &accept.tenant);
        self.transaction(scope, |tx| async move { self.accept_in(&tx, accept, event).await }).await
    }

    /// What a request with this Idempotency-Key was answered, as it is now; none where there was none. For a request that costs
    /// much before it can be accepted: [`Store::accept`] looks again, under its locks.
    ///
    /// # Errors
    /// [`Conflict::IdempotencyKeyReused`] where it was another request.
    pub async fn answered(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
    ) -> Result<Option<Accepted>, Error> {
        self.transaction(Scope::tenant("answered", tenant), |tx| async move {
            let row = tx.query_opt(ANSWERED, &[&tenant.as_str(), &idempotency.key]).await?;
            match row.as_ref().map(replay).transpose()?.flatten() {
                Some(replay) => answer_again(&tx, &replay, idempotency).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn accept_in(
        &self,
        tx: &Tx,
        accept: &Accept,
        event: Option<&EventKey>,
    ) -> Result<AcceptedEvent, Error> {
        let found = find(tx, accept, event).await?;
        if let Some(made_of) = &accept.made_of
            && found.collection != Some(made_of.collection)
        {
            return Err(Error::NotFound("collection"));
        }
        if let Some(answer) = found.event {
            return Ok(AcceptedEvent { answer, accepted: None });
        }
        let accepted = self.decide(tx, accept, event, found).await?;
        let answer = EventAnswer::Accepted { document: accepted.document, version: accepted.version };
        Ok(AcceptedEvent { answer, accepted: Some(accepted) })
    }

    async fn decide(
        &self,
        tx: &Tx,
        accept: &Accept,
        event: Option<&EventKey>,
        mut found: Found,
    ) -> Result<Accepted, Error> {
        if let (Some(replay), Some(idempotency)) = (&found.replay, &accept.idempotency) {
            return answer_again(tx, replay, idempotency).await;
        }
        if matches!(accept.target, Target::NewVersionOf(_)) && found.existing.is_none() {
            return Err(Error::NotFound("document"));
        }
        let fingerprint = fingerprint(accept, found.existing.as_ref());
        if let Some(existing) = &found.existing
            && same_as_latest(tx, accept, existing, &fingerprint).await?
        {
            found.duplicate = Some((existing.id, existing.latest));
        }
        if let Some((document, version)) = found.duplicate {
            write::remember(tx, accept, event, document, version, true).await?;
            return Ok(Accepted { duplicate: true, ..version_now(tx, document, version).await? });
        }
        check_quotas(accept, &found)?;
        self.write_version(tx, accept, event, &found, &fingerprint).await
    }
}

/// Refuses what would be new while a quota is used up. A new version is no new document, and what is made of a file
/// brings no bytes.
fn check_quotas(accept: &Accept, found: &Found) -> Result<(), Error> {
    let counts = |quota: &Quota| match quota {
        Quota::Documents => found.existing.is_none(),
        Quota::Bytes => accept.made_of.is_none(),
        Quota::Unfinished => true,
    };
    match found.over_quota.iter().find(|quota| counts(quota)) {
        Some(quota) => Err(Conflict::OverQuota(*quota).into()),
        None => Ok(()),
    }
}

/// What a request with the same Idempotency-Key was answered.
struct Replay {
    document: DocumentId,
    version: Version,
    request_hash: Vec<u8>,
    duplicate: bool,
}

/// The locks and everything that the decision needs, in one round trip.
async fn find(tx: &Tx, accept: &Accept, event: Option<&EventKey>) -> Result<Found, Error> {
    let tenant = accept.tenant.as_str();
    let collection = accept.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
    let idempotency_key = accept.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
    let locks = advisory_keys(accept, event);
    let early = matches!(accept.target, Target::New) && accept.external_id.is_none();
    let early_fingerprint = fingerprint(accept, None);
    if let Some(made_of) = &accept.made_of {
        files::use_file(tx, &accept.tenant, made_of.file).await?;
    }
    tx.prepare(&[
        LOCKS,
        CONTEXT,
        LOCK_BY_ID,
        LOCK_BY_EXTERNAL_ID,
        BY_ID,
        BY_EXTERNAL_ID,
        SAME_BYTES,
        intake::KNOWN,
    ])
    .await?;
    let context_params: [Param<'_>; 3] = [&tenant, &collection, &idempotency_key];
    let locks_params: [Param<'_>; 1] = [&locks];
    let (locked, context, existing, duplicate, event) = futures::join!(
        tx.query(LOCKS, &locks_params),
        tx.query_one(CONTEXT, &context_params),
        existing(tx, accept),
        async {
            match (&accept.body, early) {
                (Body::Stored { sha256, .. }, true) => {
                    let params: [Param<'_>; 3] = [&tenant, &sha256.as_slice(), &early_fingerprint.as_slice()];
                    tx.query_opt(SAME_BYTES, &params).await
                }
                _ => Ok(None),
            }
        },
        async {
            match event {
                Some(event) => intake::known(tx, event).await,
                None => Ok(None),
            }
        },
    );
    locked?;
    let context = context?;
    if context.try_get::<_, Option<&str>>("tenant_state")? != Some("active") {
        return Err(Conflict::TenantNotActive.into());
    }
    let duplicate = duplicate?
        .map(|row| Ok::<_, Error>((read::document(&row, "document_id")?, read::version(&row, "version")?)));
    Ok(Found {
        space: context.try_get("space_id")?,
        held: context.try_get("held")?,
        over_quota: Quota::read(&context)?,
        partitions: context.try_get("partitions")?,
        collection: context.try_get("collection_id")?,
        replay: replay(&context)?,
        existing: existing?,
        duplicate: duplicate.transpose()?,
        event: event?,
    })
}

/// The answer to a request that was answered before.
async fn answer_again(tx: &Tx, replay: &Replay, idempotency: &Idempotency) -> Result<Accepted, Error> {
    if replay.request_hash.as_slice() != idempotency.request_hash {
        return Err(Conflict::IdempotencyKeyReused.into());
    }
    let now = version_now(tx, replay.document, replay.version).await?;
    Ok(Accepted { replayed: true, duplicate: replay.duplicate, ..now })
}

fn replay(context: &Row) -> Result<Option<Replay>, Error> {
    let Some(request_hash) = context.try_get("request_hash")? else { return Ok(None) };
    Ok(Some(Replay {
        document: read::document(context, "replay_document")?,
        version: read::version(context, "replay_version")?,
        request_hash,
        duplicate: context.try_get("duplicate")?,
    }))
}

async fn existing(tx: &Tx, accept: &Accept) -> Result<Option<Existing>, Error> {
    let tenant = accept.tenant.as_str();
    let (lock, read, key): (_, _, Param<'_>) = match (&accept.target, &accept.external_id) {
        (Target::NewVersionOf(id), _) => (LOCK_BY_ID, BY_ID, &id.0),
        (Target::New, Some(external_id)) => (LOCK_BY_EXTERNAL_ID, BY_EXTERNAL_ID, external_id),
        (Target::New, None) => return Ok(None),
    };
    let params: [Param<'_>; 2] = [&tenant, key];
    let (locked, row) = futures::join!(tx.query(lock, &params), tx.query_opt(read, &params));
    locked?;
    let row = row?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get("is_hidden")? {
        // It went with its collection, whose turn has not come to be emptied. Its external id is free.
        commands::delete_in(tx, &accept.tenant, read::document(&row, "id")?, Why::Collection).await?;
        return Ok(None);
    }
    let Value::Object(metadata) = row.try_get("metadata")? else {
        return Err(Error::Row("metadata that is no object".into()));
    };
    Ok(Some(Existing {
        id: read::document(&row, "id")?,
        collection: row.try_get("collection_id")?,
        collection_name: row.try_get("collection_name")?,
        external_id: row.try_get("external_id")?,
        metadata,
        latest: read::version(&row, "latest_version")?,
    }))
}

/// The settings that make two uploads of the same bytes the same document.
fn fingerprint(accept: &Accept, existing: Option<&Existing>) -> [u8; 32] {
    let empty = Map::new();
    let stored = existing.map_or(&empty, |existing| &existing.metadata);
    Fingerprint {
        collection: accept
            .collection
            .as_deref()
            .or(existing.map(|existing| existing.collection_name.as_str()))
            .unwrap_or(DEFAULT_COLLECTION),
        external_id: existing
            .map_or(accept.external_id.as_deref(), |existing| existing.external_id.as_deref()),
        metadata: accept.metadata.as_ref().unwrap_or(stored),
        chunking: &accept.chunking,
    }
    .hash()
}

/// Whether the document's latest version is these bytes with these settings, and has not failed.
async fn same_as_latest(
    tx: &Tx,
    accept: &Accept,
    existing: &Existing,
    fingerprint: &[u8; 32],
) -> Result<bool, Error> {
    let Body::Stored { sha256, .. } = &accept.body else { return Ok(false) };
    let params: [Param<'_>; 4] =
        [&existing.id.0, &read::signed(existing.latest), &sha256.as_slice(), &fingerprint.as_slice()];
    Ok(tx.query_opt(SAME_AS_LATEST, &params).await?.is_some())
}

/// A version as it is now, for an answer.
pub(crate) async fn version_now(tx: &Tx, document: DocumentId, version: Version) -> Result<Accepted, Error> {
    let row = tx.query_opt(VERSION_NOW, &[&document.0, &read::signed(version)]).await?;
    // A document that was purged since then stays answered: it was accepted, and deleted.
    let (state, accepted_at) = match row {
        Some(row) => (read::state(&row, "state")?, row.try_get("created_at")?),
        None => (State::Cancelled, chrono::Utc::now()),
    };
    Ok(Accepted { document, version, state, release: None, duplicate: false, replayed: false, accepted_at })
}

const LOCKS: &str = "-- store::accept::find
SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key";

const CONTEXT: &str = "-- store::accept::find
SELECT t.state AS tenant_state, coalesce(t.held, false) AS held,
       coalesce(t.over_quota, '{}') AS over_quota,
       release_space($1) AS space_id,
       ARRAY(SELECT partition FROM topology WHERE state = 'active' ORDER BY partition) AS partitions,
       c.id AS collection_id,
       k.document_id AS replay_document, k.version AS replay_version, k.request_hash, k.duplicate
FROM (VALUES (1)) AS one (row)
LEFT JOIN tenants AS t ON t.id = $1
LEFT JOIN collections AS c ON c.tenant_id = $1 AND c.name = $2 AND c.deleted_at IS NULL
LEFT JOIN idempotency_keys AS k ON k.tenant_id = $1 AND k.key = $3";

const ANSWERED: &str = "-- store::accept::answered
SELECT document_id AS replay_document, version AS replay_version, request_hash, duplicate
FROM idempotency_keys WHERE tenant_id = $1 AND key = $2";

// The row is locked by one statement and read by the next: a statement that waited for a lock sees what
// it joins as it was before.
// What an attachment lies in is locked with it: see attachments.rs. `IS TRUE` keeps the planner from an index that begins
// with the tenant; see migration 0006.
pub(crate) const LOCK_BY_ID: &str = "-- store::accept::existing
SELECT id FROM documents
WHERE (tenant_id = $1) IS TRUE
  AND id = ANY (ARRAY[$2, (SELECT root_id FROM documents WHERE (tenant_id = $1) IS TRUE AND id = $2)]) AND deleted_at IS NULL
ORDER BY id FOR NO KEY UPDATE";

const LOCK_BY_EXTERNAL_ID: &str = "-- store::accept::existing
SELECT id FROM documents WHERE tenant_id = $1 AND external_id = $2 AND deleted_at IS NULL FOR NO KEY UPDATE";

const BY_ID: &str = "-- store::accept::existing
SELECT d.id, d.collection_id, c.name AS collection_name, d.external_id, d.metadata, d.latest_version, false AS is_hidden
FROM documents AS d JOIN collections AS c ON c.id = d.collection_id
WHERE (d.tenant_id = $1) IS TRUE AND d.id = $2 AND d.deleted_at IS NULL AND c.deleted_at IS NULL";

const BY_EXTERNAL_ID: &str = "-- store::accept::existing
SELECT d.id, d.collection_id, c.name AS collection_name, d.external_id, d.metadata, d.latest_version,
       c.deleted_at IS NOT NULL AS is_hidden
FROM documents AS d JOIN collections AS c ON c.id = d.collection_id
WHERE d.tenant_id = $1 AND d.external_id = $2 AND d.deleted_at IS NULL";

// Both rows are locked: a version that is failing just now is waited for, and then is no match. Versions
// with these bytes are looked up first: before the tables are analysed, the planner would rather walk all
// documents of the tenant.
const SAME_BYTES: &str = "-- store::accept::find
WITH same AS MATERIALIZED (
    SELECT document_id, version FROM document_versions WHERE tenant_id = $1 AND sha256 = $2 AND fingerprint = $3)
SELECT v.document_id, v.version
FROM same
JOIN documents AS d ON d.id = same.document_id AND d.latest_version = same.version
JOIN collections AS c ON c.id = d.collection_id AND c.deleted_at IS NULL
JOIN document_versions AS v ON v.document_id = same.document_id AND v.version = same.version
WHERE (d.tenant_id = $1) IS TRUE AND v.tenant_id = $1
  AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
  AND v.state IN ('waiting', 'releasing', 'extracting', 'embedding', 'indexing', 'ready')
ORDER BY d.id LIMIT 1
FOR NO KEY UPDATE OF d, v";

const SAME_AS_LATEST: &str = "-- store::accept::same_as_latest
SELECT v.version FROM document_versions AS v
WHERE v.document_id = $1 AND v.version = $2 AND v.sha256 = $3 AND v.fingerprint = $4
  AND v.state IN ('waiting', 'releasing', 'extracting', 'embedding', 'indexing', 'ready')
FOR NO KEY UPDATE";

const VERSION_NOW: &str = "-- store::accept::version_now
SELECT state, created_at FROM document_versions WHERE document_id = $1 AND version = $2";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[
    LOCKS,
    CONTEXT,
    ANSWERED,
    LOCK_BY_ID,
    LOCK_BY_EXTERNAL_ID,
    BY_ID,
    BY_EXTERNAL_ID,
    SAME_BYTES,
    SAME_AS_LATEST,
    VERSION_NOW,
];
