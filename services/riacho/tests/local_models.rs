//! A sentence transformer in the process instead of the static model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use riacho_testkit::process::Up;
use serde_json::json;
use support::{Deployment, RIACHO, errors_of, riacho};

const NAMED: [&str; 2] = ["--set", "models.model=all-minilm-l6-v2"];

#[tokio::test]
async fn a_sentence_transformer_is_used_when_it_is_named_and_found_again_after_a_restart() {
    let mut deployment = Deployment::start(&NAMED, &[]).await;
    let mut accepted = Vec::new();
    for (name, text) in [
        ("ferry.md", "# Ferry\n\nThe boat leaves the landing stage at six in the morning.\n"),
        ("crane.md", "# Crane\n\nQuay four lifts sixty tonnes from a hull.\n"),
        ("bees.md", "# Bees\n\nThe hives stand behind the mill and give honey in July.\n"),
    ] {
        accepted.push(deployment.upload(name, text).await);
    }
    for document in &accepted {
        deployment.ready(document).await;
    }
    // No word of the queries is in the document that answers.
    let questions = [("when does a ship depart at dawn", 0), ("insects that make something sweet", 2)];
    for (query, expected) in questions {
        let hits = deployment.search(json!({ "query": query, "mode": "vector" })).await;
        assert_eq!(hits[0]["document_id"], accepted[expected]["id"], "{query}: {hits:?}");
    }
    let before = deployment.search(json!({ "query": questions[0].0, "mode": "vector" })).await;
    deployment.up.stop().await.unwrap();
    let dir = deployment.dir.path().join("data");
    deployment.up = Up::start_with(RIACHO, &dir, &NAMED, &[]).await.unwrap();
    assert_eq!(deployment.search(json!({ "query": questions[0].0, "mode": "vector" })).await, before);
}

#[tokio::test]
async fn a_local_model_that_is_not_there_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let args = ["up", "--data-dir", data, "--listen", "127.0.0.1:0", "--set", "models.model=all-minilm-l7"];
    let output = riacho(&args).await;
    let said = errors_of(&output);
    assert!(!output.status.success() && said.contains("no model `all-minilm-l7`"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}
