//! The vector leg: exact over the tenant's rows where they are few, the tenant's HNSW index where they are many, and exact over
//! what is newer than the index. The choice is made by counts: left to the planner, small tenants walk indexes and large ones
//! compare everything (docs/adr/0008).

use half::f16;
use riacho_domain::{SpaceId, TenantId};
use tokio_postgres::Row;

use super::{
    fusion::Leg,
    keyword::place,
    range::{Allowed, Searched, TenantIndex},
};
use crate::{
    Error, Store,
    indexing::HalfVector,
    transaction::{Param, Tx},
};

/// Up to this many documents a narrowed search is exact, however large they are.
const NARROW: usize = 500;

/// Candidates of a walk through an index: with 400, 97% of the ten nearest of 55,000 to 100,000 chunks of prose were found for queries
/// of some words, with 200 92% (benches/README.md). Where a search is narrowed, as many more as are left out, up to the most that pgvector takes.
const CANDIDATES: i64 = 400;
const MOST_CANDIDATES: i64 = 1_000;

/// What to look for in a space.
pub(super) struct Near<'a> {
    pub(super) tenant: &'a TenantId,
    /// The query's vector in the space.
    pub(super) vector: &'a [f32],
    pub(super) space: Searched,
    /// Only chunks that this space lacks.
    pub(super) lacked_by: Option<SpaceId>,
    /// Only chunks of these documents.
    pub(super) allowed: Option<&'a Allowed>,
    /// How many.
    pub(super) top: u32,
}

impl Store {
    /// The nearest chunks with their cosine similarity, the nearest first.
    pub(super) async fn nearest(&self, tx: &Tx, near: &Near<'_>) -> Result<Leg, Error> {
        let Near { tenant, space, lacked_by, allowed, top, .. } = *near;
        let bytes = half_bytes(near.vector)?;
        let search = Nearest { tx, tenant, space: space.id, lacked_by, vector: HalfVector(&bytes), top };
        let few = i64::from(self.inner.config.exact_search_rows);
        match (space.index, allowed) {
            (Some(index), Some(allowed))
                if index.share(allowed) > few && allowed.documents.len() > NARROW =>
            {
                let candidates = CANDIDATES * index.vectors / index.share(allowed).max(1);
                search.through(index, Some(allowed), candidates).await
            }
            (_, Some(allowed)) => search.among(allowed).await,
            (Some(index), None) => search.through(index, None, CANDIDATES).await,
            (None, None) => search.newer_than(0).await,
        }
    }
}

impl TenantIndex {
    /// How many vectors these documents have, about.
    fn share(self, allowed: &Allowed) -> i64 {
        let documents = i64::try_from(allowed.documents.len()).unwrap_or(i64::MAX);
        self.vectors.saturating_mul(documents) / self.documents.max(1)
    }
}

/// One search in one space.
struct Nearest<'a> {
    tx: &'a Tx,
    tenant: &'a TenantId,
    space: SpaceId,
    lacked_by: Option<SpaceId>,
    vector: HalfVector<'a>,
    top: u32,
}

impl Nearest<'_> {
    /// Walks the tenant's index, and compares what is newer.
    async fn through(
        &self,
        index: TenantIndex,
        allowed: Option<&Allowed>,
        candidates: i64,
    ) -> Result<Leg, Error> {
        let documents = allowed.map(|allowed| allowed.documents.as_slice());
        let limit = i64::from(self.top);
        let candidates = candidates.clamp(CANDIDATES.max(limit), MOST_CANDIDATES);
        // The planner cannot know that the index is the right way: it is told for this statement only.
        self.tx.batch(&use_index(candidates)).await?;
        let params: [Param<'_>; 4] = [&self.tenant.as_str(), &self.vector, &documents, &limit];
        let statement = indexed(self.space, self.tenant, index.up_to, self.lacked_by);
        // Each tenant and each of its indexes has a statement of its own: kept, they would only become more.
        let mut near = leg(&self.tx.query_once(&statement, &params).await?)?;
        // Told the same: else the planner reads all of the tenant's keys besides, to leave out what the numbers leave out anyway.
        near.extend(match documents {
            Some(_) => self.live_newer_than(index.up_to, documents).await?,
            None => self.newer_than(index.up_to).await?,
        });
        self.tx.batch(USE_ANY).await?;
        // A walk gives up after so many rows: what is looked for may be far from the query, or behind rows that are not live.
        if near.len() < self.top as usize {
            return match allowed {
                Some(allowed) => self.among(allowed).await,
                None => self.newer_than(0).await,
            };
        }
        near.sort_by(|a, b| b.1.total_cmp(&a.1));
        near.truncate(self.top as usize);
        Ok(near)
    }

    /// Compares the vectors of these documents.
    async fn among(&self, allowed: &Allowed) -> Result<Leg, Error> {
        let limit = i64::from(self.top);
        let params: [Param<'_>; 6] = [
            &self.tenant.as_str(),
            &self.vector,
            &allowed.documents,
            &allowed.versions,
            &allowed.runs,
            &limit,
        ];
        leg(&self.tx.query(&among(self.space, self.lacked_by), &params).await?)
    }

    /// Compares all vectors with higher numbers. Which of them are live is only asked of the nearest: that costs as much for a
    /// row as comparing it does.
    async fn newer_than(&self, number: i64) -> Result<Leg, Error> {
        if self.lacked_by.is_some() {
            return self.live_newer_than(number, None).await;
        }
        // Some more than are asked for, since some may be of versions that are not live.
        let limit = 2 * i64::from(self.top) + 20;
        let params: [Param<'_>; 4] = [&self.tenant.as_str(), &self.vector, &number, &limit];
        let rows = self.tx.query(&newer(self.space, number == 0), &params).await?;
        let mut live = Vec::with_capacity(rows.len());
        let looked_at = rows.len();
        for row in rows {
            if row.try_get("is_live")? {
                live.push(row);
            }
        }
        if live.len() < self.top as usize && looked_at >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return self.live_newer_than(number, None).await;
        }
        live.truncate(self.top as usize);
        leg(&live)
    }

    /// Compares all live vectors with higher numbers, of these documents where some are given.
    async fn live_newer_than(&self, number: i64, documents: Option<&[uuid::Uuid]>) -> Result<Leg, Error> {
        let limit = i64::from(self.top);
        let params: [Param<'_>; 5] = [&self.tenant.as_str(), &self.vector, &documents, &number, &limit];
        leg(&self.tx.query(&live_newer(self.space, number == 0, self.lacked_by), &params).await?)
    }
}

/// A query's vector as halfvec takes it.
pub(super) fn half_bytes(vector: &[f32]) -> Result<Vec<u8>, Error> {
    let halves: Vec<f16> = vector.iter().map(|value| f16::from_f32(*value)).collect();
    if halves.iter().any(|value| !value.is_finite()) {
        return Err(Error::Invalid("the query's vector has a value that is not finite".into()));
    }
    Ok(halves.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn leg(rows: &[Row]) -> Result<Leg, Error> {
    let mut leg = Leg::with_capacity(rows.len());
    for row in rows {
        let distance: f64 = row.try_get("distance")?;
        // The angle to a vector of zeros is no number.
        if distance.is_finite() {
            leg.push((place(row)?, 1.0 - distance));
        }
    }
    Ok(leg)
}

fn use_index(candidates: i64) -> String {
    format!(
        "-- store::search::vector::through
SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = {candidates}; SET LOCAL hnsw.max_scan_tuples = 40000;
SET LOCAL hnsw.scan_mem_multiplier = 8;
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
    )
}

const USE_ANY: &str = "-- store::search::vector::through
SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_sort = on;
SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

// The added zero keeps the ordering of exact searches from being the HNSW index's.
fn newer(space: SpaceId, is_all: bool) -> String {
    let beyond = beyond(is_all, "$3");
    format!(
        "-- store::search::vector::newer_than
WITH near AS MATERIALIZED (
    SELECT v.document_id, v.version, v.run_id, v.ordinal, (v.embedding <=> $2) + 0.0 AS distance
    FROM vectors_{space} AS v WHERE v.tenant_id = $1 AND {beyond}
    ORDER BY distance, v.document_id, v.ordinal LIMIT $4)
SELECT near.*, d.id IS NOT NULL AS is_live
FROM near LEFT JOIN documents AS d
    ON d.id = near.document_id AND d.live_version = near.version AND d.live_run = near.run_id
    AND d.tenant_id = $1 AND d.deleted_at IS NULL AND NOT d.withheld AND (d.expires_at IS NULL OR d.expires_at > now())
ORDER BY near.distance, near.document_id, near.ordinal"
    )
}

fn live_newer(space: SpaceId, is_all: bool, lacked_by: Option<SpaceId>) -> String {
    let (beyond, lacked) = (beyond(is_all, "$4"), lacked(lacked_by));
    format!(
        "-- store::search::vector::live_newer_than
SELECT v.document_id, v.version, v.run_id, v.ordinal, (v.embedding <=> $2) + 0.0 AS distance
FROM vectors_{space} AS v JOIN documents AS d
    ON d.id = v.document_id AND d.live_version = v.version AND d.live_run = v.run_id
WHERE v.tenant_id = $1 AND {beyond} AND d.tenant_id = $1 AND d.deleted_at IS NULL AND NOT d.withheld
  AND (d.expires_at IS NULL OR d.expires_at > now()) AND ($3::uuid[] IS NULL OR v.document_id = ANY ($3)){lacked}
ORDER BY distance, v.document_id, v.ordinal LIMIT $5"
    )
}

/// The condition on the numbers. All of a tenant's rows are found by the key.
fn beyond(is_all: bool, number: &str) -> String {
    match is_all {
        true => format!("{number}::bigint IS NOT NULL"),
        false => format!("v.tenant_in_order = $1 AND v.seq > {number}"),
    }
}

/// What is live of each document was read in the same snapshot.
fn among(space: SpaceId, lacked_by: Option<SpaceId>) -> String {
    let lacked = lacked(lacked_by);
    format!(
        "-- store::search::vector::among
SELECT v.document_id, v.version, v.run_id, v.ordinal, (v.embedding <=> $2) + 0.0 AS distance
FROM unnest($3::uuid[], $4::int[], $5::uuid[]) AS live (document, version, run) JOIN vectors_{space} AS v
    ON v.tenant_id = $1 AND v.document_id = live.document AND v.version = live.version AND v.run_id = live.run
WHERE true{lacked}
ORDER BY distance, v.document_id, v.ordinal LIMIT $6"
    )
}

/// The nearest rows of the tenant's index that are live. The condition stands as the index has it: with parameters the planner
/// cannot tell that the index is of what is looked for. A tenant's name has letters, digits and hyphens.
fn indexed(space: SpaceId, tenant: &TenantId, up_to: i64, lacked_by: Option<SpaceId>) -> String {
    let lacked = lacked(lacked_by);
    format!(
        "-- store::search::vector::through
SELECT v.document_id, v.version, v.run_id, v.ordinal, v.embedding <=> $2 AS distance
FROM vectors_{space} AS v JOIN documents AS d
    ON d.id = v.document_id AND d.live_version = v.version AND d.live_run = v.run_id
WHERE v.tenant_id = '{tenant}' AND v.seq <= {up_to}
  AND d.tenant_id = $1 AND d.deleted_at IS NULL AND NOT d.withheld AND (d.expires_at IS NULL OR d.expires_at > now())
  AND ($3::uuid[] IS NULL OR v.document_id = ANY ($3)){lacked}
ORDER BY v.embedding <=> $2 LIMIT $4"
    )
}

/// The condition that another space lacks the chunk: the document is noted, and the chunk is not filled in yet.
fn lacked(by: Option<SpaceId>) -> String {
    let Some(by) = by else { return String::new() };
    format!(
        "
  AND EXISTS (SELECT FROM space_gaps AS g WHERE g.space_id = {by} AND g.document_id = v.document_id)
  AND NOT EXISTS (SELECT FROM vectors_{by} AS x WHERE x.tenant_id = v.tenant_id AND x.document_id = v.document_id
      AND x.version = v.version AND x.run_id = v.run_id AND x.ordinal = v.ordinal)"
    )
}

pub(super) fn statements(space: SpaceId) -> Vec<String> {
    let mut all = vec![newer(space, true), newer(space, false)];
    for lacked_by in [None, Some(space)] {
        all.extend([true, false].map(|is_all| live_newer(space, is_all, lacked_by)));
        all.push(among(space, lacked_by));
        all.extend("acme".parse().ok().map(|tenant| indexed(space, &tenant, 1, lacked_by)));
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn vectors_that_are_not_finite_in_half_precision_are_refused() {
        assert_eq!(half_bytes(&[1.0, -2.0]).unwrap(), [0x00, 0x3c, 0x00, 0xc0]);
        assert!(half_bytes(&[f32::NAN]).is_err());
        assert!(half_bytes(&[1.0e9]).is_err());
    }

    #[test]
    fn a_narrowed_search_counts_the_vectors_of_its_documents() {
        let index = TenantIndex { up_to: 9, vectors: 100_000, documents: 5_000 };
        let allowed = Allowed { documents: vec![uuid::Uuid::nil(); 1_000], ..Allowed::default() };
        assert_eq!(index.share(&allowed), 20_000);
    }
}
