//! Rates and quotas of tenants.

use reqwest::{RequestBuilder, Response};
use riacho_store::{Limits, OwnLimits, Quota};
use riacho_testkit::eventually;
use serde_json::{Value, json};

use crate::fixture::{Change, Gateway, accepted, is_problem, json};

fn few_uploads() -> Limits {
    // So slow that no token comes back while the test runs, however slow the machine is.
    Limits { uploads_per_minute: 1, upload_burst: 4, ..Limits::default() }
}

async fn refused(request: RequestBuilder, code: &str) -> (u64, Value) {
    let response: Response = request.send().await.unwrap();
    let after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let body = is_problem(response, 429, code).await;
    (after.expect("Retry-After"), body)
}

#[tokio::test]
async fn a_tenants_uploads_share_one_bucket_over_all_gateways() {
    let gateway = Gateway::with(Change { limits: few_uploads(), ..Change::default() }).await;
    let replica = gateway.replica(few_uploads()).await;
    let upload = |base: &str, name: &str| {
        gateway.post(&format!("{base}/api/v1/documents?filename={name}.txt")).body(name.to_owned())
    };
    for (base, name) in [("", "a"), (&replica.base, "b"), ("", "c")] {
        accepted(upload(base, name)).await;
    }
    let reserved = json!({"filename": "d.txt"});
    json(gateway.post("/api/v1/documents/upload/presigned").json(&reserved), 201).await;
    for base in ["", &replica.base] {
        let (after, body) = refused(upload(base, "e"), "rate_limited").await;
        assert!((1..=60).contains(&after), "{after}");
        assert_eq!(body["detail"], "too many uploads of this tenant");
    }
    // Neither reading nor another tenant is held up.
    json(gateway.get("/api/v1/documents"), 200).await;
    let (_, key) = gateway.deployment.add_tenant("other").await.unwrap();
    accepted(
        gateway
            .anonymous(reqwest::Method::POST, "/api/v1/documents?filename=o.txt")
            .bearer_auth(&key)
            .body("o"),
    )
    .await;
}

#[tokio::test]
async fn requests_are_limited_by_what_is_set_for_the_tenant_alone() {
    let gateway = Gateway::start().await;
    let (tenant, key) = gateway.deployment.add_tenant("busy").await.unwrap();
    let own = OwnLimits { requests_per_minute: Some(1), request_burst: Some(3), ..OwnLimits::default() };
    gateway.deployment.janitor.set_tenant_limits(&tenant, &own).await.unwrap();
    let ask = || gateway.anonymous(reqwest::Method::GET, "/api/v1/documents").bearer_auth(&key);
    for _ in 0..3 {
        json(ask(), 200).await;
    }
    refused(ask(), "rate_limited").await;
    json(gateway.get("/api/v1/documents"), 200).await;
}

#[tokio::test]
async fn while_redis_is_away_a_gateway_keeps_rates_by_itself_and_uploads_go_on() {
    let gateway = Gateway::with(Change { limits: few_uploads(), ..Change::default() }).await;
    gateway.deployment.redis().stop();
    for name in ["a", "b", "c", "d"] {
        accepted(gateway.post(&format!("/api/v1/documents?filename={name}.txt")).body(name)).await;
    }
    let refuse =
        async || refused(gateway.post("/api/v1/documents?filename=e.txt").body("e"), "rate_limited").await;
    refuse().await;
    // Redis is asked again from time to time; that it does not answer fills no bucket.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    refuse().await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_answers_429_until_room_is_made() {
    let limits = Limits { max_documents: 2, ..Limits::default() };
    let gateway = Gateway::with(Change { limits, ..Change::default() }).await;
    let store = &gateway.deployment.store;
    let tenant = gateway.deployment.tenant.clone();
    // What the janitor does every two seconds.
    let measure = || async {
        let over = store.usage(&tenant).await.unwrap().over(&limits);
        gateway.deployment.janitor.set_over_quota(&tenant, &over).await.unwrap();
        over
    };
    let first = gateway.upload(Gateway::form("a.txt", "first")).await;
    gateway.upload(Gateway::form("b.txt", "second")).await;
    assert_eq!(measure().await, [Quota::Documents]);
    let usage = json(gateway.get("/api/v1/usage"), 200).await;
    assert_eq!((&usage["documents"], &usage["limits"]["max_documents"]), (&json!(2), &json!(2)));
    assert_eq!((&usage["over_quota"], &usage["limits"]["max_bytes"]), (&json!(["documents"]), &Value::Null));
    let third = || gateway.post("/api/v1/documents").multipart(Gateway::form("c.txt", "third"));
    let (after, _) = refused(third(), "quota_exceeded").await;
    assert!(after >= 1);
    let reserved = json!({"filename": "d.txt"});
    refused(gateway.post("/api/v1/documents/upload/presigned").json(&reserved), "quota_exceeded").await;
    // The bytes of what was refused do not stay.
    let originals =
        || std::fs::read_dir(gateway.deployment.directory().join("objects")).map(count_files).unwrap();
    eventually(|| async { (originals() == 2).then_some(()).ok_or_else(originals) }).await;
    // The same bytes again are the document that is there, and a new version is no new document.
    assert_eq!(gateway.upload(Gateway::form("a.txt", "first")).await["id"], first["id"]);
    let id = first["id"].as_str().unwrap();
    accepted(
        gateway
            .request(reqwest::Method::PUT, &format!("/api/v1/documents/{id}/content?filename=a.txt"))
            .body("new"),
    )
    .await;
    // A signed URL that was handed out before is no way around it.
    gateway.deployment.janitor.set_over_quota(&tenant, &[]).await.unwrap();
    let reserved = json(gateway.post("/api/v1/documents/upload/presigned").json(&reserved), 201).await;
    let url = reserved["upload"]["url"].as_str().unwrap();
    assert!(
        gateway
            .anonymous(reqwest::Method::PUT, url)
            .body("signed")
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    gateway.deployment.janitor.set_over_quota(&tenant, &[Quota::Bytes]).await.unwrap();
    let process = || gateway.post(&format!("/api/v1/documents/{}/process", reserved["id"].as_str().unwrap()));
    refused(process(), "quota_exceeded").await;
    gateway.deployment.janitor.set_over_quota(&tenant, &[]).await.unwrap();
    accepted(process()).await;
    let other = reserved["id"].as_str().unwrap();
    gateway.request(reqwest::Method::DELETE, &format!("/api/v1/documents/{other}")).send().await.unwrap();
    let deleted = gateway.request(reqwest::Method::DELETE, &format!("/api/v1/documents/{id}"));
    assert_eq!(deleted.send().await.unwrap().status(), 204);
    assert_eq!(measure().await, []);
    accepted(third()).await;
}

fn count_files(directory: std::fs::ReadDir) -> usize {
    let entries = directory.map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count_files(std::fs::read_dir(path).unwrap()) } else { 1 }).sum()
}

#[tokio::test]
async fn each_answer_says_what_is_left_of_the_rates() {
    let limits = Limits { requests_per_minute: 1, request_burst: 30, ..few_uploads() };
    let gateway = Gateway::with(Change { limits, ..Change::default() }).await;
    let headers = async |request: RequestBuilder| {
        let response = request.send().await.unwrap();
        let text = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), text("ratelimit"), text("ratelimit-policy"))
    };
    let (status, left, policy) = headers(gateway.get("/api/v1/documents")).await;
    assert_eq!((status, left.as_deref()), (200, Some("\"requests\";r=29;t=60")));
    assert_eq!(policy.as_deref(), Some("\"requests\";q=30;w=1800"));
    let upload = |n: u32| gateway.post(&format!("/api/v1/documents?filename={n}.txt")).body(n.to_string());
    for n in 0..4 {
        let (status, left, policy) = headers(upload(n)).await;
        let wanted = format!("\"requests\";r={}, \"uploads\";r={}", 28 - n, 3 - n);
        let left = left.unwrap().replace(";t=60", "");
        assert_eq!((status, left), (202, wanted));
        assert_eq!(policy.as_deref(), Some("\"requests\";q=30;w=1800, \"uploads\";q=4;w=240"));
    }
    let (status, left, _) = headers(upload(4)).await;
    assert!(
        status == 429 && left.as_deref().is_some_and(|left| left.contains("\"uploads\";r=0;t=")),
        "{left:?}"
    );
    // What is not limited says nothing of limits, and nobody is told before it is known who asks.
    assert_eq!(
        headers(gateway.anonymous(reqwest::Method::GET, "/api/v1/documents")).await,
        (401, None, None)
    );
}
