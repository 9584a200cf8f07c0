//! The fallback space: where documents go of tenants that go on over their budget (docs/adr/0020).
//!
//! It has what the live space lacks of them until their budget allows to fill that in. It is not filled itself, so
//! nothing is noted as missing in it.

use riacho_domain::SpaceId;

use super::{
    Space, SpaceState,
    switch::{find, lock},
};
use crate::{
    Conflict, Error, Store, read,
    transaction::{Param, Scope, Tx},
};

impl Store {
    /// Makes a space the fallback, or none. The one before is filled like a new space from then on.
    ///
    /// Refused as [`Conflict::FallbackInUse`] where the one before has documents that the live space lacks, unless `force`.
    pub async fn set_fallback(&self, id: Option<SpaceId>, force: bool) -> Result<Option<Space>, Error> {
        self.transaction(Scope::all("set_fallback"), |tx| async move {
            // With no writer in between, each version that goes live is noted as missing in a space that is to be filled,
            // and none in one that is not.
            tx.batch(LOCK_DOCUMENTS).await?;
            let spaces = lock(&tx).await?;
            let before = spaces.iter().find(|space| space.state == SpaceState::Fallback);
            let next = id.map(|id| find(&spaces, id)).transpose()?;
            match next.map(|space| space.state) {
                Some(SpaceState::Live) => return Err(Conflict::SpaceLive.into()),
                Some(SpaceState::Retired) => return Err(Conflict::SpaceRetired.into()),
                Some(SpaceState::Fallback) => return Ok(next.cloned()),
                Some(SpaceState::Building | SpaceState::Standby) | None => {}
            }
            if let Some(before) = before {
                if !force {
                    check_unused(&tx, before.id).await?;
                }
                tx.execute(END, &[&read::signed(before.id)]).await?;
            }
            let mut made = None;
            if let Some(next) = next {
                tx.execute(LACKS_NOTHING, &[&read::signed(next.id)]).await?;
                made = Some(Space::read(&tx.query_one(BEGIN, &[&read::signed(next.id)]).await?)?);
            }
            // As the last step: see migration 0012.
            tx.execute(CHANGED, &[]).await?;
            Ok(made)
        })
        .await
    }

    /// The space that documents go to whose tenants go on over their budget.
    pub async fn fallback_space(&self) -> Result<Option<Space>, Error> {
        Ok(self.spaces().await?.into_iter().find(|space| space.state == SpaceState::Fallback))
    }
}

async fn check_unused(tx: &Tx, space: SpaceId) -> Result<(), Error> {
    let params: [Param<'_>; 1] = [&read::signed(space)];
    let row = tx.query_one(IN_USE, &params).await?;
    match read::size_opt(&row, "documents")?.unwrap_or(0) {
        0 => Ok(()),
        documents => Err(Conflict::FallbackInUse { space, documents }.into()),
    }
}

const LOCK_DOCUMENTS: &str = "-- store::spaces::set_fallback
SET LOCAL lock_timeout = '10s'; LOCK TABLE documents IN SHARE MODE";

const IN_USE: &str = "-- store::spaces::check_unused
SELECT (SELECT count(*) FROM embedding_spaces AS l JOIN space_gaps AS g ON g.space_id = l.id
        JOIN documents AS d ON d.id = g.document_id
        JOIN document_versions AS v ON v.document_id = d.id AND v.version = d.live_version
        WHERE l.state = 'live' AND d.deleted_at IS NULL AND v.space_id = $1)
     + (SELECT count(*) FROM document_versions
        WHERE space_id = $1 AND state IN ('releasing', 'extracting', 'embedding', 'indexing')) AS documents";

// All documents are looked at anew.
const END: &str = "-- store::spaces::set_fallback
UPDATE embedding_spaces SET state = 'building', seeded_at = NULL, seed_cursor = NULL, complete_at = NULL, state_changed_at = now()
WHERE id = $1";

const LACKS_NOTHING: &str = "-- store::spaces::set_fallback
DELETE FROM space_gaps WHERE space_id = $1";

const BEGIN: &str = concat!(
    "-- store::spaces::set_fallback
UPDATE embedding_spaces SET state = 'fallback', seeded_at = NULL, seed_cursor = NULL, complete_at = NULL, trouble = NULL,
    state_changed_at = now()
WHERE id = $1 RETURNING ",
    super::columns!()
);

// What these tenants' searches find is another thing with another fallback.
const CHANGED: &str = "-- store::spaces::set_fallback
INSERT INTO search_changes AS c (tenant_id, slot, changes)
SELECT DISTINCT g.tenant_id, pg_backend_pid() % 16, 1
FROM embedding_spaces AS l JOIN space_gaps AS g ON g.space_id = l.id WHERE l.state = 'live' ORDER BY 1
ON CONFLICT (tenant_id, slot) DO UPDATE SET changes = c.changes + 1";

/// The statements of this file.
pub(super) const STATEMENTS: &[&str] = &[IN_USE, END, LACKS_NOTHING, BEGIN, CHANGED];
