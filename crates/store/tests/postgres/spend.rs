//! What embeddings cost, and what happens when a month's budget is used up.

use riacho_domain::{State, TenantId};
use riacho_store::{Budget, HeldBy, OverBudget, Purpose, ReleaseCaps, Spending, Spent};

use crate::database::{Database, database, upload};

fn key(tenant: &TenantId, model: &str, purpose: Purpose) -> (TenantId, String, Purpose) {
    (tenant.clone(), model.to_owned(), purpose)
}

fn spent(tokens: u64) -> Spent {
    Spent { texts: 2, tokens, requests: 1, money_nanos: tokens * 20 }
}

#[tokio::test]
async fn spending_is_counted_by_tenant_month_model_and_purpose() {
    let db = database().await;
    let gone: TenantId = "gone".parse().unwrap();
    let spending = Spending::from([
        (key(&db.acme, "a", Purpose::Documents), spent(100)),
        (key(&db.acme, "a", Purpose::Queries), spent(30)),
        (key(&db.acme, "b", Purpose::Spaces), spent(7)),
        (key(&db.other, "a", Purpose::Documents), spent(1)),
        (key(&gone, "a", Purpose::Documents), spent(1)),
    ]);
    db.store.add_spending(&spending).await.unwrap();
    // That was a month ago.
    db.value("UPDATE embedding_spend SET month = month - interval '1 month'");
    db.store.add_spending(&spending).await.unwrap();
    db.store.add_spending(&Spending::new()).await.unwrap();
    let months = db.store.spending(&db.acme, 2).await.unwrap();
    let this = db.store.this_month().await.unwrap();
    let all = [
        ("a", Purpose::Documents, spent(100)),
        ("a", Purpose::Queries, spent(30)),
        ("b", Purpose::Spaces, spent(7)),
    ];
    for (month, is_this) in months.chunks(3).zip([true, false]) {
        assert!(month.iter().all(|one| (one.month == this) == is_this), "{months:?}");
        assert!(month.iter().map(|one| (one.model.as_str(), one.purpose, one.spent)).eq(all), "{months:?}");
    }
    assert_eq!(months.len(), 6);
    // What a space cost was the operator's decision.
    assert_eq!(db.store.budget_spent(&db.acme).await.unwrap(), spent(100).and(spent(30)));
    let budgets = db.janitor.budgets_spent().await.unwrap();
    assert_eq!(
        (budgets.len(), budgets[&db.acme], budgets[&db.other]),
        (2, spent(100).and(spent(30)), spent(1))
    );
    assert_eq!(db.store.budget_spent(&db.other).await.unwrap(), spent(1));
    assert_eq!(db.value("SELECT count(*) FROM embedding_spend WHERE tenant_id = 'gone'"), "0");
}

#[tokio::test]
async fn spending_of_many_processes_at_once_is_added_up() {
    let db = database().await;
    let spending = Spending::from([
        (key(&db.acme, "a", Purpose::Documents), spent(1)),
        (key(&db.other, "a", Purpose::Documents), spent(1)),
    ]);
    let all = (0..40).map(|_| db.store.add_spending(&spending));
    for added in futures::future::join_all(all).await {
        added.unwrap();
    }
    assert_eq!(db.store.budget_spent(&db.acme).await.unwrap().tokens, 40);
    assert_eq!(db.store.budget_spent(&db.other).await.unwrap().requests, 40);
}

#[tokio::test]
async fn while_a_budget_is_used_up_documents_wait_and_what_is_in_flight_is_finished() {
    let db = database().await;
    let caps = ReleaseCaps::default();
    let flying = db.store.accept(&upload(&db.acme, "in flight")).await.unwrap();
    assert!(db.janitor.set_over_budget(&db.acme, &[Budget::Tokens], OverBudget::Wait).await.unwrap());
    assert!(
        !db.janitor.set_over_budget(&db.acme, &[Budget::Tokens], OverBudget::Wait).await.unwrap(),
        "that is known"
    );
    assert_eq!(db.janitor.hold_tenants(caps).await.unwrap(), 1);
    let held = db.store.accept(&upload(&db.acme, "waits")).await.unwrap();
    assert_eq!((held.state, held.release.is_none()), (State::Waiting, true));
    let place = db.store.place(&db.acme, held.document, 1).await.unwrap().unwrap();
    assert_eq!(place.held_by, Some(HeldBy::Budget));
    assert!(db.janitor.release_waiting(10, caps).await.unwrap().is_empty());
    // Another budget of it, and one of all tenants, say so.
    db.janitor.set_over_budget(&db.acme, &[Budget::TotalMoney], OverBudget::Wait).await.unwrap();
    db.janitor.hold_tenants(caps).await.unwrap();
    let place = db.store.place(&db.acme, held.document, 1).await.unwrap().unwrap();
    assert_eq!(place.held_by, Some(HeldBy::TotalBudget));
    // Another tenant's documents go on.
    assert_eq!(db.store.accept(&upload(&db.other, "goes on")).await.unwrap().state, State::Releasing);
    db.finish(&flying, "en", &["text"]).await;
    assert_eq!(db.state(flying.document).await, State::Ready);

    assert!(db.janitor.set_over_budget(&db.acme, &[], OverBudget::Wait).await.unwrap());
    let released = db.janitor.release_waiting(10, caps).await.unwrap();
    assert_eq!(released.iter().map(|plan| plan.document).collect::<Vec<_>>(), [held.document]);
    db.janitor.hold_tenants(caps).await.unwrap();
    assert!(db.store.accept(&upload(&db.acme, "at once")).await.unwrap().release.is_some());
}

#[tokio::test]
async fn a_retry_of_a_tenant_over_its_budget_waits_as_well() {
    let db = database().await;
    let accepted = db.store.accept(&upload(&db.acme, "x")).await.unwrap();
    let release = Database::release_of(&accepted);
    db.store.fail(&release, riacho_domain::ReasonCode::Timeout, "no").await.unwrap();
    db.janitor.set_over_budget(&db.acme, &[Budget::Money], OverBudget::Wait).await.unwrap();
    db.janitor.hold_tenants(ReleaseCaps::default()).await.unwrap();
    db.store.retry(&db.acme, accepted.document, None, false).await.unwrap();
    assert_eq!(db.state(accepted.document).await, State::Waiting);
}
