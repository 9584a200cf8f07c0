//! Pauses of stages: who asked for one and since when. The runners of all replicas follow.

use chrono::{DateTime, Utc};
use riacho_domain::StageName;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Store,
    transaction::{Param, Scope},
};

/// The longest reason, in characters.
pub const MAX_PAUSE_REASON: usize = 500;

/// A stage that reads nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// The stage.
    pub stage: StageName,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Who asked for it.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
}

impl Pause {
    fn read(row: &Row) -> Result<Pause, Error> {
        let stage: String = row.try_get("stage")?;
        Ok(Pause {
            stage: stage.parse().map_err(Error::Row)?,
            since: row.try_get("paused_at")?,
            by: row.try_get("paused_by")?,
            reason: row.try_get("reason")?,
        })
    }
}

impl Store {
    /// Lets a stage read nothing until it is resumed. One that is paused already stays as it is, and the answer says since
    /// when and by whom.
    pub async fn pause_stage(&self, stage: StageName, by: &str, reason: &str) -> Result<Pause, Error> {
        if reason.chars().count() > MAX_PAUSE_REASON || reason.contains('\0') {
            return Err(Error::Invalid(format!("a reason has at most {MAX_PAUSE_REASON} characters")));
        }
        let id = Uuid::now_v7();
        let params: [Param<'_>; 4] = [&id, &stage.as_str(), &by, &reason];
        let row = self
            .transaction(Scope::all("pause_stage"), |tx| async move {
                tx.execute(PAUSE, &params).await?;
                tx.query_one(PAUSE_OF, &[&stage.as_str()]).await
            })
            .await?;
        Pause::read(&row)
    }

    /// Lets a stage read again; the pause that ended, or none where there was none.
    pub async fn resume_stage(&self, stage: StageName, by: &str) -> Result<Option<Pause>, Error> {
        let params: [Param<'_>; 2] = [&stage.as_str(), &by];
        let rows = self.single(Scope::all("resume_stage"), RESUME, &params).await?;
        rows.first().map(Pause::read).transpose()
    }

    /// The stages that are paused, in flow order.
    pub async fn paused_stages(&self) -> Result<Vec<Pause>, Error> {
        let rows = self.single(Scope::all("paused_stages"), PAUSED, &[]).await?;
        let mut paused = rows.iter().map(Pause::read).collect::<Result<Vec<_>, _>>()?;
        paused.sort_by_key(|pause| pause.stage);
        Ok(paused)
    }

    /// Prolongs the deadlines of what waited for a stage by as long as it was paused, once for each pause that is over.
    /// Answers how many releases that were. Until it has run, nothing fails for its deadline.
    pub async fn settle_pauses(&self) -> Result<u64, Error> {
        let mut prolonged = 0;
        loop {
            let one = self
                .transaction(Scope::all("settle_pauses"), |tx| async move {
                    let Some(row) = tx.query_opt(OVER, &[]).await? else { return Ok(None) };
                    let (id, from, to): (Uuid, DateTime<Utc>, DateTime<Utc>) =
                        (row.try_get("id")?, row.try_get("paused_at")?, row.try_get("resumed_at")?);
                    let prolonged = tx.execute(PROLONG, &[&from, &to]).await?;
                    tx.execute(SETTLE, &[&id]).await?;
                    Ok(Some(prolonged))
                })
                .await?;
            match one {
                Some(some) => prolonged += some,
                None => return Ok(prolonged),
            }
        }
    }
}

const PAUSE: &str = "-- store::pauses::pause_stage
INSERT INTO stage_pauses (id, stage, paused_by, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (stage) WHERE resumed_at IS NULL DO NOTHING";

const PAUSE_OF: &str = "-- store::pauses::pause_stage
SELECT stage, paused_at, paused_by, reason FROM stage_pauses WHERE stage = $1 AND resumed_at IS NULL";

const RESUME: &str = "-- store::pauses::resume_stage
UPDATE stage_pauses SET resumed_at = now(), resumed_by = $2 WHERE stage = $1 AND resumed_at IS NULL
RETURNING stage, paused_at, paused_by, reason";

const PAUSED: &str = "-- store::pauses::paused_stages
SELECT stage, paused_at, paused_by, reason FROM stage_pauses WHERE resumed_at IS NULL";

const OVER: &str = "-- store::pauses::settle_pauses
SELECT id, paused_at, resumed_at FROM stage_pauses WHERE resumed_at IS NOT NULL AND settled_at IS NULL
ORDER BY paused_at LIMIT 1 FOR UPDATE";

// What was released again keeps its first deadline and not the time of its first release: it gets the whole pause.
const PROLONG: &str = "-- store::pauses::settle_pauses
UPDATE document_versions AS v
SET deadline = v.deadline + ($2::timestamptz - greatest($1::timestamptz, waited.since))
FROM (SELECT document_id, version,
             CASE WHEN losses + stalls > 0 THEN $1 ELSE coalesce(released_at, state_changed_at) END AS since
      FROM document_versions
      WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing')
        AND (losses + stalls > 0 OR coalesce(released_at, state_changed_at) < $2)
      ORDER BY document_id, version FOR NO KEY UPDATE) AS waited
WHERE v.document_id = waited.document_id AND v.version = waited.version";

const SETTLE: &str = "-- store::pauses::settle_pauses
UPDATE stage_pauses SET settled_at = now() WHERE id = $1";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[PAUSE, PAUSE_OF, RESUME, PAUSED, OVER, PROLONG, SETTLE];
