//! One tenant's flood does not delay another tenant, and limits hold, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use riacho_testkit::{eventually, process};
use serde_json::{Value, json};
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

#[tokio::test]
async fn limits_of_a_tenant_are_set_and_shown_and_hold() {
    let deployment = Deployment::start(&[], &[]).await;
    for name in ["a.txt", "b.txt"] {
        let accepted = deployment.upload(name, format!("The keeper of {name}.")).await;
        deployment.ready(&accepted).await;
    }
    let shown = deployment.json(&["tenant", "limits", "default", "--max-documents", "2"]).await;
    assert_eq!(
        (&shown[0]["limits"]["max_documents"], &shown[0]["usage"]["documents"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(shown[0]["over_quota"], json!(["documents"]));
    // What arrives before the janitor has measured is still accepted, so each is another document.
    let number = AtomicUsize::new(0);
    let offer = async || {
        let n = number.fetch_add(1, Ordering::Relaxed);
        let url = deployment.up.url(&format!("/api/v1/documents?filename=c-{n}.txt"));
        let upload = deployment.client().post(url).header("content-type", "text/plain");
        upload.body(format!("Heron {n}.")).send().await.unwrap()
    };
    eventually(|| async {
        let answer = offer().await;
        let (status, after) = (answer.status(), answer.headers().contains_key("retry-after"));
        (status == 429 && after).then_some(()).ok_or(status)
    })
    .await;
    let lifted = deployment.json(&["tenant", "limits", "default", "--max-documents", "none"]).await;
    assert_eq!(lifted[0]["limits"]["max_documents"], 0);
    eventually(|| async { (offer().await.status() == 202).then_some(()).ok_or("still refused") }).await;
    let back =
        ["tenant", "limits", "default", "--max-documents", "default", "--set", "limits.max_documents=3"];
    let back = deployment.json(&back).await;
    assert_eq!((&back[0]["own"], &back[0]["limits"]["max_documents"]), (&json!({}), &json!(3)));
}
