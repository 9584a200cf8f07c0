//! The buckets of tenants, which all gateways share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use riacho_domain::TenantId;
use riacho_streams::{Rate, Taken};
use support::Server;

const MINUTE: Duration = Duration::from_secs(60);
const WHAT: &str = "uploads";

/// Slow enough that no machine gets another token meanwhile.
const fn rate(burst: u32) -> Rate {
    Rate { every: MINUTE, burst }
}

async fn take(server: &Server, tenant: &TenantId, rate: Rate) -> bool {
    server.streams.take_tokens(tenant, WHAT, rate, Taken::ONE).await.unwrap().wait.is_none()
}

async fn give_back(server: &Server, tenant: &TenantId, rate: Rate) {
    server.streams.give_token_back(tenant, WHAT, rate).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_given_back_can_be_taken_again_and_a_full_bucket_holds_no_more() {
    let (server, tenant) = (Server::start().await, "acme".parse::<TenantId>().unwrap());
    // Of a bucket that nobody has taken of, nothing is known.
    give_back(&server, &tenant, rate(2)).await;
    for _ in 0..3 {
        assert!(take(&server, &tenant, rate(2)).await && take(&server, &tenant, rate(2)).await);
        assert!(!take(&server, &tenant, rate(2)).await);
        give_back(&server, &tenant, rate(2)).await;
        assert!(take(&server, &tenant, rate(2)).await && !take(&server, &tenant, rate(2)).await);
        for _ in 0..5 {
            give_back(&server, &tenant, rate(2)).await;
        }
    }
}

#[tokio::test]
async fn who_gives_back_by_a_rate_of_before_fills_no_bucket() {
    let (server, tenant) = (Server::start().await, "acme".parse::<TenantId>().unwrap());
    for _ in 0..10 {
        assert!(take(&server, &tenant, rate(10)).await);
    }
    let before = Rate { every: Duration::from_secs(1), burst: 1 };
    give_back(&server, &tenant, before).await;
    assert!(!take(&server, &tenant, rate(10)).await, "a second is not a minute");
}
