//! Embeddings by a provider that refuses and fails now and then, and by one that is at its limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::time::Duration;

use riacho_testkit::{
    openai::{Answer, Asked, OpenAi, RateLimit},
    within,
};
use serde_json::json;
use support::{Deployment, cluster::Cluster};

/// What many accounts begin with.
const LIMIT: RateLimit = RateLimit { requests: 60, tokens: 100_000, window: Duration::from_secs(60) };

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

/// Paragraphs of words that no other document has.
fn long_text(document: u32) -> String {
    let sentence = |number: u32| {
        let words = (0..60).map(|word| format!("river{document} gauge{number} mark{word}"));
        words.collect::<Vec<_>>().join(" ") + ".\n\n"
    };
    format!("# Report {document}\n\n") + &(0..14).map(sentence).collect::<String>()
}

/// Requests and tokens that were taken.
fn taken(asked: &[Asked]) -> (usize, usize) {
    let taken = asked.iter().filter(|request| !request.is_refused);
    taken.fold((0, 0), |(requests, tokens), request| (requests + 1, tokens + request.tokens))
}

#[tokio::test]
#[ignore = "takes five minutes"]
async fn eight_processes_use_the_limit_of_a_minute_that_they_share() {
    let minutes: u32 = std::env::var("MINUTES").map_or(4, |minutes| minutes.parse().unwrap());
    let provider = OpenAi::start(64).await.unwrap();
    provider.limit(LIMIT);
    let mut cluster = Cluster::new();
    cluster.set("OPENAI_API_KEY", provider.api_key());
    for (name, value) in [
        ("PROVIDER", "openai"),
        ("MODEL", "text-embedding-3-small"),
        ("DIMENSIONS", "64"),
        ("BASE_URL", &provider.base_url()),
        ("REQUESTS_PER_MINUTE", "60"),
        ("TOKENS_PER_MINUTE", "100000"),
    ] {
        cluster.set(&format!("RIACHO__MODELS__{name}"), value);
    }
    let key = cluster.prepare();
    let mut services = cluster.start_with(&key, "extractor,indexer,janitor");
    let mut embedders: Vec<_> = (0..8).map(|_| cluster.spawn(&["embedder"])).collect();
    services.are_ready().await;
    // As many words as may go out in that time and two minutes more, so that there is always something to do.
    let wanted = (minutes + 1) as usize * LIMIT.tokens as usize;
    let documents = (wanted + LIMIT.tokens as usize) / 2_500 + 1;
    for document in 0..u32::try_from(documents).unwrap() {
        services.upload_text(&format!("report{document}"), long_text(document)).await;
    }
    within(Duration::from_secs(60 * u64::from(minutes * 2 + 4)), || async {
        let (_, tokens) = taken(&provider.asked());
        if tokens >= wanted { Ok(()) } else { Err(format!("{tokens} of {wanted} tokens")) }
    })
    .await;
    let asked = provider.asked();
    within(Duration::from_secs(600), || async {
        let number = cluster.database.run("SELECT count(*) FROM document_versions WHERE state = 'ready'");
        let ready = number[0][0].clone().unwrap();
        if ready == documents.to_string() { Ok(()) } else { Err(format!("{ready} of {documents} are ready")) }
    })
    .await;
    cluster.check(&services);

    // The first minute begins with what the buckets hold.
    let start = asked[0].at + LIMIT.window;
    let end = asked.last().unwrap().at;
    let measured: Vec<Asked> =
        asked.iter().filter(|request| request.at >= start && request.at < end).copied().collect();
    let windows = (end - start).as_secs_f64() / LIMIT.window.as_secs_f64();
    let (requests, tokens) = taken(&measured);
    let share = |used: usize, of: u32| used as f64 / (f64::from(of) * windows);
    let (of_requests, of_tokens) = (share(requests, LIMIT.requests), share(tokens, LIMIT.tokens));
    let refused = asked.iter().filter(|request| request.is_refused).count();
    println!(
        "{windows:.2} minutes: {requests} requests ({:.1}%), {tokens} tokens ({:.1}%), {refused} refused",
        of_requests * 100.0,
        of_tokens * 100.0
    );
    assert!(
        of_requests.max(of_tokens) >= 0.9,
        "{of_requests:.3} of the requests, {of_tokens:.3} of the tokens"
    );
    for embedder in &mut embedders {
        assert!(embedder.stop().await.unwrap().success(), "{}", embedder.log());
        // Turns that are far away put events off, which is no attempt.
        assert!(!embedder.log().contains("counts=true"), "{}", embedder.log());
    }
    services.stop().await;
}
