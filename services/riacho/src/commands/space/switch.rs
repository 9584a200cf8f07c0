//! `riacho space switch`: closes the last gap, checks it by count, and switches in one statement.

use std::time::{Duration, Instant};

use riacho_domain::SpaceId;
use riacho_store::{Conflict, Error, Role, Space, SpaceState, Store, Switched};
use serde_json::json;

use super::{Context, find_shown, store_failure};
use crate::exit::{Failure, Kind};

/// Between two tries while the last chunks are filled in.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) async fn run(context: &Context, id: SpaceId, wait: Duration, force: bool) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    if !force {
        prepare(context, &store, id).await?;
    }
    let until = Instant::now() + wait;
    let switched = loop {
        match store.switch_space(id, force).await {
            Err(Error::Conflict(conflict @ Conflict::SpaceIncomplete { .. })) => {
                is_worth_waiting(context, &store, id, &conflict, until).await?;
                tokio::time::sleep(AGAIN).await;
            }
            switched => break switched.map_err(store_failure)?,
        }
    };
    let Switched { from, to } = switched;
    context.output.result(&json!({ "live": to, "was_live": from }), || match from {
        Some(from) => format!(
            "space {to} is live, from the next search on. Space {from} stands by and is kept complete: \
             `riacho space switch {from}` goes back, `riacho space drop {from} --yes` gives it up"
        ),
        None => format!("space {to} is live already"),
    });
    Ok(())
}

/// Checks what no single statement can: the index, and by count that no gap was overlooked.
async fn prepare(context: &Context, store: &Store, id: SpaceId) -> anyhow::Result<()> {
    let space = find_shown(store, id).await?.space;
    if !matches!(space.state, SpaceState::Building | SpaceState::Standby) || !space.is_seeded {
        return Ok(());
    }
    let overlooked = store.verify_space(id).await.map_err(store_failure)?;
    if overlooked > 0 {
        let note =
            format!("{overlooked} documents lacked vectors and were overlooked; they are filled in now");
        context.output.note(&note);
    }
    let due = store.due_indexes(id).await.map_err(store_failure)?;
    if let Some(largest) = due.first() {
        let text = format!(
            "the vector indexes of space {id} are not built yet, among them that of {} with {} vectors: the janitor does it every \
             few minutes once the space is complete, `riacho janitor run index` now; without them searches of large tenants \
             are slow (--force)",
            largest.tenant, largest.vectors
        );
        return Err(Failure::error(Kind::Failed, text));
    }
    Ok(())
}

/// Goes on when what is missing can be filled in before `until`.
async fn is_worth_waiting(
    context: &Context,
    store: &Store,
    id: SpaceId,
    conflict: &Conflict,
    until: Instant,
) -> anyhow::Result<()> {
    let Conflict::SpaceIncomplete { chunks, refused, .. } = *conflict else { return Ok(()) };
    let Space { per_second, is_seeded, trouble, .. } = find_shown(store, id).await?.space;
    let rate = u64::from(per_second.unwrap_or(context.config()?.janitor.fill_per_second));
    let left = until.saturating_duration_since(Instant::now());
    let takes = Duration::from_secs(chunks.checked_div(rate).unwrap_or(u64::MAX));
    if !left.is_zero() && is_seeded && refused == 0 && takes <= left {
        return Ok(());
    }
    let mut text = conflict.to_string();
    if let Some(trouble) = trouble {
        text.push_str(&format!(" ({trouble})"));
    } else if rate == 0 {
        text.push_str(" (filling is paused)");
    } else if chunks > 0 {
        text.push_str(&format!(" (some {} s at {rate} a second)", takes.as_secs().max(1)));
    }
    text.push_str(
        "; see `riacho space list`, wait with `riacho space fill ID --wait`, or switch with --force",
    );
    Err(Failure::error(Kind::Failed, text))
}
