//! One trace over all five services, at a collector; and a document's story in their logs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Client, Response};
use riacho_testkit::{
    collector::{CollectedSpan, Collector},
    openai::{Answer, OpenAi},
    process::{self, Process, free_port},
    within,
};
use serde_json::{Value, json};
use support::{
    cluster::{Cluster, PATIENCE},
    story::{self, Line},
};

const SERVICES: [&str; 5] = ["ingest-gateway", "extractor", "embedder", "indexer", "janitor"];
/// Stands in a header of the exporter, and nowhere else.
const TOKEN: &str = "token-of-the-collector";

/// The five services, a process each, with all that they talk to.
struct Five {
    cluster: Cluster,
    provider: OpenAi,
    url: String,
    key: String,
    client: Client,
    processes: Vec<Process>,
}

impl Five {
    async fn start(settings: &[(&str, &str)]) -> Five {
        let provider = OpenAi::start(64).await.unwrap();
        let mut cluster = Cluster::new();
        cluster.set("OPENAI_API_KEY", provider.api_key());
        for (name, value) in [
            ("MODELS__PROVIDER", "openai"),
            ("MODELS__MODEL", "text-embedding-3-small"),
            ("MODELS__DIMENSIONS", "64"),
            ("MODELS__BASE_URL", &provider.base_url()),
            ("HTTP__OUTBOUND_ALLOW", "[\"127.0.0.0/8\"]"),
            ("JANITOR__PURGE_GRACE_SECONDS", "0"),
            // When the test asks for it.
            ("JANITOR__SCHEDULES__PURGE", "0 0 1 1 *"),
        ] {
            cluster.set(&format!("RIACHO__{name}"), value);
        }
        for (name, value) in settings {
            cluster.set(name, value);
        }
        cluster.prepare();
        let key = cluster.json(&["key", "create", "--scopes", "admin,operator"])["secret"]
            .as_str()
            .unwrap()
            .to_owned();
        let client = process::client(&key).unwrap();
        let mut five = Five { cluster, provider, url: String::new(), key, client, processes: Vec::new() };
        five.begin().await;
        five
    }

    /// Starts the processes.
    async fn begin(&mut self) {
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        self.url = format!("http://{listen}");
        self.processes = vec![self.cluster.spawn(&["ingest-gateway", "--listen", &listen])];
        self.processes.extend(SERVICES[1..].iter().map(|service| self.cluster.spawn(&[service])));
        within(PATIENCE, || async {
            let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
            let ready = answer.map_err(|error| error.to_string())?.error_for_status();
            ready.map_err(|error| format!("{error}\n{}", self.log()))
        })
        .await;
    }

    /// Stops them; they must end well, and then all they had to say is said. What they said.
    async fn stop(&mut self) -> Vec<String> {
        for process in &mut self.processes {
            let status = process.stop().await.unwrap();
            assert!(status.success(), "{status}: {}", process.log());
        }
        self.processes.iter().map(Process::log).collect()
    }

    fn log(&self) -> String {
        self.processes.iter().map(Process::log).collect::<Vec<_>>().join("\n")
    }

    async fn post(&self, path: &str, parent: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(format!("{}{path}", self.url)).header("traceparent", parent);
        request.header("content-type", "text/markdown").body(body).send().await.unwrap()
    }

    /// Uploads a document below a span of the client's, and gives its id.
    async fn upload(&self, name: &str, parent: &str, body: impl Into<reqwest::Body>) -> String {
        let answer = self.post(&format!("/api/v1/documents?filename={name}"), parent, body).await;
        let answer: Value = answer.json().await.unwrap();
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}\n{}", self.log())).to_owned()
    }

    async fn is(&self, id: &str, state: &str) {
        within(PATIENCE, || async {
            let url = format!("{}/api/v1/documents/{id}/status", self.url);
            let status: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
            if status["state"] == state { Ok(()) } else { Err(format!("{status}\n{}", self.log())) }
        })
        .await;
    }

    /// Makes a webhook that is told of documents at a collector's address: whoever listens there will do.
    async fn webhook(&self, url: &str) {
        let body = json!({ "url": url, "events": ["document.ready", "document.failed", "document.deleted"] });
        let answer =
            self.client.post(format!("{}/api/v1/webhooks", self.url)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Removes what is left of what was deleted or has failed.
    async fn purge(&self) {
        let url = format!("{}/api/v1/janitor/tasks/purge/run", self.url);
        let answer = self.client.post(url).json(&json!({ "dry_run": false })).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// Waits until a line of the log says a step of a document.
    async fn says(&self, id: &str, step: &str) {
        within(PATIENCE, || async {
            let logs: Vec<String> = self.processes.iter().map(Process::log).collect();
            let story = story::of(&logs, id);
            if story.iter().any(|line| line.step == step) { Ok(()) } else { Err(format!("{story:#?}")) }
        })
        .await;
    }
}

/// A client's span: trace, span, and the header.
fn client_span(number: u8, sampled: bool) -> (String, String, String) {
    let (trace, span) = (format!("{number:02x}").repeat(16), format!("{number:02x}").repeat(8));
    let header = format!("00-{trace}-{span}-0{}", u8::from(sampled));
    (trace, span, header)
}

/// Waits until a trace has spans of these names and so many of each, and is a tree below the client's span: services
/// send what they have in their own time.
async fn trace_with(
    collector: &Collector,
    (trace, client): (&str, &str),
    names: &[(&str, usize)],
) -> Vec<CollectedSpan> {
    within(PATIENCE, || async {
        let spans = collector.trace(trace).unwrap();
        let missing = names.iter().find(|(name, count)| named(&spans, name).len() < *count);
        match missing.map(|(name, _)| (*name).to_owned()).or_else(|| loose_end(&spans, client)) {
            None => Ok(spans),
            Some(missing) => Err(format!("{missing}: {spans:#?}")),
        }
    })
    .await
}

/// What has no parent in the trace; none where it is a tree below the client's span.
fn loose_end(spans: &[CollectedSpan], client: &str) -> Option<String> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "each span once");
    assert!(spans.iter().all(|span| span.times.0 <= span.times.1), "{spans:#?}");
    let loose = spans.iter().find(|span| span.parent != client && !ids.contains(span.parent.as_str()));
    loose.map(|span| span.name.clone())
}

/// The names from the client's span down to a span.
fn way<'a>(spans: &'a [CollectedSpan], to: &'a CollectedSpan) -> Vec<(&'a str, &'a str, &'a str)> {
    let parent = spans.iter().find(|span| span.id == to.parent);
    let mut way = parent.map_or_else(Vec::new, |parent| way(spans, parent));
    way.push((&to.service, &to.kind, &to.name));
    way
}

fn named<'a>(spans: &'a [CollectedSpan], name: &str) -> Vec<&'a CollectedSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn one_trace_goes_from_the_client_through_all_five_services() {
    let collector = Collector::start().await.unwrap();
    let mut five = Five::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        ("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{TOKEN}")),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ])
    .await;
    five.webhook(&format!("{}/v1/traces", five.url)).await;
    let (trace, client, header) = client_span(0xa1, true);
    let text = "# Lock\n\nThe lock at the harbour opens at six.\n";
    let id = five.upload("lock.md", &header, text).await;
    five.is(&id, "ready").await;
    let ways = [
        "process index",
        "send extract",
        "postgres accept",
        "parse",
        "embeddings",
        "postgres index",
        "POST webhook",
    ];
    let spans = trace_with(&collector, (&trace, &client), &ways.map(|name| (name, 1))).await;
    let index = named(&spans, "process index");
    assert_eq!(
        way(&spans, index[0]),
        [
            ("ingest-gateway", "Server", "POST /api/v1/documents"),
            ("ingest-gateway", "Producer", "send extract"),
            ("extractor", "Consumer", "process extract"),
            ("extractor", "Producer", "send embed"),
            ("embedder", "Consumer", "process embed"),
            ("embedder", "Producer", "send index"),
            ("indexer", "Consumer", "process index"),
        ]
    );
    for (service, kind, name) in [
        ("ingest-gateway", "Client", "postgres accept"),
        ("extractor", "Internal", "parse"),
        ("embedder", "Client", "embeddings"),
        ("indexer", "Client", "postgres index"),
        ("janitor", "Client", "POST webhook"),
    ] {
        let found = named(&spans, name);
        assert!(!found.is_empty(), "{name}");
        assert!(found.iter().all(|span| span.service == service && span.kind == kind), "{found:#?}");
    }
    let server = named(&spans, "POST /api/v1/documents")[0];
    assert_eq!((server.get("http.response.status_code"), server.parent.as_str()), ("202", client.as_str()));
    assert_eq!(server.resource["deployment.environment.name"], "test");
    assert_eq!(server.resource["service.namespace"], "riacho");
    let process = named(&spans, "process embed")[0];
    for (key, value) in
        [("riacho.document", id.as_str()), ("riacho.tenant", "default"), ("riacho.stage", "embed")]
    {
        assert_eq!(process.get(key), value);
    }
    assert_eq!((process.get("riacho.attempt"), process.get("riacho.version")), ("1", "1"));
    assert_eq!(
        (process.get("messaging.system"), process.get("messaging.operation.type")),
        ("redis", "process")
    );
    assert!(!process.get("riacho.worker").is_empty() && !process.get("riacho.lane").is_empty());
    assert!(
        spans.iter().filter(|span| span.name != "POST webhook").all(|span| span.error.is_none()),
        "{spans:#?}"
    );

    // The same bytes again: that answer has its place in the trace of who asks.
    let (again, client, header) = client_span(0xa2, true);
    assert_eq!(five.upload("lock.md", &header, text).await, id);
    let spans = trace_with(&collector, (&again, &client), &[("postgres accept", 1)]).await;
    let accept = named(&spans, "postgres accept")[0];
    assert_eq!((accept.get("riacho.outcome"), accept.get("riacho.document")), ("duplicate", id.as_str()));

    // One that cannot be read.
    let (trace, client, header) = client_span(0xa3, true);
    let broken = five.upload("broken.pdf", &header, &b"%PDF-1.7\nno pages at all"[..]).await;
    five.is(&broken, "failed").await;
    let spans = trace_with(&collector, (&trace, &client), &[("process extract", 1)]).await;
    let process = named(&spans, "process extract")[0];
    let reason = process.error.clone().unwrap();
    assert_eq!((process.get("error.type"), process.get("riacho.outcome")), (reason.as_str(), "ended"));

    // One that needs a second run, below the same parent.
    let (trace, client, header) = client_span(0xa4, true);
    five.provider.script([Answer::Status(500)]);
    let retried = five.upload("quay.md", &header, "# Quay\n\nThe quay is long.\n").await;
    five.is(&retried, "ready").await;
    let spans =
        trace_with(&collector, (&trace, &client), &[("process embed", 2), ("process index", 1)]).await;
    let runs = named(&spans, "process embed");
    assert_eq!(runs.len(), 2, "{spans:#?}");
    assert_eq!(runs[0].parent, runs[1].parent);
    assert_eq!((runs[0].error.as_deref(), runs[1].error.as_deref()), (Some("transient"), None));

    // One that becomes a dead letter, which the janitor writes down.
    let (trace, client, header) = client_span(0xa5, true);
    five.provider.refuse_texts_with("hemlock");
    let dead = five.upload("hemlock.md", &header, "# Plants\n\nThe hemlock is poisonous.\n").await;
    five.is(&dead, "failed").await;
    let spans = trace_with(&collector, (&trace, &client), &[("process dead letter", 1)]).await;
    let letter = named(&spans, "process dead letter")[0];
    let way = way(&spans, letter);
    assert_eq!(
        way[way.len() - 3..],
        [
            ("embedder", "Consumer", "process embed"),
            ("embedder", "Producer", "send dead letter"),
            ("janitor", "Consumer", "process dead letter"),
        ]
    );
    assert_eq!(named(&spans, "process embed")[0].error.as_deref(), Some("provider_refused"));

    // What its client does not want to be recorded is not, by anybody; and the purge of one that was is.
    let (unsampled, _, header) = client_span(0xa6, false);
    let quiet = five.upload("quiet.md", &header, "# Quiet\n\nNobody looks.\n").await;
    five.is(&quiet, "ready").await;
    let deleted =
        five.client.delete(format!("{}/api/v1/documents/{retried}", five.url)).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    five.purge().await;
    let (trace, client, _) = client_span(0xa4, true);
    trace_with(&collector, (&trace, &client), &[("purge", 1)]).await;
    five.says(&quiet, "webhook failed").await;
    let logs = five.stop().await;
    assert_eq!(collector.trace(&unsampled).unwrap(), []);
    assert!(logs.iter().any(|log| log.contains(&unsampled)), "its lines have the trace all the same");

    nothing_secret_is_in(&five, &collector, &logs);
}

/// Neither spans nor logs hold a key; the collector's own reached it in the head of each request, and nowhere else.
fn nothing_secret_is_in(five: &Five, collector: &Collector, logs: &[String]) {
    let requests = collector.requests();
    for (headers, body) in &requests {
        assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
        let text = String::from_utf8_lossy(body);
        for secret in [TOKEN, &five.key, five.provider.api_key(), "hemlock is poisonous", "opens at six"] {
            assert!(!text.contains(secret), "{secret} is in a span");
        }
    }
    assert!(!requests.is_empty());
    for secret in [TOKEN, &five.key, five.provider.api_key(), "hemlock is poisonous", "opens at six"] {
        assert!(!logs.iter().any(|log| log.contains(secret)), "{secret} is in a log");
    }
    for service in SERVICES {
        let own: Vec<_> =
            collector.spans().unwrap().into_iter().filter(|span| span.service == service).collect();
        // Whatever comes round by itself makes none: each has a client's trace, or a request of the test's.
        assert!(own.iter().all(|span| !span.parent.is_empty() || span.kind == "Server"), "{own:#?}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_or_hangs_costs_no_document_and_no_stop() {
    let collector = Collector::start().await.unwrap();
    collector.hangs();
    let mut five = Five::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        // Far longer than a stop may take.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"),
        ("RIACHO__TRACES__QUEUE", "4"),
    ])
    .await;
    let (_, _, header) = client_span(0xb1, true);
    let mut ids = Vec::new();
    for number in 0..8 {
        let text = format!("# Log {number}\n\nThe barge number {number} passed.\n");
        ids.push(five.upload(&format!("log-{number}.md"), &header, text).await);
    }
    for id in &ids {
        five.is(id, "ready").await;
    }
    let metrics =
        five.client.get(format!("{}/metrics", five.url)).send().await.unwrap().text().await.unwrap();
    assert!(count_of(&metrics, "queue_full") > 0.0, "{metrics}");
    let logs = five.stop().await;
    assert!(logs[0].contains("traces were not taken in time"), "{}", logs[0]);

    // Away: nothing listens there any more. One line says so, however many exports fail.
    drop(collector);
    five.cluster.set("OTEL_EXPORTER_OTLP_TIMEOUT", "1");
    five.begin().await;
    let id = five.upload("last.md", &header, "# Last\n\nThe last barge passed.\n").await;
    five.is(&id, "ready").await;
    within(PATIENCE, || async {
        let metrics = five.client.get(format!("{}/metrics", five.url)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        if count_of(&metrics, "failed") > 4.0 { Ok(()) } else { Err(metrics) }
    })
    .await;
    let logs = five.stop().await;
    assert_eq!(logs[0].matches("the collector takes no traces").count(), 1, "{}", logs[0]);
}

/// How many spans came to an outcome.
fn count_of(metrics: &str, outcome: &str) -> f64 {
    let series = format!("riacho_trace_spans_total{{outcome=\"{outcome}\"}}");
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok()).unwrap_or(0.0)
}

/// What is said of each step: which service says it, and with which fields.
type Said = BTreeMap<String, (String, BTreeSet<String>)>;

fn said(story: &[Line]) -> Said {
    story
        .iter()
        .map(|line| {
            // A webhook's last attempt may fall into the stop of the one that it goes to, which then answers no status.
            let is_same = |name: &&String| !(line.step.starts_with("webhook") && *name == "status");
            (line.step.clone(), (line.service.clone(), line.fields.keys().filter(is_same).cloned().collect()))
        })
        .collect()
}

/// Runs documents of each fate and gives the stories of them, whose steps are checked.
async fn stories(format: &str) -> Vec<Vec<Line>> {
    let mut five = Five::start(&[("RIACHO__LOG__FORMAT", format)]).await;
    five.webhook(&format!("{}/nowhere", five.url)).await;
    let (_, _, header) = client_span(0xc1, true);
    let good = five.upload("lock.md", &header, "# Lock\n\nThe lock opens at six.\n").await;
    five.is(&good, "ready").await;
    five.says(&good, "webhook failed").await;
    five.upload("lock.md", &header, "# Lock\n\nThe lock opens at six.\n").await;
    five.provider.script([Answer::Status(500)]);
    let retried = five.upload("quay.md", &header, "# Quay\n\nThe quay is long.\n").await;
    five.is(&retried, "ready").await;
    let broken = five.upload("broken.pdf", &header, &b"%PDF-1.7\nno pages at all"[..]).await;
    five.is(&broken, "failed").await;
    five.provider.refuse_texts_with("hemlock");
    let dead = five.upload("hemlock.md", &header, "# Plants\n\nThe hemlock is poisonous.\n").await;
    five.is(&dead, "failed").await;
    five.provider.normal();
    let replay = json!({ "filter": {} });
    let url = format!("{}/api/v1/queue/dead-letters/replay", five.url);
    let answer = five.client.post(url).json(&replay).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    five.is(&dead, "ready").await;
    let url = format!("{}/api/v1/documents/{retried}", five.url);
    assert_eq!(five.client.delete(url).send().await.unwrap().status(), 204);
    five.purge().await;
    five.says(&retried, "purged").await;
    let logs = five.stop().await;
    let way = ["accepted", "released", "extracted", "embedded", "indexed", "ready"];
    let expected: [(&str, Vec<&str>); 4] = [
        (&good, [&way[..], &["deduplicated"]].concat()),
        (
            &retried,
            vec![
                "accepted",
                "released",
                "extracted",
                "retried",
                "embedded",
                "indexed",
                "ready",
                "deleted",
                "purged",
            ],
        ),
        (&broken, vec!["accepted", "released", "failed", "purged"]),
        (&dead, [&way[..3], &["dead letter", "failed", "redelivered", "released"], &way[2..]].concat()),
    ];
    expected
        .into_iter()
        .map(|(id, steps)| {
            let story = story::of(&logs, id);
            // When a webhook is told has to do with the webhook.
            let seen: Vec<&str> = story
                .iter()
                .map(|line| line.step.as_str())
                .filter(|step| !step.starts_with("webhook"))
                .collect();
            assert_eq!(seen, steps, "{story:#?}");
            assert!(story.iter().all(|line| line.fields["document"] == id), "{story:#?}");
            story
        })
        .collect()
}

#[tokio::test]
async fn a_documents_story_is_one_grep_and_json_and_text_say_the_same() {
    let of_json = stories("json").await;
    let of_text = stories("text").await;
    let known: BTreeSet<&str> = riacho_service::telemetry::FIELDS
        .iter()
        .map(|(name, _)| *name)
        .chain(riacho_service::telemetry::OF_EVERY_LINE)
        .collect();
    for (json, text) in of_json.iter().zip(&of_text) {
        assert_eq!(said(json), said(text));
        for line in json {
            assert!(line.fields.keys().all(|name| known.contains(name.as_str())), "{line:#?}");
            for name in ["tenant", "service", "level", "timestamp", "message", "target"] {
                assert!(!line.fields[name].is_empty(), "{name} of {line:#?}");
            }
        }
    }
    let services: BTreeSet<&str> = of_json.iter().flatten().map(|line| line.service.as_str()).collect();
    assert_eq!(services, SERVICES.into_iter().collect());
    let failed = of_json[2].iter().find(|line| line.step == "failed").unwrap();
    assert!(!failed.fields["reason"].is_empty());
}
