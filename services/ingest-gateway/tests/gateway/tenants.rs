//! A tenant sees its own, and nothing that says that there are others.

use reqwest::Method;
use serde_json::json;

use crate::fixture::{Gateway, id, json, problem};

#[tokio::test]
async fn a_document_of_another_tenant_is_not_found() {
    let gateway = Gateway::start().await;
    let (_, other) = gateway.deployment.add_tenant("other").await.unwrap();
    let form = Gateway::form("secret.txt", "the vault opens at noon")
        .text("external_id", "mine")
        .text("collection", "vault");
    let id = id(&gateway.upload(form).await);
    gateway.publish(&id, "the vault opens at noon").await;
    let as_other = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(&other);

    let path = format!("/api/v1/documents/{id}");
    for tail in ["", "/status", "/text", "/chunks", "/content"] {
        json_or_text(gateway.get(&format!("{path}{tail}"))).await;
        problem(as_other(Method::GET, &format!("{path}{tail}")), 404, "not_found").await;
    }
    for tail in ["/cancel", "/retry", "/process"] {
        problem(as_other(Method::POST, &format!("{path}{tail}")), 404, "not_found").await;
    }
    problem(as_other(Method::DELETE, &path), 404, "not_found").await;
    let put = as_other(Method::PUT, &format!("{path}/content")).multipart(Gateway::form("a", "b"));
    problem(put, 404, "not_found").await;

    let listed = json(as_other(Method::GET, "/api/v1/documents"), 200).await;
    assert_eq!(listed["documents"], json!([]));
    problem(as_other(Method::GET, "/api/v1/documents?collection=vault"), 404, "not_found").await;
    for mode in ["keyword", "vector", "hybrid"] {
        let body = json!({"query": "vault", "mode": mode});
        assert_eq!(
            json(gateway.post("/api/v1/search").json(&body), 200).await["hits"].as_array().unwrap().len(),
            1
        );
        assert_eq!(json(as_other(Method::POST, "/api/v1/search").json(&body), 200).await["hits"], json!([]));
    }
}

async fn json_or_text(request: reqwest::RequestBuilder) {
    let response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
}

#[tokio::test]
async fn the_same_bytes_and_external_id_of_another_tenant_are_another_document() {
    let gateway = Gateway::start().await;
    let (_, other) = gateway.deployment.add_tenant("other").await.unwrap();
    let form = || Gateway::form("a.txt", "the same").text("external_id", "x");
    let mine = gateway.upload(form()).await;
    let theirs = gateway.anonymous(Method::POST, "/api/v1/documents").bearer_auth(&other).multipart(form());
    let theirs = crate::fixture::accepted(theirs).await;
    assert_ne!(id(&mine), id(&theirs));
    assert_eq!((&theirs["version"], &theirs["duplicate"]), (&json!(1), &json!(false)));
}

#[tokio::test]
async fn keys_are_made_shown_once_and_ended() {
    let gateway =
        Gateway::with_config(riacho_ingest_gateway::Config { key_cache_seconds: 0, ..Default::default() })
            .await;
    let new = json!({"name": "reader", "scopes": ["documents:read"]});
    let created = json(gateway.post("/api/v1/keys").json(&new), 201).await;
    let secret = created["secret"].as_str().unwrap();
    json(gateway.anonymous(Method::GET, "/api/v1/documents").bearer_auth(secret), 200).await;
    let listed = json(gateway.get("/api/v1/keys"), 200).await;
    assert!(!listed.to_string().contains(secret));
    let path = format!("/api/v1/keys/{}", created["key"]["id"].as_str().unwrap());
    assert_eq!(gateway.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    problem(gateway.anonymous(Method::GET, "/api/v1/documents").bearer_auth(secret), 401, "unauthorized")
        .await;
    problem(gateway.request(Method::DELETE, "/api/v1/keys/nobody"), 404, "not_found").await;
    problem(
        gateway.post("/api/v1/keys").json(&json!({"name": "x", "scopes": ["root"]})),
        400,
        "invalid_field",
    )
    .await;
}

#[tokio::test]
async fn collections_are_made_listed_and_deleted_when_empty() {
    let gateway = Gateway::start().await;
    let made = json(gateway.post("/api/v1/collections").json(&json!({"name": "Manuais"})), 201).await;
    problem(gateway.post("/api/v1/collections").json(&json!({"name": "Manuais"})), 409, "exists").await;
    problem(gateway.post("/api/v1/collections").json(&json!({"name": ""})), 400, "invalid_field").await;
    let path = format!("/api/v1/collections/{}", id(&made));
    let document = id(&gateway.upload(Gateway::form("a.txt", "text").text("collection", "Manuais")).await);
    assert_eq!(json(gateway.get(&path), 200).await["documents"], 1);
    problem(gateway.request(Method::DELETE, &path), 409, "not_empty").await;
    gateway.request(Method::DELETE, &format!("/api/v1/documents/{document}")).send().await.unwrap();
    assert_eq!(json(gateway.get("/api/v1/documents?collection=Manuais"), 200).await["documents"], json!([]));
}
