//! The spans of a search.

use std::collections::BTreeSet;

use riacho_testkit::{
    collector::{CollectedSpan, Collector},
    within,
};
use serde_json::{Value, json};

use crate::{
    five::{Five, client_span},
    support::cluster::PATIENCE,
    tree::{named, trace_with},
};

/// A word of every query, and of nothing else.
const ASKED: &str = "zanzibar";

/// Searches below a span of the client's. The spans that came of it: each ends before the request's, which is sent last.
async fn spans_of(
    five: &Five,
    collector: &Collector,
    number: u8,
    (path, route, body): (&str, &str, Value),
) -> Vec<CollectedSpan> {
    let (trace, client, header) = client_span(number, true);
    let request = five.client.post(format!("{}{path}", five.url)).header("traceparent", header);
    five.call(request.json(&body)).await;
    let server = format!("POST {route}");
    let spans = trace_with(collector, (&trace, &client), &[(&server, 1)]).await;
    let request = named(&spans, &server)[0].id.clone();
    let calls: Vec<CollectedSpan> = spans.into_iter().filter(|span| span.id != request).collect();
    for span in &calls {
        assert_eq!((span.service.as_str(), span.kind.as_str()), ("ingest-gateway", "Client"), "{span:#?}");
        assert_eq!(span.parent, request, "{span:#?}");
    }
    calls
}

/// The name of each call with what it came to: an outcome or the model, how many hits or texts, and the error.
fn said(calls: &[CollectedSpan]) -> Vec<(&str, &str, &str, Option<&str>)> {
    let say = |span| -> (&str, &str, &str, Option<&str>) {
        let span: &CollectedSpan = span;
        let what = if span.name == "embeddings" { "gen_ai.request.model" } else { "riacho.outcome" };
        (&span.name, span.get(what), span.get("riacho.count"), span.error.as_deref())
    };
    calls.iter().map(say).collect()
}

#[tokio::test]
async fn a_search_has_a_span_of_its_querys_embedding_and_one_of_postgresql() {
    let collector = Collector::start().await.unwrap();
    let mut five = Five::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        ("RIACHO__GATEWAY__SEARCH_CACHE_SECONDS", "3600"),
    ])
    .await;
    let (_, _, header) = client_span(0xd0, false);
    let id = five.upload("lock.md", &header, "# Lock\n\nThe lock at the harbour opens at six.\n").await;
    five.is(&id, "ready").await;
    let search = |mode: &str, query: &str| {
        let body = json!({ "query": format!("{query} {ASKED}"), "mode": mode });
        ("/api/v1/search", "/api/v1/search", body)
    };

    let calls = spans_of(&five, &collector, 0xd1, search("hybrid", "lock")).await;
    let model = calls[0].get("gen_ai.request.model").to_owned();
    assert!(model.contains("text-embedding-3-small"), "{model}");
    let embedded = ("embeddings", model.as_str(), "1", None);
    assert_eq!(said(&calls), [embedded, ("postgres search", "hybrid", "1", None)]);
    // What they say besides is of a fixed set, and nothing of it is the client's.
    let keys = |span: &CollectedSpan| span.attributes.keys().cloned().collect::<BTreeSet<String>>();
    let expected = |own: [&str; 3]| {
        own.into_iter().chain(["riacho.tenant", "riacho.count"]).map(str::to_owned).collect()
    };
    let of_model: BTreeSet<String> =
        expected(["gen_ai.operation.name", "gen_ai.request.model", "riacho.tenant"]);
    assert_eq!(keys(&calls[0]), of_model);
    assert_eq!(keys(&calls[1]), expected(["db.system.name", "db.operation.name", "riacho.outcome"]));
    assert_eq!(
        (calls[0].get("gen_ai.operation.name"), calls[1].get("db.system.name")),
        ("embeddings", "postgresql")
    );
    assert_eq!((calls[1].get("db.operation.name"), calls[1].get("riacho.tenant")), ("search", "default"));

    let calls = spans_of(&five, &collector, 0xd2, search("vector", "lock")).await;
    assert_eq!(said(&calls), [embedded, ("postgres search", "vector", "1", None)]);
    let calls = spans_of(&five, &collector, 0xd3, search("keyword", "lock")).await;
    assert_eq!(said(&calls), [("postgres search", "keyword", "1", None)], "nothing is embedded");

    // One whose query the model refuses goes on by words, and finds nothing here.
    five.provider.refuse_texts_with("hemlock");
    let calls = spans_of(&five, &collector, 0xd4, search("hybrid", "hemlock")).await;
    let refused = ("embeddings", model.as_str(), "1", Some("provider_refused"));
    assert_eq!(said(&calls), [refused, ("postgres search", "keyword", "0", None)]);
    assert_eq!(calls[0].get("error.type"), "provider_refused");

    // OpenAI's way in, with two queries.
    let store = five.get("/v1/vector_stores").await["data"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/vector_stores/{store}/search");
    let body = json!({ "query": [format!("lock {ASKED}"), format!("harbour {ASKED}")] });
    let route = "/v1/vector_stores/{store}/search";
    let calls = spans_of(&five, &collector, 0xd5, (&path, route, body)).await;
    let found = ("postgres search", "hybrid", "1", None);
    assert_eq!(said(&calls), [embedded, found, embedded, found]);

    // An answer that was kept asks neither.
    let (_, _, header) = client_span(0xd6, false);
    within(PATIENCE, || async {
        let (path, _, body) = search("hybrid", "lock");
        let request = five.client.post(format!("{}{path}", five.url)).header("traceparent", &header);
        five.call(request.json(&body)).await;
        let metrics = five.client.get(format!("{}/metrics", five.url)).send().await.unwrap();
        if metrics.text().await.unwrap().contains("mode=\"kept\"") {
            Ok(())
        } else {
            Err("no answer is kept")
        }
    })
    .await;
    assert_eq!(spans_of(&five, &collector, 0xd7, search("hybrid", "lock")).await, []);

    let logs = five.stop().await;
    for unsampled in [0xd0, 0xd6] {
        assert_eq!(collector.trace(&client_span(unsampled, false).0).unwrap(), []);
    }
    let sent = collector.requests();
    assert!(
        !sent.iter().any(|(_, body)| String::from_utf8_lossy(body).contains(ASKED)),
        "a query is in a span"
    );
    assert!(!logs.iter().any(|log| log.contains(ASKED)), "a query is in a log");
}
