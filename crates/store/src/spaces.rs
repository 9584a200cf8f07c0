//! Embedding spaces: a model with its dimensions, and the table of its vectors.

use std::time::{Duration, Instant};

use riacho_domain::SpaceId;
use tokio_postgres::{Client, Row};

use crate::{Config, Error, Store, migrate::Owner, transaction::Scope};

/// What a space is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceState {
    /// Being filled beside the live one.
    Building,
    /// Searched, and written by new releases.
    Live,
    /// No longer used.
    Retired,
}

/// An embedding space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Its number, which names its table.
    pub id: SpaceId,
    /// The model's id.
    pub model: String,
    /// Values of a vector.
    pub dimensions: u32,
    /// What it is used for.
    pub state: SpaceState,
    /// Vectors with a sequence number up to this one are in the HNSW index; 0 when there is none.
    pub indexed_seq: i64,
}

/// An index that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexBuilt {
    /// The sequence number that it reaches.
    pub up_to: i64,
    /// How long it took.
    pub took: Duration,
}

impl Space {
    pub(crate) fn read(row: &Row) -> Result<Space, Error> {
        let state = match row.try_get::<_, &str>("state")? {
            "building" => SpaceState::Building,
            "live" => SpaceState::Live,
            "retired" => SpaceState::Retired,
            other => return Err(Error::Row(format!("embedding space in state {other}"))),
        };
        Ok(Space {
            id: u32::try_from(row.try_get::<_, i32>("id")?).unwrap_or(0),
            model: row.try_get("model")?,
            dimensions: u32::try_from(row.try_get::<_, i32>("dimensions")?).unwrap_or(0),
            state,
            indexed_seq: row.try_get("indexed_seq")?,
        })
    }
}

impl Store {
    /// The space that searches and new releases use.
    pub async fn live_space(&self) -> Result<Option<Space>, Error> {
        Ok(self.spaces().await?.into_iter().find(|space| space.state == SpaceState::Live))
    }

    /// All spaces.
    pub async fn spaces(&self) -> Result<Vec<Space>, Error> {
        self.single(Scope::all("spaces"), SPACES, &[]).await?.iter().map(Space::read).collect()
    }
}

/// Makes the space of a model, with its table, if it is not there. The first one becomes live. Works
/// with the login that owns the tables.
pub async fn ensure_space(config: &Config, model: &str, dimensions: u32) -> Result<Space, Error> {
    if model.is_empty() || !(1..=4_000).contains(&dimensions) {
        return Err(Error::Invalid(format!(
            "a space of {dimensions} dimensions cannot be stored, 1 to 4000 can"
        )));
    }
    let mut owner = Owner::connect(config).await?;
    let result = ensure(&mut owner.client, model, dimensions).await;
    owner.close().await;
    result
}

async fn ensure(client: &mut Client, model: &str, dimensions: u32) -> Result<Space, Error> {
    let wanted = i32::try_from(dimensions).unwrap_or(i32::MAX);
    let tx = client.transaction().await?;
    let space = match tx.query_opt(FIND, &[&model, &wanted]).await? {
        Some(row) => Space::read(&row)?,
        None => {
            let space = Space::read(&tx.query_one(ADD, &[&model, &wanted]).await?)?;
            tx.batch_execute(&table(&space)).await?;
            space
        }
    };
    tx.commit().await?;
    Ok(space)
}

/// Builds a larger HNSW index when more than a quarter of the vectors, and more than
/// `exact_search_rows`, are newer than the present one; until it is ready, those are searched exactly. Nothing waits for it.
///
/// Takes minutes for very many vectors. Where the future is dropped, the server ends the build soon after, and the next
/// one begins anew.
pub async fn build_index(config: &Config, space: SpaceId) -> Result<Option<IndexBuilt>, Error> {
    let owner = Owner::connect(config).await?;
    let result = build_if_needed(&owner.client, space, i64::from(config.exact_search_rows)).await;
    owner.close().await;
    result
}

async fn build_if_needed(client: &Client, space: SpaceId, few: i64) -> Result<Option<IndexBuilt>, Error> {
    let id = i32::try_from(space).unwrap_or(0);
    let indexed: i64 = match client.query_opt(INDEXED, &[&id]).await? {
        Some(row) => row.try_get(0)?,
        None => return Err(Error::NotFound("embedding space")),
    };
    let newest: i64 = client.query_one(&newest_seq(space), &[]).await?.try_get(0)?;
    let fresh = newest - indexed;
    if fresh <= few || fresh * 4 <= newest {
        return Ok(None);
    }
    let start = Instant::now();
    build(client, space, newest).await?;
    client.execute(SET_INDEXED, &[&id, &newest]).await?;
    drop_others(client, space, newest).await?;
    Ok(Some(IndexBuilt { up_to: newest, took: start.elapsed() }))
}

async fn build(client: &Client, space: SpaceId, newest: i64) -> Result<(), Error> {
    let name = index_name(space, newest);
    // A build that was interrupted leaves an invalid index of that name.
    client.batch_execute(&format!("-- store::spaces::build\nDROP INDEX IF EXISTS {name}")).await?;
    client
        .batch_execute(
            "-- store::spaces::build\nSET maintenance_work_mem = '512MB'; SET statement_timeout = 0;
             SET client_connection_check_interval = '1s'",
        )
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

/// The vectors' table. Its values are numbers of ours. Vectors are kept in the row as they are: out of
/// line they cost a second lookup each, and they do not compress.
fn table(space: &Space) -> String {
    let Space { id, dimensions, .. } = space;
    let storage = if *dimensions <= 3_500 { "PLAIN" } else { "EXTERNAL" };
    format!(
        "-- store::spaces::ensure_space
CREATE TABLE vectors_{id} (
    tenant_id     text COLLATE \"C\" NOT NULL,
    document_id   uuid NOT NULL,
    version       integer NOT NULL,
    run_id        uuid NOT NULL,
    ordinal       integer NOT NULL,
    seq           bigint GENERATED ALWAYS AS IDENTITY,
    embedding     halfvec({dimensions}) NOT NULL,
    PRIMARY KEY (tenant_id, document_id, version, run_id, ordinal)
);
ALTER TABLE vectors_{id} ALTER COLUMN embedding SET STORAGE {storage};
CREATE UNIQUE INDEX vectors_{id}_seq ON vectors_{id} (seq);
ALTER TABLE vectors_{id} ENABLE ROW LEVEL SECURITY;
ALTER TABLE vectors_{id} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON vectors_{id} TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON vectors_{id} TO riacho_janitor USING (true);
GRANT SELECT, INSERT ON vectors_{id} TO riacho_service;
GRANT SELECT, INSERT, DELETE ON vectors_{id} TO riacho_janitor"
    )
}

fn newest_seq(space: SpaceId) -> String {
    // The sequence and not the rows: the owner is bound by row-level security too.
    format!(
        "-- store::spaces::build_index
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('vectors_{space}', 'seq')::regclass), 0)"
    )
}

const SPACES: &str = "-- store::spaces::spaces
SELECT id, model, dimensions, state, indexed_seq FROM embedding_spaces ORDER BY id";

const FIND: &str = "-- store::spaces::ensure_space
SELECT id, model, dimensions, state, indexed_seq FROM embedding_spaces WHERE model = $1 AND dimensions = $2";

const ADD: &str = "-- store::spaces::ensure_space
INSERT INTO embedding_spaces (model, dimensions, state)
SELECT $1, $2, CASE WHEN EXISTS (SELECT FROM embedding_spaces WHERE state = 'live') THEN 'building' ELSE 'live' END
RETURNING id, model, dimensions, state, indexed_seq";

const INDEXED: &str = "-- store::spaces::build_index
SELECT indexed_seq FROM embedding_spaces WHERE id = $1";

const SET_INDEXED: &str = "-- store::spaces::build_index
UPDATE embedding_spaces SET indexed_seq = $2 WHERE id = $1";

const INDEXES: &str = "-- store::spaces::drop_others
SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE $1 AND indexname <> $2";

/// The statements of this file that services prepare.
pub(crate) const STATEMENTS: &[&str] = &[SPACES];
