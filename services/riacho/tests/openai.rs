//! OpenAI's official Python SDK, unmodified, against the real binary: `tests/openai/*.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use support::{Deployment, errors_of, text_of, workspace};

/// A key of a tenant, with these scopes.
async fn key(deployment: &Deployment, tenant: &str, scopes: &str) -> String {
    let created = deployment.json(&["key", "create", "--tenant", tenant, "--scopes", scopes]).await.remove(0);
    created["secret"].as_str().unwrap().to_owned()
}

/// A tenant of its own that has a document and may have no more.
async fn full(deployment: &Deployment) -> String {
    deployment.json(&["tenant", "create", "full"]).await;
    let key = key(deployment, "full", "admin").await;
    let file = deployment.dir.path().join("full.txt");
    std::fs::write(&file, "All that there is room for.").unwrap();
    let lines = deployment.json(&["ingest", file.to_str().unwrap(), "--api-key", &key]).await;
    assert_eq!(lines.last().unwrap()["ready"], 1, "{lines:?}");
    deployment.json(&["tenant", "limits", "full", "--max-documents", "1"]).await;
    // The janitor measures every few seconds.
    riacho_testkit::eventually(|| async {
        let tenants = deployment.json(&["tenant", "list"]).await;
        let full = tenants.iter().find(|tenant| tenant["id"] == "full").unwrap();
        if full["over_quota"] == serde_json::json!(["documents"]) { Ok(()) } else { Err(full.to_string()) }
    })
    .await;
    key
}

#[tokio::test]
async fn the_official_python_sdk_works_unmodified() {
    let deployment = Deployment::start(&[], &[]).await;
    deployment.json(&["tenant", "create", "other"]).await;
    deployment.json(&["tenant", "create", "limited"]).await;
    deployment.json(&["tenant", "limits", "limited", "--requests-per-minute", "30"]).await;
    let keys = [
        ("RIACHO_KEY", deployment.up.api_key().unwrap()),
        ("RIACHO_READER", key(&deployment, "default", "search,documents:read").await),
        ("RIACHO_OTHER", key(&deployment, "other", "admin").await),
        ("RIACHO_LIMITED", key(&deployment, "limited", "admin").await),
        ("RIACHO_FULL", full(&deployment).await),
    ];
    let root = workspace();
    let mut command = Command::new(root.join(".riacho/venv/bin/python"));
    command
        .args(["-m", "unittest", "discover", "-v", "-s"])
        .arg(root.join("services/riacho/tests/openai"))
        .env("RIACHO_URL", deployment.up.url(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What the SDK would take from a developer's environment.
        .env_remove("OPENAI_BASE_URL")
        .env_remove("OPENAI_ORG_ID")
        .env_remove("OPENAI_PROJECT_ID")
        .envs(keys);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let printed = format!("{}{}", text_of(&output), errors_of(&output));
    assert!(output.status.success(), "{printed}\n{}", deployment.up.log());
    // A program that finds no tests, or leaves some out, ends well too.
    let written = std::fs::read_dir(root.join("services/riacho/tests/openai")).unwrap();
    let written: usize = written
        .map(|file| {
            std::fs::read_to_string(file.unwrap().path()).unwrap_or_default().matches("def test_").count()
        })
        .sum();
    assert!(written > 30 && printed.contains(&format!("Ran {written} tests")), "{written}: {printed}");
    assert!(!printed.contains("skipped"), "{printed}");
}

/// The example of docs/openai.md is run as it stands, but for where the deployment is.
#[tokio::test]
async fn the_example_of_the_documentation_works() {
    let deployment = Deployment::start(&[], &[]).await;
    let page = std::fs::read_to_string(workspace().join("docs/openai.md")).unwrap();
    let example = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let key_file = deployment.data_dir().join("api-key");
    let example = example
        .replace("http://127.0.0.1:8000", &deployment.up.url(""))
        .replace(".riacho/data/api-key", key_file.to_str().unwrap());
    let mut command = Command::new(workspace().join(".riacho/venv/bin/python"));
    command.args(["-c", &example]).current_dir(workspace());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}\n{}", errors_of(&output), deployment.up.log());
    assert!(text_of(&output).contains("station-handbook.pdf"), "{}", text_of(&output));
}
