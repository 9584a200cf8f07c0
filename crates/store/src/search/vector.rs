//! The vector leg: exact over the tenant's rows where they are few, the HNSW index where they are
//! many, and exact over what is newer than the index. The choice is made by counts: left to the
//! planner, a small tenant's search walks an index full of other tenants (reference/peers.md).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use half::f16;
use riacho_domain::{SpaceId, TenantId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{fusion::Leg, keyword::place};
use crate::{
    Error, Space, Store,
    indexing::HalfVector,
    transaction::{Param, Tx},
};

/// Up to this many documents a narrowed search is exact: their vectors are read by the primary key.
const NARROW: usize = 500;

/// How long a count of a tenant's vectors is believed.
const FRESH: Duration = Duration::from_secs(60);

/// How many vectors tenants have, as far as it matters.
#[derive(Default)]
pub(crate) struct TenantFigures {
    counts: Mutex<HashMap<(TenantId, SpaceId), (Instant, i64)>>,
}

impl TenantFigures {
    fn get(&self, tenant: &TenantId, space: SpaceId) -> Option<i64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&(tenant.clone(), space)).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, count)| *count)
    }

    fn set(&self, tenant: &TenantId, space: SpaceId, count: i64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= 10_000 {
            counts.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        counts.insert((tenant.clone(), space), (Instant::now(), count));
    }
}

/// What to look for in a space.
pub(super) struct Near<'a> {
    pub(super) tenant: &'a TenantId,
    /// The query's vector in the space.
    pub(super) vector: &'a [f32],
    pub(super) space: &'a Space,
    /// Only chunks that this space lacks.
    pub(super) lacked_by: Option<SpaceId>,
    /// Only chunks of these documents.
    pub(super) allowed: Option<&'a [Uuid]>,
    /// How many.
    pub(super) top: u32,
}

impl Store {
    /// The nearest chunks with their cosine similarity, the nearest first.
    pub(super) async fn nearest(&self, tx: &Tx, near: &Near<'_>) -> Result<Leg, Error> {
        let Near { space, lacked_by, allowed, top, .. } = *near;
        let bytes = half_bytes(near.vector)?;
        let vector = HalfVector(&bytes);
        let limit = i64::from(top);
        let tenant = near.tenant.as_str();
        let few = allowed.is_some_and(|documents| documents.len() <= NARROW);
        if space.indexed_seq == 0 || few || !self.has_many(tx, near.tenant, space.id).await? {
            let params: [Param<'_>; 4] = [&tenant, &vector, &allowed, &limit];
            return leg(&tx.query(&exact(space.id, 0, lacked_by), &params).await?);
        }
        // The planner cannot know that the index is the right way: it is told for this statement only.
        tx.batch(USE_INDEX).await?;
        let params: [Param<'_>; 4] = [&tenant, &vector, &allowed, &limit];
        let mut near = leg(&tx.query(&indexed(space.id, space.indexed_seq, lacked_by), &params).await?)?;
        tx.batch(USE_ANY).await?;
        near.extend(leg(&tx.query(&exact(space.id, space.indexed_seq, lacked_by), &params).await?)?);
        near.sort_by(|a, b| b.1.total_cmp(&a.1));
        near.truncate(top as usize);
        Ok(near)
    }

    /// Whether the tenant has more vectors in the space than are compared one by one.
    async fn has_many(&self, tx: &Tx, tenant: &TenantId, space: SpaceId) -> Result<bool, Error> {
        let few = i64::from(self.inner.config.exact_search_rows);
        if let Some(count) = self.inner.figures.get(tenant, space) {
            return Ok(count > few);
        }
        // Counted up to what matters.
        let row = tx.query_one(&count(space), &[&tenant.as_str(), &(few + 1)]).await?;
        let count = row.try_get(0)?;
        self.inner.figures.set(tenant, space, count);
        Ok(count > few)
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

const USE_INDEX: &str = "-- store::search::vector::nearest
SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = 100; SET LOCAL hnsw.max_scan_tuples = 40000;
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

const USE_ANY: &str = "-- store::search::vector::nearest
SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_sort = on;
SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

/// All rows of the tenant that are newer than `after`. The added zero keeps the ordering from being
/// the HNSW index's.
fn exact(space: SpaceId, after: i64, lacked_by: Option<SpaceId>) -> String {
    let lacked = lacked(lacked_by);
    format!(
        "-- store::search::vector::exact
SELECT v.document_id, v.version, v.run_id, v.ordinal, (v.embedding <=> $2) + 0.0 AS distance
FROM vectors_{space} AS v JOIN documents AS d
    ON d.id = v.document_id AND d.live_version = v.version AND d.live_run = v.run_id
WHERE v.tenant_id = $1 AND d.tenant_id = $1 AND d.deleted_at IS NULL AND NOT d.withheld AND (d.expires_at IS NULL OR d.expires_at > now())
  AND ($3::uuid[] IS NULL OR v.document_id = ANY ($3)) AND v.seq > {after}{lacked}
ORDER BY distance, v.document_id, v.ordinal LIMIT $4"
    )
}

/// The nearest rows of the index that are live.
fn indexed(space: SpaceId, up_to: i64, lacked_by: Option<SpaceId>) -> String {
    let lacked = lacked(lacked_by);
    format!(
        "-- store::search::vector::indexed
SELECT v.document_id, v.version, v.run_id, v.ordinal, v.embedding <=> $2 AS distance
FROM vectors_{space} AS v JOIN documents AS d
    ON d.id = v.document_id AND d.live_version = v.version AND d.live_run = v.run_id
WHERE v.tenant_id = $1 AND d.tenant_id = $1 AND d.deleted_at IS NULL AND NOT d.withheld AND (d.expires_at IS NULL OR d.expires_at > now())
  AND ($3::uuid[] IS NULL OR v.document_id = ANY ($3)) AND v.seq <= {up_to}{lacked}
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

fn count(space: SpaceId) -> String {
    format!(
        "-- store::search::vector::has_many
SELECT count(*) FROM (SELECT FROM vectors_{space} WHERE tenant_id = $1 LIMIT $2) AS rows_found"
    )
}

pub(super) fn statements(space: SpaceId) -> Vec<String> {
    let beside = Some(space);
    vec![
        exact(space, 0, None),
        indexed(space, 1, None),
        exact(space, 0, beside),
        indexed(space, 1, beside),
        count(space),
    ]
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
}
