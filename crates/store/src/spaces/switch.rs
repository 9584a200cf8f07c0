//! What becomes of a space: searched, kept as the one before, given up, removed.

use std::time::Duration;

use riacho_domain::SpaceId;

use super::{Space, SpaceState};
use crate::{
    Config, Conflict, Error, Store,
    migrate::Owner,
    read,
    transaction::{Param, Scope, Tx},
};

/// A space that lacks only what became searchable within this time may go live: what is on its way
/// at that moment is as new, and is filled in a moment later as well.
const NEWS: Duration = Duration::from_secs(10);

/// What a switch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// The space that was live; none where it is the same one.
    pub from: Option<SpaceId>,
    /// The space that is live now.
    pub to: SpaceId,
}

impl Store {
    /// Makes a space the one that is searched and that new releases use, in one statement; the one
    /// before stands by. A space that is live already stays so.
    ///
    /// Refused for a space that is not complete, as [`Conflict::SpaceIncomplete`], unless `force`.
    pub async fn switch_space(&self, id: SpaceId, force: bool) -> Result<Switched, Error> {
        self.transaction(Scope::all("switch_space"), |tx| async move {
            let spaces = lock(&tx).await?;
            let space = find(&spaces, id)?;
            let live = spaces.iter().find(|space| space.state == SpaceState::Live);
            match space.state {
                SpaceState::Live => return Ok(Switched { from: None, to: id }),
                SpaceState::Retired => return Err(Conflict::SpaceRetired.into()),
                SpaceState::Fallback => return Err(Conflict::SpaceFallback.into()),
                SpaceState::Building | SpaceState::Standby if force => {}
                SpaceState::Building | SpaceState::Standby => check_complete(&tx, space).await?,
            }
            tx.execute(SWITCH, &[&read::signed(id)]).await?;
            Ok(Switched { from: live.map(|space| space.id), to: id })
        })
        .await
    }

    /// Gives a space up that is neither live nor the fallback: nothing is filled in any more, and its vectors go with [`drop_space`] later.
    pub async fn retire_space(&self, id: SpaceId) -> Result<Space, Error> {
        self.transaction(Scope::all("retire_space"), |tx| async move {
            let spaces = lock(&tx).await?;
            match find(&spaces, id)?.state {
                SpaceState::Live => return Err(Conflict::SpaceLive.into()),
                SpaceState::Fallback => return Err(Conflict::SpaceFallback.into()),
                SpaceState::Building | SpaceState::Standby | SpaceState::Retired => {}
            }
            tx.execute(FORGET_GAPS, &[&read::signed(id)]).await?;
            Space::read(&tx.query_one(RETIRE, &[&read::signed(id)]).await?)
        })
        .await
    }

    /// Spaces that were given up at least `grace` ago, and that no release on its way is pinned to.
    pub async fn spaces_to_drop(&self, grace: Duration) -> Result<Vec<SpaceId>, Error> {
        let rows = self.single(Scope::all("spaces_to_drop"), TO_DROP, &[&grace.as_secs_f64()]).await?;
        rows.iter().map(|row| read::count(row, "id")).collect()
    }

    /// Forgets what was still noted for a space after it was given up.
    pub async fn forget_gaps(&self, id: SpaceId) -> Result<(), Error> {
        self.single(Scope::all("forget_gaps"), FORGET_GAPS, &[&read::signed(id)]).await?;
        self.single(Scope::all("forget_gaps"), FORGET_INDEXES, &[&read::signed(id)]).await.map(drop)
    }
}

/// Removes the vectors of a space that was given up; its row stays, for those that name it. Works
/// with the login that owns the tables. False: it is not given up, or removed already.
pub async fn drop_space(config: &Config, id: SpaceId) -> Result<bool, Error> {
    let mut owner = Owner::connect(config).await?;
    let dropped = async {
        let tx = owner.client.transaction().await?;
        tx.batch_execute("-- store::spaces::drop_space\nSET LOCAL lock_timeout = '5s'").await?;
        if tx.execute(DROP, &[&read::signed(id)]).await? == 0 {
            return Ok(false);
        }
        tx.batch_execute(&format!("-- store::spaces::drop_space\nDROP TABLE IF EXISTS vectors_{id}")).await?;
        tx.commit().await?;
        Ok(true)
    };
    let dropped = dropped.await;
    owner.close().await;
    dropped
}

/// All spaces, locked against other switches.
pub(super) async fn lock(tx: &Tx) -> Result<Vec<Space>, Error> {
    tx.query(LOCK, &[]).await?.iter().map(Space::read).collect()
}

pub(super) fn find(spaces: &[Space], id: SpaceId) -> Result<&Space, Error> {
    spaces.iter().find(|space| space.id == id).ok_or(Error::NotFound("embedding space"))
}

async fn check_complete(tx: &Tx, space: &Space) -> Result<(), Error> {
    let params: [Param<'_>; 2] = [&read::signed(space.id), &NEWS.as_secs_f64()];
    let row = tx.query_one(GAPS, &params).await?;
    let size = |column: &str| row.try_get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
    let (documents, refused) = (size("documents")?, size("refused")?);
    let is_near: bool = row.try_get("is_near")?;
    if space.is_seeded && (documents == 0 || is_near && refused == 0) {
        return Ok(());
    }
    let chunks = size("chunks")?;
    Err(Conflict::SpaceIncomplete { is_counted: space.is_seeded, documents, chunks, refused }.into())
}

const LOCK: &str = concat!(
    "-- store::spaces::lock\nSELECT ",
    super::columns!(),
    " FROM embedding_spaces WHERE dropped_at IS NULL ORDER BY id FOR NO KEY UPDATE"
);

const GAPS: &str = "-- store::spaces::check_complete
SELECT count(*) AS documents, coalesce(sum(greatest(g.chunks - g.next_ordinal, 0)), 0)::bigint AS chunks, count(g.refused) AS refused,
       (SELECT coalesce(s.complete_at > clock_timestamp() - make_interval(secs => $2), false)
        FROM embedding_spaces AS s WHERE s.id = $1) AS is_near
FROM space_gaps AS g WHERE g.space_id = $1";

const SWITCH: &str = "-- store::spaces::switch_space
UPDATE embedding_spaces SET state = CASE WHEN id = $1 THEN 'live' ELSE 'standby' END, state_changed_at = now()
WHERE id = $1 OR state = 'live'";

const RETIRE: &str = concat!(
    "-- store::spaces::retire_space
UPDATE embedding_spaces SET state = 'retired', trouble = NULL,
    state_changed_at = CASE WHEN state = 'retired' THEN state_changed_at ELSE now() END
WHERE id = $1 RETURNING ",
    super::columns!()
);

const FORGET_GAPS: &str = "-- store::spaces::forget_gaps
DELETE FROM space_gaps AS g WHERE g.space_id = $1
  AND NOT EXISTS (SELECT FROM embedding_spaces AS s WHERE s.id = $1 AND s.state = 'live')";

const FORGET_INDEXES: &str = "-- store::spaces::forget_gaps
DELETE FROM vector_indexes AS i USING embedding_spaces AS s WHERE i.space_id = $1 AND s.id = $1 AND s.dropped_at IS NOT NULL";

const TO_DROP: &str = "-- store::spaces::spaces_to_drop
SELECT id FROM embedding_spaces AS s
WHERE state = 'retired' AND dropped_at IS NULL AND state_changed_at < now() - make_interval(secs => $1)
  AND NOT EXISTS (SELECT FROM document_versions AS v
      WHERE v.space_id = s.id AND v.state IN ('releasing', 'extracting', 'embedding', 'indexing'))
ORDER BY id";

const DROP: &str = "-- store::spaces::drop_space
UPDATE embedding_spaces SET dropped_at = now() WHERE id = $1 AND state = 'retired' AND dropped_at IS NULL";

/// The statements of this file that services prepare.
pub(super) const STATEMENTS: &[&str] = &[LOCK, GAPS, SWITCH, RETIRE, FORGET_GAPS, FORGET_INDEXES, TO_DROP];
