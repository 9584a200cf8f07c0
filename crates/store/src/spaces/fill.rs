//! Filling a space beside the live one: what is missing in it, and writing that.
//!
//! Which documents may lack vectors stands in `space_gaps`. Versions that go live put their document
//! there themselves ([`crate::Store::index`]); those that were searchable before the space was made are
//! looked for once, by id. A document leaves in the transaction that writes its last missing vector.
//! So whoever fills may be killed at any moment, and two may fill at once.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, RunId, SpaceId, TenantId, Version};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Conflict, Error, Store,
    indexing::{HalfVector, StoredVector},
    read,
    transaction::{Param, Scope, Tx},
};

/// The most documents that are read at once.
const MOST_DOCUMENTS: i64 = 64;

/// A document that may lack vectors in a space, with the chunks that have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Whose document it is.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// Its live version.
    pub version: Version,
    /// The version's run.
    pub run: RunId,
    /// The manifest of the run, as it was sealed.
    pub manifest: Vec<u8>,
    /// Chunks without a vector, in order.
    pub chunks: Vec<GapChunk>,
    /// Whether these are all that the document lacks.
    pub is_whole: bool,
    mark: i64,
}

impl Gap {
    /// Leaves all but the first chunks for later.
    pub fn cut(&mut self, chunks: usize) {
        self.is_whole &= chunks >= self.chunks.len();
        self.chunks.truncate(chunks);
    }
}

/// A chunk without a vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapChunk {
    /// Its place in the document.
    pub ordinal: u32,
    /// The headings above it, outermost first.
    pub heading_path: Vec<String>,
    /// The header row of the table that it goes on with, or empty.
    pub table_header: String,
    /// Its text.
    pub text: String,
    /// The hash of what was embedded of it.
    pub content_hash: Vec<u8>,
    /// The vector of the same content that the tenant has in the space already, as binary16 in little endian.
    pub known: Option<Vec<u8>>,
}

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

/// What is missing in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Missing {
    /// Documents that lack vectors, those with refused chunks too.
    pub documents: u64,
    /// Chunks that are still to be embedded.
    pub chunks: u64,
    /// Documents of which the model refuses chunks.
    pub refused: u64,
}

/// How far a space had come at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillMark {
    at: DateTime<Utc>,
    mark: i64,
}

impl Store {
    /// Looks at the next `limit` documents of those that were there when the space was made, and notes
    /// which lack vectors. True: all were looked at.
    pub async fn seed_space(&self, space: SpaceId, limit: u32) -> Result<bool, Error> {
        self.transaction(Scope::all("seed_space"), |tx| async move {
            let id = read::signed(space);
            let Some(row) = tx.query_opt(SEEDING, &[&id]).await? else { return Ok(true) };
            let after: Option<Uuid> = row.try_get("seed_cursor")?;
            let (last, _) = look(&tx, space, after.unwrap_or_default(), limit).await?;
            tx.execute(SEEDED, &[&id, &last]).await?;
            Ok(last.is_none())
        })
        .await
    }

    /// Compares all documents' chunks with their vectors in the space, by count, and notes those that
    /// lack some and are not noted. Answers how many that are: 0 unless something went wrong.
    pub async fn verify_space(&self, space: SpaceId) -> Result<u64, Error> {
        let (mut after, mut found) = (Uuid::nil(), 0);
        loop {
            let (last, more) =
                self.transaction(Scope::all("verify_space"), |tx| async move {
                    look(&tx, space, after, 1_000).await
                })
                .await?;
            found += more;
            match last {
                Some(last) => after = last,
                None => return Ok(found),
            }
        }
    }

    /// What the space lacks, the oldest first, with at most `limit` chunks.
    pub async fn gaps(&self, space: SpaceId, limit: u32) -> Result<Vec<Gap>, Error> {
        self.transaction(Scope::all("gaps"), |tx| async move {
            let rows = tx.query(GAPS, &[&read::signed(space), &MOST_DOCUMENTS.min(i64::from(limit))]).await?;
            let mut gaps = rows.iter().map(gap).collect::<Result<Vec<_>, _>>()?;
            add_chunks(&tx, space, limit, &rows, &mut gaps).await?;
            Ok(gaps)
        })
        .await
    }

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

    /// What the spaces lack, of a tenant or of all.
    pub async fn missing(&self, tenant: Option<&TenantId>) -> Result<HashMap<SpaceId, Missing>, Error> {
        let scope = tenant.map_or(Scope::all("missing"), |tenant| Scope::tenant("missing", tenant));
        let rows = self.single(scope, MISSING, &[&tenant.map(TenantId::as_str)]).await?;
        let mut missing = HashMap::new();
        for row in rows {
            let size = |column: &str| row.try_get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
            let one =
                Missing { documents: size("documents")?, chunks: size("chunks")?, refused: size("refused")? };
            missing.insert(read::count(&row, "space_id")?, one);
        }
        Ok(missing)
    }

    /// How many documents of a tenant are searchable.
    pub async fn live_documents(&self, tenant: &TenantId) -> Result<u64, Error> {
        let rows = self.single(Scope::tenant("live_documents", tenant), LIVE, &[&tenant.as_str()]).await?;
        let row = rows.first().ok_or_else(|| Error::Row("a count without a row".into()))?;
        Ok(read::size_opt(row, "documents")?.unwrap_or(0))
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

/// Looks at the documents behind an id, and notes those that lack vectors. Answers the last of them,
/// none where there were no more, and how many were noted.
async fn look(tx: &Tx, space: SpaceId, after: Uuid, limit: u32) -> Result<(Option<Uuid>, u64), Error> {
    let row = tx.query_one(PAGE, &[&after, &i64::from(limit.max(1))]).await?;
    let Some(last) = row.try_get::<_, Option<Uuid>>("last")? else { return Ok((None, 0)) };
    let noted = tx.execute(&note(space), &[&read::signed(space), &after, &last]).await?;
    Ok((Some(last), noted))
}

fn gap(row: &Row) -> Result<Gap, Error> {
    Ok(Gap {
        tenant: read::tenant(row, "tenant_id")?,
        document: read::document(row, "document_id")?,
        version: read::count_opt(row, "live_version")?.unwrap_or(0),
        run: read::run(row, "live_run")?.unwrap_or(RunId(Uuid::nil())),
        manifest: row.try_get::<_, Option<Vec<u8>>>("manifest")?.unwrap_or_default(),
        chunks: Vec::new(),
        is_whole: true,
        mark: row.try_get("mark")?,
    })
}

/// Adds the missing chunks to gaps. Of those behind the last one that got chunks nothing is known when
/// the limit was reached: they are left out.
async fn add_chunks(
    tx: &Tx,
    space: SpaceId,
    limit: u32,
    rows: &[Row],
    gaps: &mut Vec<Gap>,
) -> Result<(), Error> {
    let tenants: Vec<&str> = gaps.iter().map(|gap| gap.tenant.as_str()).collect();
    let documents: Vec<Uuid> = gaps.iter().map(|gap| gap.document.0).collect();
    let versions: Vec<i32> = gaps.iter().map(|gap| read::signed(gap.version)).collect();
    let runs: Vec<Uuid> = gaps.iter().map(|gap| gap.run.0).collect();
    let firsts = rows.iter().map(|row| row.try_get("next_ordinal")).collect::<Result<Vec<i32>, _>>()?;
    let params: [Param<'_>; 6] = [&tenants, &documents, &versions, &runs, &firsts, &i64::from(limit)];
    let found = tx.query(&chunks_of(space), &params).await?;
    let is_cut = found.len() >= limit as usize;
    let mut last = 0;
    for row in &found {
        let place = usize::try_from(row.try_get::<_, i64>("place")? - 1).unwrap_or(usize::MAX);
        let gap = gaps.get_mut(place).ok_or_else(|| Error::Row("a chunk without its document".into()))?;
        gap.chunks.push(GapChunk {
            ordinal: read::count(row, "ordinal")?,
            heading_path: row.try_get("heading_path")?,
            table_header: row.try_get::<_, Option<String>>("table_header")?.unwrap_or_default(),
            text: row.try_get("text")?,
            content_hash: row.try_get("content_hash")?,
            known: row.try_get::<_, Option<StoredVector>>("embedding")?.map(|known| known.0),
        });
        last = place;
    }
    if is_cut {
        gaps.truncate(last + 1);
        if let Some(gap) = gaps.last_mut() {
            gap.is_whole = false;
        }
    }
    Ok(())
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

const SEEDING: &str = "-- store::spaces::seed_space
SELECT seed_cursor FROM embedding_spaces WHERE id = $1 AND seeded_at IS NULL AND state <> 'retired' FOR NO KEY UPDATE";

const SEEDED: &str = "-- store::spaces::seed_space
UPDATE embedding_spaces SET seed_cursor = coalesce($2::uuid, seed_cursor), seeded_at = CASE WHEN $2 IS NULL THEN now() END
WHERE id = $1";

const PAGE: &str = "-- store::spaces::look
SELECT (SELECT id FROM (SELECT id FROM documents WHERE id > $1 ORDER BY id LIMIT $2) AS page ORDER BY id DESC LIMIT 1) AS last";

/// Notes the documents of a page that lack vectors. Locked, they are not removed before the row that
/// refers to them is there.
fn note(space: SpaceId) -> String {
    format!(
        "-- store::spaces::look
INSERT INTO space_gaps (space_id, tenant_id, document_id, chunks)
SELECT $1, p.tenant_id, p.id, p.chunk_total
FROM (SELECT d.tenant_id, d.id, d.live_version, d.live_run, v.chunk_total
      FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.live_version
      WHERE d.id > $2 AND d.id <= $3 AND d.deleted_at IS NULL
      FOR KEY SHARE OF d) AS p
WHERE NOT EXISTS (SELECT FROM space_gaps AS g WHERE g.space_id = $1 AND g.document_id = p.id)
  AND p.chunk_total <> (SELECT count(*) FROM vectors_{space} AS x
      WHERE x.tenant_id = p.tenant_id AND x.document_id = p.id AND x.version = p.live_version AND x.run_id = p.live_run)
ON CONFLICT DO NOTHING"
    )
}

// Of a document that was deleted nothing is looked for: its gap is closed, where one was noted while it was deleted.
const GAPS: &str = "-- store::spaces::gaps
SELECT g.tenant_id, g.document_id, g.mark, g.next_ordinal, l.version AS live_version, l.run_id AS live_run, l.manifest
FROM space_gaps AS g JOIN documents AS d ON d.id = g.document_id
LEFT JOIN document_versions AS l ON l.document_id = d.id AND l.version = d.live_version AND d.deleted_at IS NULL
WHERE g.space_id = $1 AND g.next_ordinal < g.chunks
ORDER BY g.mark LIMIT $2";

/// Chunks without a vector, each with one of the same content where there is one (docs/adr/0015).
fn chunks_of(space: SpaceId) -> String {
    format!(
        "-- store::spaces::add_chunks
SELECT w.place, c.ordinal, c.heading_path, c.table_header, c.text, c.content_hash, known.embedding
FROM unnest($1::text[], $2::uuid[], $3::int[], $4::uuid[], $5::int[]) WITH ORDINALITY
     AS w (tenant, document, version, run, first, place)
JOIN chunks AS c ON c.tenant_id = w.tenant AND c.document_id = w.document AND c.version = w.version AND c.run_id = w.run
     AND c.ordinal >= w.first
LEFT JOIN LATERAL (
     SELECT x.embedding
     FROM (SELECT s.document_id, s.version, s.run_id, s.ordinal FROM chunks AS s
           WHERE s.tenant_id = c.tenant_id AND s.content_hash = c.content_hash LIMIT 8) AS same
     JOIN vectors_{space} AS x ON x.tenant_id = c.tenant_id AND x.document_id = same.document_id
         AND x.version = same.version AND x.run_id = same.run_id AND x.ordinal = same.ordinal
     LIMIT 1) AS known ON true
WHERE NOT EXISTS (SELECT FROM vectors_{space} AS x
     WHERE x.tenant_id = c.tenant_id AND x.document_id = c.document_id AND x.version = c.version AND x.run_id = c.run_id
       AND x.ordinal = c.ordinal)
ORDER BY w.place, c.ordinal LIMIT $6"
    )
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

const MISSING: &str = "-- store::spaces::missing
SELECT space_id, count(*) AS documents, coalesce(sum(greatest(chunks - next_ordinal, 0)), 0)::bigint AS chunks,
       count(refused) AS refused
FROM space_gaps WHERE $1::text IS NULL OR tenant_id = $1 GROUP BY space_id";

const LIVE: &str = "-- store::spaces::live_documents
SELECT count(*) AS documents FROM documents WHERE tenant_id = $1 AND live_version IS NOT NULL AND deleted_at IS NULL";

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
    let fixed = [
        SEEDING,
        SEEDED,
        PAGE,
        GAPS,
        LOCK,
        COUNT,
        CHANGED,
        STEP,
        CLOSE,
        MISSING,
        LIVE,
        MARK,
        REACH,
        SET_RATE,
        TRY_AGAIN,
        SET_TROUBLE,
        PINNED,
    ];
    let mut all: Vec<String> = fixed.iter().map(|sql| (*sql).to_owned()).collect();
    all.extend([note(space), chunks_of(space), insert_vectors(space)]);
    all
}
