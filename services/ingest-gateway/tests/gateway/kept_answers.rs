//! Answers to searches are kept, and never outlive what they say.

use reqwest::Method;
use riacho_testkit::eventually;
use serde_json::{Value, json};

use crate::fixture::{Gateway, id, json};

const TEXT: &str = "The manometer is calibrated every March.";

async fn search(gateway: &Gateway, key: &str) -> Vec<String> {
    let body = json!({"query": "manometer"});
    let request = gateway.anonymous(Method::POST, "/api/v1/search").bearer_auth(key).json(&body);
    let found: Value = json(request, 200).await;
    assert!(found["took_ms"].as_f64().is_some_and(|took| took > 0.0), "{found}");
    assert_eq!((&found["mode"], &found["warnings"]), (&json!("hybrid"), &json!([])));
    let text = |hit: &Value| hit["text"].as_str().unwrap().to_owned();
    found["hits"].as_array().unwrap().iter().map(text).collect()
}

/// A gateway with a document, whose text in the database is another one than in the answer that is kept.
async fn with_kept_answer() -> (Gateway, String) {
    let gateway = Gateway::start().await;
    let id = id(&gateway.upload(Gateway::form("handbook.txt", TEXT).text("external_id", "h")).await);
    gateway.publish(&id, TEXT).await;
    let key = gateway.deployment.key.clone();
    // What was kept shows when the text below it is changed by hand, of which nobody knows.
    eventually(async || {
        let before = search(&gateway, &key).await;
        gateway.deployment.sql("UPDATE chunks SET text = text || '!'");
        search(&gateway, &key).await == before
    })
    .await;
    (gateway, id)
}

#[tokio::test]
async fn a_repeated_search_is_answered_from_what_is_kept_until_a_version_goes_live() {
    let (gateway, id) = with_kept_answer().await;
    let key = gateway.deployment.key.clone();
    let before = search(&gateway, &key).await;
    let next = "The manometer is calibrated every April.";
    gateway.upload(Gateway::form("handbook.txt", next).text("external_id", "h")).await;
    assert_eq!(search(&gateway, &key).await, before, "nothing that is visible has changed");
    gateway.publish(&id, next).await;
    assert_eq!(search(&gateway, &key).await, [next]);
}

#[tokio::test]
async fn a_deleted_document_is_in_no_kept_answer() {
    let (gateway, id) = with_kept_answer().await;
    let answer = gateway.request(Method::DELETE, &format!("/api/v1/documents/{id}")).send().await.unwrap();
    assert!(answer.status().is_success());
    assert_eq!(search(&gateway, &gateway.deployment.key).await, Vec::<String>::new());
}

#[tokio::test]
async fn no_answer_is_kept_for_another_tenant_or_another_question() {
    let (gateway, _) = with_kept_answer().await;
    let (_, key) = gateway.deployment.add_tenant("other").await.unwrap();
    assert_eq!(search(&gateway, &key).await, Vec::<String>::new());
    let now = gateway.deployment.sql("SELECT text FROM chunks")[0][0].clone().unwrap();
    for other in [
        json!({"query": "manometer", "top_k": 9}),
        json!({"query": "manometer", "mode": "keyword"}),
        json!({"query": "manometer", "collection": "default"}),
        json!({"query": "manometer", "language": "en"}),
        json!({"query": "Manometer"}),
    ] {
        let found = json(gateway.post("/api/v1/search").json(&other), 200).await;
        assert_eq!(found["hits"][0]["text"], json!(now), "{other}");
    }
}

#[tokio::test]
async fn no_answer_is_kept_longer_than_its_documents_live() {
    let gateway = Gateway::start().await;
    let id = id(&gateway.upload(Gateway::form("handbook.txt", TEXT)).await);
    gateway.publish(&id, TEXT).await;
    gateway.deployment.sql("UPDATE documents SET expires_at = now() + interval '3 seconds'");
    assert_eq!(search(&gateway, &gateway.deployment.key).await, [TEXT]);
    eventually(async || {
        let row = gateway.deployment.sql("SELECT expires_at < now() FROM documents");
        row[0][0].as_deref() == Some("t")
    })
    .await;
    assert_eq!(search(&gateway, &gateway.deployment.key).await, Vec::<String>::new());
}

#[tokio::test]
async fn while_redis_is_away_searches_are_answered_anew() {
    let (gateway, _) = with_kept_answer().await;
    gateway.deployment.redis().stop();
    let now = gateway.deployment.sql("SELECT text FROM chunks")[0][0].clone().unwrap();
    assert_eq!(search(&gateway, &gateway.deployment.key).await, [now]);
}
