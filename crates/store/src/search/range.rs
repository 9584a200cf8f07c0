//! What a search looks at: the space with the tenant's index in it, and the documents that it is narrowed to.

use riacho_domain::SpaceId;
use tokio_postgres::Row;
use uuid::Uuid;

use super::SearchRequest;
use crate::{
    Error, read,
    search::Filter,
    transaction::{Param, Tx},
};

/// The space of a search.
#[derive(Clone, Copy)]
pub(super) struct Searched {
    pub(super) id: SpaceId,
    /// The tenant's index in it, where it has many vectors.
    pub(super) index: Option<TenantIndex>,
}

/// An HNSW index of one tenant's vectors.
#[derive(Clone, Copy)]
pub(super) struct TenantIndex {
    /// The last number that it reaches.
    pub(super) up_to: i64,
    pub(super) vectors: i64,
    pub(super) documents: i64,
}

impl Searched {
    pub(super) fn read(row: &Row) -> Result<Searched, Error> {
        let up_to: Option<i64> = row.try_get("indexed_seq")?;
        let index = match up_to {
            Some(up_to) => Some(TenantIndex {
                up_to,
                vectors: row.try_get("vectors")?,
                documents: row.try_get("documents")?,
            }),
            None => None,
        };
        Ok(Searched { id: read::count(row, "id")?, index })
    }
}

/// Documents that a search is narrowed to, with what is live of each.
#[derive(Clone, Default)]
pub(super) struct Allowed {
    pub(super) documents: Vec<Uuid>,
    pub(super) versions: Vec<i32>,
    pub(super) runs: Vec<Uuid>,
}

impl Allowed {
    pub(super) fn read(rows: &[Row]) -> Result<Allowed, Error> {
        let mut allowed = Allowed::default();
        for row in rows {
            allowed.documents.push(row.try_get("id")?);
            allowed.versions.push(row.try_get("live_version")?);
            allowed.runs.push(row.try_get("live_run")?);
        }
        Ok(allowed)
    }

    /// Those for which the condition holds.
    pub(super) fn only(&self, holds: impl Fn(&Uuid) -> bool) -> Allowed {
        let mut only = Allowed::default();
        for ((id, version), run) in self.documents.iter().zip(&self.versions).zip(&self.runs) {
            if holds(id) {
                only.documents.push(*id);
                only.versions.push(*version);
                only.runs.push(*run);
            }
        }
        only
    }
}

/// The space of the vector, whose length must fit.
pub(super) async fn space(tx: &Tx, request: &SearchRequest) -> Result<Searched, Error> {
    let wanted = request.space.map(read::signed);
    let params: [Param<'_>; 3] = [&wanted, &request.only_live, &request.tenant.as_str()];
    let row = tx.query_opt(SPACE, &params).await?.ok_or(Error::NotFound("embedding space"))?;
    fits(request.vector.as_deref().unwrap_or_default(), read::count(&row, "dimensions")?)?;
    Searched::read(&row)
}

/// Checks that a vector has as many values as those of its space.
pub(super) fn fits(vector: &[f32], wanted: u32) -> Result<(), Error> {
    let given = vector.len();
    if given == wanted as usize {
        return Ok(());
    }
    Err(Error::Invalid(format!("the query's vector has {given} values, its space has {wanted}")))
}

/// The documents that the request is narrowed to; none when it is not. While a deleted collection is being emptied, every search
/// of its tenant is narrowed to what is in the others.
pub(super) async fn allowed(tx: &Tx, request: &SearchRequest) -> Result<Option<Allowed>, Error> {
    if !request.is_narrowed() && tx.query_opt(HIDES, &[&request.tenant.as_str()]).await?.is_none() {
        return Ok(None);
    }
    let ids: Vec<Uuid> = request.documents.iter().map(|document| document.0).collect();
    let ids = if ids.is_empty() { None } else { Some(ids) };
    let path = request.filter.as_ref().map(Filter::path);
    let variables = request.filter.as_ref().map(Filter::variables);
    let params: [Param<'_>; 5] = [&request.tenant.as_str(), &ids, &request.collection, &path, &variables];
    Allowed::read(&tx.query(ALLOWED, &params).await?).map(Some)
}

pub(super) const SPACE: &str = "-- store::search::space
SELECT s.id, s.dimensions, i.indexed_seq, i.vectors, i.documents
FROM embedding_spaces AS s LEFT JOIN vector_indexes AS i ON i.space_id = s.id AND i.tenant_id = $3
WHERE s.dropped_at IS NULL AND CASE WHEN $1::int IS NULL THEN s.state = 'live' ELSE s.id = $1 AND (s.state = 'live' OR NOT $2) END";

pub(super) const HIDES: &str = "-- store::search::allowed
SELECT id FROM collections WHERE tenant_id = $1 AND deleted_at IS NOT NULL AND emptied_at IS NULL LIMIT 1";

pub(super) const ALLOWED: &str = "-- store::search::allowed
SELECT d.id, d.live_version, d.live_run FROM documents AS d JOIN collections AS c ON c.id = d.collection_id AND c.deleted_at IS NULL
WHERE d.tenant_id = $1 AND d.live_version IS NOT NULL AND d.deleted_at IS NULL AND NOT d.withheld
  AND (d.expires_at IS NULL OR d.expires_at > now())
  AND ($2::uuid[] IS NULL OR d.id = ANY ($2))
  AND ($3::text IS NULL OR c.name = $3)
  AND ($4::text IS NULL OR jsonb_path_match(d.metadata, $4::text::jsonpath, $5::jsonb, true))";
