//! A dead letter from the command line: seen, replayed once its cause is gone, discarded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use riacho_testkit::{eventually, openai::OpenAi};
use serde_json::{Value, json};
use support::{Deployment, errors_of, riacho, text_of};
use tokio::sync::{Mutex, MutexGuard};

/// A deployment whose embeddings come from a provider that can be told to refuse a text. One at a time:
/// each is everything, and a small machine has enough to do with one.
async fn with_provider() -> (MutexGuard<'static, ()>, OpenAi, Deployment) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let turn = ONE_AT_A_TIME.lock().await;
    let provider = OpenAi::start(64).await.unwrap();
    let base_url = format!("models.base_url={}", provider.base_url());
    let settings = ["--set", "models.provider=openai", "--set", &base_url, "--set", "models.dimensions=64"];
    let deployment = Deployment::start(&settings, &[("OPENAI_API_KEY", provider.api_key())]).await;
    (turn, provider, deployment)
}

impl Deployment {
    /// Uploads a text that the provider refuses, and waits until its letter is there.
    async fn poison(&self, name: &str, text: &str) -> (Value, Value) {
        let accepted = self.upload_with(name, text, &[("external_id", name)]).await;
        let id = accepted["id"].as_str().unwrap();
        assert_eq!(self.ended(id).await["error"]["code"], "provider_refused");
        let letters = self.json(&["dead-letters", "list", "--document", id]).await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        (accepted, letters[0].clone())
    }

    async fn unresolved(&self) -> usize {
        self.json(&["dead-letters", "list"]).await.len()
    }
}

#[tokio::test]
async fn a_poison_is_listed_shown_and_replayed_once_its_cause_is_gone() {
    let (_turn, provider, deployment) = with_provider().await;
    provider.refuse_texts_with("hemlock");
    let (accepted, letter) =
        deployment.poison("plants.md", "# Plants\n\nThe hemlock by the weir is poisonous.\n").await;
    let (document, id) = (accepted["id"].as_str().unwrap(), letter["id"].as_str().unwrap());
    assert_eq!((&letter["stage"], &letter["reason_code"]), (&json!("embed"), &json!("provider_refused")));

    let table = text_of(&deployment.riacho(&["dead-letters", "list", "--stage", "embed"]).await);
    assert!(table.contains(id) && table.contains(document) && table.contains("provider_refused"), "{table}");
    let shown = deployment.json(&["dead-letters", "show", id]).await.remove(0);
    assert_eq!((&shown["envelope"]["document"], &shown["tenant"]), (&json!(document), &json!("default")));
    assert!(shown["original_base64"].as_str().unwrap().len() > 50, "{shown}");
    let text = text_of(&deployment.riacho(&["dead-letters", "show", id]).await);
    assert!(text.contains("envelope type") && text.contains("riacho.events.v1.ChunksCut"), "{text}");

    // While the cause is there, a replay ends as the first time did, with a letter of its own.
    let dry = deployment.json(&["dead-letters", "replay", "--all", "--dry-run"]).await;
    let summary = dry.last().unwrap();
    assert_eq!(
        (&summary["letters"], &summary["versions"], &summary["dry_run"]),
        (&json!(1), &json!(1), &json!(true))
    );
    assert_eq!(
        (deployment.ended(document).await["state"].as_str(), deployment.unresolved().await),
        (Some("failed"), 1)
    );
    deployment.json(&["dead-letters", "replay", "--id", id]).await;
    eventually(|| async { deployment.unresolved().await == 1 }).await;
    assert_eq!(deployment.json(&["dead-letters", "list", "--state", "replayed"]).await[0]["id"], id);

    provider.normal();
    let output = deployment
        .riacho(&["dead-letters", "replay", "--reason", "provider_refused", "--per-second", "5"])
        .await;
    assert!(
        text_of(&output).contains("replayed 1 letters of 1 versions"),
        "{}{}",
        text_of(&output),
        errors_of(&output)
    );
    eventually(|| async {
        deployment.get(&format!("/api/v1/documents/{document}/status")).await["state"] == "ready"
    })
    .await;
    let hits = deployment.search(json!({ "query": "hemlock weir", "mode": "keyword" })).await;
    assert_eq!(hits[0]["document_id"], document);
    assert_eq!(deployment.unresolved().await, 0);
}

#[tokio::test]
async fn a_letter_of_an_older_version_is_skipped_and_can_be_discarded() {
    let (_turn, provider, deployment) = with_provider().await;
    provider.refuse_texts_with("hemlock");
    let (first, letter) = deployment.poison("plants.md", "# Plants\n\nThe hemlock by the weir.\n").await;
    let second = deployment
        .upload_with("plants.md", "# Plants\n\nThe willow.\n", &[("external_id", "plants.md")])
        .await;
    assert_eq!((&second["id"], &second["version"]), (&first["id"], &json!(2)));
    deployment.ready(&second).await;
    let id = letter["id"].as_str().unwrap();

    let output = deployment.riacho(&["dead-letters", "replay", "--id", id]).await;
    assert_eq!(output.status.code(), Some(1), "what was named was not done");
    let text = text_of(&output);
    assert!(text.contains("skipped 1") && text.contains("superseded"), "{text}");
    assert_eq!(deployment.unresolved().await, 1);

    deployment.json(&["tenant", "create", "acme"]).await;
    for command in ["replay", "discard"] {
        let output =
            deployment.riacho(&["dead-letters", command, "--id", id, "--tenant", "acme", "--json"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(text_of(&output).contains("not_found"), "{}", text_of(&output));
    }
    let output = deployment.riacho(&["dead-letters", "show", id, "--tenant", "acme"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(errors_of(&output).trim(), format!("riacho: there is no dead letter {id}"));

    let done = deployment.json(&["dead-letters", "discard", "--all"]).await;
    assert_eq!(
        done[0],
        json!({ "command": "discard", "dry_run": false, "letters": 1, "skipped": {}, "versions": 0 })
    );
    assert_eq!(deployment.json(&["dead-letters", "list", "--state", "discarded"]).await[0]["id"], id);
    assert_eq!(deployment.ended(first["id"].as_str().unwrap()).await["state"], "ready");
}

#[tokio::test]
async fn nothing_is_replayed_or_discarded_without_a_selection() {
    for command in ["replay", "discard"] {
        for more in [&[][..], &["--dry-run"], &["--tenant", "default"]] {
            let output = riacho(&[&["dead-letters", command], more].concat()).await;
            let error = errors_of(&output);
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(error.lines().count() == 1 && error.contains("--all"), "{error}");
        }
        let output = riacho(&["dead-letters", command, "--all", "--stage", "embed"]).await;
        assert_eq!(output.status.code(), Some(2), "{}", errors_of(&output));
    }
}
