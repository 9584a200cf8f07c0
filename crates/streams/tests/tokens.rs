//! Token buckets of tenants, and tokens that are given back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use riacho_domain::TenantId;
use riacho_streams::{Rate, Taken};
use support::Server;

/// So slow that no token comes of itself while a test runs.
const SLOW: Rate = Rate { every: Duration::from_secs(3_600), burst: 10 };

struct Bucket {
    server: Server,
    tenant: TenantId,
}

impl Bucket {
    async fn new() -> Bucket {
        Bucket { server: Server::start().await, tenant: "acme".parse().unwrap() }
    }

    /// Takes a token, and says how many are left; none where there was none.
    async fn take(&self, rate: Rate) -> Option<u32> {
        let token = self.server.streams.take_tokens(&self.tenant, "uploads", rate, Taken::ONE).await.unwrap();
        token.wait.is_none().then_some(token.left)
    }

    async fn give_back(&self, rate: Rate) {
        self.server.streams.give_token_back(&self.tenant, "uploads", rate).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_is_given_back_can_be_taken_again() {
    let bucket = Bucket::new().await;
    let rate = Rate { burst: 2, ..SLOW };
    assert_eq!((bucket.take(rate).await, bucket.take(rate).await), (Some(1), Some(0)));
    assert_eq!(bucket.take(rate).await, None);
    bucket.give_back(rate).await;
    assert_eq!((bucket.take(rate).await, bucket.take(rate).await), (Some(0), None));
}

#[tokio::test]
async fn a_bucket_that_is_full_or_not_there_gets_nothing() {
    let bucket = Bucket::new().await;
    let rate = Rate { burst: 2, ..SLOW };
    bucket.give_back(rate).await;
    assert_eq!((bucket.take(rate).await, bucket.take(rate).await), (Some(1), Some(0)));
    for _ in 0..5 {
        bucket.give_back(rate).await;
    }
    assert_eq!((bucket.take(rate).await, bucket.take(rate).await), (Some(1), Some(0)));
    assert_eq!(bucket.take(rate).await, None, "a bucket holds its burst and no more");
}

#[tokio::test]
async fn under_other_limits_a_token_that_is_given_back_is_that_one_alone() {
    let bucket = Bucket::new().await;
    for left in (5..10).rev() {
        assert_eq!(bucket.take(SLOW).await, Some(left));
    }
    // The bucket owes more than one under such a rate ever could.
    bucket.give_back(Rate { every: Duration::from_millis(1), burst: 1 }).await;
    assert_eq!(bucket.take(SLOW).await, Some(4), "the other four are still taken");
    bucket.give_back(SLOW).await;
    assert_eq!(bucket.take(SLOW).await, Some(4));
}
