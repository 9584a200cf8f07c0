//! One tenant's flood does not delay another tenant, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use riacho_testkit::process;
use serde_json::Value;
use support::Deployment;

const BULK: usize = 600;

#[tokio::test]
async fn an_interactive_upload_does_not_wait_for_another_tenants_bulk() {
    let deployment = Deployment::start(&["--set", "janitor.in_flight_per_tenant=50"], &[]).await;
    deployment.json(&["tenant", "create", "flood"]).await;
    let key = deployment.json(&["key", "create", "--tenant", "flood"]).await;
    let flood = process::client(key[0]["secret"].as_str().unwrap()).unwrap();
    // Idle first, for comparison; the very first document warms everything up.
    for name in ["warm.txt", "idle.txt"] {
        let accepted = deployment.upload(name, format!("The otter of {name} sleeps.")).await;
        deployment.ready(&accepted).await;
    }
    for number in 0..BULK {
        let text = format!("Barge {number} carries gravel. ").repeat(200);
        let url = deployment.up.url(&format!("/api/v1/documents?filename=b-{number}.txt&lane=bulk"));
        let answer = flood.post(url).header("content-type", "text/plain").body(text).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    let start = Instant::now();
    let accepted = deployment.upload("urgent.txt", "The heron waits for nobody.").await;
    deployment.ready(&accepted).await;
    let took = start.elapsed();
    let info = flood.get(deployment.up.url("/api/v1/queue/info")).send().await.unwrap();
    let info: Value = info.json().await.unwrap();
    assert!(info["documents"]["waiting"].as_u64().unwrap_or(0) > 0, "the flood is over already: {info}");
    assert!(took < Duration::from_secs(5), "{took:?} while {info}");
}
