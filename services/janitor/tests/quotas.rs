//! Quotas are measured, and told to those who accept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use riacho_domain::TenantId;
use riacho_janitor::{Config, Janitor, TaskName};
use riacho_store::{
    Budget, Conflict, Error, Limits, OverBudget, OwnLimits, Purpose, Quota, Role, Spending, Spent,
};
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

#[tokio::test]
async fn budgets_of_the_month_are_measured_and_begin_anew_with_the_next_month() {
    let deployment = Deployment::start().await.unwrap();
    let mut core = deployment.core().unwrap();
    core.limits = Limits { embedding_tokens_per_month: 1_000, ..Limits::default() };
    let janitor = Janitor::new(Config::default(), &core, &deployment.resources(Role::Janitor).unwrap());
    let (rich, _) = deployment.add_tenant("rich").await.unwrap();
    let own = OwnLimits {
        embedding_tokens_per_month: Some(0),
        embedding_cents_per_month: Some(50),
        ..OwnLimits::default()
    };
    deployment.janitor.set_tenant_limits(&rich, &own).await.unwrap();
    let measured = async || {
        janitor.run_task(TaskName::Quotas, false).await.unwrap();
        let over = async |tenant| deployment.janitor.tenant(tenant).await.unwrap().unwrap().over_budget;
        (over(&deployment.tenant).await, over(&rich).await)
    };
    let spend = async |tokens, cents: u64| {
        let spent = Spent { texts: 1, tokens, requests: 1, money_nanos: cents * 10_000_000 };
        let key = |tenant: &TenantId| (tenant.clone(), "m".to_owned(), Purpose::Documents);
        let spending = [&deployment.tenant, &rich].map(|tenant| (key(tenant), spent));
        deployment.store.add_spending(&Spending::from(spending)).await.unwrap();
    };
    spend(999, 49).await;
    assert_eq!(measured().await, (vec![], vec![]));
    spend(1, 1).await;
    assert_eq!(measured().await, (vec![Budget::Tokens], vec![Budget::Money]));
    // A higher budget, and the next month.
    let own = OwnLimits { embedding_cents_per_month: Some(51), ..own };
    deployment.janitor.set_tenant_limits(&rich, &own).await.unwrap();
    assert_eq!(measured().await, (vec![Budget::Tokens], vec![]));
    deployment.sql("UPDATE embedding_spend SET month = month - interval '1 month'");
    assert_eq!(measured().await, (vec![], vec![]));
    spend(1_000, 0).await;
    assert_eq!(measured().await, (vec![Budget::Tokens], vec![]));
}

#[tokio::test]
async fn what_a_tenant_chose_for_when_its_budget_is_used_up_is_told_with_its_budgets() {
    let deployment = Deployment::start().await.unwrap();
    let mut core = deployment.core().unwrap();
    core.limits = Limits { over_budget: OverBudget::Local, ..Limits::default() };
    let janitor = Janitor::new(Config::default(), &core, &deployment.resources(Role::Janitor).unwrap());
    let (waits, _) = deployment.add_tenant("waits").await.unwrap();
    let wants = async || {
        janitor.run_task(TaskName::Quotas, false).await.unwrap();
        let wants = async |tenant| deployment.janitor.tenant(tenant).await.unwrap().unwrap().wants_fallback;
        (wants(&deployment.tenant).await, wants(&waits).await)
    };
    assert_eq!(wants().await, (true, true), "as the configuration says");
    let own = OwnLimits { over_budget: Some(OverBudget::Wait), ..OwnLimits::default() };
    deployment.janitor.set_tenant_limits(&waits, &own).await.unwrap();
    assert_eq!(wants().await, (true, false));
    deployment.janitor.set_tenant_limits(&waits, &OwnLimits::default()).await.unwrap();
    assert_eq!(wants().await, (true, true));
}

#[tokio::test]
async fn a_budget_of_all_tenants_together_holds_all_and_filling_a_space_counts_towards_none() {
    let deployment = Deployment::start().await.unwrap();
    let core = deployment.core().unwrap();
    let config = Config { embedding_tokens_per_month: Some(100), ..Config::default() };
    let janitor = Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap());
    let (second, _) = deployment.add_tenant("second").await.unwrap();
    let spend = async |tenant: &TenantId, purpose, tokens| {
        let spent = Spent { texts: 1, tokens, requests: 1, money_nanos: 0 };
        let spending = Spending::from([((tenant.clone(), "m".to_owned(), purpose), spent)]);
        deployment.store.add_spending(&spending).await.unwrap();
    };
    let measured = async || {
        janitor.run_task(TaskName::Quotas, false).await.unwrap();
        let over = async |tenant| deployment.janitor.tenant(tenant).await.unwrap().unwrap().over_budget;
        (over(&deployment.tenant).await, over(&second).await)
    };
    spend(&deployment.tenant, Purpose::Spaces, 1_000).await;
    spend(&deployment.tenant, Purpose::Documents, 60).await;
    assert_eq!(measured().await, (vec![], vec![]));
    spend(&second, Purpose::Queries, 40).await;
    let total = || vec![Budget::TotalTokens];
    assert_eq!(measured().await, (total(), total()));
}
