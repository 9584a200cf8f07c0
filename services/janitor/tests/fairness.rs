//! Fair release: caps on what a tenant has in flight, and turns by weight among those who wait.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use riacho_domain::{Lane, State, TenantId};
use riacho_janitor::{Config, Janitor, TaskName};
use riacho_store::{Accepted, ReleaseCaps, Role};
use riacho_testkit::Deployment;

fn janitor(deployment: &Deployment, per_tenant: Option<u32>) -> Janitor {
    let core = deployment.core().unwrap();
    let config = Config { in_flight_per_tenant: per_tenant, ..Config::default() };
    Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap())
}

async fn upload(deployment: &Deployment, tenant: &TenantId, name: &str, lane: Lane) -> Accepted {
    let mut accept = deployment.stored(name, &name.to_owned().into()).await.unwrap();
    accept.tenant = tenant.clone();
    accept.lane = lane;
    let accepted = deployment.store.accept(&accept).await.unwrap();
    if let Some(plan) = &accepted.release {
        deployment.release(plan).await.unwrap();
    }
    accepted
}

async fn release(janitor: &Janitor) -> BTreeMap<&'static str, u64> {
    let mut counts = janitor.run_task(TaskName::Release, false).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    counts
}

#[tokio::test]
async fn a_tenant_at_its_cap_waits_and_another_does_not() {
    let deployment = Deployment::start().await.unwrap();
    let (busy, quiet) =
        (deployment.add_tenant("busy").await.unwrap().0, deployment.add_tenant("quiet").await.unwrap().0);
    let janitor = janitor(&deployment, Some(4));
    let mut first = Vec::new();
    for n in 0..4 {
        first.push(upload(&deployment, &busy, &format!("{n}.txt"), Lane::Bulk).await);
    }
    assert!(first.iter().all(|accepted| accepted.state == State::Releasing));
    assert_eq!(release(&janitor).await, BTreeMap::new());
    let bulk = upload(&deployment, &busy, "bulk.txt", Lane::Bulk).await;
    let urgent = upload(&deployment, &busy, "urgent.txt", Lane::Interactive).await;
    assert_eq!((bulk.state, urgent.state), (State::Waiting, State::Waiting), "accepted all the same");
    assert_eq!(upload(&deployment, &quiet, "q.txt", Lane::Bulk).await.state, State::Releasing);
    assert_eq!(release(&janitor).await, BTreeMap::from([("kept_waiting", 2)]));
    // A place is free: the more urgent one gets it.
    deployment.store.cancel(&busy, first[0].document).await.unwrap();
    assert_eq!(release(&janitor).await, BTreeMap::from([("released", 1), ("kept_waiting", 1)]));
    let state = async |accepted: &Accepted| {
        deployment.store.status(&busy, accepted.document).await.unwrap().unwrap().state
    };
    assert_eq!((state(&urgent).await, state(&bulk).await), (State::Extracting, State::Waiting));
    // With all places free nothing is held any more.
    for accepted in &first[1..] {
        deployment.store.cancel(&busy, accepted.document).await.unwrap();
    }
    assert_eq!(release(&janitor).await, BTreeMap::from([("released", 1)]));
    assert_eq!(upload(&deployment, &busy, "later.txt", Lane::Bulk).await.state, State::Releasing);
}

#[tokio::test]
async fn a_retry_of_a_tenant_at_its_cap_waits_as_well() {
    let deployment = Deployment::start().await.unwrap();
    let busy = deployment.add_tenant("busy").await.unwrap().0;
    let janitor = janitor(&deployment, Some(1));
    let first = upload(&deployment, &busy, "first.txt", Lane::Bulk).await;
    deployment.store.cancel(&busy, first.document).await.unwrap();
    upload(&deployment, &busy, "second.txt", Lane::Bulk).await;
    release(&janitor).await;
    let again = deployment.store.retry(&busy, first.document, None, false).await.unwrap();
    assert_eq!((again.state, again.release), (State::Waiting, None));
}

#[tokio::test]
async fn tenants_that_wait_are_released_in_turns_by_their_weight() {
    let deployment = Deployment::start().await.unwrap();
    let mut tenants = Vec::new();
    for (name, weight) in [("heavy", 3), ("light", 1)] {
        let tenant = deployment.add_tenant(name).await.unwrap().0;
        deployment.janitor.set_tenant_weight(&tenant, weight).await.unwrap();
        tenants.push(tenant);
    }
    for n in 0..12 {
        for tenant in &tenants {
            let mut accept = deployment.stored("w.txt", &format!("{tenant} {n}").into()).await.unwrap();
            (accept.tenant, accept.hold) = (tenant.clone(), true);
            deployment.store.accept(&accept).await.unwrap();
        }
    }
    let mut turns = Vec::new();
    for _ in 0..3 {
        let plans = deployment.janitor.release_waiting(4, ReleaseCaps::default()).await.unwrap();
        turns.push(plans.iter().filter(|plan| plan.tenant == tenants[0]).count());
    }
    assert_eq!(turns, [3, 3, 3], "three of one for each of the other");
    assert!(deployment.janitor.set_tenant_weight(&tenants[0], 0).await.is_err());
}
