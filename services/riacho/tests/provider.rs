//! Embeddings by a provider that refuses and fails now and then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use riacho_testkit::openai::{Answer, OpenAi};
use serde_json::json;
use support::Deployment;

#[tokio::test]
async fn a_providers_429_and_500_cost_time_and_no_document() {
    let provider = OpenAi::start(64).await.unwrap();
    let base_url = format!("models.base_url={}", provider.base_url());
    let settings = ["--set", "models.provider=openai", "--set", &base_url, "--set", "models.dimensions=64"];
    let deployment = Deployment::start(&settings, &[("OPENAI_API_KEY", provider.api_key())]).await;
    let seen = provider.requests();
    provider.script([Answer::RateLimited { retry_after_seconds: 1 }, Answer::Status(500)]);
    let accepted =
        deployment.upload("crane.md", "# Cranes\n\nThe crane at quay four lifts sixty tonnes.\n").await;
    let status = deployment.ready(&accepted).await;
    assert_eq!(status["error"], json!(null));
    assert!(provider.requests() >= seen + 3, "429, 500, and one that worked: {}", provider.requests() - seen);
    let hits = deployment.search(json!({ "query": "how much does the crane lift", "mode": "vector" })).await;
    assert_eq!(hits[0]["document_id"], accepted["id"]);
}
