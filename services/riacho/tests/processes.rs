//! Each service as a process of its own, on servers that somebody else runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use reqwest::Client;
use riacho_testkit::{
    eventually,
    process::{self, free_port},
};
use serde_json::Value;
use support::cluster::Cluster;

async fn state_of(client: &Client, url: &str, id: &str) -> Value {
    let answer = client.get(format!("{url}/api/v1/documents/{id}/status")).send().await.unwrap();
    answer.json().await.unwrap()
}

#[tokio::test]
async fn services_run_as_processes_and_a_killed_worker_is_replaced() {
    let cluster = Cluster::new();
    let refused = cluster.spawn(&["indexer"]).wait().await.unwrap();
    assert_eq!(refused.code(), Some(1), "no service runs on a schema that is not there");
    assert!(cluster.json(&["migrate"])["at"].as_u64().unwrap() >= 1);
    assert_eq!(cluster.json(&["migrate"])["applied"], serde_json::json!([]));
    cluster.json(&["tenant", "create", "default"]);
    let key = cluster.json(&["key", "create"])["secret"].as_str().unwrap().to_owned();

    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let url = format!("http://{listen}");
    let mut gateway = cluster.spawn(&["ingest-gateway", "--listen", &listen]);
    let mut victim = cluster.spawn(&["work", "--stages", "extractor,embedder,indexer"]);
    let client = process::client(&key).unwrap();
    eventually(|| async {
        client.get(format!("{url}/readyz")).send().await.is_ok_and(|a| a.status().is_success())
    })
    .await;

    let mut ids = Vec::new();
    for number in 0..20 {
        let text = format!("# Log {number}\n\nThe barge number {number} passed the lock.\n").repeat(20);
        let request = client.post(format!("{url}/api/v1/documents?filename=log-{number}.md")).body(text);
        let answer: Value =
            request.header("content-type", "text/markdown").send().await.unwrap().json().await.unwrap();
        ids.push(answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
        if number == 10 {
            eventually(|| async { state_of(&client, &url, &ids[0]).await["state"] == "ready" }).await;
            victim.kill9().unwrap();
        }
    }
    let mut workers =
        [&["extractor"][..], &["embedder"], &["indexer"], &["janitor"]].map(|args| cluster.spawn(args));
    for id in &ids {
        eventually(|| async {
            let status = state_of(&client, &url, id).await;
            if status["state"] == "ready" { Ok(()) } else { Err(status) }
        })
        .await;
    }
    for worker in workers.iter_mut().chain([&mut gateway]) {
        let status = worker.stop().await.unwrap();
        assert!(status.success(), "{status}: {}", worker.log());
        let complaint = worker
            .log()
            .lines()
            .find(|line| line.contains("WARN") && line.contains("fred"))
            .map(str::to_owned);
        assert_eq!(complaint, None, "a clean stop is no reason to warn");
    }
    assert!(cluster.dir.path().join("objects").is_dir());
}

#[tokio::test]
async fn a_health_check_says_whether_the_service_beside_it_is_ready() {
    let mut cluster = Cluster::new();
    cluster.set("RIACHO__HTTP__OPS_LISTEN", &format!("0.0.0.0:{}", free_port().unwrap()));
    assert_eq!(cluster.run(&["health"]).status.code(), Some(3), "nothing listens");
    let unfit = cluster.run(&["migrate", "--check"]);
    // A deployment goes by this code, which nothing else has.
    assert_eq!(unfit.status.code(), Some(4), "{}", String::from_utf8_lossy(&unfit.stderr));
    cluster.prepare();
    assert_eq!(cluster.json(&["migrate", "--check"])["fits"], true);

    let mut worker = cluster.spawn(&["indexer"]);
    eventually(|| async { cluster.run(&["health"]).status.success() }).await;
    cluster.to_postgres.refuse();
    eventually(|| async {
        let output = cluster.run(&["health"]);
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(1) && says.contains("postgres") { Ok(()) } else { Err(says) }
    })
    .await;
    cluster.to_postgres.pass();
    eventually(|| async { cluster.run(&["health"]).status.success() }).await;
    assert!(worker.stop().await.unwrap().success());
}
