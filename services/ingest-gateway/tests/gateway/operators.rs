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

#[tokio::test]
async fn a_stage_is_paused_seen_to_be_and_resumed() {
    let gateway = Gateway::start().await;
    let reader = key(&gateway, vec![KeyScope::DocumentsRead]).await;
    let as_reader = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(&reader);
    let pause = "/api/v1/queue/stages/embed/pause";
    problem(as_reader(Method::POST, pause).json(&json!({})), 403, "forbidden").await;
    problem(gateway.post("/api/v1/queue/stages/parse/pause").json(&json!({})), 404, "not_found").await;
    problem(gateway.post(pause).json(&json!({"reason": "x".repeat(501)})), 400, "invalid_field").await;
    problem(gateway.post(pause).json(&json!({"why": "x"})), 400, "invalid_field").await;
    let paused = json(gateway.post(pause).json(&json!({"reason": "the provider is down"})), 200).await;
    let by = paused["paused"]["by"].as_str().unwrap().to_owned();
    assert!(by.starts_with("key:") && by.len() == 20, "{by}");
    let again = json(gateway.post(pause).json(&json!({"reason": "again"})), 200).await;
    assert_eq!(again, paused, "it stays as it is");

    let info = json(as_reader(Method::GET, "/api/v1/queue/info"), 200).await;
    assert_eq!(
        (&info["stages"][0]["paused"], &info["stages"][1]["paused"]),
        (&json!(null), &paused["paused"])
    );
    let health = json(gateway.get("/api/v1/queue/health"), 200).await;
    let since = &paused["paused"]["since"].as_str().unwrap()[..19];
    assert_eq!(
        (&health["status"], &health["reasons"]),
        (&json!("degraded"), &json!([format!("embed is paused since {since}Z by {by}")]))
    );
    let told = json(gateway.anonymous(Method::GET, "/health/queues"), 200).await;
    assert_eq!((&told["status"], &told["reasons"]), (&json!("degraded"), &json!(["embed is paused"])));
    let stage_told = json!({"stage": "embed", "backlog": 0, "consumers": 0, "is_paused": true});
    assert_eq!(told["stages"][1], stage_told, "who paused it and why is not everybody's business");
    let stage = json(gateway.get("/api/v1/queue/stages/embed"), 200).await;
    assert_eq!((&stage["stage"], &stage["paused"]), (&json!("embed"), &paused["paused"]));

    let resume = "/api/v1/queue/stages/embed/resume";
    problem(as_reader(Method::POST, resume), 403, "forbidden").await;
    for _ in 0..2 {
        assert_eq!(json(gateway.post(resume), 200).await, json!({"stage": "embed", "paused": null}));
    }
    assert_eq!(json(gateway.get("/api/v1/queue/health"), 200).await["status"], "healthy");
}

#[tokio::test]
async fn a_stage_tells_its_lanes_to_readers_and_its_consumers_to_operators() {
    let gateway = Gateway::start().await;
    gateway.deployment.submit("a.txt", "text").await.unwrap();
    let reader = key(&gateway, vec![KeyScope::DocumentsRead]).await;
    let path = "/api/v1/queue/stages/extract";
    let seen = json(gateway.anonymous(Method::GET, path).bearer_auth(&reader), 200).await;
    assert_eq!((&seen["backlog"], &seen["consumer_list"]), (&json!(1), &json!(null)));
    let lanes = seen["lanes"].as_array().unwrap();
    let told: Vec<_> = lanes
        .iter()
        .map(|lane| (lane["lane"].as_str().unwrap(), lane["backlog"].as_u64().unwrap()))
        .collect();
    assert_eq!(told.len(), 3);
    assert_eq!(told.iter().map(|(_, backlog)| backlog).sum::<u64>(), 1);
    assert_eq!(json(gateway.get(path), 200).await["consumer_list"], json!([]));
    let streams = &gateway.deployment.streams;
    let reader = streams.reader(0, riacho_domain::StageName::Extract, "host-1-x").await.unwrap();
    assert_eq!(reader.read_lanes([9, 9, 9]).await.unwrap().len(), 1);
    let consumer = json(gateway.get(path), 200).await["consumer_list"][0].clone();
    assert_eq!(
        (&consumer["name"], &consumer["pending"], &consumer["state"]),
        (&json!("host-1-x"), &json!(1), &json!("dead"))
    );
    assert!(consumer["idle_seconds"].as_f64().is_some_and(|idle| idle >= 0.0));
    reader.close().await;
    problem(gateway.get("/api/v1/queue/stages/nothing"), 404, "not_found").await;
}

#[tokio::test]
async fn who_did_what_is_listed_for_admins_of_the_tenant_in_pages() {
    let gateway = Gateway::start().await;
    let admin = key(&gateway, vec![KeyScope::Admin]).await;
    let as_admin = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(&admin);
    let refused = json!({"name": "mine", "scopes": ["operator"]});
    problem(as_admin(Method::POST, "/api/v1/keys").json(&refused), 403, "forbidden").await;
    let id = crate::fixture::id(&gateway.upload(Gateway::form("a.txt", "text")).await);
    as_admin(Method::DELETE, &format!("/api/v1/documents/{id}")).send().await.unwrap();
    json(gateway.post("/api/v1/queue/stages/index/pause").json(&json!({})), 200).await;
    plan(&gateway).await;
    gateway.deployment.store.request_run("purge", true, "nobody").await.unwrap();
    let config =
        json(gateway.post("/api/v1/keys").json(&json!({"name": "r", "scopes": ["search"]})), 201).await;

    let first = json(as_admin(Method::GET, "/api/v1/audit?limit=2"), 200).await;
    let next = first["next_cursor"].as_str().unwrap();
    let second = json(as_admin(Method::GET, &format!("/api/v1/audit?limit=100&cursor={next}")), 200).await;
    assert_eq!(second["next_cursor"], json!(null));
    let acts: Vec<_> =
        [&first, &second].iter().flat_map(|page| page["acts"].as_array().unwrap().clone()).collect();
    let told: Vec<_> =
        acts.iter().map(|act| (act["action"].as_str().unwrap(), act["outcome"].as_str().unwrap())).collect();
    assert_eq!(
        told,
        [("key.create", "ok"), ("stage.pause", "ok"), ("document.delete", "ok"), ("key.create", "refused")]
    );
    assert_eq!((&acts[0]["target"], &acts[2]["target"]), (&config["key"]["id"], &json!(id)));
    assert_eq!(acts[2]["actor"], format!("key:{}", admin.split('_').nth(1).unwrap()));
    assert!(!json!(acts).to_string().contains(config["secret"].as_str().unwrap()));

    let of_keys = json(as_admin(Method::GET, "/api/v1/audit?action=key."), 200).await;
    assert_eq!(of_keys["acts"].as_array().unwrap().len(), 2);
    for wrong in ["limit=0", "limit=201", "cursor=x", "action=", "who=me"] {
        assert_eq!(
            as_admin(Method::GET, &format!("/api/v1/audit?{wrong}")).send().await.unwrap().status(),
            400,
            "{wrong}"
        );
    }
    let reader = key(&gateway, vec![KeyScope::DocumentsRead]).await;
    problem(gateway.anonymous(Method::GET, "/api/v1/audit").bearer_auth(&reader), 403, "forbidden").await;
    let (_, other) = gateway.deployment.add_tenant("other").await.unwrap();
    let seen = json(gateway.anonymous(Method::GET, "/api/v1/audit").bearer_auth(&other), 200).await;
    assert_eq!(seen["acts"], json!([]));
}

#[tokio::test]
async fn jobs_are_documents_under_another_name() {
    let gateway = Gateway::start().await;
    let id = crate::fixture::id(&gateway.upload(Gateway::form("a.txt", "text")).await);
    let job = format!("/api/v1/queue/jobs/{id}");
    let (status, same) = (
        json(gateway.get(&job), 200).await,
        json(gateway.get(&format!("/api/v1/documents/{id}/status")), 200).await,
    );
    assert_eq!(
        (&status["id"], &status["version"], &status["filename"]),
        (&same["id"], &same["version"], &same["filename"])
    );
    assert_eq!(json(gateway.post(&format!("{job}/cancel")), 200).await["state"], "cancelled");
    problem(gateway.post(&format!("{job}/cancel")), 409, "state").await;
    let again = crate::fixture::accepted(gateway.post(&format!("{job}/retry?lane=bulk"))).await;
    assert_eq!(again["id"], json!(id));
    problem(gateway.get("/api/v1/queue/jobs/nobody"), 404, "not_found").await;
    problem(gateway.anonymous(Method::GET, &job), 401, "unauthorized").await;
}
