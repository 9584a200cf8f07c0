//! Quotas are measured, and told to those who accept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use riacho_janitor::{Config, Janitor, TaskName};
use riacho_store::{Conflict, Error, Limits, OwnLimits, Quota, Role};
use riacho_testkit::Deployment;

#[tokio::test]
async fn quotas_are_measured_for_each_tenant_and_told_to_the_gateways() {
    let deployment = Deployment::start().await.unwrap();
    let mut core = deployment.core().unwrap();
    core.limits = Limits { max_bytes: 10, ..Limits::default() };
    let janitor = Janitor::new(Config::default(), &core, &deployment.resources(Role::Janitor).unwrap());
    let store = &deployment.store;
    let (free, _) = deployment.add_tenant("free").await.unwrap();
    let own = OwnLimits { max_bytes: Some(0), max_unfinished: Some(1), ..OwnLimits::default() };
    deployment.janitor.set_tenant_limits(&free, &own).await.unwrap();
    let accept = async |tenant, name: &str| {
        let mut accept = deployment.stored(name, &"sixteen bytes...".into()).await.unwrap();
        accept.tenant = tenant;
        accept.metadata = Some([("name".to_owned(), name.into())].into_iter().collect());
        store.accept(&accept).await
    };
    let quotas = async |dry_run| {
        janitor.run_task(TaskName::Quotas, dry_run).await.unwrap().counts.get("changed").copied().unwrap_or(0)
    };
    let over = async |tenant| deployment.janitor.tenant(tenant).await.unwrap().unwrap().over_quota;
    assert_eq!(quotas(false).await, 0);
    accept(deployment.tenant.clone(), "a.txt").await.unwrap();
    let first = accept(free.clone(), "a.txt").await.unwrap();
    assert_eq!((quotas(true).await, over(&deployment.tenant).await), (2, vec![]), "a dry run only counts");
    assert_eq!((quotas(false).await, quotas(false).await), (2, 0));
    assert_eq!(over(&deployment.tenant).await, [Quota::Bytes], "the deployment's limit");
    assert_eq!(over(&free).await, [Quota::Unfinished], "its own");
    for (tenant, quota) in [(&deployment.tenant, Quota::Bytes), (&free, Quota::Unfinished)] {
        let refused = accept(tenant.clone(), "b.txt").await;
        assert!(
            matches!(&refused, Err(Error::Conflict(Conflict::OverQuota(over))) if *over == quota),
            "{refused:?}"
        );
    }
    store.cancel(&free, first.document).await.unwrap();
    assert_eq!((quotas(false).await, over(&free).await), (1, vec![]));
    accept(free.clone(), "b.txt").await.unwrap();
}
