//! What embeddings cost is counted by tenant, and a budget that is used up lets documents wait.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use riacho_testkit::{eventually, openai::OpenAi};
use serde_json::{Value, json};
use support::Deployment;

const MODEL: &str = "openai/text-embedding-3-small@64";

/// What the model counts for the texts of documents and queries: a token for each word.
fn tokens(provider: &OpenAi) -> u64 {
    let texts = provider.texts();
    let ours = texts.iter().filter(|text| text.to_lowercase().contains("heron"));
    ours.map(|text| text.split_whitespace().count() as u64).sum()
}

/// The usage once all that was embedded is counted.
async fn usage(deployment: &Deployment, provider: &OpenAi) -> Value {
    eventually(|| async {
        let usage = deployment.get("/api/v1/usage").await;
        if usage["embedding"]["total"]["tokens"] == tokens(provider) { Ok(usage) } else { Err(usage) }
    })
    .await
}

async fn waits(deployment: &Deployment, accepted: &Value) -> Value {
    let path = format!("/api/v1/documents/{}/status", accepted["id"].as_str().unwrap());
    deployment.get(&path).await["waits"].clone()
}

#[tokio::test]
async fn over_its_budget_a_tenants_documents_wait_with_that_reason_until_it_is_raised() {
    let provider = OpenAi::start(64).await.unwrap();
    let base_url = format!("models.base_url={}", provider.base_url());
    let settings = [
        "--set",
        "models.provider=openai",
        "--set",
        &base_url,
        "--set",
        "models.dimensions=64",
        "--set",
        "models.prices.text-embedding-3-small=20000",
    ];
    let deployment = Deployment::start(&settings, &[("OPENAI_API_KEY", provider.api_key())]).await;
    let first = deployment.upload("first.md", "The heron of the first text waits for nobody.").await;
    deployment.ready(&first).await;
    let usage_before = usage(&deployment, &provider).await;
    let embedding = &usage_before["embedding"];
    let counted = tokens(&provider);
    assert!(counted > 5 && embedding["over_budget"] == json!([]), "{embedding}");
    let models = (&embedding["models"][0]["model"], &embedding["models"][0]["purpose"]);
    assert_eq!(models, (&json!(MODEL), &json!("documents")));
    // A million tokens cost 20,000, so one costs 0.02.
    let money = embedding["total"]["money"].as_f64().unwrap();
    assert!((money - counted as f64 * 0.02).abs() < 1e-6, "{embedding}");
    assert_eq!((&embedding["total"]["texts"], &embedding["total"]["requests"]), (&json!(1), &json!(1)));

    // Queries count too.
    deployment.search(json!({ "query": "which heron waits", "mode": "vector" })).await;
    assert_eq!(usage(&deployment, &provider).await["embedding"]["total"]["tokens"], counted + 3);

    let limits = ["tenant", "limits", "default", "--embedding-tokens-per-month"];
    let shown = deployment.json(&[&limits[..], &["5"]].concat()).await;
    assert_eq!(
        (&shown[0]["over_budget"], &shown[0]["spent"]["tokens"]),
        (&json!(["tokens"]), &json!(counted + 3))
    );
    eventually(|| async {
        let usage = deployment.get("/api/v1/usage").await;
        let embedding = &usage["embedding"];
        if embedding["over_budget"] == json!(["tokens"]) { Ok(()) } else { Err(usage) }
    })
    .await;
    // The janitor tells the gateway a moment later; what comes until then is on its way.
    let mut number = 0;
    let held = loop {
        number += 1;
        let text = format!("Heron {number} comes when the budget is used up.");
        let accepted = deployment.upload(&format!("{number}.md"), text).await;
        if accepted["state"] == "waiting" {
            break accepted;
        }
        assert!(number < 1_000, "nothing waits: {accepted}");
    };
    let why = eventually(|| async {
        let why = waits(&deployment, &held).await;
        if why["reason"] == "budget" { Ok(why) } else { Err(why) }
    })
    .await;
    assert!(why["detail"].as_str().unwrap().contains("embedding budget of this month"), "{why}");

    deployment.json(&[&limits[..], &["1000000"]].concat()).await;
    deployment.ready(&held).await;
    usage(&deployment, &provider).await;
    let spend = deployment.json(&["tenant", "spend", "default"]).await;
    let of = |purpose: &str| {
        let one = spend.iter().find(|one| one["purpose"] == purpose).unwrap_or_else(|| panic!("{spend:?}"));
        assert_eq!((&one["model"], &one["tenant"]), (&json!(MODEL), &json!("default")));
        one["tokens"].as_u64().unwrap()
    };
    assert_eq!((of("queries"), of("documents")), (3, tokens(&provider) - 3));
}
