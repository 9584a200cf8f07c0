//! Vectors that stand already: the rows of chunks and their vectors are the cache of embeddings.
//!
//! A chunk's content hash covers all that is embedded of it, so chunks with the same hash have the same
//! vector in a space. There is no second copy: what is purged with its document is forgotten with its last
//! row, and nothing has a bound of its own. What it costs is one index, `chunks_content` (docs/adr/0015).

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use riacho_domain::{ReleaseId, SpaceId, TenantId};
use tokio_postgres::{Row, error::SqlState};

use crate::{
    Error, Release, Store,
    indexing::StoredVector,
    stages::{CURRENT, SET_TENANT, by_tenant, current_of},
    transaction::{Param, Scope, Tx},
};

/// The hash of what is embedded of a chunk.
pub type ContentHash = [u8; 32];

/// Contents whose vectors are asked for, by tenant and space. A tenant finds its own alone.
pub type WantedVectors = BTreeMap<(TenantId, SpaceId), Vec<ContentHash>>;

/// What is known before chunks are embedded.
#[derive(Debug, Default)]
pub struct Known {
    /// Which of the releases are current.
    pub current: HashSet<ReleaseId>,
    /// The vectors that stand already, as binary16 in little endian.
    pub vectors: HashMap<(TenantId, SpaceId), HashMap<ContentHash, Bytes>>,
}

impl Store {
    /// Which of the releases are current, and which of the wanted vectors stand already, of any tenants and
    /// in one round trip. Of a space that was removed nothing does.
    pub async fn known_vectors(&self, releases: &[Release], wanted: &WantedVectors) -> Result<Known, Error> {
        match self.look_up(releases, wanted).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                let there: HashSet<SpaceId> = self.spaces().await?.iter().map(|space| space.id).collect();
                let mut left = wanted.clone();
                left.retain(|(_, space), _| there.contains(space));
                self.look_up(releases, &left).await
            }
            known => known,
        }
    }

    async fn look_up(&self, releases: &[Release], wanted: &WantedVectors) -> Result<Known, Error> {
        let groups = by_tenant(releases);
        if groups.is_empty() {
            return Ok(Known::default());
        }
        let (groups, lookups) = (&groups, &lookups(wanted));
        self.transaction(Scope::all("known_vectors"), |tx| async move {
            tx.prepare(&[SET_TENANT, CURRENT]).await?;
            for sql in lookups.values() {
                tx.prepare(&[sql]).await?;
            }
            let tx = &tx;
            let asked = groups.iter().map(|(tenant, documents, releases)| async move {
                let id = tenant.as_str();
                let (set, current): ([Param<'_>; 1], [Param<'_>; 3]) = ([&id], [&id, documents, releases]);
                // In this order: what is asked works for the tenant that was set before.
                let (set, current, vectors) = futures::join!(
                    tx.query(SET_TENANT, &set),
                    tx.query(CURRENT, &current),
                    vectors_of(tx, tenant, wanted, lookups),
                );
                set?;
                Ok::<_, Error>((current?, vectors?))
            });
            let mut known = Known::default();
            for (current, vectors) in tx.finish(asked.collect()).await? {
                current_of(&current, &mut known.current)?;
                known.vectors.extend(vectors);
            }
            Ok(known)
        })
        .await
    }
}

fn lookups(wanted: &WantedVectors) -> BTreeMap<SpaceId, String> {
    wanted.keys().map(|(_, space)| (*space, find_vectors(*space))).collect()
}

type Found = Vec<((TenantId, SpaceId), HashMap<ContentHash, Bytes>)>;

/// What stands of a tenant's wanted vectors, in each space of the batch.
async fn vectors_of(
    tx: &Tx,
    tenant: &TenantId,
    wanted: &WantedVectors,
    lookups: &BTreeMap<SpaceId, String>,
) -> Result<Found, Error> {
    let of_tenant = wanted.iter().filter(|((of, _), hashes)| of == tenant && !hashes.is_empty());
    let asked = of_tenant.map(|((_, space), hashes)| async move {
        let sql = lookups.get(space).map_or("", String::as_str);
        let bytes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
        let id = tenant.as_str();
        let rows = tx.query(sql, &[&id, &bytes]).await?;
        let vectors = rows.iter().map(|row| found(row, hashes)).collect::<Result<_, Error>>()?;
        Ok::<_, Error>(((tenant.clone(), *space), vectors))
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

fn found(row: &Row, hashes: &[ContentHash]) -> Result<(ContentHash, Bytes), Error> {
    let place = usize::try_from(row.try_get::<_, i64>("place")?).unwrap_or(0);
    let hash = place.checked_sub(1).and_then(|place| hashes.get(place));
    let hash = hash.ok_or_else(|| Error::Row("a vector that nobody asked for".into()))?;
    Ok((*hash, Bytes::from(row.try_get::<_, StoredVector>("embedding")?.0)))
}

/// Looks up each hash for itself, by the index. A content may stand in thousands of chunks and in this space in
/// none of them; then a few are looked at, and it is embedded anew.
fn find_vectors(space: SpaceId) -> String {
    format!(
        "-- store::reuse::known_vectors
SELECT w.place, v.embedding
FROM unnest($2::bytea[]) WITH ORDINALITY AS w (hash, place)
CROSS JOIN LATERAL (
    SELECT x.embedding
    FROM (SELECT c.document_id, c.version, c.run_id, c.ordinal FROM chunks AS c
          WHERE c.tenant_id = $1 AND c.content_hash = w.hash LIMIT 8) AS same
    JOIN vectors_{space} AS x ON x.tenant_id = $1 AND x.document_id = same.document_id AND x.version = same.version
        AND x.run_id = same.run_id AND x.ordinal = same.ordinal
    LIMIT 1) AS v"
    )
}

/// The statements of this file, for a space.
pub(crate) fn statements(space: SpaceId) -> Vec<String> {
    vec![find_vectors(space)]
}
