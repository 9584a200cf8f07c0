//! Measures the tenants that have quotas or budgets, and tells the gateways which are used up.

use riacho_store::{Limits, Tenant, TenantState};

use crate::{Error, job::Job, metrics::names};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let mut failed = None;
    let tenants = job.janitor.store.tenants().await?;
    let mut over_budget = 0_u32;
    for tenant in tenants.iter().filter(|tenant| tenant.state == TenantState::Active) {
        if !job.goes_on() {
            break;
        }
        // One that cannot be measured keeps no other from it.
        match measure(job, tenant).await {
            Ok(is_over) => over_budget += u32::from(is_over),
            Err(error) => _ = failed.get_or_insert(error),
        }
    }
    metrics::gauge!(names::TENANTS_OVER_BUDGET).set(f64::from(over_budget));
    failed.map_or(Ok(()), Err)
}

/// Measures a tenant; answers whether a budget is used up.
async fn measure(job: &Job<'_>, tenant: &Tenant) -> Result<bool, Error> {
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
        tracing::info!(tenant = %tenant.id, used_up = names, "quotas");
        job.add("changed", 1);
    }
    let over_budget = match limits.has_budget() {
        true => store.spent_this_month(&tenant.id).await?.over(&limits),
        false => Vec::new(),
    };
    let is_new = over_budget != tenant.over_budget
        && (job.dry_run || store.set_over_budget(&tenant.id, &over_budget).await?);
    if is_new {
        let names = over_budget.iter().map(|budget| budget.as_str()).collect::<Vec<_>>().join(",");
        tracing::info!(tenant = %tenant.id, used_up = names, "budgets of the month");
        job.add("budgets_changed", 1);
    }
    Ok(!over_budget.is_empty())
}

fn has_quota(limits: &Limits) -> bool {
    limits.max_documents > 0 || limits.max_bytes > 0 || limits.max_unfinished > 0
}
