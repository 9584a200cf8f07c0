//! Webhooks over HTTP; what they are told is the janitor's tests' business.

use reqwest::Method;
use riacho_domain::ReasonCode;
use serde_json::{Value, json};

use crate::fixture::{Gateway, json, problem};

fn new(url: &str) -> Value {
    json!({"url": url, "events": ["document.failed", "document.deleted"], "description": "the desk"})
}

/// A gateway that lets webhooks go to loopback.
async fn private() -> Gateway {
    Gateway::with(crate::fixture::Change { outbound_allow: vec!["127.0.0.0/8".into()], ..Default::default() })
        .await
}

#[tokio::test]
async fn a_webhook_is_made_with_a_secret_shown_once_listed_and_removed() {
    let gateway = private().await;
    let made = json(gateway.post("/api/v1/webhooks").json(&new("http://127.0.0.1:9/hook")), 201).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    let listed = json(gateway.get("/api/v1/webhooks"), 200).await;
    assert_eq!(listed["webhooks"], json!([made["webhook"]]));
    assert_eq!(made["webhook"]["events"], json!(["document.deleted", "document.failed"]));
    assert!(!listed.to_string().contains(secret));
    let (_, other) = gateway.deployment.add_tenant("other").await.unwrap();
    let path = format!("/api/v1/webhooks/{}", made["webhook"]["id"].as_str().unwrap());
    let as_other = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(&other);
    assert_eq!(json(as_other(Method::GET, "/api/v1/webhooks"), 200).await["webhooks"], json!([]));
    for (method, tail) in [(Method::DELETE, ""), (Method::POST, "/enable"), (Method::GET, "/deliveries")] {
        problem(as_other(method, &format!("{path}{tail}")), 404, "not_found").await;
    }
    assert_eq!(gateway.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    problem(gateway.request(Method::DELETE, &path), 404, "not_found").await;
    let acts = json(gateway.get("/api/v1/audit?action=webhook."), 200).await;
    let actions: Vec<_> =
        acts["acts"].as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["webhook.delete", "webhook.create"]);
}

#[tokio::test]
async fn addresses_that_lead_inward_and_fields_that_are_wrong_are_refused() {
    let gateway = Gateway::start().await;
    for url in [
        "https://127.0.0.1/hook",
        "https://localhost/hook",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://10.1.2.3/",
        "https://2130706433/",
        "ftp://example.org/",
        "not a url",
        "https://me:secret@1.1.1.1/",
        // A public one, but anybody on the way could read and change it.
        "http://1.1.1.1/hook",
    ] {
        let refused = problem(gateway.post("/api/v1/webhooks").json(&new(url)), 400, "invalid_field").await;
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }
    for (field, value) in [
        ("events", json!([])),
        ("events", json!(["document.read"])),
        ("description", json!("x".repeat(201))),
        ("secret", json!("mine")),
    ] {
        let mut body = new("https://1.1.1.1/hook");
        body[field] = value;
        problem(gateway.post("/api/v1/webhooks").json(&body), 400, "invalid_field").await;
    }
    assert_eq!(json(gateway.get("/api/v1/webhooks"), 200).await["webhooks"], json!([]));
    // A number needs no look-up.
    json(gateway.post("/api/v1/webhooks").json(&new("https://1.1.1.1/hook")), 201).await;
}

#[tokio::test]
async fn a_tenant_has_so_many_webhooks_and_no_more() {
    let gateway = private().await;
    for n in 0..20 {
        json(gateway.post("/api/v1/webhooks").json(&new(&format!("http://127.0.0.1:9/{n}"))), 201).await;
    }
    let refused =
        problem(gateway.post("/api/v1/webhooks").json(&new("http://127.0.0.1:9/x")), 400, "bad_request")
            .await;
    assert!(refused["detail"].as_str().unwrap().contains("at most 20"), "{refused}");
}

#[tokio::test]
async fn deliveries_are_listed_in_pages_and_sent_again_by_hand() {
    let gateway = private().await;
    let made = json(gateway.post("/api/v1/webhooks").json(&new("http://127.0.0.1:9/hook")), 201).await;
    let deployment = &gateway.deployment;
    for n in 0..3 {
        let accepted = deployment.accept(&format!("{n}.txt"), format!("{n}")).await.unwrap();
        let release = accepted.release.unwrap().release();
        deployment.store.fail(&release, ReasonCode::Corrupt, "no").await.unwrap();
    }
    let path = format!("/api/v1/webhooks/{}/deliveries", made["webhook"]["id"].as_str().unwrap());
    let first = json(gateway.get(&format!("{path}?limit=2")), 200).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = json(gateway.get(&format!("{path}?limit=2&cursor={cursor}")), 200).await;
    let all: Vec<_> =
        [&first, &second].iter().flat_map(|page| page["deliveries"].as_array().unwrap().clone()).collect();
    assert_eq!(all.len(), 3);
    for (one, name) in all.iter().zip(["2.txt", "1.txt", "0.txt"]) {
        assert_eq!(
            (&one["event"], &one["state"], &one["attempts"]),
            (&json!("document.failed"), &json!("pending"), &json!(0))
        );
        assert_eq!(one["payload"]["data"]["filename"], name);
    }
    deployment.sql("UPDATE webhook_deliveries SET next_attempt = NULL, given_up_at = now(), attempts = 9");
    let again = format!("{path}/{}/redeliver", all[0]["id"].as_str().unwrap());
    assert_eq!(gateway.post(&again).send().await.unwrap().status(), 202);
    let states = json(gateway.get(&path), 200).await;
    let states: Vec<_> = states["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["pending", "given_up", "given_up"]);
    problem(gateway.post(&format!("{path}/{}/redeliver", uuid::Uuid::nil())), 404, "not_found").await;
    deployment.sql("UPDATE webhooks SET disabled_at = now(), disabled_reason = 'x'");
    problem(gateway.post(&again), 409, "state").await;
    let enabled = json(gateway.post(&path.replace("deliveries", "enable")), 200).await;
    assert_eq!(enabled["disabled_at"], json!(null));
    assert_eq!(gateway.post(&again).send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn the_services_never_read_a_secret() {
    let gateway = private().await;
    json(gateway.post("/api/v1/webhooks").json(&new("http://127.0.0.1:9/hook")), 201).await;
    let rights = gateway.deployment.sql(
        "SELECT has_column_privilege('riacho_service', 'webhooks', 'secret', 'SELECT'),
                has_column_privilege('riacho_service', 'webhooks', 'url', 'UPDATE'),
                has_column_privilege('riacho_janitor', 'webhooks', 'secret', 'SELECT')",
    );
    assert_eq!(rights, [["f", "f", "t"].map(|right| Some(right.to_owned()))]);
}
