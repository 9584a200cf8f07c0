//! Server-sent events and the figures of the last hour.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{RequestBuilder, Response};
use riacho_domain::StageName;
use riacho_ingest_gateway::Config;
use riacho_testkit::eventually;
use serde_json::{Value, json};

use crate::fixture::{Gateway, id, json, problem};

/// An event as it came.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// Reads events from an answer.
struct Events {
    response: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    rest: String,
}

impl Events {
    async fn of(request: RequestBuilder) -> Events {
        let response: Response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Events { response: response.bytes_stream().boxed(), rest: String::new() }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((text, rest)) = self.rest.split_once("\n\n") {
                let (text, rest) = (text.to_owned(), rest.to_owned());
                self.rest = rest;
                let mut event = Event::default();
                for line in text.lines() {
                    match line.split_once(": ").unwrap_or((line, "")) {
                        ("event", name) => name.clone_into(&mut event.name),
                        ("id", id) => id.clone_into(&mut event.id),
                        ("data", data) => {
                            event.data = serde_json::from_str(data).unwrap_or_else(|_| data.into());
                        }
                        _ => {}
                    }
                }
                if !event.name.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let part = tokio::time::timeout(Duration::from_secs(60), self.response.next()).await;
            let part = part.expect("an event within a minute")?.ok()?;
            self.rest.push_str(std::str::from_utf8(&part).unwrap());
        }
    }
}

#[tokio::test]
async fn who_watches_a_document_is_told_each_change_to_its_end() {
    let gateway = Gateway::start().await;
    let document = id(&gateway.upload(Gateway::form("a.txt", "a text")).await);
    let path = format!("/api/v1/documents/{document}/events");
    let mut events = Events::of(gateway.get(&path)).await;
    let first = events.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["id"]), ("status", &json!(document)));
    gateway.publish(&document, "a text").await;
    let mut last = first;
    while let Some(event) = events.next().await {
        assert_ne!(event.id, last.id, "the same is not told twice");
        last = event;
    }
    assert_eq!(last.data["state"], "ready");
    let told = json(gateway.get(&format!("/api/v1/documents/{document}/status")), 200).await;
    assert_eq!(last.data, told, "an event says what the status says");
    let timeline = told["timeline"].as_array().unwrap();
    assert_eq!(timeline[0]["state"], "waiting");
    assert!(timeline.iter().all(|part| part["seconds"].as_f64().is_some()), "{timeline:?}");

    // Who saw the end is told that nothing will come, and who did not sees it.
    let again = gateway.get(&path).header("last-event-id", &last.id).send().await.unwrap();
    assert_eq!(again.status(), 204);
    let mut missed = Events::of(gateway.get(&path).header("last-event-id", "something older")).await;
    assert_eq!(missed.next().await.unwrap().data["state"], "ready");
    assert!(missed.next().await.is_none());
    let (_, key) = gateway.deployment.add_tenant("other").await.unwrap();
    let stranger = gateway.anonymous(reqwest::Method::GET, &path).bearer_auth(&key);
    problem(stranger, 404, "not_found").await;
}

#[tokio::test]
async fn who_watches_the_pipeline_sees_the_figures_of_the_api() {
    let gateway = Gateway::start().await;
    let document = id(&gateway.upload(Gateway::form("a.txt", "a text")).await);
    eventually(|| async {
        let entries = gateway.deployment.streams.figures(StageName::Extract, &[0]).await.unwrap().backlog;
        let states = gateway.deployment.store.state_counts(&gateway.deployment.tenant).await.unwrap();
        let is_there = entries == 1 && states == [(riacho_domain::State::Extracting, 1)];
        if is_there { Ok(()) } else { Err((entries, states)) }
    })
    .await;
    let mut events = Events::of(gateway.get("/api/v1/queue/events")).await;
    let event = events.next().await.unwrap();
    let info = json(gateway.get("/api/v1/queue/info"), 200).await;
    assert_eq!(event.name, "queue");
    for (figure, body) in [("backlog", 1), ("pending", 0), ("consumers", 0)] {
        assert_eq!(event.data["stages"][0][figure], body);
        assert_eq!(info["stages"][0][figure], body);
    }
    assert_eq!(event.data["documents"], info["documents"]);
    assert_eq!(event.data["unresolved"], json!({}));
    // While Redis is away there is a word about it and no figure, and then figures again.
    gateway.deployment.redis().stop();
    while events.next().await.unwrap().name != "problem" {}
    gateway.deployment.redis().start();
    while events.next().await.unwrap().name != "queue" {}
    let sql = format!("SELECT state FROM document_versions WHERE document_id = '{document}'");
    assert_ne!(gateway.deployment.sql(&sql)[0][0].as_deref(), Some("failed"));
}

#[tokio::test]
async fn no_more_than_so_many_watch_and_a_stop_does_not_wait_for_them() {
    let config = Config { max_event_streams: 1, ..Config::default() };
    let mut gateway = Gateway::with_config(config).await;
    let mut events = Events::of(gateway.get("/api/v1/queue/events")).await;
    events.next().await.unwrap();
    problem(gateway.get("/api/v1/queue/events"), 503, "unavailable").await;
    gateway.stop().await;
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn no_tenant_takes_the_places_of_others_and_a_place_is_free_when_its_connection_ends() {
    let config = Config { max_event_streams_per_tenant: 1, ..Config::default() };
    let gateway = Gateway::with_config(config).await;
    let path = "/api/v1/queue/events";
    let mut events = Events::of(gateway.get(path)).await;
    events.next().await.unwrap();
    problem(gateway.get(path), 429, "rate_limited").await;
    let (_, key) = gateway.deployment.add_tenant("other").await.unwrap();
    let mut others = Events::of(gateway.anonymous(reqwest::Method::GET, path).bearer_auth(&key)).await;
    others.next().await.unwrap();
    drop(events);
    eventually(|| async {
        let status = gateway.get(path).send().await.unwrap().status();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn samples_of_the_figures_are_kept_once_whoever_takes_them() {
    let config = Config { history_seconds: 1, ..Config::default() };
    let gateway = Gateway::with_config(config).await;
    let _other = gateway.replica(riacho_store::Limits::default()).await;
    gateway.upload(Gateway::form("a.txt", "a text")).await;
    let history = || json(gateway.get("/api/v1/queue/history"), 200);
    let samples = eventually(|| async {
        let body = history().await;
        let samples = body["samples"].as_array().unwrap().clone();
        let with_it = samples.iter().filter(|sample| sample["stages"]["extract"]["backlog"] == 1).count();
        if with_it >= 3 { Ok(samples) } else { Err(body) }
    })
    .await;
    let times: Vec<&str> = samples.iter().map(|sample| sample["at"].as_str().unwrap()).collect();
    let mut sorted = times.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(times, sorted);
    assert_eq!(samples.last().unwrap()["stages"]["extract"]["rate_per_second"], 0.0);
    assert_eq!(samples.last().unwrap()["stages"]["embed"]["consumers"], 0);
}

#[tokio::test]
async fn a_revoked_key_sees_nothing_more() {
    let config = Config { key_cache_seconds: 0, ..Config::default() };
    let gateway = Gateway::with_config(config).await;
    let new = json!({"name": "reader", "scopes": ["documents:read"]});
    let made = json(gateway.post("/api/v1/keys").json(&new), 201).await;
    let reader = made["secret"].as_str().unwrap();
    let watch = gateway.anonymous(reqwest::Method::GET, "/api/v1/queue/events").bearer_auth(reader);
    let mut events = Events::of(watch).await;
    events.next().await.unwrap();
    let key = format!("/api/v1/keys/{}", made["key"]["id"].as_str().unwrap());
    let ended = gateway.request(reqwest::Method::DELETE, &key).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    while events.next().await.is_some() {}
}
