//! Producers' events are answered, whatever they are.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use bytes::Bytes;
use riacho_domain::TenantId;
use riacho_objects::Key;
use riacho_proto::{
    Message,
    v1::{self, document_uploaded::Body, envelope::Payload},
};
use riacho_store::Quota;
use riacho_testkit::eventually;
use serde_json::json;

use crate::fixture::{Gateway, json, problem};

/// Sends a command to the deployment's Redis, and answers all texts of the reply in order.
fn redis(gateway: &Gateway, command: &[&[u8]]) -> Vec<Vec<u8>> {
    let stream = UnixStream::connect(gateway.deployment.redis().socket()).unwrap();
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for part in command {
        request.extend(format!("${}\r\n", part.len()).into_bytes());
        request.extend_from_slice(part);
        request.extend(b"\r\n");
    }
    (&stream).write_all(&request).unwrap();
    let mut texts = Vec::new();
    read(&mut BufReader::new(&stream), &mut texts);
    texts
}

fn read(stream: &mut impl BufRead, texts: &mut Vec<Vec<u8>>) {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let (kind, rest) = line.trim_end().split_at(1);
    match kind {
        "*" => (0..rest.parse::<i64>().unwrap()).for_each(|_| read(stream, texts)),
        "$" => {
            let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
            stream.read_exact(&mut text).unwrap();
            text.truncate(text.len() - 2);
            texts.push(text);
        }
        "-" => panic!("redis: {rest}"),
        _ => texts.push(rest.as_bytes().to_vec()),
    }
}

fn send(gateway: &Gateway, tenant: &TenantId, field: &str, bytes: &[u8]) {
    let key = gateway.deployment.streams.keys().intake(tenant);
    redis(gateway, &[b"XADD", key.as_bytes(), b"*", field.as_bytes(), bytes]);
}

fn results(gateway: &Gateway, tenant: &TenantId) -> Vec<v1::IntakeResult> {
    let key = gateway.deployment.streams.keys().intake_results(tenant);
    let entries = redis(gateway, &[b"XRANGE", key.as_bytes(), b"-", b"+"]);
    entries
        .chunks(3)
        .map(|entry| match v1::Envelope::decode(entry[2].as_slice()).unwrap().payload {
            Some(Payload::IntakeResult(result)) => result,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Waits for so many answers, and checks that nothing is left on the stream.
async fn answers(gateway: &Gateway, tenant: &TenantId, count: usize) -> Vec<v1::IntakeResult> {
    let found = eventually(|| async {
        let found = results(gateway, tenant);
        (found.len() >= count).then_some(found).ok_or("not answered")
    })
    .await;
    let key = gateway.deployment.streams.keys().intake(tenant);
    assert_eq!(redis(gateway, &[b"XLEN", key.as_bytes()]), [b"0"]);
    assert_eq!(found.len(), count, "{found:?}");
    found
}

fn event(id: &str, body: Body) -> v1::Envelope {
    let upload = v1::DocumentUploaded {
        filename: "from/producer.txt".into(),
        body: Some(body),
        metadata_json: r#"{"origin": "crm"}"#.into(),
        ..v1::DocumentUploaded::default()
    };
    v1::Envelope {
        envelope_version: 1,
        id: id.into(),
        source: "crm".into(),
        payload: Some(Payload::DocumentUploaded(upload)),
        ..v1::Envelope::default()
    }
}

fn content(text: &'static str) -> Body {
    Body::Content(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn an_event_becomes_a_document_once() {
    let gateway = Gateway::start().await;
    let tenant = gateway.deployment.tenant.clone();
    for _ in 0..2 {
        send(&gateway, &tenant, "e", &event("e-1", content("from a producer")).encode_to_vec());
    }
    let answered = answers(&gateway, &tenant, 2).await;
    for answer in &answered {
        assert_eq!(
            (answer.status(), answer.event_id.as_str(), answer.event_source.as_str()),
            (v1::IntakeStatus::Accepted, "e-1", "crm")
        );
        assert_eq!(answer.document, answered[0].document);
    }
    let document = json(gateway.get(&format!("/api/v1/documents/{}", answered[0].document)), 200).await;
    assert_eq!(
        (&document["filename"], &document["metadata"]),
        (&json!("producer.txt"), &json!({"origin": "crm"}))
    );
    assert_eq!(json(gateway.get("/api/v1/documents"), 200).await["documents"].as_array().unwrap().len(), 1);
    let status = format!("/api/v1/documents/{}/status", answered[0].document);
    eventually(|| async { (json(gateway.get(&status), 200).await["state"] == "extracting").then_some(()) })
        .await;
}

#[tokio::test]
async fn an_event_may_name_an_object_of_its_own_tenant() {
    let gateway = Gateway::start().await;
    let tenant = gateway.deployment.tenant.clone();
    let (other, _) = gateway.deployment.add_tenant("other").await.unwrap();
    let mine = Key::producer(&tenant, "a.txt").unwrap();
    let theirs = Key::producer(&other, "secret.txt").unwrap();
    for key in [&mine, &theirs] {
        gateway.objects.put(key, Bytes::from_static(b"in the object store")).await.unwrap();
    }
    let missing = Key::producer(&tenant, "missing.txt").unwrap();
    for (id, key) in [("mine", &mine), ("theirs", &theirs), ("missing", &missing)] {
        send(&gateway, &tenant, "e", &event(id, Body::ObjectKey(key.to_string())).encode_to_vec());
    }
    let answered = answers(&gateway, &tenant, 3).await;
    let of = |id: &str| answered.iter().find(|answer| answer.event_id == id).unwrap();
    assert_eq!(of("mine").status(), v1::IntakeStatus::Accepted);
    assert_eq!(
        (of("theirs").error_code.as_str(), of("missing").error_code.as_str()),
        ("wrong_object", "object_missing")
    );
    let original =
        gateway.get(&format!("/api/v1/documents/{}/content", of("mine").document)).send().await.unwrap();
    assert_eq!(original.text().await.unwrap(), "in the object store");
}

#[tokio::test]
async fn malformed_protobuf_on_the_intake_is_rejected_with_a_reason() {
    let gateway = Gateway::start().await;
    let tenant = gateway.deployment.tenant.clone();
    send(&gateway, &tenant, "e", b"\xff\xfe this is no protobuf");
    send(&gateway, &tenant, "event", b"another field");
    // What follows is not held up by it.
    send(&gateway, &tenant, "e", &event("after", content("after the nonsense")).encode_to_vec());
    let answered = answers(&gateway, &tenant, 3).await;
    let rejected: Vec<_> =
        answered.iter().filter(|answer| answer.status() == v1::IntakeStatus::Rejected).collect();
    assert_eq!(rejected.len(), 2);
    for answer in rejected {
        assert_eq!(answer.error_code, "undecodable");
        assert!(!answer.error_message.is_empty() && !answer.entry_id.is_empty(), "{answer:?}");
    }
    // Their bytes are kept for whoever looks for them.
    let list = riacho_store::ListLetters::default();
    let letters = gateway.deployment.store.dead_letters(Some(&tenant), &list).await.unwrap().items;
    let mut kept = Vec::new();
    for letter in &letters {
        assert_eq!((letter.stage.as_str(), letter.reason_code.as_str()), ("intake", "undecodable"));
        kept.push(gateway.deployment.store.dead_letter(Some(&tenant), letter.id).await.unwrap().unwrap().1);
    }
    assert!(kept.contains(&b"\xff\xfe this is no protobuf".to_vec()), "{kept:?}");
    assert_eq!(kept.len(), 2);
}

#[tokio::test]
async fn an_event_that_is_wrong_is_rejected_the_same_each_time() {
    let gateway = Gateway::start().await;
    let tenant = gateway.deployment.tenant.clone();
    let mut wrong_tenant = event("wrong-tenant", content("x"));
    wrong_tenant.tenant = "other".into();
    let mut newer = event("newer", content("x"));
    newer.envelope_version = 9;
    let mut wrong_hash = event("wrong-hash", content("x"));
    if let Some(Payload::DocumentUploaded(upload)) = &mut wrong_hash.payload {
        upload.sha256 = vec![0; 32].into();
    }
    let events = [wrong_tenant, newer, wrong_hash, event("empty", content(""))];
    for envelope in events.iter().chain(&events) {
        send(&gateway, &tenant, "e", &envelope.encode_to_vec());
    }
    let answered = answers(&gateway, &tenant, 8).await;
    for (id, code) in [
        ("wrong-tenant", "wrong_tenant"),
        ("newer", "unknown_version"),
        ("wrong-hash", "hash_mismatch"),
        ("empty", "empty"),
    ] {
        let codes: Vec<_> =
            answered.iter().filter(|a| a.event_id == id).map(|a| a.error_code.as_str()).collect();
        assert_eq!(codes, [code, code], "{id}");
    }
    assert_eq!(json(gateway.get("/api/v1/documents"), 200).await["documents"], json!([]));
}

#[tokio::test]
async fn a_rejection_that_is_not_the_events_fault_does_not_outlive_its_cause() {
    let gateway = Gateway::start().await;
    let tenant = gateway.deployment.tenant.clone();
    let mut newer = event("newer", content("of a newer producer"));
    newer.envelope_version = 99;
    let key = Key::producer(&tenant, "late.txt").unwrap();
    let late = event("late", Body::ObjectKey(key.to_string()));
    for envelope in [&newer, &late] {
        send(&gateway, &tenant, "e", &envelope.encode_to_vec());
    }
    let answered = answers(&gateway, &tenant, 2).await;
    let code = |id: &str| answered.iter().find(|a| a.event_id == id).unwrap().error_code.clone();
    assert_eq!((code("newer").as_str(), code("late").as_str()), ("unknown_version", "object_missing"));

    newer.envelope_version = 1;
    gateway.objects.put(&key, Bytes::from_static(b"here at last")).await.unwrap();
    for envelope in [&newer, &late] {
        send(&gateway, &tenant, "e", &envelope.encode_to_vec());
    }
    let answered = answers(&gateway, &tenant, 4).await;
    for again in &answered[2..] {
        assert_eq!(again.status(), v1::IntakeStatus::Accepted, "{again:?}");
    }
}

#[tokio::test]
async fn tenants_that_come_later_are_read_and_events_survive_redis() {
    let gateway = Gateway::start().await;
    let (later, key) = gateway.deployment.add_tenant("later").await.unwrap();
    send(&gateway, &later, "e", &event("e-1", content("of a new tenant")).encode_to_vec());
    let first = answers(&gateway, &later, 1).await;
    problem(gateway.get(&format!("/api/v1/documents/{}", first[0].document)), 404, "not_found").await;
    json(
        gateway
            .anonymous(reqwest::Method::GET, &format!("/api/v1/documents/{}", first[0].document))
            .bearer_auth(&key),
        200,
    )
    .await;

    gateway.deployment.redis().stop();
    gateway.deployment.redis().start();
    send(&gateway, &later, "e", &event("e-2", content("after a restart of redis")).encode_to_vec());
    let answered = answers(&gateway, &later, 2).await;
    assert_eq!(answered[1].status(), v1::IntakeStatus::Accepted, "{answered:?}");
}

#[tokio::test]
async fn an_event_over_a_quota_is_rejected_and_accepted_when_it_is_sent_again_later() {
    let gateway = Gateway::start().await;
    let (store, tenant) = (&gateway.deployment.janitor, gateway.deployment.tenant.clone());
    store.set_over_quota(&tenant, &[Quota::Unfinished]).await.unwrap();
    let event = event("e-1", content("later")).encode_to_vec();
    send(&gateway, &tenant, "e", &event);
    let answered = answers(&gateway, &tenant, 1).await;
    assert_eq!(
        (answered[0].status(), answered[0].error_code.as_str()),
        (v1::IntakeStatus::Rejected, "quota_exceeded")
    );
    store.set_over_quota(&tenant, &[]).await.unwrap();
    send(&gateway, &tenant, "e", &event);
    assert_eq!(answers(&gateway, &tenant, 2).await[1].status(), v1::IntakeStatus::Accepted);
}
