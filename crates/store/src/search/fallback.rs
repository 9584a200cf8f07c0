//! The vector leg of documents that the live space lacks and the fallback space has (docs/adr/0020).
//!
//! Cosines of two models cannot be compared as they are. What can be compared is where they lie between two
//! points that each model has: what the query has with any text, and 1, which it has with itself. The first is the mean
//! over chunks of the tenant and over the known texts that each space keeps, which count as long as the chunks are few.
//! Between the two a cosine of the fallback is carried over to the live space's scale, and both legs are one from then on. The
//! live space's own cosines stay what they are.

use std::collections::HashSet;

use half::f16;
use riacho_domain::SpaceId;
use uuid::Uuid;

use super::{
    SearchRequest,
    fusion::Leg,
    range::{Allowed, Searched, fits},
    vector::{Near, half_bytes},
};
use crate::{
    Error, Space, Store,
    indexing::HalfVector,
    read,
    spaces::columns,
    transaction::{Param, Tx},
};

/// Up to this many documents are named to the search of the fallback; of more it finds out itself.
const FEW: usize = 500;
/// So many chunks of the tenant tell what the query has with any text.
const SAMPLE: i64 = 200;
/// The known texts count as so many chunks: they are three.
const KNOWN: f64 = 3.0;

/// Whether a search looks for documents that the live space lacks in the fallback space.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Fallback {
    /// It does not: they are found by their words alone.
    #[default]
    Ignored,
    /// It does. Where there are such documents, the answer is [`Error::NeedsFallback`].
    Wanted,
    /// It does, with the query's vector in this space. Where another one is the fallback by now, the answer is the same.
    Vector(SpaceId, Vec<f32>),
}

/// The fallback space beside a live one, for a tenant that has documents only there.
pub(super) struct Beside<'r> {
    space: Searched,
    /// The query's vector in it.
    vector: &'r [f32],
    live: SpaceId,
    /// The documents; none where they are too many to be named.
    documents: Option<Allowed>,
    /// The known texts in both spaces, as binary16 in little endian.
    probes: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'r> Beside<'r> {
    /// Finds out whether the tenant has documents that the live space lacks and the fallback has.
    pub(super) async fn find(tx: &Tx, request: &'r SearchRequest) -> Result<Option<Self>, Error> {
        if request.fallback == Fallback::Ignored {
            return Ok(None);
        }
        let tenant = request.tenant.as_str();
        let Some(row) = tx.query_opt(FALLBACK, &[&tenant]).await? else { return Ok(None) };
        let (space, live) = (Space::read(&row)?, read::count(&row, "live_id")?);
        let probes: (Option<Vec<u8>>, Option<Vec<u8>>) = (row.try_get("probe")?, row.try_get("live_probe")?);
        let most = i64::try_from(FEW).unwrap_or(i64::MAX).saturating_add(1);
        let params: [Param<'_>; 3] = [&tenant, &read::signed(live), &most];
        let rows = tx.query(&lacking(space.id), &params).await?;
        let documents = Allowed::read(&rows)?;
        if documents.documents.is_empty() {
            return Ok(None);
        }
        let vector = match &request.fallback {
            Fallback::Vector(of, vector) if *of == space.id => vector,
            _ => return Err(Error::NeedsFallback(Box::new(space))),
        };
        fits(vector, space.dimensions)?;
        let documents = Some(documents).filter(|own| own.documents.len() <= FEW);
        let space = Searched::read(&row)?;
        Ok(Some(Beside { space, vector, live, documents, probes: probes.0.zip(probes.1) }))
    }

    /// What the query has with any text, in both spaces.
    async fn scale(&self, tx: &Tx, request: &SearchRequest) -> Result<Scale, Error> {
        let live = request.vector.as_deref().unwrap_or_default();
        let there = sampled(tx, request, self.space.id, self.vector).await?;
        let here = sampled(tx, request, self.live, live).await?;
        let probes = self.probes.as_ref();
        let known = probes.and_then(|(there, here)| Some((known(self.vector, there)?, known(live, here)?)));
        Ok(Scale::of(there, here, known))
    }

    /// The documents of the leg, of those that the request is narrowed to.
    fn allowed(&self, narrowed: Option<&Allowed>) -> Option<Allowed> {
        match (&self.documents, narrowed) {
            (Some(own), Some(narrowed)) => {
                let narrowed: HashSet<&Uuid> = narrowed.documents.iter().collect();
                Some(own.only(|id| narrowed.contains(id)))
            }
            (own, narrowed) => own.as_ref().or(narrowed).cloned(),
        }
    }
}

impl Store {
    /// Adds what is nearest in the fallback space to what is nearest in the live one.
    pub(super) async fn with_fallback(
        &self,
        tx: &Tx,
        request: &SearchRequest,
        beside: Beside<'_>,
        allowed: Option<&Allowed>,
        (mut near, top): (Leg, u32),
    ) -> Result<Leg, Error> {
        let vector = beside.vector;
        let allowed = beside.allowed(allowed);
        if allowed.as_ref().is_some_and(|allowed| allowed.documents.is_empty()) {
            return Ok(near);
        }
        let scale = beside.scale(tx, request).await?;
        let leg = Near {
            tenant: &request.tenant,
            vector,
            space: beside.space,
            lacked_by: Some(beside.live),
            allowed: allowed.as_ref(),
            top,
        };
        let more = self.nearest(tx, &leg).await?;
        near.extend(more.into_iter().map(|(place, cosine)| (place, scale.carry(cosine))));
        near.sort_by(|a, b| b.1.total_cmp(&a.1));
        near.truncate(top as usize);
        Ok(near)
    }
}

/// What a query has with any text, in the fallback space and in the live one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    fallback: f64,
    live: f64,
}

/// The mean of the cosines of a query with chunks, and how many these are.
type Sampled = (f64, f64);

impl Scale {
    /// From chunks of both spaces, and from the known texts in both. Chunks count alike in both, as many as where they are
    /// fewer: texts of another kind or language than the known ones would else lift one space above the other.
    fn of(fallback: Sampled, live: Sampled, known: Option<(f64, f64)>) -> Scale {
        let chunks = fallback.1.min(live.1);
        let (weight, known) = known.map_or((0.0, (0.0, 0.0)), |known| (KNOWN, known));
        let level = |own: f64, known: f64| match chunks + weight {
            0.0 => 0.0,
            // A query that is near everything has nothing that stands out: the bound keeps the scale finite.
            count => ((own * chunks + known * weight) / count).min(0.95),
        };
        Scale { fallback: level(fallback.0, known.0), live: level(live.0, known.1) }
    }

    /// A cosine of the fallback space as it would be in the live one.
    fn carry(self, cosine: f64) -> f64 {
        self.live + (cosine - self.fallback) * (1.0 - self.live) / (1.0 - self.fallback)
    }
}

/// What a query has with chunks of the tenant.
async fn sampled(tx: &Tx, request: &SearchRequest, space: SpaceId, vector: &[f32]) -> Result<Sampled, Error> {
    let bytes = half_bytes(vector)?;
    let params: [Param<'_>; 3] = [&request.tenant.as_str(), &HalfVector(&bytes), &SAMPLE];
    let row = tx.query_one(&sample(space), &params).await?;
    Ok((row.try_get("mean")?, row.try_get("chunks")?))
}

/// The middle one of the cosines of a query with known texts: it may well have to do with one of them. None where the vectors
/// are not of one size.
fn known(query: &[f32], probe: &[u8]) -> Option<f64> {
    let values: Vec<f32> =
        probe.chunks_exact(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect();
    if query.is_empty() || values.is_empty() || !values.len().is_multiple_of(query.len()) {
        return None;
    }
    let mut cosines: Vec<f64> = values.chunks(query.len()).map(|text| cosine(query, text)).collect();
    cosines.sort_by(f64::total_cmp);
    cosines.get(cosines.len() / 2).copied()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

// Most tenants lack nothing in the live space: they are found out by one look into an index.
pub(super) const FALLBACK: &str = concat!(
    "-- store::search::fallback
SELECT ",
    columns!(),
    ", probe, live_id, live_probe, indexed_seq, vectors, documents
FROM (SELECT f.*, l.id AS live_id, l.probe AS live_probe, i.indexed_seq, i.vectors, i.documents
      FROM embedding_spaces AS f JOIN embedding_spaces AS l ON l.state = 'live'
      LEFT JOIN vector_indexes AS i ON i.space_id = f.id AND i.tenant_id = $1
      WHERE f.state = 'fallback' AND EXISTS (SELECT FROM space_gaps AS g WHERE g.space_id = l.id AND g.tenant_id = $1)) AS beside"
);

/// Documents that the live space lacks and this one has.
fn lacking(space: SpaceId) -> String {
    format!(
        "-- store::search::fallback
SELECT d.id, d.live_version, d.live_run FROM space_gaps AS g JOIN documents AS d ON d.id = g.document_id
JOIN document_versions AS l ON l.document_id = d.id AND l.version = d.live_version AND l.space_id = {space}
WHERE g.space_id = $2 AND g.tenant_id = $1 AND d.deleted_at IS NULL AND NOT d.withheld AND (d.expires_at IS NULL OR d.expires_at > now())
  AND EXISTS (SELECT FROM vectors_{space} AS v
      WHERE v.tenant_id = $1 AND v.document_id = d.id AND v.version = d.live_version AND v.run_id = d.live_run)
LIMIT $3"
    )
}

/// The cosines of a tenant's first chunks. The angle to a vector of zeros is no number.
fn sample(space: SpaceId) -> String {
    format!(
        "-- store::search::fallback
SELECT coalesce(avg(cosine), 0)::float8 AS mean, count(*)::float8 AS chunks
FROM (SELECT 1 - (embedding <=> $2) AS cosine FROM vectors_{space}
      WHERE tenant_id = $1 ORDER BY document_id, version, run_id, ordinal LIMIT $3) AS sample
WHERE cosine <> 'NaN'"
    )
}

/// The statements of this file, for a space.
pub(super) fn statements(space: SpaceId) -> Vec<String> {
    vec![FALLBACK.to_owned(), lacking(space), sample(space)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
    }

    #[test]
    fn what_the_query_has_with_any_text_and_with_itself_keep_their_places() {
        let scale = Scale { fallback: 0.8, live: 0.2 };
        assert!((scale.carry(0.8) - 0.2).abs() < 1e-9 && (scale.carry(1.0) - 1.0).abs() < 1e-9);
        assert!((scale.carry(0.9) - 0.6).abs() < 1e-9, "half of the way stays half of it");
        let none = Scale::of((0.0, 0.0), (0.0, 0.0), None);
        assert!((none.carry(0.37) - 0.37).abs() < 1e-9, "where nothing is known cosines stay as they are");
    }

    #[test]
    fn known_texts_count_as_long_as_chunks_are_few_in_one_of_the_spaces() {
        let near = |scale: Scale, fallback: f64, live: f64| {
            assert!(
                (scale.fallback - fallback).abs() < 1e-9 && (scale.live - live).abs() < 1e-9,
                "{scale:?}"
            );
        };
        let known = Some((0.1, 0.2));
        near(Scale::of((0.7, 1.0), (0.5, 200.0), known), (0.7 + 0.3) / 4.0, (0.5 + 0.6) / 4.0);
        near(Scale::of((0.7, 190.0), (0.5, 200.0), known), (133.0 + 0.3) / 193.0, (95.0 + 0.6) / 193.0);
        near(Scale::of((0.7, 0.0), (0.5, 200.0), known), 0.1, 0.2);
        near(Scale::of((0.99, 9.0), (0.5, 9.0), None), 0.95, 0.5);
        let probe = bytes(&[0.6, 0.8, 0.0, 1.0, 1.0, 0.0]);
        assert!((super::known(&[1.0, 0.0], &probe).unwrap() - 0.6).abs() < 1e-3, "the middle one");
        assert_eq!(super::known(&[1.0, 0.0, 0.0, 0.0], &probe), None);
    }
}
