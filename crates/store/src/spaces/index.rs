//! The HNSW index of a space's vectors (docs/adr/0008).

use std::time::{Duration, Instant};

use riacho_domain::SpaceId;
use tokio_postgres::Client;

use crate::{Config, Error, Store, migrate::Owner, read, transaction::Scope};

/// An index that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexBuilt {
    /// The sequence number that it reaches.
    pub up_to: i64,
    /// How long it took.
    pub took: Duration,
}

impl Store {
    /// Whether so many vectors of a space are outside of its index that it is to be built anew.
    pub async fn index_is_due(&self, space: SpaceId) -> Result<bool, Error> {
        let rows = self.single(Scope::all("index_is_due"), INDEXED, &[&read::signed(space)]).await?;
        let indexed: i64 = rows.first().ok_or(Error::NotFound("embedding space"))?.try_get(0)?;
        let newest = self.single(Scope::all("index_is_due"), &highest_seq(space), &[]).await?;
        let newest: i64 = newest.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok(is_due(indexed, newest, i64::from(self.inner.config.exact_search_rows)))
    }
}

/// More than a quarter of the vectors, and more than are compared one by one anyway.
const fn is_due(indexed: i64, newest: i64, few: i64) -> bool {
    let fresh = newest - indexed;
    fresh > few && fresh * 4 > newest
}

/// Builds a larger HNSW index when more than a quarter of the vectors, and more than
/// `exact_search_rows`, are newer than the present one; until it is ready, those are searched exactly. Nothing waits for it.
///
/// Takes minutes for very many vectors. Where the future is dropped, the server ends the build soon after, and the next
/// one begins anew.
pub async fn build_index(config: &Config, space: SpaceId) -> Result<Option<IndexBuilt>, Error> {
    let owner = Owner::connect(config).await?;
    let result = build_if_needed(&owner.client, space, config).await;
    owner.close().await;
    result
}

async fn build_if_needed(
    client: &Client,
    space: SpaceId,
    config: &Config,
) -> Result<Option<IndexBuilt>, Error> {
    let id = i32::try_from(space).unwrap_or(0);
    let (indexed, dimensions): (i64, i32) = match client.query_opt(INDEXED, &[&id]).await? {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => return Err(Error::NotFound("embedding space")),
    };
    let newest: i64 = client.query_one(&newest_seq(space), &[]).await?.try_get(0)?;
    if !is_due(indexed, newest, i64::from(config.exact_search_rows)) {
        return Ok(None);
    }
    let start = Instant::now();
    let (needed, most) = (memory_mb(newest, dimensions), i64::from(config.index_memory_mb));
    if needed > most {
        tracing::warn!(
            space,
            vectors = newest,
            needed_mb = needed,
            "the index does not fit into database.index_memory_mb: its build gets very slow"
        );
    }
    build(client, space, newest, needed.min(most)).await?;
    client.execute(SET_INDEXED, &[&id, &newest]).await?;
    drop_others(client, space, newest).await?;
    Ok(Some(IndexBuilt { up_to: newest, took: start.elapsed() }))
}

/// The memory that a build keeps its graph in, in MiB. A vector has its values, and places of twice 16 neighbours with what
/// pgvector notes beside them: 512 MiB held 530,000 vectors of 256 values, 1,013 bytes each. Once it is full each row is added to the
/// index on disk as in a live index, many times slower.
fn memory_mb(vectors: i64, dimensions: i32) -> i64 {
    let bytes = vectors.saturating_mul(2 * i64::from(dimensions) + 640);
    (bytes >> 20).max(64)
}

async fn build(client: &Client, space: SpaceId, newest: i64, memory_mb: i64) -> Result<(), Error> {
    let name = index_name(space, newest);
    // A build that was interrupted leaves an invalid index of that name.
    client.batch_execute(&format!("-- store::spaces::build\nDROP INDEX IF EXISTS {name}")).await?;
    client
        .batch_execute(&format!(
            "-- store::spaces::build\nSET maintenance_work_mem = '{memory_mb}MB'; SET statement_timeout = 0;
             SET client_connection_check_interval = '1s'"
        ))
        .await?;
    client
        .batch_execute(&format!(
            "-- store::spaces::build\nCREATE INDEX CONCURRENTLY {name} ON vectors_{space}
             USING hnsw (embedding halfvec_cosine_ops) WHERE seq <= {newest}"
        ))
        .await?;
    Ok(())
}

async fn drop_others(client: &Client, space: SpaceId, newest: i64) -> Result<(), Error> {
    let prefix = format!("vectors\\_{space}\\_hnsw\\_%");
    for row in client.query(INDEXES, &[&prefix, &index_name(space, newest)]).await? {
        let name: String = row.try_get(0)?;
        client
            .batch_execute(&format!(
                "-- store::spaces::drop_others\nDROP INDEX CONCURRENTLY IF EXISTS {name}"
            ))
            .await?;
    }
    Ok(())
}

fn index_name(space: SpaceId, newest: i64) -> String {
    format!("vectors_{space}_hnsw_{newest}")
}

fn newest_seq(space: SpaceId) -> String {
    // The sequence and not the rows: the owner is bound by row-level security too.
    format!(
        "-- store::spaces::build_index
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('vectors_{space}', 'seq')::regclass), 0)"
    )
}

// The index of the numbers ends with the highest.
fn highest_seq(space: SpaceId) -> String {
    format!("-- store::spaces::index_is_due\nSELECT coalesce(max(seq), 0) FROM vectors_{space}")
}

const INDEXED: &str = "-- store::spaces::build_index
SELECT indexed_seq, dimensions FROM embedding_spaces WHERE id = $1";

const SET_INDEXED: &str = "-- store::spaces::build_index
UPDATE embedding_spaces SET indexed_seq = $2 WHERE id = $1";

const INDEXES: &str = "-- store::spaces::drop_others
SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE $1 AND indexname <> $2";

/// The statements of this file that services prepare, for a space.
pub(super) fn statements(space: SpaceId) -> Vec<String> {
    vec![INDEXED.to_owned(), highest_seq(space)]
}
