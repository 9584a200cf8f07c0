//! Uploads by signed URL, on the local store and on a real S3 server.

use futures::{SinkExt, StreamExt};
use reqwest::{Method, RequestBuilder, StatusCode};
use riacho_ingest_gateway::Config;
use riacho_objects::Objects;
use riacho_testkit::{eventually, s3::S3};
use serde_json::{Value, json};

use crate::fixture::{Change, Gateway, accepted, id, json, problem};

const CONTENT: &str = "the text of a signed upload";

async fn on_s3() -> (std::sync::Arc<S3>, Gateway) {
    let server = S3::shared().await.expect("S3");
    let objects = Objects::connect(&server.config()).await.expect("objects");
    (server, Gateway::with(Change { objects: Some(objects), ..Change::default() }).await)
}

async fn presign(gateway: &Gateway, extra: Value) -> Value {
    let mut body = json!({"filename": "dir/signed.txt", "content_type": "text/plain", "metadata": {"a": 1}});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json(gateway.post("/api/v1/documents/upload/presigned").json(&body), 201).await
}

/// The upload as its answer says to send it.
fn send(gateway: &Gateway, presigned: &Value, url: &str) -> RequestBuilder {
    let upload = &presigned["upload"];
    let mut request = gateway.anonymous(upload["method"].as_str().unwrap().parse().unwrap(), url);
    for (name, value) in upload["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    request
}

fn url(presigned: &Value) -> String {
    presigned["upload"]["url"].as_str().unwrap().to_owned()
}

async fn a_file_goes_through_a_signed_url(gateway: &Gateway) {
    let presigned = presign(gateway, json!({})).await;
    let document = id(&presigned);
    assert_eq!((&presigned["state"], &presigned["version"]), (&json!("awaiting_upload"), &json!(1)));
    let process = presigned["process"].as_str().unwrap();
    problem(gateway.post(process), 409, "upload_missing").await;
    let sent = send(gateway, &presigned, &url(&presigned)).body(CONTENT).send().await.unwrap();
    assert!(sent.status().is_success(), "{}", sent.text().await.unwrap());
    let body = accepted(gateway.post(process)).await;
    assert_eq!(id(&body), document);
    let again = accepted(gateway.post(process)).await;
    assert_eq!((id(&again), &again["version"]), (document.clone(), &json!(1)));
    let path = format!("/api/v1/documents/{document}");
    eventually(|| async {
        (json(gateway.get(&format!("{path}/status")), 200).await["state"] == "extracting").then_some(())
    })
    .await;
    let shown = json(gateway.get(&path), 200).await;
    assert_eq!(
        (&shown["filename"], &shown["size"], &shown["metadata"]),
        (&json!("signed.txt"), &json!(27), &json!({"a": 1}))
    );
    let original = gateway.get(&format!("{path}/content")).send().await.unwrap();
    assert_eq!(original.text().await.unwrap(), CONTENT);
}

/// Changes one hex digit of the signature.
fn tampered(url: &str, name: &str) -> String {
    let at = url.find(name).expect("a signature") + name.len();
    let other = if url.as_bytes()[at] == b'0' { "1" } else { "0" };
    format!("{}{other}{}", &url[..at], &url[at + 1..])
}

#[tokio::test]
async fn a_file_goes_through_a_signed_url_of_the_gateway() {
    let gateway = Gateway::start().await;
    a_file_goes_through_a_signed_url(&gateway).await;
}

#[tokio::test]
async fn a_file_goes_through_a_signed_url_of_s3() {
    let (_server, gateway) = on_s3().await;
    a_file_goes_through_a_signed_url(&gateway).await;
}

#[tokio::test]
async fn a_tampered_or_expired_url_of_the_gateway_is_refused() {
    let gateway = Gateway::start().await;
    let presigned = presign(&gateway, json!({})).await;
    let url = url(&presigned);
    let more = url.replace("max_bytes=", "max_bytes=9");
    let later = url.replace("expires=", "expires=9");
    let other = url.replace("tenant=default", "tenant=other");
    let elsewhere = url.replacen("/api/v1/uploads/0", "/api/v1/uploads/1", 1);
    for wrong in [tampered(&url, "signature="), more, later, other, elsewhere] {
        assert_ne!(wrong, url);
        problem(send(&gateway, &presigned, &wrong).body(CONTENT), 403, "signature_refused").await;
    }
    let another_type = gateway.anonymous(Method::PUT, &url).header("content-type", "text/html").body(CONTENT);
    problem(another_type, 403, "signature_refused").await;

    let short = presign(&gateway, json!({"expires_in_seconds": 1})).await;
    let expired = self::url(&short);
    let sent = eventually(|| async {
        let sent = send(&gateway, &short, &expired).body("").send().await.unwrap();
        (sent.status() == StatusCode::FORBIDDEN).then_some(sent).ok_or("still valid")
    })
    .await;
    let body = crate::fixture::is_problem(sent, 403, "signature_refused").await;
    assert!(body["detail"].as_str().unwrap().contains("expired"), "{body}");
    problem(gateway.post(short["process"].as_str().unwrap()), 409, "upload_missing").await;
}

#[tokio::test]
async fn a_tampered_or_expired_url_of_s3_is_refused() {
    let (_server, gateway) = on_s3().await;
    let presigned = presign(&gateway, json!({})).await;
    let url = url(&presigned);
    let wrong =
        send(&gateway, &presigned, &tampered(&url, "X-Amz-Signature=")).body(CONTENT).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::FORBIDDEN);
    let short = presign(&gateway, json!({"expires_in_seconds": 1})).await;
    eventually(|| async {
        // A part of the head is not signed for, so that a try that comes too early stores nothing.
        let early = send(&gateway, &short, &self::url(&short)).body("").send().await.unwrap();
        (early.status() == StatusCode::FORBIDDEN).then_some(()).ok_or("still valid")
    })
    .await;
}

#[tokio::test]
async fn documents_are_accepted_and_sent_back_on_s3() {
    let (_server, gateway) = on_s3().await;
    for content in [vec![b'a'; 10], vec![b'b'; 300_000]] {
        let body = gateway.upload(Gateway::form("a.txt", content.clone())).await;
        let path = format!("/api/v1/documents/{}/content", id(&body));
        let whole = gateway.get(&path).send().await.unwrap();
        assert!(whole.bytes().await.unwrap() == content);
        let part = gateway.get(&path).header("range", "bytes=-5").send().await.unwrap();
        assert_eq!(part.text().await.unwrap().as_bytes(), &content[content.len() - 5..]);
    }
    problem(gateway.post("/api/v1/documents").multipart(Gateway::form("a.txt", "")), 400, "empty").await;
}

#[tokio::test]
async fn a_signed_upload_has_bounds() {
    let gateway = Gateway::with_config(Config { max_upload_bytes: 1_000, ..Config::default() }).await;
    let presigned = presign(&gateway, json!({})).await;
    let url = url(&presigned);
    problem(send(&gateway, &presigned, &url).body("x".repeat(1_001)), 413, "too_large").await;
    problem(send(&gateway, &presigned, &url).body(""), 400, "empty").await;
    assert_eq!(
        send(&gateway, &presigned, &url).body(CONTENT).send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    // The bytes that were sent cannot be replaced, neither before nor while they are processed.
    problem(send(&gateway, &presigned, &url).body("other"), 409, "already_uploaded").await;
    for (field, value) in [
        ("expires_in_seconds", json!(0)),
        ("expires_in_seconds", json!(10_000_000)),
        ("colour", json!("red")),
        ("metadata", json!(7)),
    ] {
        let body = json!({"filename": "a.txt", field: value});
        let refused =
            problem(gateway.post("/api/v1/documents/upload/presigned").json(&body), 400, "invalid_field")
                .await;
        assert_eq!(refused["errors"][0]["field"], field);
    }
}

#[tokio::test]
async fn a_cancelled_upload_is_not_processed() {
    let gateway = Gateway::start().await;
    let presigned = presign(&gateway, json!({})).await;
    json(gateway.post(&format!("/api/v1/documents/{}/cancel", id(&presigned))), 200).await;
    problem(gateway.post(presigned["process"].as_str().unwrap()), 409, "state").await;
}

#[tokio::test]
async fn a_file_that_is_not_waited_for_any_more_is_refused_and_not_kept() {
    let gateway = Gateway::start().await;
    let objects = async || {
        let all = gateway.deployment.objects.list_all().map(|entry| entry.unwrap().key.to_string());
        all.collect::<Vec<_>>().await
    };
    let cancelled = presign(&gateway, json!({})).await;
    json(gateway.post(&format!("/api/v1/documents/{}/cancel", id(&cancelled))), 200).await;
    problem(send(&gateway, &cancelled, &url(&cancelled)).body(CONTENT), 409, "state").await;
    assert_eq!(objects().await, Vec::<String>::new());

    let deleted = presign(&gateway, json!({})).await;
    let document = gateway.request(Method::DELETE, &format!("/api/v1/documents/{}", id(&deleted)));
    assert!(document.send().await.unwrap().status().is_success());
    problem(send(&gateway, &deleted, &url(&deleted)).body(CONTENT), 409, "state").await;
    assert_eq!(objects().await, Vec::<String>::new());

    // Cancelled while the bytes are on their way.
    let late = presign(&gateway, json!({})).await;
    let (mut pieces, body) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(0);
    let request = send(&gateway, &late, &url(&late)).body(reqwest::Body::wrap_stream(body));
    let feed = async {
        // More than the pipes in between hold, so that the gateway has looked before the second piece.
        pieces.send(Ok(vec![b'x'; 16 << 20])).await.unwrap();
        pieces.send(Ok(vec![b'x'])).await.unwrap();
        json(gateway.post(&format!("/api/v1/documents/{}/cancel", id(&late))), 200).await;
        drop(pieces);
    };
    let ((), _) = futures::join!(feed, problem(request, 409, "state"));
    assert_eq!(objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn of_two_files_under_one_signed_url_the_first_that_is_whole_stays() {
    let gateway = Gateway::start().await;
    let presigned = presign(&gateway, json!({})).await;
    let (mut pieces, body) = futures::channel::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(0);
    let slow = send(&gateway, &presigned, &url(&presigned)).body(reqwest::Body::wrap_stream(body));
    let feed = async {
        // More than the pipes in between hold, so that the gateway has looked before the second piece.
        pieces.send(Ok(vec![b'x'; 16 << 20])).await.unwrap();
        pieces.send(Ok(vec![b'x'])).await.unwrap();
        let quick = send(&gateway, &presigned, &url(&presigned)).body(CONTENT).send().await.unwrap();
        assert_eq!(quick.status(), StatusCode::NO_CONTENT);
        accepted(gateway.post(presigned["process"].as_str().unwrap())).await;
        drop(pieces);
    };
    let ((), _) = futures::join!(feed, problem(slow, 409, "already_uploaded"));
    let original = gateway.get(&format!("/api/v1/documents/{}/content", id(&presigned)));
    assert_eq!(original.send().await.unwrap().text().await.unwrap(), CONTENT);
    eventually(|| async {
        let count = gateway.deployment.objects.list_all().count().await;
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_is_asked_for_again_ends_when_it_was_to_end() {
    let gateway = Gateway::start().await;
    let asked = |seconds: u64| {
        let body = json!({"filename": "a.txt", "expires_in_seconds": seconds});
        let request = gateway.post("/api/v1/documents/upload/presigned").json(&body);
        request.header("idempotency-key", "k")
    };
    let time = |body: &Value| {
        let text = body["upload"]["expires_at"].as_str().unwrap().to_owned();
        chrono::DateTime::parse_from_rfc3339(&text).unwrap()
    };
    let first = json(asked(100), 201).await;
    let again = json(asked(10_000), 201).await;
    assert_eq!(id(&again), id(&first));
    assert!(time(&again) <= time(&first), "{again}");
    gateway.deployment.sql("UPDATE document_versions SET upload_expires_at = now() + interval '1 hour'");
    problem(asked(100), 409, "state").await;
}

#[tokio::test]
async fn an_upload_that_is_awaited_changes_nothing_of_a_live_document() {
    let gateway = Gateway::start().await;
    let form = Gateway::form("old.txt", CONTENT).text("external_id", "e").text("metadata", r#"{"k":"old"}"#);
    let document = id(&gateway.upload(form).await);
    gateway.publish(&document, CONTENT).await;
    let presigned = presign(&gateway, json!({"external_id": "e", "collection": "elsewhere"})).await;
    assert_eq!((id(&presigned), &presigned["version"]), (document.clone(), &json!(2)));
    let path = format!("/api/v1/documents/{document}");
    let shown = json(gateway.get(&path), 200).await;
    assert_eq!(
        (&shown["filename"], &shown["metadata"], &shown["collection"]),
        (&json!("old.txt"), &json!({"k": "old"}), &json!("default"))
    );
    let original = gateway.get(&format!("{path}/content")).send().await.unwrap();
    assert_eq!(original.text().await.unwrap(), CONTENT);
    let body = json!({"query": "signed upload", "filter": {"k": "old"}, "collection": "default"});
    let found = json(gateway.post("/api/v1/search").json(&body), 200).await;
    assert_eq!(found["hits"][0]["filename"], "old.txt", "{found}");
    problem(gateway.get(&format!("{path}/content?version=2")), 409, "not_uploaded").await;
}

#[tokio::test]
async fn the_public_address_stands_in_signed_urls() {
    let config = Config { public_url: Some("https://riacho.example.org/".into()), ..Config::default() };
    let gateway = Gateway::with_config(config).await;
    assert!(
        url(&presign(&gateway, json!({})).await).starts_with("https://riacho.example.org/api/v1/uploads/")
    );
}
