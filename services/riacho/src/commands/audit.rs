//! `riacho audit`: who did what, of all tenants.

use riacho_store::{Act, ListActs, MAX_AUDIT_PAGE, Role};

use super::{Context, store_failure};
use crate::{cli::Audit, output::shorten};

/// Characters of the details that a table shows.
const SHOWN: usize = 60;

pub(super) async fn run(context: &Context, asked: Audit) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let Audit { tenant, action, actor, target, limit } = asked;
    let limit = limit as usize;
    let mut list = ListActs { action, actor, target, ..ListActs::default() };
    let mut acts: Vec<Act> = Vec::new();
    loop {
        list.limit = u32::try_from(limit - acts.len()).unwrap_or(MAX_AUDIT_PAGE).min(MAX_AUDIT_PAGE);
        let page = store.acts(tenant.as_ref(), &list).await.map_err(store_failure)?;
        acts.extend(page.items);
        list.cursor = page.next_cursor;
        if list.cursor.is_none() || acts.len() >= limit {
            break;
        }
    }
    let header = ["at", "tenant", "who", "did", "to", "outcome", "detail"];
    context.output.list(&acts, &header, |act| {
        let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        vec![
            super::time(Some(act.at)),
            act.tenant.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            act.actor.clone(),
            act.action.clone(),
            or_none(&act.target),
            act.outcome.to_string(),
            shorten(&act.detail.to_string(), SHOWN),
        ]
    });
    if list.cursor.is_some() {
        context.output.note(&format!("and more; --limit shows more than {limit}"));
    }
    Ok(())
}
