//! Measures the tenants that have quotas, and tells the gateways which are used up.

use riacho_store::Limits;

use crate::{Error, job::Job};

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    let janitor = job.janitor;
    for tenant in janitor.store.tenants().await? {
        if !job.goes_on() {
            break;
        }
        let limits = tenant.limits.over(&janitor.limits);
        let over = match has_quota(&limits) {
            true => janitor.store.usage(&tenant.id).await?.over(&limits),
            false => Vec::new(),
        };
        if over == tenant.over_quota {
            continue;
        }
        if !job.dry_run && !janitor.store.set_over_quota(&tenant.id, &over).await? {
            continue;
        }
        let names = over.iter().map(|quota| quota.as_str()).collect::<Vec<_>>().join(",");
        tracing::info!(tenant = %tenant.id, used_up = names, "quotas");
        job.add("changed", 1);
    }
    Ok(())
}

fn has_quota(limits: &Limits) -> bool {
    limits.max_documents > 0 || limits.max_bytes > 0 || limits.max_unfinished > 0
}
