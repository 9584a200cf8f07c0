//! `riacho tenant limits`.

use riacho_store::{Limits, OverBudget, OwnLimits, Role, Spent, Store, Usage};
use serde::Serialize;

use super::super::{Context, store_failure};
use crate::{
    cli::{OwnChoice, OwnLimit, TenantLimits},
    exit::{Failure, Kind},
};

/// What a tenant may use and uses, as it is printed.
#[derive(Debug, Serialize)]
struct Shown {
    tenant: String,
    /// What is set for it alone.
    own: OwnLimits,
    /// What holds; 0 is no limit.
    limits: Limits,
    /// After how many seconds originals are removed; none where they are kept.
    original_retention_seconds: Option<u64>,
    usage: Usage,
    /// The quotas that are used up.
    over_quota: Vec<&'static str>,
    /// What embeddings cost of the budgets in the present month.
    spent: Spent,
    /// The budgets of the month that are used up.
    over_budget: Vec<&'static str>,
}

pub(super) async fn run(context: &Context, asked: TenantLimits) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let missing = || store_failure(riacho_store::Error::NotFound("tenant"));
    let before = store.tenant(&asked.id).await.map_err(store_failure)?.ok_or_else(missing)?;
    let own = changed(before.limits, &asked)?;
    if own.over_budget == Some(OverBudget::Local) && own != before.limits {
        check_fallback(&store).await?;
    }
    if own != before.limits {
        store.set_tenant_limits(&asked.id, &own).await.map_err(store_failure)?;
    }
    let config = context.config()?;
    let limits = own.over(&config.limits);
    let original_retention_seconds = match own.original_retention_seconds {
        Some(seconds) => Some(seconds).filter(|seconds| *seconds > 0),
        None => config.janitor.original_retention_seconds,
    };
    let usage = store.usage(&asked.id).await.map_err(store_failure)?;
    let over_quota = usage.over(&limits).into_iter().map(|quota| quota.as_str()).collect();
    let spent = store.budget_spent(&asked.id).await.map_err(store_failure)?;
    let over_budget = spent.over(&limits).into_iter().map(|budget| budget.as_str()).collect();
    let tenant = asked.id.to_string();
    let shown =
        Shown { tenant, own, limits, original_retention_seconds, usage, over_quota, spent, over_budget };
    context.output.result(&shown, || shown.text());
    Ok(())
}

/// Nobody goes on with a fallback that is not there.
async fn check_fallback(store: &Store) -> anyhow::Result<()> {
    if store.fallback_space().await.map_err(store_failure)?.is_some() {
        return Ok(());
    }
    let text = "the deployment has no fallback embedding space, so documents over a budget could only wait: make the space of a \
                local model (`riacho space create`) the fallback first, with `riacho space fallback ID`";
    Err(Failure::error(Kind::Failed, text.to_owned()))
}

/// What is set for the tenant once the command was obeyed.
fn changed(mut own: OwnLimits, asked: &TenantLimits) -> anyhow::Result<OwnLimits> {
    let narrow = |limit: Option<u64>| -> anyhow::Result<Option<u32>> {
        let wrong = || Failure::error(Kind::Usage, format!("a rate or a burst is at most {}", u32::MAX));
        limit.map(|limit| u32::try_from(limit).map_err(|_| wrong())).transpose()
    };
    let rates = [
        (asked.requests_per_minute, &mut own.requests_per_minute),
        (asked.request_burst, &mut own.request_burst),
        (asked.uploads_per_minute, &mut own.uploads_per_minute),
        (asked.upload_burst, &mut own.upload_burst),
    ];
    for (limit, field) in rates {
        if let Some(OwnLimit(limit)) = limit {
            *field = narrow(limit)?;
        }
    }
    let quotas = [
        (asked.max_documents, &mut own.max_documents),
        (asked.max_bytes, &mut own.max_bytes),
        (asked.max_unfinished, &mut own.max_unfinished),
        (asked.embedding_tokens_per_month, &mut own.embedding_tokens_per_month),
        (asked.embedding_cents_per_month, &mut own.embedding_cents_per_month),
        (asked.original_retention_seconds, &mut own.original_retention_seconds),
    ];
    for (limit, field) in quotas {
        if let Some(OwnLimit(limit)) = limit {
            *field = limit;
        }
    }
    if let Some(OwnChoice(choice)) = asked.over_budget {
        own.over_budget = choice;
    }
    Ok(own)
}

/// What becomes of documents that come when a budget is used up.
fn then(over_budget: OverBudget) -> &'static str {
    match over_budget {
        OverBudget::Wait => "documents wait",
        OverBudget::Local => "documents go on with the fallback space",
    }
}

/// The budget of a month in money.
fn money(limits: &Limits) -> String {
    match limits.embedding_cents_per_month {
        0 => "no limit".to_owned(),
        cents => format!("{}.{:02}", cents / 100, cents % 100),
    }
}

impl Shown {
    fn text(&self) -> String {
        let limit = |limit: u64| if limit == 0 { "no limit".to_owned() } else { limit.to_string() };
        let rate = |name: &str, per_minute: u32| format!("{name:<14}{} a minute", limit(per_minute.into()));
        let quota = |name: &str, used: u64, max: u64| format!("{name:<14}{used} of {}", limit(max));
        let month = |line: String| line + " this month";
        let (limits, usage) = (&self.limits, &self.usage);
        [
            format!("tenant {}", self.tenant),
            rate("requests", limits.requests_per_minute),
            rate("uploads", limits.uploads_per_minute),
            quota("documents", usage.documents, limits.max_documents),
            quota("bytes", usage.bytes, limits.max_bytes),
            quota("unfinished", usage.unfinished, limits.max_unfinished),
            month(quota("tokens", self.spent.tokens, limits.embedding_tokens_per_month)),
            month(format!("{:<14}{:.4} of {}", "money", self.spent.money(), money(limits))),
            format!("{:<14}{}", "over budget", then(limits.over_budget)),
            match self.original_retention_seconds {
                Some(seconds) => format!("{:<14}kept {seconds} s after the end", "originals"),
                None => format!("{:<14}kept", "originals"),
            },
        ]
        .join("\n")
    }
}
