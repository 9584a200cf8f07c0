//! Filling a space: writing what it lacks.
//!
//! A document leaves `space_gaps` in the transaction that writes its last missing vector.
//! So whoever fills may be killed at any moment, and two may fill at once.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, RunId, SpaceId, Version};
use uuid::Uuid;

use super::gaps::Gap;
use crate::{
    Conflict, Error, Store,
    indexing::HalfVector,
    read,
    transaction::{Param, Scope, Tx},
};

/// What was made for a [`Gap`].
#[derive(Debug, Clone)]
pub struct Filling<'g> {
    /// The gap.
    pub gap: &'g Gap,
    /// The vector of each of its chunks, as binary16 in little endian; none where the model refuses
    /// the chunk.
    pub vectors: Vec<Option<Vec<u8>>>,
    /// Why the model refuses chunks, where it does.
    pub refused: Option<String>,
}

/// What [`Store::fill`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filled {
    /// Vectors written.
    pub vectors: u64,
    /// Documents that lack nothing any more.
    pub documents: u64,
}

/// How far a space had come at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillMark {
    at: DateTime<Utc>,
    mark: i64,
}

impl Store {
    /// Writes vectors, and closes the gaps that are none any more. A document whose live version is
    /// another one by now, or that is gone, gets nothing.
    pub async fn fill(&self, space: SpaceId, fillings: &[Filling<'_>]) -> Result<Filled, Error> {
        self.transaction(Scope::all("fill"), |tx| async move {
            let current = lock(&tx, fillings).await?;
            let fresh = |filling: &&Filling<'_>| {
                let Gap { document, version, run, .. } = filling.gap;
                current.get(document) == Some(&(*version, *run))
            };
            let written = insert(&tx, space, fillings.iter().filter(fresh)).await?;
            // Before the gaps: whoever retires the space takes the locks in this order.
            let params: [Param<'_>; 2] = [&read::signed(space), &read::signed_size(written)];
            let row = tx.query_opt(COUNT, &params).await?.ok_or(Conflict::SpaceRetired)?;
            let documents = close(&tx, space, fillings).await?;
            // What is searched has changed. As the last step: see migration 0012.
            if written > 0 && row.try_get("is_searched")? {
                let tenants: BTreeSet<&str> = fillings.iter().map(|one| one.gap.tenant.as_str()).collect();
                tx.execute(CHANGED, &[&tenants.into_iter().collect::<Vec<_>>()]).await?;
            }
            Ok(Filled { vectors: written, documents })
        })
        .await
    }

    /// The present end of what the space lacks; none where it lacks nothing.
    pub async fn fill_mark(&self, space: SpaceId) -> Result<Option<FillMark>, Error> {
        let rows = self.single(Scope::all("fill_mark"), MARK, &[&read::signed(space)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let mark: Option<i64> = row.try_get("mark")?;
        mark.map(|mark| Ok(FillMark { at: row.try_get("now")?, mark })).transpose()
    }

    /// Says of a space that all is in it that was searchable at the moment of a mark, if nothing up to the
    /// mark is missing. False: something is.
    pub async fn reach_mark(&self, space: SpaceId, mark: &FillMark) -> Result<bool, Error> {
        let params: [Param<'_>; 3] = [&read::signed(space), &mark.at, &mark.mark];
        Ok(!self.single(Scope::all("reach_mark"), REACH, &params).await?.is_empty())
    }

    /// Sets how many chunks a second the space is filled with at most: none for the configuration's,
    /// 0 for not at all.
    pub async fn set_fill_rate(&self, space: SpaceId, per_second: Option<u32>) -> Result<(), Error> {
        let params: [Param<'_>; 2] = [&read::signed(space), &per_second.map(read::signed)];
        match self.single(Scope::all("set_fill_rate"), SET_RATE, &params).await?.is_empty() {
            true => Err(Error::NotFound("embedding space")),
            false => Ok(()),
        }
    }

    /// Lets the space's model be asked again for what it refused.
    pub async fn try_refused_again(&self, space: SpaceId) -> Result<(), Error> {
        self.single(Scope::all("try_refused_again"), TRY_AGAIN, &[&read::signed(space)]).await.map(drop)
    }

    /// Notes why a space is not filled at the moment; none while it is.
    pub async fn set_fill_trouble(&self, space: SpaceId, trouble: Option<&str>) -> Result<(), Error> {
        let params: [Param<'_>; 2] = [&read::signed(space), &trouble];
        self.single(Scope::all("set_fill_trouble"), SET_TROUBLE, &params).await.map(drop)
    }

    /// Releases on their way, by the space that they are pinned to.
    pub async fn pinned_releases(&self) -> Result<HashMap<SpaceId, u64>, Error> {
        let rows = self.single(Scope::all("pinned_releases"), PINNED, &[]).await?;
        rows.iter()
            .map(|row| Ok((read::count(row, "space_id")?, read::size_opt(row, "releases")?.unwrap_or(0))))
            .collect()
    }
}

/// Locks the documents in the order of their ids, and answers the live versions of those that are there.
async fn lock(tx: &Tx, fillings: &[Filling<'_>]) -> Result<HashMap<DocumentId, (Version, RunId)>, Error> {
    let documents: Vec<Uuid> = fillings.iter().map(|filling| filling.gap.document.0).collect();
    let mut current = HashMap::new();
    for row in tx.query(LOCK, &[&documents]).await? {
        let version = read::count_opt(&row, "live_version")?;
        if let Some(live) = version.zip(read::run(&row, "live_run")?) {
            current.insert(read::document(&row, "id")?, live);
        }
    }
    Ok(current)
}

async fn insert<'f, 'g: 'f>(
    tx: &Tx,
    space: SpaceId,
    fillings: impl Iterator<Item = &'f Filling<'g>>,
) -> Result<u64, Error> {
    let (mut tenants, mut documents, mut versions, mut runs) = (vec![], vec![], vec![], vec![]);
    let (mut ordinals, mut vectors) = (vec![], vec![]);
    for Filling { gap, vectors: made, .. } in fillings {
        for (chunk, vector) in gap.chunks.iter().zip(made) {
            let Some(vector) = vector else { continue };
            tenants.push(gap.tenant.as_str());
            documents.push(gap.document.0);
            versions.push(read::signed(gap.version));
            runs.push(gap.run.0);
            ordinals.push(read::signed(chunk.ordinal));
            vectors.push(HalfVector(vector));
        }
    }
    if vectors.is_empty() {
        return Ok(0);
    }
    let params: [Param<'_>; 6] = [&tenants, &documents, &versions, &runs, &ordinals, &vectors];
    tx.execute(&insert_vectors(space), &params).await
}

/// Closes what was filled whole, and remembers how far the others are. A mark that changed meanwhile
/// keeps its gap: the document has another live version. Answers how many were closed.
async fn close(tx: &Tx, space: SpaceId, fillings: &[Filling<'_>]) -> Result<u64, Error> {
    let id = read::signed(space);
    let mut closed = 0;
    let mut sorted: Vec<&Filling<'_>> = fillings.iter().collect();
    sorted.sort_unstable_by_key(|filling| filling.gap.document);
    for Filling { gap, refused, .. } in sorted {
        let next = match gap.chunks.last() {
            Some(last) if !gap.is_whole => Some(read::signed(last.ordinal.saturating_add(1))),
            _ => None,
        };
        let params: [Param<'_>; 5] = [&id, &gap.document.0, &gap.mark, &next, refused];
        tx.execute(STEP, &params).await?;
        closed += tx.execute(CLOSE, &[&id, &gap.document.0, &gap.mark]).await?;
    }
    Ok(closed)
}

const LOCK: &str = "-- store::spaces::lock
SELECT id, live_version, live_run FROM documents WHERE id = ANY ($1) AND deleted_at IS NULL ORDER BY id FOR SHARE";

fn insert_vectors(space: SpaceId) -> String {
    format!(
        "-- store::spaces::insert
INSERT INTO vectors_{space} (tenant_id, document_id, version, run_id, ordinal, embedding)
SELECT tenant, document, version, run, ordinal, embedding
FROM unnest($1::text[], $2::uuid[], $3::int[], $4::uuid[], $5::int[], $6::halfvec[])
     AS new (tenant, document, version, run, ordinal, embedding)
ON CONFLICT DO NOTHING"
    )
}

const COUNT: &str = "-- store::spaces::fill
UPDATE embedding_spaces SET filled = filled + $2 WHERE id = $1 AND state <> 'retired'
RETURNING state IN ('live', 'standby') AS is_searched";

const CHANGED: &str = "-- store::spaces::fill
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT tenant, pg_backend_pid() % 16, 1 FROM unnest($1::text[]) AS tenant ORDER BY tenant
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1";

const STEP: &str = "-- store::spaces::close
UPDATE space_gaps SET next_ordinal = coalesce($4, chunks), refused = coalesce($5, refused)
WHERE space_id = $1 AND document_id = $2 AND mark = $3";

const CLOSE: &str = "-- store::spaces::close
DELETE FROM space_gaps WHERE space_id = $1 AND document_id = $2 AND mark = $3 AND next_ordinal >= chunks AND refused IS NULL";

const MARK: &str = "-- store::spaces::fill_mark
SELECT now() AS now, max(mark) AS mark FROM space_gaps WHERE space_id = $1";

// A mark from before all documents were looked at says nothing about the others.
const REACH: &str = "-- store::spaces::reach_mark
UPDATE embedding_spaces SET complete_at = greatest(complete_at, $2)
WHERE id = $1 AND seeded_at < $2 AND NOT EXISTS (SELECT FROM space_gaps WHERE space_id = $1 AND mark <= $3)
RETURNING id";

const SET_RATE: &str = "-- store::spaces::set_fill_rate
UPDATE embedding_spaces SET per_second = $2 WHERE id = $1 AND state <> 'retired' RETURNING id";

const TRY_AGAIN: &str = "-- store::spaces::try_refused_again
UPDATE space_gaps SET refused = NULL, next_ordinal = 0 WHERE space_id = $1 AND refused IS NOT NULL";

const SET_TROUBLE: &str = "-- store::spaces::set_fill_trouble
UPDATE embedding_spaces SET trouble = $2 WHERE id = $1 AND trouble IS DISTINCT FROM $2 RETURNING id";

const PINNED: &str = "-- store::spaces::pinned_releases
SELECT space_id, count(*) AS releases FROM document_versions
WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing') AND space_id IS NOT NULL GROUP BY space_id";

/// The statements of this file, for a space.
pub(super) fn statements(space: SpaceId) -> Vec<String> {
    let fixed = [LOCK, COUNT, CHANGED, STEP, CLOSE, MARK, REACH, SET_RATE, TRY_AGAIN, SET_TROUBLE, PINNED];
    let mut all: Vec<String> = fixed.iter().map(|sql| (*sql).to_owned()).collect();
    all.push(insert_vectors(space));
    all
}
