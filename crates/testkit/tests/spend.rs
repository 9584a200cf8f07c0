//! What is noted of spending is written, also when PostgreSQL was away meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use riacho_models::Prices;
use riacho_service::spend::Ledger;
use riacho_store::{Config, Purpose, Role, Spent, Store};
use riacho_testkit::{Deployment, Proxy, eventually};

const MODEL: &str = "openai/some-model@8";

fn spent(tokens: u64) -> Spent {
    Spent { texts: 1, tokens, requests: 1, money_nanos: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_embeddings_cost_is_written_at_once_and_after_postgresql_is_back() {
    let deployment = Deployment::start().await.unwrap();
    let proxy = Proxy::before(deployment.database_config().url.expose()).unwrap();
    let config = Config { url: proxy.url().into(), ..deployment.database_config() };
    let store = Store::connect(&config, Role::Stage).await.unwrap();
    let prices = Prices::new(&BTreeMap::from([("some-model".to_owned(), 0.5)]));
    let ledger = Ledger::open(store, prices, Duration::ZERO);
    let written = async || deployment.store.budget_spent(&deployment.tenant).await.unwrap();
    ledger.note(&deployment.tenant, MODEL, Purpose::Documents, spent(2_000_000));
    eventually(|| async { written().await.tokens == 2_000_000 }).await;
    assert_eq!(written().await.money_nanos, 1_000_000_000, "two millions at a half");

    proxy.refuse();
    proxy.cut();
    for _ in 0..10 {
        ledger.note(&deployment.tenant, MODEL, Purpose::Documents, spent(10));
    }
    proxy.pass();
    eventually(|| async { written().await.tokens == 2_000_100 }).await;
    assert_eq!(written().await.requests, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_noted_is_written_before_the_end() {
    let deployment = Deployment::start().await.unwrap();
    let ledger = Ledger::open(deployment.store.clone(), Prices::default(), Duration::from_secs(3_600));
    ledger.note(&deployment.tenant, MODEL, Purpose::Documents, spent(1));
    ledger.note(&deployment.tenant, "another", Purpose::Queries, spent(2));
    ledger.close().await;
    let months = deployment.store.spending(&deployment.tenant, 1).await.unwrap();
    let counted: Vec<_> = months.iter().map(|month| (month.model.as_str(), month.spent.tokens)).collect();
    assert_eq!(counted, [("another", 2), (MODEL, 1)]);
}
