//! Documents are accepted, and then owed.

use std::collections::HashSet;

use futures::SinkExt;
use reqwest::{Method, StatusCode};
use riacho_domain::{Lane, StageName};
use riacho_testkit::eventually;
use serde_json::json;

use crate::fixture::{Gateway, accepted, id, json, problem};

#[tokio::test]
async fn a_form_is_accepted_and_released() {
    let gateway = Gateway::start().await;
    let form = Gateway::form("hello.txt", "hello world")
        .text("metadata", r#"{"year": 2024}"#)
        .text("collection", "notes");
    let response = gateway.post("/api/v1/documents").multipart(form).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let body: serde_json::Value = response.json().await.unwrap();
    let id = id(&body);
    assert_eq!(location, format!("/api/v1/documents/{id}"));
    assert_eq!((&body["version"], &body["duplicate"]), (&json!(1), &json!(false)));
    assert_eq!(body["links"]["status"], format!("{location}/status"));

    let document = json(gateway.get(&location), 200).await;
    assert_eq!(document["metadata"], json!({"year": 2024}));
    assert_eq!((&document["collection"], &document["size"]), (&json!("notes"), &json!(11)));

    // The answer did not wait for the release; it follows.
    let status = format!("{location}/status");
    eventually(|| async {
        let status = json(gateway.get(&status), 200).await;
        (status["state"] == "extracting").then_some(()).ok_or(status)
    })
    .await;
    let figures = gateway.deployment.streams.figures(StageName::Extract, &[0]).await.unwrap();
    assert_eq!(figures.backlog, 1);
}

#[tokio::test]
async fn a_raw_body_is_accepted_with_its_fields_in_the_query() {
    let gateway = Gateway::start().await;
    let path = "/api/v1/documents?filename=relat%C3%B3rio.md&external_id=r-1&lane=bulk&ttl_seconds=3600";
    let body = accepted(gateway.post(path).header("content-type", "text/markdown").body("# Title")).await;
    let document = json(gateway.get(body["links"]["self"].as_str().unwrap()), 200).await;
    assert_eq!((&document["filename"], &document["external_id"]), (&json!("relatório.md"), &json!("r-1")));
    assert_eq!(document["content_type"], "text/markdown");
    assert!(document["expires_at"].is_string());
    let key = gateway.deployment.streams.keys().work(0, StageName::Extract, Lane::Bulk);
    eventually(|| async {
        let figures =
            gateway.deployment.streams.figures(StageName::Extract, &[0]).await.map_err(|e| e.to_string())?;
        (figures.backlog == 1).then_some(()).ok_or(format!("nothing on {key}"))
    })
    .await;
}

#[tokio::test]
async fn a_filename_with_a_path_is_reduced_to_its_last_component() {
    let gateway = Gateway::start().await;
    for (sent, kept) in [("../../etc/passwd", "passwd"), ("C:\\temp\\a.txt", "a.txt")] {
        let body = accepted(
            gateway.post(&format!("/api/v1/documents?filename={sent}")).body(format!("text of {sent}")),
        )
        .await;
        let document = json(gateway.get(body["links"]["self"].as_str().unwrap()), 200).await;
        assert_eq!(document["filename"], kept);
    }
}

#[tokio::test]
async fn the_same_bytes_with_the_same_settings_are_one_document() {
    let gateway = Gateway::start().await;
    let first = gateway.upload(Gateway::form("a.txt", "the same")).await;
    let second = gateway.upload(Gateway::form("a.txt", "the same")).await;
    assert_eq!((id(&first), true), (id(&second), second["duplicate"] == true));
    let other = gateway.upload(Gateway::form("a.txt", "the same").text("metadata", r#"{"a": 1}"#)).await;
    assert_ne!(id(&first), id(&other), "with other metadata it is another document");
    // The bytes of the duplicate are not kept.
    eventually(|| async { originals(&gateway).await.len() == 2 }).await;
}

async fn originals(gateway: &Gateway) -> HashSet<String> {
    use futures::TryStreamExt;
    let prefix = riacho_objects::Prefix::originals(&gateway.deployment.tenant);
    gateway.objects.list(&prefix).map_ok(|entry| entry.key.to_string()).try_collect().await.unwrap()
}

#[tokio::test]
async fn an_idempotency_key_gives_the_same_answer_to_the_same_request() {
    let gateway = Gateway::start().await;
    let send = |content: &'static str| {
        gateway
            .post("/api/v1/documents")
            .header("idempotency-key", "order-7")
            .multipart(Gateway::form("a.txt", content))
    };
    let first = accepted(send("one")).await;
    let again = send("one").send().await.unwrap();
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.json::<serde_json::Value>().await.unwrap()["id"], first["id"]);
    problem(send("two"), 422, "idempotency_key_reused").await;
    let long =
        gateway.post("/api/v1/documents?filename=a").header("idempotency-key", "k".repeat(300)).body("x");
    problem(long, 400, "invalid_field").await;
}

#[tokio::test]
async fn an_external_id_that_is_known_makes_a_new_version() {
    let gateway = Gateway::start().await;
    let first = gateway.upload(Gateway::form("a.txt", "one").text("external_id", "contract-9")).await;
    let second = gateway.upload(Gateway::form("a.txt", "two").text("external_id", "contract-9")).await;
    assert_eq!((id(&first), &second["version"]), (id(&second), &json!(2)));
    let path = format!("/api/v1/documents/{}/content", id(&first));
    let third =
        accepted(gateway.request(Method::PUT, &path).multipart(Gateway::form("b.txt", "three"))).await;
    assert_eq!((id(&first), &third["version"]), (id(&third), &json!(3)));
    let status = json(gateway.get(&format!("/api/v1/documents/{}/status", id(&first))), 200).await;
    assert_eq!((&status["version"], &status["live_version"]), (&json!(3), &json!(null)));
}

#[tokio::test]
async fn a_large_file_is_streamed_and_hashed() {
    let gateway = Gateway::start().await;
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let body = gateway.upload(Gateway::form("large.bin", content.clone())).await;
    let response = gateway.get(&format!("/api/v1/documents/{}/content", id(&body))).send().await.unwrap();
    assert_eq!(response.headers()["etag"].to_str().unwrap(), format!("\"{}\"", sha256(&content)));
    assert!(response.bytes().await.unwrap() == content);
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[tokio::test]
async fn an_upload_is_accepted_while_redis_is_away() {
    let gateway = Gateway::start().await;
    gateway.deployment.redis().stop();
    let body = gateway.upload(Gateway::form("a.txt", "while redis is away")).await;
    let status = json(gateway.get(&format!("/api/v1/documents/{}/status", id(&body))), 200).await;
    assert_eq!((&status["state"], &status["waiting_for"]), (&json!("releasing"), &json!("queue")));
    let health = json(gateway.anonymous(Method::GET, "/health/redis"), 503).await;
    assert_eq!(health["status"], "unhealthy");
    problem(gateway.get("/api/v1/queue/info"), 503, "unavailable").await;
}

#[tokio::test]
async fn cancel_retry_and_delete_change_the_state() {
    let gateway = Gateway::start().await;
    let id = id(&gateway.upload(Gateway::form("a.txt", "to be cancelled")).await);
    let path = format!("/api/v1/documents/{id}");
    let status = json(gateway.post(&format!("{path}/cancel")), 200).await;
    assert_eq!(status["state"], "cancelled");
    problem(gateway.post(&format!("{path}/cancel")), 409, "state").await;
    let again = accepted(gateway.post(&format!("{path}/retry?lane=bulk"))).await;
    assert_eq!(again["version"], 1);
    problem(gateway.post(&format!("{path}/retry")), 409, "state").await;
    problem(gateway.post(&format!("{path}/retry?lane=fast")), 400, "invalid_field").await;
    assert_eq!(gateway.request(Method::DELETE, &path).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    problem(gateway.get(&path), 404, "not_found").await;
    problem(gateway.request(Method::DELETE, &path), 404, "not_found").await;
}

#[tokio::test]
async fn a_request_in_hand_is_answered_when_the_gateway_stops() {
    let mut gateway = Gateway::start().await;
    let (mut sender, body) = futures::channel::mpsc::channel::<Result<&'static str, std::io::Error>>(0);
    let request = gateway.post("/api/v1/documents?filename=a.txt").body(reqwest::Body::wrap_stream(body));
    let answer = tokio::spawn(request.send());
    // A piece is sent once the one before it is on its way, and with it the request's head.
    for piece in ["first ", "half, ", "and "] {
        sender.send(Ok(piece)).await.unwrap();
    }
    json(gateway.anonymous(Method::GET, "/openapi.json"), 200).await;
    let finish = async {
        sender.send(Ok("second half")).await.unwrap();
        drop(sender);
        answer.await.unwrap().unwrap().status()
    };
    let ((), status) = tokio::join!(gateway.stop(), finish);
    assert_eq!(status, StatusCode::ACCEPTED);
}
