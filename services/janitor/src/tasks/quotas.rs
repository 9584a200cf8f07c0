//! Measures the tenants that have quotas, and tells the gateways which are used up.

use riacho_store::{Limits, Tenant, TenantState};

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let mut failed = None;
    let tenants = job.janitor.store.tenants().await?;
    for tenant in tenants.iter().filter(|tenant| tenant.state == TenantState::Active) {
        if !job.goes_on() {
            break;
        }
        // One that cannot be measured keeps no other from it.
        if let Err(error) = measure(job, tenant).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn measure(job: &Job<'_>, tenant: &Tenant) -> Result<(), Error> {
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
    Ok(())
}

fn has_quota(limits: &Limits) -> bool {
    limits.max_documents > 0 || limits.max_bytes > 0 || limits.max_unfinished > 0
}
