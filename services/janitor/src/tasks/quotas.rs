//! Measures the tenants that have quotas or budgets, and tells the gateways which are used up.

use std::collections::HashMap;

use riacho_domain::TenantId;
use riacho_store::{Budget, Limits, OverBudget, Spent, Tenant, TenantState};

use crate::{Error, job::Job, metrics::names};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let mut failed = None;
    let tenants = job.janitor.store.tenants().await?;
    let budgets = Budgets::measure(job, &tenants).await?;
    let mut over_budget = 0_u32;
    for tenant in tenants.iter().filter(|tenant| tenant.state == TenantState::Active) {
        if !job.goes_on() {
            break;
        }
        let limits = tenant.limits.over(&job.janitor.limits);
        let over = budgets.over(&tenant.id, &limits);
        over_budget += u32::from(!over.is_empty());
        // One that cannot be measured keeps no other from it.
        for result in [quotas(job, tenant).await, tell_budgets(job, tenant, &over, limits.over_budget).await]
        {
            result.unwrap_or_else(|error| _ = failed.get_or_insert(error));
        }
    }
    if !job.dry_run {
        metrics::gauge!(names::TENANTS_OVER_BUDGET).set(f64::from(over_budget));
    }
    failed.map_or(Ok(()), Err)
}

async fn quotas(job: &Job<'_>, tenant: &Tenant) -> Result<(), Error> {
    let store = &job.janitor.store;
    let limits = tenant.limits.over(&job.janitor.limits);
    let over = match has_quota(&limits) {
        true => store.usage(&tenant.id).await?.over(&limits),
        false => Vec::new(),
    };
    let is_new =
        over != tenant.over_quota && (job.dry_run || store.set_over_quota(&tenant.id, &over).await?);
    if is_new {
        let names = over.iter().map(|quota| quota.as_str()).collect::<Vec<_>>().join(",");
        if !job.dry_run {
            tracing::info!(tenant = %tenant.id, used_up = names, "quotas");
        }
        job.add("changed", 1);
    }
    Ok(())
}

fn has_quota(limits: &Limits) -> bool {
    limits.max_documents > 0 || limits.max_bytes > 0 || limits.max_unfinished > 0
}

/// What was spent of the month's budgets.
struct Budgets {
    spent: HashMap<TenantId, Spent>,
    /// Those of all tenants together that are used up.
    over_total: Vec<Budget>,
}

impl Budgets {
    async fn measure(job: &Job<'_>, tenants: &[Tenant]) -> Result<Self, Error> {
        let config = job.config();
        let (tokens, cents) = (config.embedding_tokens_per_month, config.embedding_cents_per_month);
        let has_own = |tenant: &Tenant| tenant.limits.over(&job.janitor.limits).has_budget();
        if tokens.is_none() && cents.is_none() && !tenants.iter().any(has_own) {
            return Ok(Self { spent: HashMap::new(), over_total: Vec::new() });
        }
        let spent = job.janitor.store.budgets_spent().await?;
        let total = spent.values().fold(Spent::default(), |all, one| all.and(*one));
        let over_total = total.over_total(tokens.unwrap_or(0), cents.unwrap_or(0));
        Ok(Self { spent, over_total })
    }

    fn over(&self, tenant: &TenantId, limits: &Limits) -> Vec<Budget> {
        let spent = self.spent.get(tenant).copied().unwrap_or_default();
        [spent.over(limits), self.over_total.clone()].concat()
    }
}

/// `then` says what becomes of the tenant's documents while a budget is used up.
async fn tell_budgets(
    job: &Job<'_>,
    tenant: &Tenant,
    over: &[Budget],
    then: OverBudget,
) -> Result<(), Error> {
    if over == tenant.over_budget && tenant.wants_fallback == (then == OverBudget::Local)
        || !job.dry_run && !job.janitor.store.set_over_budget(&tenant.id, over, then).await?
    {
        return Ok(());
    }
    let names = over.iter().map(|budget| budget.as_str()).collect::<Vec<_>>().join(",");
    if !job.dry_run {
        tracing::info!(tenant = %tenant.id, used_up = names, then = then.as_str(), "budgets of the month");
    }
    job.add("budgets_changed", 1);
    Ok(())
}
