//! Reading the chunks of a document's live version.

use riacho_domain::{DocumentId, RunId, TenantId, Version, chunk_id};
use tokio_postgres::Row;

use crate::{
    Error, Store, cursor,
    documents::page_limit,
    read,
    transaction::{Param, Scope},
};

/// A chunk as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// Its place in the document, from 0.
    pub ordinal: u32,
    /// Its text.
    pub text: String,
    /// Offsets into the stored text in UTF-8 bytes; the end is exclusive.
    pub byte_start: u64,
    /// See `byte_start`.
    pub byte_end: u64,
    /// Offsets into the stored text in code points; the end is exclusive.
    pub char_start: u64,
    /// See `char_start`.
    pub char_end: u64,
    /// First page, from 1; 0 where the format has no pages.
    pub page_first: u32,
    /// Last page.
    pub page_last: u32,
    /// Headings above the chunk, outermost first.
    pub heading_path: Vec<String>,
    /// The header row of the table that the chunk goes on with, or its first cells.
    pub table_header: Option<String>,
    /// Its length in tokens.
    pub token_count: u32,
}

/// A page of a version's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPage {
    /// The version.
    pub version: Version,
    /// Its run.
    pub run: RunId,
    /// The chunks in order.
    pub chunks: Vec<StoredChunk>,
    /// What to ask the next page with; none at the end.
    pub next_cursor: Option<String>,
}

impl StoredChunk {
    fn read(row: &Row) -> Result<Self, Error> {
        let size = |column: &str| Ok::<_, Error>(read::size_opt(row, column)?.unwrap_or(0));
        Ok(Self {
            ordinal: read::count(row, "ordinal")?,
            text: row.try_get("text")?,
            byte_start: size("byte_start")?,
            byte_end: size("byte_end")?,
            char_start: size("char_start")?,
            char_end: size("char_end")?,
            page_first: read::count(row, "page_first")?,
            page_last: read::count(row, "page_last")?,
            heading_path: row.try_get("heading_path")?,
            table_header: row.try_get("table_header")?,
            token_count: read::count(row, "token_count")?,
        })
    }
}

impl Store {
    /// A page of the live version's chunks; none when the document is not there or has no live version.
    /// A cursor of a version that is no longer live is refused: its list cannot be continued.
    pub async fn chunks(
        &self,
        tenant: &TenantId,
        document: DocumentId,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Option<ChunkPage>, Error> {
        let after = cursor.map(cursor::decode_chunk).transpose()?;
        let limit = page_limit(limit);
        let scope = Scope::tenant("chunks", tenant);
        self.transaction(scope, |tx| async move {
            let live: [Param<'_>; 2] = [&tenant.as_str(), &document.0];
            let Some(row) = tx.query_opt(LIVE, &live).await? else { return Ok(None) };
            let version: i32 = row.try_get("live_version")?;
            let run: uuid::Uuid = row.try_get("live_run")?;
            let first = match after {
                None => 0,
                Some((v, r, ordinal)) if v == version && r == run => ordinal.saturating_add(1),
                Some(_) => {
                    return Err(Error::Invalid(
                        "the document has another live version by now, begin anew".into(),
                    ));
                }
            };
            let more = i64::from(limit) + 1;
            let params: [Param<'_>; 6] = [&tenant.as_str(), &document.0, &version, &run, &first, &more];
            let rows = tx.query(PAGE, &params).await?;
            let mut chunks = rows.iter().map(StoredChunk::read).collect::<Result<Vec<_>, _>>()?;
            let more = chunks.len() > limit as usize;
            chunks.truncate(limit as usize);
            let last = chunks.last().filter(|_| more);
            let next_cursor =
                last.map(|c| cursor::encode_chunk(read::unsigned(version), run, read::signed(c.ordinal)));
            Ok(Some(ChunkPage { version: read::unsigned(version), run: RunId(run), chunks, next_cursor }))
        })
        .await
    }
}

/// A chunk of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledChunk {
    /// The chunk's public id.
    pub chunk_id: String,
    /// Its text.
    pub text: String,
}

impl Store {
    /// A chunk of each of some searchable documents, the same ones for the same seed.
    pub async fn sample_chunks(
        &self,
        tenant: &TenantId,
        count: u32,
        seed: &str,
    ) -> Result<Vec<SampledChunk>, Error> {
        let params: [Param<'_>; 3] = [&tenant.as_str(), &seed, &i64::from(count)];
        let rows = self.single(Scope::tenant("sample_chunks", tenant), SAMPLE, &params).await?;
        let chunk = |row: &Row| {
            let (document, version) = (read::document(row, "document_id")?, read::version(row, "version")?);
            let chunk_id = chunk_id(document, version, read::count(row, "ordinal")?);
            Ok(SampledChunk { chunk_id, text: row.try_get("text")? })
        };
        rows.iter().map(chunk).collect()
    }
}

const SAMPLE: &str = "-- store::chunks::sample_chunks
SELECT c.document_id, c.version, c.ordinal, c.text
FROM (SELECT d.id, d.live_version, d.live_run, v.chunk_total
      FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.live_version
      WHERE d.tenant_id = $1 AND d.deleted_at IS NULL AND v.chunk_total > 0
      ORDER BY md5(d.id::text || $2) LIMIT $3) AS picked
JOIN chunks AS c ON c.tenant_id = $1 AND c.document_id = picked.id AND c.version = picked.live_version
    AND c.run_id = picked.live_run
    AND c.ordinal = abs(hashtext(picked.id::text || $2)::bigint) % picked.chunk_total
ORDER BY md5(c.document_id::text || $2)";

const LIVE: &str = "-- store::chunks::chunks
SELECT d.live_version, d.live_run
FROM documents AS d JOIN collections AS c ON c.id = d.collection_id AND c.deleted_at IS NULL
WHERE d.tenant_id = $1 AND d.id = $2 AND d.deleted_at IS NULL AND d.live_version IS NOT NULL";

const PAGE: &str = "-- store::chunks::chunks
SELECT ordinal, text, byte_start, byte_end, char_start, char_end, page_first, page_last, heading_path,
       table_header, token_count
FROM chunks
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND run_id = $4 AND ordinal >= $5
ORDER BY ordinal LIMIT $6";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[LIVE, PAGE, SAMPLE];
