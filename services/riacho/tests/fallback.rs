//! Over its budget a tenant's documents wait, or go on with the fallback space of a local model, as the tenant chose. What
//! went on is found by meaning together with the rest, and is embedded by the provider when the budget allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use reqwest::Client;
use riacho_testkit::{
    collector::{CollectedSpan, Collector},
    eventually,
    openai::OpenAi,
    process,
};
use serde_json::{Value, json};
use support::{Deployment, errors_of};

/// A tenant with a key of its own, in a deployment of several.
struct Tenant<'d> {
    deployment: &'d Deployment,
    id: &'static str,
    client: Client,
}

impl<'d> Tenant<'d> {
    async fn create(deployment: &'d Deployment, id: &'static str) -> Self {
        deployment.json(&["tenant", "create", id]).await;
        let key = deployment.json(&["key", "create", "--tenant", id]).await;
        let client = process::client(key[0]["secret"].as_str().unwrap()).unwrap();
        Self { deployment, id, client }
    }

    async fn limits(&self, args: &[&str]) -> Value {
        let all = [&["tenant", "limits", self.id], args].concat();
        self.deployment.json(&all).await.remove(0)
    }

    async fn upload(&self, name: &str, text: &str) -> Value {
        let url = self.deployment.up.url(&format!("/api/v1/documents?filename={name}"));
        let sent = self.client.post(url).header("content-type", "text/markdown").body(text.to_owned()).send();
        sent.await.unwrap().json().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let sent = self.client.get(self.deployment.up.url(path)).send();
        sent.await.unwrap().json().await.unwrap()
    }

    async fn status(&self, accepted: &Value) -> Value {
        let id = accepted["id"].as_str().unwrap_or_else(|| panic!("{accepted}"));
        self.get(&format!("/api/v1/documents/{id}/status")).await
    }

    async fn ready(&self, accepted: &Value) -> Value {
        eventually(|| async {
            let status = self.status(accepted).await;
            let is_ready = status["state"] == "ready";
            if is_ready { Ok(status) } else { Err(format!("{status}\n{}", self.deployment.up.log())) }
        })
        .await
    }

    /// The files of the documents that a search by meaning finds, the best first.
    async fn found(&self, query: &str) -> Vec<String> {
        let body = json!({ "query": query, "mode": "vector" });
        let sent = self.client.post(self.deployment.up.url("/api/v1/search")).json(&body).send();
        let answer: Value = sent.await.unwrap().json().await.unwrap();
        let hits = answer["hits"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!((&answer["mode"], &answer["warnings"]), (&json!("vector"), &json!([])));
        hits.iter().map(|hit| hit["filename"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the janitor has said which of the month's budgets are used up.
    async fn budgets(&self, over: Value) {
        eventually(|| async {
            let usage = self.get("/api/v1/usage").await;
            if usage["embedding"]["over_budget"] == over { Ok(()) } else { Err(usage) }
        })
        .await;
    }
}

/// A deployment whose live space is of the provider, with a local model beside it.
async fn deployment(provider: &OpenAi, collector: &Collector) -> Deployment {
    let mut settings = vec!["models.provider=openai".to_owned(), "models.dimensions=64".to_owned()];
    settings.push(format!("models.base_url={}", provider.base_url()));
    settings.push("models.spaces.own.provider=local".to_owned());
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let endpoint = collector.endpoint();
    let env = [("OPENAI_API_KEY", provider.api_key()), ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)];
    Deployment::start(&args, &env).await
}

/// Runs a command that reads the models of the configuration.
async fn told(deployment: &Deployment, provider: &OpenAi, args: &[&str]) -> std::process::Output {
    let base_url = format!("models.base_url={}", provider.base_url());
    let key = format!("models.api_key={}", provider.api_key());
    let settings = [
        "models.provider=openai",
        "models.dimensions=64",
        &base_url,
        &key,
        "models.spaces.own.provider=local",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    deployment.riacho(&[args, &settings].concat()).await
}

async fn space(deployment: &Deployment, provider: &OpenAi, args: &[&str]) -> std::process::Output {
    told(deployment, provider, &[&["space"], args].concat()).await
}

async fn must(deployment: &Deployment, provider: &OpenAi, args: &[&str]) {
    let output = space(deployment, provider, args).await;
    assert!(output.status.success(), "{args:?}: {}", errors_of(&output));
}

fn asked_for(provider: &OpenAi, word: &str) -> usize {
    provider.texts().iter().filter(|text| text.contains(word)).count()
}

/// Waits for the spans of a search that turned out to need the query in the fallback space too: a look that says so, and no
/// failure, and in the same trace the next.
async fn looked_twice(collector: &Collector, tenant: &str) {
    eventually(|| async {
        let spans = collector.spans().unwrap();
        let of_tenant = |name: &str| {
            let is_of = |span: &&CollectedSpan| span.name == name && span.get("riacho.tenant") == tenant;
            spans.iter().filter(is_of).collect::<Vec<_>>()
        };
        let looks = of_tenant("postgres search");
        let Some(first) = looks.iter().find(|span| span.get("riacho.outcome") == "needs_fallback") else {
            return Err(format!("{looks:#?}"));
        };
        let is_next = |span: &&CollectedSpan| span.parent == first.parent && span.get("riacho.count") == "2";
        let texts = of_tenant("embeddings").into_iter().filter(|span| span.parent == first.parent).count();
        match (looks.iter().copied().find(is_next), texts) {
            (Some(next), 2) => {
                assert_eq!((next.get("riacho.outcome"), &first.error), ("vector", &None));
                Ok(())
            }
            _ => Err(format!("{looks:#?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn over_its_budget_a_tenant_goes_on_with_the_local_model_and_finds_all_its_documents() {
    let provider = OpenAi::start(64).await.unwrap();
    provider.mean_words();
    let collector = Collector::start().await.unwrap();
    let deployment = deployment(&provider, &collector).await;
    let (goes_on, waits) =
        (Tenant::create(&deployment, "goes-on").await, Tenant::create(&deployment, "waits").await);
    let refused = deployment.riacho(&["tenant", "limits", "goes-on", "--over-budget", "local"]).await;
    assert!(!refused.status.success(), "there is no fallback yet");
    assert!(errors_of(&refused).contains("no fallback embedding space"), "{}", errors_of(&refused));
    must(&deployment, &provider, &["create", "--model", "own"]).await;
    let refused = space(&deployment, &provider, &["fallback", "1"]).await;
    assert!(errors_of(&refused).contains("no configured local model"), "{}", errors_of(&refused));
    must(&deployment, &provider, &["fallback", "2"]).await;
    let refused = space(&deployment, &provider, &["drop", "2", "--yes"]).await;
    assert!(errors_of(&refused).contains("is the fallback"), "{}", errors_of(&refused));

    let old = goes_on.upload("glacier.md", "The glacier melts slowly above the valley.").await;
    goes_on.ready(&old).await;
    waits.ready(&waits.upload("lighthouse.md", "The lighthouse blinks at night.").await).await;
    // What a search of one space finds: the provider's vector of the same words.
    assert_eq!(goes_on.found("glacier valley").await, ["glacier.md"]);
    let shown = goes_on.limits(&["--over-budget", "local", "--embedding-tokens-per-month", "5"]).await;
    assert_eq!(shown["limits"]["over_budget"], "local");
    waits.limits(&["--embedding-tokens-per-month", "5"]).await;
    goes_on.budgets(json!(["tokens"])).await;
    waits.budgets(json!(["tokens"])).await;
    assert_eq!(goes_on.get("/api/v1/usage").await["limits"]["over_budget"], "local");

    // From here on no document is sent to the provider.
    let new = goes_on.upload("orchestra.md", "The quokka orchestra rehearses a symphony.").await;
    let status = goes_on.ready(&new).await;
    let sentence = status["fallback"].as_str().unwrap_or_else(|| panic!("{status}"));
    assert!(sentence.contains("the fallback, since the embedding budget"), "{sentence}");
    assert_eq!(asked_for(&provider, "orchestra"), 0, "{:?}", provider.texts());
    let mut number = 0;
    let held = loop {
        number += 1;
        let accepted =
            waits.upload(&format!("{number}.md"), &format!("Harbour {number} waits for the tide.")).await;
        if accepted["state"] == "waiting" {
            break accepted;
        }
        assert!(number < 1_000, "nothing waits: {accepted}");
    };
    let why = eventually(|| async {
        let status = waits.status(&held).await;
        if status["waits"]["reason"] == "budget" { Ok(status["waits"].clone()) } else { Err(status) }
    })
    .await;
    assert!(!why["detail"].as_str().unwrap().contains("riacho space fallback"), "{why}");

    // Each is found by meaning, as the first of both.
    assert_eq!(goes_on.found("a quokka symphony").await, ["orchestra.md", "glacier.md"]);
    assert_eq!(goes_on.found("glacier valley").await, ["glacier.md", "orchestra.md"]);
    assert_eq!(waits.found("lighthouse at night").await[0], "lighthouse.md");
    looked_twice(&collector, "goes-on").await;
    // The live space lacks the document, and who fills spaces passes over it.
    let output = told(&deployment, &provider, &["janitor", "run", "fill", "--json"]).await;
    assert!(output.status.success(), "{}", errors_of(&output));
    let listed = goes_on.get("/api/v1/spaces").await;
    assert_eq!(listed["spaces"][0]["missing_documents"], 1, "{listed}");
    assert_eq!(asked_for(&provider, "orchestra"), 0, "{:?}", provider.texts());
    assert_eq!(waits.status(&held).await["state"], "waiting");
    let spent = deployment.json(&["tenant", "spend", "goes-on"]).await;
    let local = spent.iter().find(|one| one["purpose"] == "fallback").unwrap_or_else(|| panic!("{spent:?}"));
    assert!(
        local["model"] != "openai/text-embedding-3-small@64" && local["texts"].as_u64() >= Some(1),
        "{local}"
    );

    goes_on.limits(&["--embedding-tokens-per-month", "1000000"]).await;
    waits.limits(&["--embedding-tokens-per-month", "default"]).await;
    let filled = eventually(|| async {
        let status = goes_on.status(&new).await;
        if status["fallback"].is_null() { Ok(status) } else { Err(status) }
    });
    assert_eq!(filled.await["state"], "ready");
    assert_eq!(asked_for(&provider, "orchestra"), 1, "once: {:?}", provider.texts());
    waits.ready(&held).await;
    let listed = goes_on.get("/api/v1/spaces").await;
    assert_eq!(
        (&listed["spaces"][0]["missing_documents"], &listed["spaces"][1]["state"]),
        (&json!(0), &json!("fallback"))
    );
    assert_eq!(goes_on.found("a quokka symphony").await, ["orchestra.md", "glacier.md"]);
    assert_eq!(goes_on.found("glacier valley").await[0], "glacier.md");
    must(&deployment, &provider, &["fallback", "none"]).await;
    must(&deployment, &provider, &["drop", "2", "--yes"]).await;
    assert_eq!(goes_on.found("a quokka symphony").await[0], "orchestra.md");
}
