//! What only operators' keys may do, over HTTP.

use std::time::Duration;

use reqwest::Method;
use riacho_store::{KeyScope, NewKey, PlannedTask, TaskRun};
use serde_json::json;

use crate::fixture::{Gateway, json, problem};

async fn key(gateway: &Gateway, scopes: Vec<KeyScope>) -> String {
    let deployment = &gateway.deployment;
    let new = NewKey { tenant: deployment.tenant.clone(), name: "k".into(), scopes, expires_at: None };
    deployment.janitor.create_key(&new).await.unwrap().secret.expose().to_owned()
}

async fn plan(gateway: &Gateway) {
    let task =
        |task, expression| PlannedTask { task, describes: "does", expression, time_zone: "Europe/Lisbon" };
    let tasks = [task("purge", Some("*/5 * * * *")), task("canary", None)];
    gateway.deployment.janitor.plan_tasks(&tasks).await.unwrap();
}

#[tokio::test]
async fn an_admin_of_a_tenant_is_no_operator_and_does_not_become_one() {
    let gateway = Gateway::start().await;
    plan(&gateway).await;
    let admin = key(&gateway, vec![KeyScope::Admin]).await;
    let as_admin = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(&admin);
    problem(as_admin(Method::GET, "/api/v1/janitor/tasks"), 403, "forbidden").await;
    let run = as_admin(Method::POST, "/api/v1/janitor/tasks/purge/run").json(&json!({}));
    problem(run, 403, "forbidden").await;
    let new = json!({"name": "mine", "scopes": ["search", "operator"]});
    problem(as_admin(Method::POST, "/api/v1/keys").json(&new), 403, "forbidden").await;
    let made = json(gateway.post("/api/v1/keys").json(&new), 201).await;
    assert_eq!(made["key"]["scopes"], json!(["search", "operator"]));
    // An operator is no admin either.
    let operator = made["secret"].as_str().unwrap();
    let as_operator = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(operator);
    json(as_operator(Method::GET, "/api/v1/janitor/tasks"), 200).await;
    problem(as_operator(Method::GET, "/api/v1/keys"), 403, "forbidden").await;
}

#[tokio::test]
async fn tasks_are_listed_with_their_next_and_last_runs() {
    let gateway = Gateway::start().await;
    let listed = json(gateway.get("/api/v1/janitor/tasks"), 200).await;
    assert_eq!(listed, json!({"tasks": []}), "no janitor has led");
    plan(&gateway).await;
    let summary = json!({"documents": 3});
    let run = TaskRun {
        task: "purge",
        is_ok: true,
        did_something: true,
        took: Duration::from_millis(250),
        summary: &summary,
        runs: 1,
    };
    gateway.deployment.janitor.task_finished(&run).await.unwrap();
    let listed = json(gateway.get("/api/v1/janitor/tasks"), 200).await;
    let [canary, purge] = listed["tasks"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!(
        (&canary["schedule"], &canary["next_run"], &canary["runs"]),
        (&json!(null), &json!(null), &json!(0))
    );
    assert_eq!((&purge["schedule"], &purge["time_zone"]), (&json!("*/5 * * * *"), &json!("Europe/Lisbon")));
    assert_eq!((&purge["last_outcome"], &purge["last_seconds"]), (&json!("ok"), &json!(0.25)));
    assert_eq!((&purge["last_summary"], &purge["last_work_summary"]), (&summary, &summary));
    let time = |name: &str| purge[name].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!(time("next_run") > time("last_finished") && time("last_started") < time("last_finished"));
}

#[tokio::test]
async fn a_run_is_asked_for_and_answered_with_what_it_did() {
    let config = riacho_ingest_gateway::Config { request_timeout_ms: 3_000, ..Default::default() };
    let gateway = Gateway::with_config(config).await;
    plan(&gateway).await;
    let path = "/api/v1/janitor/tasks/purge/run";
    problem(gateway.post("/api/v1/janitor/tasks/cleanup/run").json(&json!({})), 404, "not_found").await;
    problem(gateway.post(path).json(&json!({"dryrun": true})), 400, "invalid_field").await;
    // Nobody leads yet: it waits.
    let response = gateway.post(path).json(&json!({"dry_run": true})).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(response.status(), 202);
    let janitor = gateway.deployment.janitor.clone();
    let taken = janitor.take_run().await.unwrap().unwrap();
    assert!(taken.dry_run && taken.task == "purge" && taken.requested_by.len() == 16);
    assert_eq!(json(gateway.get(&location), 200).await["state"], "running");
    janitor.run_finished(taken.id, true, Duration::from_secs(1), &json!({"documents": 2})).await.unwrap();
    let run = json(gateway.get(&location), 200).await;
    assert_eq!((&run["state"], &run["summary"]["documents"]), (&json!("ok"), &json!(2)));
    problem(gateway.get("/api/v1/janitor/runs/nobody"), 404, "not_found").await;

    // One that ends at once is answered at once.
    let answering = tokio::spawn(async move {
        let taken = riacho_testkit::eventually(|| async { janitor.take_run().await.unwrap() }).await;
        janitor.run_finished(taken.id, false, Duration::ZERO, &json!({"error": "away"})).await.unwrap();
    });
    let response = gateway.post(path).json(&json!({})).send().await.unwrap();
    answering.await.unwrap();
    let run: serde_json::Value = response.json().await.unwrap();
    let at = format!("/api/v1/janitor/runs/{}", run["id"].as_str().unwrap());
    assert_eq!(json(gateway.get(&at), 200).await["summary"]["error"], "away");
}
