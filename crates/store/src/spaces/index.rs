//! The HNSW indexes of a space's vectors, one for each tenant that has many (docs/adr/0008).

use std::time::{Duration, Instant};

use riacho_domain::{SpaceId, TenantId};
use tokio_postgres::{Client, Row};

use crate::{
    Config, Error, Store,
    migrate::Owner,
    read,
    transaction::{Param, Scope},
};

/// Candidates that are compared while the graph is built: twice pgvector's default, for more of the nearest at a longer build.
const CANDIDATES: u32 = 128;

/// A tenant whose vectors in a space are to be indexed, or indexed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueIndex {
    /// Whose vectors.
    pub tenant: TenantId,
    /// How many there are.
    pub vectors: u64,
    documents: i64,
    dimensions: i32,
    newest: i64,
    id: i64,
}

/// An index that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBuilt {
    /// Whose vectors.
    pub tenant: TenantId,
    /// How many were there when it was begun.
    pub vectors: u64,
    /// How long it took.
    pub took: Duration,
}

impl Store {
    /// Tenants of which more than a quarter of the vectors in the space, and more than `exact_search_rows`, are outside of their
    /// index, the one with the most first.
    pub async fn due_indexes(&self, space: SpaceId) -> Result<Vec<DueIndex>, Error> {
        let few = i64::from(self.inner.config.exact_search_rows);
        let id = read::signed(space);
        let rows = self.single(Scope::all("due_indexes"), &with_news(space), &[&id, &few]).await?;
        let mut due = Vec::new();
        for row in &rows {
            let tenant = read::tenant(row, "tenant_id")?;
            let counted = self
                .transaction(Scope::all("due_indexes"), |tx| {
                    let tenant = tenant.clone();
                    async move {
                        // It reads an index of all the tenant's vectors.
                        tx.batch("-- store::spaces::due_indexes\nSET LOCAL statement_timeout = 0").await?;
                        tx.query_one(&count(space), &[&id, &tenant.as_str()]).await
                    }
                })
                .await?;
            let (fresh, vectors): (i64, i64) = (counted.try_get("fresh")?, counted.try_get("vectors")?);
            if fresh > few && fresh * 4 > vectors {
                due.push(DueIndex::read(tenant, &counted)?);
            }
        }
        due.sort_by_key(|due| std::cmp::Reverse(due.vectors));
        Ok(due)
    }

    /// Builds the indexes of a space that are due, one after the other, and removes those that nobody needs. Until one is
    /// ready, its tenant's new vectors are compared one by one; nothing waits for it. For a store in the role of the janitor;
    /// `config` names the login that owns the tables.
    ///
    /// Takes minutes for a tenant with hundreds of thousands of vectors. Where the future is dropped, the server ends the build soon after, and the
    /// next one begins anew. A build that fails keeps no other tenant waiting; the first error is answered at the end.
    /// Answers nothing while another process builds indexes of the space.
    pub async fn build_indexes(&self, config: &Config, space: SpaceId) -> Result<Vec<IndexBuilt>, Error> {
        let owner = Owner::connect_beside(config).await?;
        let built = self.build_with(&owner.client, config, space).await;
        owner.close().await;
        built
    }

    async fn build_with(
        &self,
        client: &Client,
        config: &Config,
        space: SpaceId,
    ) -> Result<Vec<IndexBuilt>, Error> {
        // Ends with the connection.
        if !client.query_one(LOCK, &[&read::signed(space)]).await?.try_get::<_, bool>(0)? {
            return Ok(Vec::new());
        }
        self.tidy(client, space).await?;
        let (mut all, mut failed) = (Vec::new(), None);
        for due in self.due_indexes(space).await? {
            let (start, tenant) = (Instant::now(), due.tenant.clone());
            match self.build_one(client, config, space, &due).await {
                Ok(()) => all.push(IndexBuilt { tenant, vectors: due.vectors, took: start.elapsed() }),
                Err(error) => {
                    tracing::warn!(%error, %tenant, space, "a vector index could not be built");
                    failed = failed.or(Some(error));
                }
            }
        }
        self.tidy(client, space).await?;
        failed.map_or(Ok(all), Err)
    }

    async fn build_one(
        &self,
        client: &Client,
        config: &Config,
        space: SpaceId,
        due: &DueIndex,
    ) -> Result<(), Error> {
        build(client, config, space, due).await?;
        let params: [Param<'_>; 6] = [
            &read::signed(space),
            &due.tenant.as_str(),
            &due.id,
            &due.newest,
            &read::signed_size(due.vectors),
            &due.documents,
        ];
        self.single(Scope::all("build_indexes"), KEEP, &params).await.map(drop)
    }

    /// Forgets indexes that are not there or not needed, and removes those that nobody knows.
    async fn tidy(&self, client: &Client, space: SpaceId) -> Result<(), Error> {
        let id = read::signed(space);
        let mut there = Vec::new();
        for row in client.query(VALID, &[&prefix(space)]).await? {
            let name: String = row.try_get(0)?;
            there.extend(name.rsplit('_').next().and_then(|id| id.parse::<i64>().ok()));
        }
        let scope = || Scope::all("build_indexes");
        self.single(scope(), FORGET_LOST, &[&id, &there]).await?;
        let few = i64::from(self.inner.config.exact_search_rows) / 2;
        self.single(scope(), &forget_small(space), &[&id, &few]).await?;
        let kept = self.single(scope(), KEPT, &[&id]).await?;
        let kept: Vec<i64> = kept.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        drop_others(client, space, &kept).await
    }
}

impl DueIndex {
    fn read(tenant: TenantId, row: &Row) -> Result<DueIndex, Error> {
        Ok(DueIndex {
            tenant,
            vectors: read::size_opt(row, "vectors")?.unwrap_or(0),
            documents: row.try_get("documents")?,
            dimensions: row.try_get("dimensions")?,
            newest: row.try_get("newest")?,
            id: row.try_get("id")?,
        })
    }
}

/// The memory that a build keeps its graph in, in MiB. A vector has its values, and places of twice 16 neighbours with what
/// pgvector notes beside them: 512 MiB held 530,000 vectors of 256 values, 1,013 bytes each. Once it is full each row is added to the
/// index on disk as in a live index, many times slower.
fn memory_mb(vectors: u64, dimensions: i32) -> u64 {
    let bytes = vectors.saturating_mul(2 * u64::from(dimensions.unsigned_abs()) + 640);
    (bytes >> 20).max(64)
}

async fn build(client: &Client, config: &Config, space: SpaceId, due: &DueIndex) -> Result<(), Error> {
    let (needed, most) = (memory_mb(due.vectors, due.dimensions), u64::from(config.index_memory_mb));
    if needed > most {
        tracing::warn!(
            space,
            tenant = %due.tenant,
            vectors = due.vectors,
            needed_mb = needed,
            "the index does not fit into database.index_memory_mb: its build gets very slow"
        );
    }
    let (name, memory_mb) = (index_name(space, due.id), needed.min(most));
    client
        .batch_execute(&format!(
            "-- store::spaces::build\nSET maintenance_work_mem = '{memory_mb}MB'; SET statement_timeout = 0;
             SET client_connection_check_interval = '1s'"
        ))
        .await?;
    let condition = covered(&due.tenant, due.newest);
    client
        .batch_execute(&format!(
            "-- store::spaces::build\nCREATE INDEX CONCURRENTLY {name} ON vectors_{space}
             USING hnsw (embedding halfvec_cosine_ops) WITH (ef_construction = {CANDIDATES}) WHERE {condition}"
        ))
        .await?;
    Ok(())
}

/// What is in a tenant's index, word for word as the index says it: only so the planner knows that a search may use it. A
/// tenant's name has letters, digits and hyphens.
fn covered(tenant: &TenantId, up_to: i64) -> String {
    format!("tenant_id = '{tenant}' AND seq <= {up_to}")
}

/// Removes indexes that were replaced or are not needed, and what interrupted builds left.
async fn drop_others(client: &Client, space: SpaceId, kept: &[i64]) -> Result<(), Error> {
    let kept: Vec<String> = kept.iter().map(|id| index_name(space, *id)).collect();
    for row in client.query(INDEXES, &[&prefix(space), &kept]).await? {
        let name: String = row.try_get(0)?;
        client
            .batch_execute(&format!(
                "-- store::spaces::drop_others\nDROP INDEX CONCURRENTLY IF EXISTS {name}"
            ))
            .await?;
    }
    Ok(())
}

/// The names of all indexes of a space, as LIKE takes them.
fn prefix(space: SpaceId) -> String {
    format!("vectors\\_{space}\\_hnsw\\_%")
}

fn index_name(space: SpaceId, id: i64) -> String {
    format!("vectors_{space}_hnsw_{id}")
}

/// Tenants with so many vectors that are not in their index.
fn with_news(space: SpaceId) -> String {
    format!(
        "-- store::spaces::due_indexes
SELECT t.id AS tenant_id FROM tenants AS t LEFT JOIN vector_indexes AS i ON i.space_id = $1 AND i.tenant_id = t.id
CROSS JOIN LATERAL (SELECT FROM vectors_{space} AS v WHERE v.tenant_in_order = t.id AND v.seq > coalesce(i.indexed_seq, 0) OFFSET $2 LIMIT 1) AS news"
    )
}

fn count(space: SpaceId) -> String {
    format!(
        "-- store::spaces::due_indexes
SELECT s.dimensions, nextval('vector_indexes_id') AS id, counted.*,
    (SELECT greatest(count(*), 1) FROM documents AS d WHERE d.tenant_id = $2 AND d.live_version IS NOT NULL AND d.deleted_at IS NULL) AS documents
FROM embedding_spaces AS s LEFT JOIN vector_indexes AS i ON i.space_id = s.id AND i.tenant_id = $2
CROSS JOIN LATERAL (SELECT count(*) AS vectors, max(v.seq) AS newest, count(*) FILTER (WHERE v.seq > coalesce(i.indexed_seq, 0)) AS fresh
    FROM vectors_{space} AS v WHERE v.tenant_in_order = $2) AS counted
WHERE s.id = $1"
    )
}

const LOCK: &str = "-- store::spaces::build_indexes
SELECT pg_try_advisory_lock(hashtext('riacho vector indexes'), $1)";

const KEEP: &str = "-- store::spaces::build_indexes
INSERT INTO vector_indexes (space_id, tenant_id, id, indexed_seq, vectors, documents) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (space_id, tenant_id) DO UPDATE
SET id = excluded.id, indexed_seq = excluded.indexed_seq, vectors = excluded.vectors, documents = excluded.documents, built_at = now()";

fn forget_small(space: SpaceId) -> String {
    format!(
        "-- store::spaces::build_indexes
DELETE FROM vector_indexes AS i WHERE i.space_id = $1
  AND NOT EXISTS (SELECT FROM vectors_{space} AS v WHERE v.tenant_in_order = i.tenant_id OFFSET $2 LIMIT 1)"
    )
}

// Without its index a tenant's searches would compare all its vectors, told not to.
const FORGET_LOST: &str = "-- store::spaces::build_indexes
DELETE FROM vector_indexes WHERE space_id = $1 AND id <> ALL ($2)";

const VALID: &str = "-- store::spaces::build_indexes
SELECT c.relname::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indisvalid AND c.relnamespace = 'public'::regnamespace AND c.relname LIKE $1";

const KEPT: &str = "-- store::spaces::build_indexes
SELECT id FROM vector_indexes WHERE space_id = $1";

const INDEXES: &str = "-- store::spaces::drop_others
SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE $1 AND indexname <> ALL ($2)";

/// The statements of this file that are prepared, for a space.
pub(super) fn statements(space: SpaceId) -> Vec<String> {
    vec![
        with_news(space),
        count(space),
        KEEP.to_owned(),
        FORGET_LOST.to_owned(),
        forget_small(space),
        KEPT.to_owned(),
    ]
}
