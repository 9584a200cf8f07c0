//! What operators do with a running deployment: pausing stages, running tasks, and reading who did it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use riacho_testkit::eventually;
use serde_json::{Value, json};
use support::{Deployment, errors_of, text_of};

/// What one test pauses, the other needs.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn post(deployment: &Deployment, path: &str, body: Value) -> Value {
    let response = deployment.client().post(deployment.up.url(path)).json(&body).send().await.unwrap();
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert!(status.is_success(), "{path}: {status}: {body}");
    body
}

/// Uploads a document; its status once it says that it waits for a paused stage, nothing where it went through.
async fn waits_for_the_pause(deployment: &Deployment, n: u32) -> Option<(Value, Value)> {
    let text = format!("# Wait {n}\n\nThe heron waits.\n");
    let accepted = deployment.upload(&format!("paused-{n}.md"), text).await;
    let path = format!("/api/v1/documents/{}/status", accepted["id"].as_str().unwrap());
    let status = eventually(|| async {
        let status = deployment.get(&path).await;
        let is_told = status["state"] == "ready" || status["waits"]["reason"] == "paused";
        if is_told { Ok(status) } else { Err(status) }
    })
    .await;
    (status["state"] != "ready").then_some((accepted, status))
}

#[tokio::test]
async fn documents_wait_for_a_paused_stage_say_so_and_go_on_when_it_is_resumed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let deployment = Deployment::shared().await;
    let paused = deployment.json(&["stage", "pause", "embed", "--reason", "the provider is down"]).await;
    let by = paused[0]["by"].as_str().unwrap();
    assert!(by.starts_with("cli:"), "{by}");
    // Its replicas follow within a second; what is uploaded meanwhile may go through.
    let mut n = 0;
    let (accepted, status) = loop {
        n += 1;
        if let Some(found) = waits_for_the_pause(&deployment, n).await {
            break found;
        }
        assert!(n < 100, "nothing waits");
    };
    let detail = status["waits"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("an operator has paused the stage (the provider is down); "), "{detail}");
    let stages = deployment.json(&["stage", "list"]).await;
    assert_eq!(
        (&stages[1]["stage"], &stages[1]["state"], &stages[1]["consumers"]),
        (&json!("embed"), &json!("paused"), &json!(1))
    );
    assert!(stages[1]["backlog"].as_u64().unwrap() >= 1, "{stages:?}");
    let shown = text_of(&deployment.riacho(&["status"]).await);
    assert!(shown.contains("paused since") && shown.contains(by), "{shown}");
    assert_eq!(deployment.get("/health/queues").await["status"], "degraded");
    // A census finds the waiting where they are, and no task condemns them.
    for task in ["census", "deadline"] {
        let ran = deployment.json(&["janitor", "run", task]).await;
        assert_eq!(ran[0]["counts"].get("lost").and_then(Value::as_u64).unwrap_or(0), 0, "{ran:?}");
    }
    let resumed = deployment.json(&["stage", "resume", "embed"]).await;
    assert_eq!(resumed, [json!({"stage": "embed", "was_paused": true})]);
    deployment.ready(&accepted).await;

    let acts = deployment.json(&["audit", "--actor", by, "--limit", "20"]).await;
    let told = |action: &str, target: &str| {
        acts.iter().any(|act| act["action"] == action && act["target"] == target && act["outcome"] == "ok")
    };
    for (action, target) in [
        ("stage.pause", "embed"),
        ("stage.resume", "embed"),
        ("janitor.run", "census"),
        ("janitor.run", "deadline"),
    ] {
        assert!(told(action, target), "{action}: {acts:?}");
    }
    let wrong = deployment.riacho(&["stage", "pause", "parse"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(errors_of(&wrong).contains("extract, embed, index"), "{}", errors_of(&wrong));
}

#[tokio::test]
async fn tasks_are_listed_and_run_over_http_and_by_the_command_line() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let deployment = Deployment::shared().await;
    let tasks = eventually(|| async {
        let tasks = deployment.get("/api/v1/janitor/tasks").await["tasks"].as_array().unwrap().clone();
        let release = tasks.iter().find(|task| task["name"] == "release").cloned();
        release.filter(|task| !task["last_finished"].is_null()).map(|_| tasks)
    })
    .await;
    let by_command = deployment.json(&["janitor", "list"]).await;
    assert_eq!(by_command.len(), tasks.len());
    for task in &tasks {
        let same = by_command.iter().find(|other| other["name"] == task["name"]).unwrap();
        assert_eq!((&same["schedule"], &same["describes"]), (&task["schedule"], &task["describes"]));
        assert_eq!(task["next_run"].is_null(), task["schedule"].is_null(), "{task}");
    }
    let run = post(&deployment, "/api/v1/janitor/tasks/canary/run", json!({})).await;
    let path = format!("/api/v1/janitor/runs/{}", run["id"].as_str().unwrap());
    let ended = eventually(|| async {
        let run = deployment.get(&path).await;
        if matches!(run["state"].as_str(), Some("ok" | "failed")) { Ok(run) } else { Err(run) }
    })
    .await;
    assert_eq!(
        (&ended["state"], &ended["summary"]["documents"]),
        (&json!("ok"), &json!(1)),
        "{ended}\n{}",
        deployment.up.log()
    );
    let shown = text_of(&deployment.riacho(&["janitor", "list"]).await);
    let canary = shown.lines().find(|line| line.starts_with("canary")).unwrap();
    assert!(canary.contains("ok") && canary.contains("documents 1"), "{shown}");
    let metrics =
        deployment.client().get(deployment.up.url("/metrics")).send().await.unwrap().text().await.unwrap();
    for metric in [
        "riacho_canary_seconds ",
        "riacho_janitor_task_runs_total{task=\"canary\",outcome=\"ok\"}",
        "riacho_stage_pause_requested{stage=\"embed\"}",
    ] {
        assert!(metrics.contains(metric), "{metric}");
    }
}

/// Runs a target of the Makefile on a deployment.
async fn make(deployment: &Deployment, target: &str, args: &str) -> std::process::Output {
    let mut command = tokio::process::Command::new("make");
    command.current_dir(support::workspace()).args(["--no-print-directory", target]);
    command.arg(format!("RIACHO={}", support::RIACHO)).arg(format!("ARGS={args}"));
    command.arg(format!("DATA_DIR={}", deployment.data_dir().display())).output().await.unwrap()
}

#[tokio::test]
async fn the_targets_of_operators_are_commands_of_the_program() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let deployment = Deployment::shared().await;
    for (target, args, said) in [
        ("queue-info", "", "extract"),
        ("queue-info", "--json", "\"stages\""),
        ("queue-health", "", "healthy"),
        ("cleanup-s3", "--dry-run", "orphans (dry run):"),
        ("cleanup-daily", "--dry-run", "housekeep (dry run):"),
        ("cleanup-daily", "", "purge: "),
    ] {
        let output = make(&deployment, target, args).await;
        let text = text_of(&output);
        assert!(
            output.status.success() && text.contains(said),
            "{target} {args}: {text}{}",
            errors_of(&output)
        );
    }
    let stage = deployment.json(&["queue", "stage", "embed"]).await;
    assert_eq!(
        (stage[0]["lanes"].as_array().unwrap().len(), stage[0]["consumer_list"].as_array().unwrap().len()),
        (3, 1)
    );
    let stopped = deployment.riacho(&["queue", "health", "--url", "http://127.0.0.1:9"]).await;
    assert_eq!(stopped.status.code(), Some(3));
}

#[tokio::test]
async fn workers_of_another_process_join_a_deployment_by_its_target() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let deployment = Deployment::shared().await;
    let data_dir = format!("DATA_DIR={}", deployment.data_dir().display());
    let mut worker = tokio::process::Command::new("make")
        .current_dir(support::workspace())
        .args([
            "--no-print-directory",
            "worker",
            "STAGES=embedder",
            &format!("RIACHO={}", support::RIACHO),
            &data_dir,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let consumers = async || {
        let stage = deployment.json(&["queue", "stage", "embed"]).await.remove(0);
        stage["consumer_list"].as_array().unwrap().iter().filter(|one| one["state"] == "alive").count()
    };
    eventually(|| async { (consumers().await == 2).then_some(()) }).await;
    let group = nix::unistd::Pid::from_raw(i32::try_from(worker.id().unwrap()).unwrap());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM).unwrap();
    worker.wait().await.unwrap();
    eventually(|| async { (consumers().await == 1).then_some(()) }).await;
}
