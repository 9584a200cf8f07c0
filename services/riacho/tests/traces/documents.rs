//! A document's trace, from its upload to its end.

use riacho_testkit::{collector::Collector, openai::Answer};

use crate::{
    SERVICES,
    five::{Five, client_span},
    tree::{named, trace_with, way},
};

/// Stands in a header of the exporter, and nowhere else.
const TOKEN: &str = "token-of-the-collector";

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
