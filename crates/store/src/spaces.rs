//! Embedding spaces: a model with its dimensions, and the table of its vectors.
//!
//! One space is live. A new one is made beside it, filled until nothing is missing (`gaps`, `fill`), and made live
//! by one statement (`switch`); the one before is filled on, so that one can go back. One may be the fallback of
//! tenants over their budget (`fallback`).

mod fallback;
mod fill;
mod gaps;
mod index;
mod switch;

use chrono::{DateTime, Utc};
use riacho_domain::SpaceId;
use serde::Serialize;
use tokio_postgres::{Client, Row};

pub use self::{
    fill::{FillMark, Filled, Filling},
    gaps::{Gap, GapChunk, Missing},
    index::{DueIndex, IndexBuilt},
    switch::{Switched, drop_space},
};
use crate::{Config, Error, Store, migrate::Owner, read, transaction::Scope};

/// What a space is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceState {
    /// Being filled beside the live one.
    Building,
    /// Searched, and written by new releases.
    Live,
    /// Was live, and is kept complete: one can go back to it.
    Standby,
    /// Takes the documents of tenants that go on over their budget, beside the live one. It is not filled.
    Fallback,
    /// No longer used. Its vectors are removed some time later.
    Retired,
}

impl SpaceState {
    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SpaceState::Building => "building",
            SpaceState::Live => "live",
            SpaceState::Standby => "standby",
            SpaceState::Fallback => "fallback",
            SpaceState::Retired => "retired",
        }
    }
}

/// An embedding space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Its number, which names its table.
    pub id: SpaceId,
    /// The model's id.
    pub model: String,
    /// Values of a vector.
    pub dimensions: u32,
    /// What it is used for.
    pub state: SpaceState,
    /// Chunks a second that it is filled with at most; none: as configured, 0: it is not filled.
    pub per_second: Option<u32>,
    /// Whether all documents were looked at that were there when it was made. Until then nobody knows how
    /// much it lacks.
    pub is_seeded: bool,
    /// What was searchable then is in the space, at least.
    pub complete_at: Option<DateTime<Utc>>,
    /// Chunks that were filled in, ever.
    pub filled: u64,
    /// Why it is not filled at the moment.
    pub trouble: Option<String>,
}

/// The columns of a space.
macro_rules! columns {
    () => {
        "id, model, dimensions, state, per_second, seeded_at IS NOT NULL AS is_seeded, complete_at, filled, trouble"
    };
}
pub(crate) use columns;

impl Space {
    pub(crate) fn read(row: &Row) -> Result<Space, Error> {
        let state = match row.try_get::<_, &str>("state")? {
            "building" => SpaceState::Building,
            "live" => SpaceState::Live,
            "standby" => SpaceState::Standby,
            "fallback" => SpaceState::Fallback,
            "retired" => SpaceState::Retired,
            other => return Err(Error::Row(format!("embedding space in state {other}"))),
        };
        Ok(Space {
            id: u32::try_from(row.try_get::<_, i32>("id")?).unwrap_or(0),
            model: row.try_get("model")?,
            dimensions: u32::try_from(row.try_get::<_, i32>("dimensions")?).unwrap_or(0),
            state,
            per_second: read::count_opt(row, "per_second")?,
            is_seeded: row.try_get("is_seeded")?,
            complete_at: row.try_get("complete_at")?,
            filled: read::size_opt(row, "filled")?.unwrap_or(0),
            trouble: row.try_get("trouble")?,
        })
    }
}

impl Store {
    /// The live space, as searches see it: where these read a copy of the database, a switch comes there a little later.
    pub async fn live_space(&self) -> Result<Option<Space>, Error> {
        let scope = Scope::all("live_space").snapshot();
        let rows = self.transaction(scope, |tx| async move { tx.query(SPACES, &[]).await }).await?;
        let spaces = rows.iter().map(Space::read).collect::<Result<Vec<_>, _>>()?;
        Ok(spaces.into_iter().find(|space| space.state == SpaceState::Live))
    }

    /// What a space's model makes of known texts, as binary16 in little endian; none where nobody has written it.
    pub async fn probe(&self, space: SpaceId) -> Result<Option<Vec<u8>>, Error> {
        let rows = self.single(Scope::all("probe"), PROBE, &[&read::signed(space)]).await?;
        let row = rows.first().ok_or(Error::NotFound("embedding space"))?;
        Ok(row.try_get("probe")?)
    }

    /// Keeps what a space's model makes of known texts, unless that is kept already.
    pub async fn keep_probe(&self, space: SpaceId, probe: &[u8]) -> Result<(), Error> {
        self.single(Scope::all("keep_probe"), KEEP_PROBE, &[&read::signed(space), &probe]).await.map(drop)
    }

    /// All spaces that have vectors.
    pub async fn spaces(&self) -> Result<Vec<Space>, Error> {
        self.single(Scope::all("spaces"), SPACES, &[]).await?.iter().map(Space::read).collect()
    }
}

/// Makes the space of a model, with its table, if it is not there. The first one becomes live, the next ones
/// are filled beside it. Works with the login that owns the tables.
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

/// The live space, whatever its model; where there is none, the one of this model is made and becomes live.
/// Works with the login that owns the tables.
pub async fn ensure_live_space(config: &Config, model: &str, dimensions: u32) -> Result<Space, Error> {
    let owner = Owner::connect(config).await?;
    let live = owner.client.query_opt(LIVE, &[]).await.map_err(Error::from);
    owner.close().await;
    match live? {
        Some(row) => Space::read(&row),
        None => ensure_space(config, model, dimensions).await,
    }
}

async fn ensure(client: &mut Client, model: &str, dimensions: u32) -> Result<Space, Error> {
    let wanted = i32::try_from(dimensions).unwrap_or(i32::MAX);
    let tx = client.transaction().await?;
    let space = match tx.query_opt(FIND, &[&model, &wanted]).await? {
        Some(row) => Space::read(&row)?,
        None => {
            // Versions that go live from now on note what they lack here; those that went live before are
            // looked for. With no writer in between, none is missed.
            tx.batch_execute(LOCK_DOCUMENTS).await?;
            let space = Space::read(&tx.query_one(ADD, &[&model, &wanted]).await?)?;
            tx.batch_execute(&table(&space)).await?;
            space
        }
    };
    tx.commit().await?;
    Ok(space)
}

/// The vectors' table. Its values are numbers of ours. Vectors are kept in the row as they are: out of
/// line they cost a second lookup each, and they do not compress. `tenant_in_order` is the tenant once more, for the index that finds
/// what is newer than a number: on `tenant_id` it would be an index by which any statement about one document may walk all
/// rows of the tenant, as the planner does while a table is small.
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
    tenant_in_order text COLLATE \"C\" NOT NULL GENERATED ALWAYS AS (tenant_id) STORED,
    PRIMARY KEY (tenant_id, document_id, version, run_id, ordinal)
);
ALTER TABLE vectors_{id} ALTER COLUMN embedding SET STORAGE {storage};
CREATE INDEX vectors_{id}_in_order ON vectors_{id} (tenant_in_order, seq);
ALTER TABLE vectors_{id} ENABLE ROW LEVEL SECURITY;
ALTER TABLE vectors_{id} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON vectors_{id} TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON vectors_{id} TO riacho_janitor USING (true);
GRANT SELECT, INSERT ON vectors_{id} TO riacho_service;
GRANT SELECT, INSERT, DELETE ON vectors_{id} TO riacho_janitor"
    )
}

const SPACES: &str = concat!(
    "-- store::spaces::spaces\nSELECT ",
    columns!(),
    " FROM embedding_spaces WHERE dropped_at IS NULL ORDER BY id"
);

const KEEP_PROBE: &str = "-- store::spaces::keep_probe
UPDATE embedding_spaces SET probe = $2 WHERE id = $1 AND probe IS NULL RETURNING id";

const PROBE: &str = "-- store::spaces::probe
SELECT probe FROM embedding_spaces WHERE id = $1";

const FIND: &str = concat!(
    "-- store::spaces::ensure_space\nSELECT ",
    columns!(),
    " FROM embedding_spaces WHERE model = $1 AND dimensions = $2 AND state <> 'retired'"
);

const LIVE: &str = concat!(
    "-- store::spaces::ensure_live_space\nSELECT ",
    columns!(),
    " FROM embedding_spaces WHERE state = 'live'"
);

const LOCK_DOCUMENTS: &str = "-- store::spaces::ensure_space
SET LOCAL lock_timeout = '10s'; LOCK TABLE documents IN SHARE MODE";

const ADD: &str = concat!(
    "-- store::spaces::ensure_space
INSERT INTO embedding_spaces (model, dimensions, state, seeded_at, complete_at)
SELECT $1, $2, CASE WHEN is_first THEN 'live' ELSE 'building' END,
       CASE WHEN is_first THEN now() END, CASE WHEN is_first THEN now() END
FROM (SELECT NOT EXISTS (SELECT FROM embedding_spaces WHERE state = 'live') AS is_first) AS beside
RETURNING ",
    columns!()
);

/// The statements of this folder that services prepare, for a space.
pub(crate) fn statements(space: SpaceId) -> Vec<String> {
    let fixed = [&[SPACES, KEEP_PROBE, PROBE], switch::STATEMENTS, fallback::STATEMENTS].concat();
    let mut all: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
    all.extend(gaps::statements(space));
    all.extend(fill::statements(space));
    all.extend(index::statements(space));
    all
}
