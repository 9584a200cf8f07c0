//! What a space lacks: which documents, and which of their chunks.
//!
//! Which documents may lack vectors stands in `space_gaps`. Versions that go live put their document
//! there themselves ([`crate::Store::index`]); those that were searchable before the space was made are
//! looked for once, by id.

use std::collections::HashMap;

use riacho_domain::{DocumentId, RunId, SpaceId, TenantId, Version};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Store,
    indexing::StoredVector,
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
    pub(super) mark: i64,
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

/// What is missing in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Missing {
    /// Documents that lack vectors, those with refused chunks too.
    pub documents: u64,
    /// Chunks that are still to be embedded.
    pub chunks: u64,
    /// Documents of which the model refuses chunks.
    pub refused: u64,
    /// Documents that wait for a budget of their tenant: those of the live space.
    pub over_budget: u64,
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

    /// What the space lacks, the oldest first, with at most `limit` chunks. Of the live space not what is of tenants that
    /// have used up a budget.
    pub async fn gaps(&self, space: SpaceId, limit: u32) -> Result<Vec<Gap>, Error> {
        self.transaction(Scope::all("gaps"), |tx| async move {
            let rows = tx.query(GAPS, &[&read::signed(space), &MOST_DOCUMENTS.min(i64::from(limit))]).await?;
            let mut gaps = rows.iter().map(gap).collect::<Result<Vec<_>, _>>()?;
            add_chunks(&tx, space, limit, &rows, &mut gaps).await?;
            Ok(gaps)
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
            let one = Missing {
                documents: size("documents")?,
                chunks: size("chunks")?,
                refused: size("refused")?,
                over_budget: size("over_budget")?,
            };
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

// What the live space lacks is paid by the tenants' budgets: one that has used up its own waits for the next.
// Of a document that was deleted nothing is looked for: its gap is closed, where one was noted while it was deleted.
const GAPS: &str = "-- store::spaces::gaps
SELECT g.tenant_id, g.document_id, g.mark, g.next_ordinal, l.version AS live_version, l.run_id AS live_run, l.manifest
FROM space_gaps AS g JOIN documents AS d ON d.id = g.document_id
LEFT JOIN document_versions AS l ON l.document_id = d.id AND l.version = d.live_version AND d.deleted_at IS NULL
WHERE g.space_id = $1 AND g.next_ordinal < g.chunks
  AND NOT (EXISTS (SELECT FROM embedding_spaces WHERE id = $1 AND state = 'live')
           AND g.tenant_id = ANY (ARRAY(SELECT id FROM tenants WHERE over_budget <> '{}')))
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

const MISSING: &str = "-- store::spaces::missing
SELECT space_id, count(*) AS documents, coalesce(sum(greatest(chunks - next_ordinal, 0)), 0)::bigint AS chunks,
       count(refused) AS refused,
       count(*) FILTER (WHERE space_id = (SELECT id FROM embedding_spaces WHERE state = 'live')
           AND tenant_id = ANY (ARRAY(SELECT id FROM tenants WHERE over_budget <> '{}'))) AS over_budget
FROM space_gaps WHERE $1::text IS NULL OR tenant_id = $1 GROUP BY space_id";

const LIVE: &str = "-- store::spaces::live_documents
SELECT count(*) AS documents FROM documents WHERE tenant_id = $1 AND live_version IS NOT NULL AND deleted_at IS NULL";

/// The statements of this file, for a space.
pub(super) fn statements(space: SpaceId) -> Vec<String> {
    let fixed = [SEEDING, SEEDED, PAGE, GAPS, MISSING, LIVE];
    let mut all: Vec<String> = fixed.iter().map(|sql| (*sql).to_owned()).collect();
    all.extend([note(space), chunks_of(space)]);
    all
}
