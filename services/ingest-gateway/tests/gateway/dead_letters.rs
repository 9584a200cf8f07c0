//! Dead letters over HTTP: list, inspect, replay, discard.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::Utc;
use reqwest::Method;
use riacho_domain::DocumentId;
use riacho_proto::{
    Message,
    v1::{self, envelope::Payload},
};
use riacho_store::NewDeadLetter;
use serde_json::{Value, json};

use crate::fixture::{Gateway, id, json, problem};

const LETTERS: &str = "/api/v1/queue/dead-letters";

impl Gateway {
    /// A document whose event was given up by a stage, so many times.
    async fn dead(&self, filename: &str, stage: &str, letters: usize) -> String {
        let document = id(&self.upload(Gateway::form(filename, format!("content of {filename}"))).await);
        let sql = format!("SELECT release_id FROM document_versions WHERE document_id = '{document}'");
        let release = self.deployment.sql(&sql)[0][0].clone().expect("a release");
        for n in 0..letters {
            let entry_id = format!("{filename}-{n}");
            self.letter(Some(&document), &release, stage, &entry_id, envelope(&document, &release)).await;
        }
        assert_eq!(self.state_of(&document).await, "failed");
        document
    }

    async fn letter(
        &self,
        document: Option<&str>,
        release: &str,
        stage: &str,
        entry: &str,
        original: Vec<u8>,
    ) {
        let letter = NewDeadLetter {
            tenant: Some(self.deployment.tenant.clone()),
            document: document.map(|document| document.parse::<DocumentId>().expect("id")),
            version: document.map(|_| 1),
            release: release.parse().ok(),
            stage: stage.into(),
            stream: format!("riacho:{{0}}:{stage}:interactive"),
            entry_id: entry.into(),
            reason_code: if document.is_some() { "provider_refused" } else { "undecodable" }.into(),
            message: "given up by the test".into(),
            attempts: 4,
            trace_id: "trace".into(),
            original,
            occurred_at: Utc::now(),
        };
        assert!(self.deployment.janitor.add_dead_letter(&letter).await.expect("the letter is kept").is_new);
    }

    async fn state_of(&self, document: &str) -> String {
        let status = json(self.get(&format!("/api/v1/documents/{document}/status")), 200).await;
        status["state"].as_str().expect("a state").to_owned()
    }

    async fn letters(&self, query: &str) -> Vec<Value> {
        let page = json(self.get(&format!("{LETTERS}{query}")), 200).await;
        page["dead_letters"].as_array().expect("a list").clone()
    }

    async fn replay(&self, body: Value) -> Value {
        json(self.post(&format!("{LETTERS}/replay")).json(&body), 200).await
    }

    async fn discard(&self, body: Value) -> Value {
        json(self.post(&format!("{LETTERS}/discard")).json(&body), 200).await
    }
}

fn envelope(document: &str, release: &str) -> Vec<u8> {
    let chunk = v1::Chunk { text: "words of the document".into(), ..v1::Chunk::default() };
    let envelope = v1::Envelope {
        envelope_version: 1,
        id: "the-event".into(),
        source: "riacho/extract".into(),
        r#type: "riacho.events.v1.ChunksCut".into(),
        tenant: "default".into(),
        document: document.into(),
        version: 1,
        release: release.into(),
        lane: v1::Lane::Bulk.into(),
        payload: Some(Payload::ChunksCut(v1::ChunksCut { chunks: vec![chunk], ..v1::ChunksCut::default() })),
        ..v1::Envelope::default()
    };
    envelope.encode_to_vec()
}

#[tokio::test]
async fn dead_letters_are_listed_and_inspected_with_their_bytes() {
    let gateway = Gateway::start().await;
    let document = gateway.dead("a.txt", "embed", 3).await;
    gateway.letter(None, "", "intake", "i-0", b"\xff\xfe no protobuf".to_vec()).await;
    for (query, expected) in [
        ("", 4),
        ("?stage=embed", 3),
        ("?reason_code=undecodable", 1),
        (&format!("?document={document}"), 3),
        ("?state=replayed", 0),
        ("?stage=embed&reason_code=undecodable", 0),
        ("?limit=3", 3),
    ] {
        assert_eq!(gateway.letters(query).await.len(), expected, "{query}");
    }
    let first = json(gateway.get(&format!("{LETTERS}?limit=3")), 200).await;
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let second = json(gateway.get(&format!("{LETTERS}?limit=3&cursor={cursor}")), 200).await;
    assert_eq!(
        (second["dead_letters"].as_array().map(Vec::len), &second["next_cursor"]),
        (Some(1), &Value::Null)
    );

    let letter = &gateway.letters("?stage=embed").await[0];
    assert_eq!((&letter["document_id"], &letter["state"]), (&json!(document), &json!("unresolved")));
    let shown = json(gateway.get(&format!("{LETTERS}/{}", id(letter))), 200).await;
    for field in
        ["release_id", "stream", "entry_id", "message", "attempts", "trace_id", "occurred_at", "created_at"]
    {
        assert_eq!(shown[field], letter[field], "{field} of {shown}");
        assert!(!shown[field].is_null(), "{field} of {shown}");
    }
    let envelope = &shown["envelope"];
    for (field, value) in [
        ("id", "the-event"),
        ("type", "riacho.events.v1.ChunksCut"),
        ("lane", "bulk"),
        ("tenant", "default"),
        ("document", document.as_str()),
    ] {
        assert_eq!(envelope[field], value, "{field} of {envelope}");
    }
    assert_eq!(envelope["payload"]["type"], "chunks_cut");
    assert!(
        envelope["payload"]["bytes"].as_u64().expect("a size") > 20
            && !envelope.to_string().contains("words")
    );
    let bytes = STANDARD.decode(shown["original_base64"].as_str().expect("base64")).expect("base64");
    assert_eq!(json!(bytes.len()), shown["original_bytes"]);
    assert!(v1::Envelope::decode(bytes.as_slice()).is_ok_and(|envelope| envelope.document == document));

    let unreadable = &gateway.letters("?stage=intake").await[0];
    let shown = json(gateway.get(&format!("{LETTERS}/{}", id(unreadable))), 200).await;
    assert_eq!((&shown["envelope"], &shown["document_id"]), (&Value::Null, &Value::Null));
    for unknown in ["00000000-0000-7000-8000-000000000000", "x"] {
        problem(gateway.get(&format!("{LETTERS}/{unknown}")), 404, "not_found").await;
    }
}

#[tokio::test]
async fn a_dead_letter_of_another_tenant_is_not_found() {
    let gateway = Gateway::start().await;
    let (_, other) = gateway.deployment.add_tenant("other").await.expect("a tenant");
    let document = gateway.dead("a.txt", "embed", 1).await;
    let letter = id(&gateway.letters("").await[0]);
    let as_other = |method: Method, path: &str| gateway.anonymous(method, path).bearer_auth(&other);
    let page = json(as_other(Method::GET, LETTERS), 200).await;
    assert_eq!(page["dead_letters"], json!([]));
    problem(as_other(Method::GET, &format!("{LETTERS}/{letter}")), 404, "not_found").await;
    for command in ["replay", "discard"] {
        let named = as_other(Method::POST, &format!("{LETTERS}/{command}")).json(&json!({ "ids": [letter] }));
        let answer = json(named, 200).await;
        assert_eq!(
            (&answer["skipped"][0]["id"], &answer["skipped"][0]["reason"]),
            (&json!(letter), &json!("not_found"))
        );
        let all = as_other(Method::POST, &format!("{LETTERS}/{command}")).json(&json!({ "filter": {} }));
        let answer = json(all, 200).await;
        assert_eq!((&answer["skipped"], &answer["remaining"]), (&json!([]), &json!(0)));
    }
    assert_eq!((gateway.letters("").await.len(), gateway.state_of(&document).await.as_str()), (1, "failed"));
}

#[tokio::test]
async fn a_replay_releases_what_is_still_failed_and_says_why_not_the_rest() {
    let gateway = Gateway::start().await;
    let dead = gateway.dead("dead.txt", "embed", 2).await;
    let replaced = gateway.dead("replaced.txt", "index", 1).await;
    let put = gateway.request(Method::PUT, &format!("/api/v1/documents/{replaced}/content"));
    crate::fixture::accepted(put.multipart(Gateway::form("replaced.txt", "a newer text"))).await;
    gateway.letter(None, "", "intake", "i-0", vec![255]).await;

    let said = gateway.replay(json!({ "filter": {}, "dry_run": true })).await;
    assert_eq!((&said["dry_run"], gateway.letters("").await.len()), (&json!(true), 4));
    assert_eq!(gateway.state_of(&dead).await, "failed");
    let mut done = gateway.replay(json!({ "filter": {} })).await;
    assert_eq!(done["versions"], json!([{ "document_id": dead, "version": 1, "letters": 2 }]));
    let reasons: Vec<_> =
        done["skipped"].as_array().expect("a list").iter().map(|s| s["reason"].clone()).collect();
    assert_eq!(reasons, ["superseded", "no_document"]);
    assert_eq!(
        (&done["replayed"], &done["remaining"], &done["next_cursor"]),
        (&json!(2), &json!(0), &Value::Null)
    );
    done["dry_run"] = json!(true);
    assert_eq!(done, said, "a dry run says what is done then");

    assert_eq!(gateway.state_of(&dead).await, "waiting");
    let letters = gateway.letters("?state=replayed").await;
    assert!(
        letters.len() == 2 && letters.iter().all(|letter| letter["resolved_at"].is_string()),
        "{letters:?}"
    );
    // Again, by name: nothing is released twice.
    let again = gateway.replay(json!({ "ids": [id(&letters[0])] })).await;
    assert_eq!((&again["replayed"], &again["skipped"][0]["reason"]), (&json!(0), &json!("resolved")));

    let rest: Vec<_> = gateway.letters("").await.iter().map(id).collect();
    let discarded = gateway.discard(json!({ "ids": rest })).await;
    assert_eq!((&discarded["discarded"], &discarded["skipped"]), (&json!(2), &json!([])));
    assert_eq!((gateway.letters("").await.len(), gateway.letters("?state=discarded").await.len()), (0, 2));
}

#[tokio::test]
async fn a_replay_of_many_is_cut_into_calls_that_keep_the_rate() {
    let gateway = Gateway::start().await;
    for n in 0..5 {
        gateway.dead(&format!("{n}.txt"), "embed", 1).await;
    }
    let start = std::time::Instant::now();
    let mut body = json!({ "filter": { "stage": "embed" }, "per_second": 20, "limit": 2 });
    let mut remaining = Vec::new();
    loop {
        let done = gateway.replay(body.clone()).await;
        remaining.push(done["remaining"].as_u64().expect("a count"));
        if done["next_cursor"].is_null() {
            break;
        }
        body["cursor"] = done["next_cursor"].clone();
    }
    assert_eq!(remaining, [3, 1, 0]);
    assert!(start.elapsed() >= std::time::Duration::from_millis(4 * 50), "{:?}", start.elapsed());
    assert_eq!(gateway.letters("?state=replayed").await.len(), 5);
}

#[tokio::test]
async fn a_selection_that_is_none_is_refused_with_what_to_do() {
    let gateway = Gateway::start().await;
    let many: Vec<_> = (0..1_001).map(|_| uuid()).collect();
    for command in ["replay", "discard"] {
        let send = |body: Value| gateway.post(&format!("{LETTERS}/{command}")).json(&body);
        for body in [json!({}), json!({ "dry_run": true }), json!({ "ids": [uuid()], "filter": {} })] {
            let refused = problem(send(body), 400, "bad_request").await;
            assert!(refused["detail"].as_str().is_some_and(|d| d.contains("`ids` or `filter`")), "{refused}");
        }
        for (body, field) in [
            (json!({ "ids": [] }), "ids"),
            (json!({ "ids": many }), "ids"),
            (json!({ "ids": ["x"] }), "ids[0]"),
            (json!({ "filter": { "stgae": "embed" } }), "filter.stgae"),
            (json!({ "filter": { "stage": "" } }), "filter.stage"),
            (json!({ "filter": { "reason_code": "x".repeat(101) } }), "filter.reason_code"),
            (json!({ "filter": {}, "limit": 0 }), "limit"),
            (json!({ "filter": {}, "limit": 1_001 }), "limit"),
        ] {
            let refused = problem(send(body), 400, "invalid_field").await;
            assert_eq!(refused["errors"][0]["field"], field, "{refused}");
        }
        problem(send(json!({ "filter": {}, "cursor": "x" })), 400, "bad_request").await;
    }
    for rate in [json!(0), json!(-1), json!(1_001)] {
        let body = json!({ "filter": {}, "per_second": rate });
        let refused =
            problem(gateway.post(&format!("{LETTERS}/replay")).json(&body), 400, "invalid_field").await;
        assert_eq!(refused["errors"][0]["field"], "per_second");
    }
    for (query, field) in
        [("state=gone", "state"), ("limit=0", "limit"), ("stage=", "stage"), ("document=x", "document")]
    {
        let refused = problem(gateway.get(&format!("{LETTERS}?{query}")), 400, "invalid_field").await;
        assert_eq!(refused["errors"][0]["field"], field, "{refused}");
    }
}

fn uuid() -> String {
    DocumentId::new().to_string()
}

#[tokio::test]
async fn reading_dead_letters_and_resolving_them_need_their_scopes() {
    let gateway = Gateway::start().await;
    let key = async |scope: &str| {
        let new = json!({ "name": scope, "scopes": [scope] });
        let made = json(gateway.post("/api/v1/keys").json(&new), 201).await;
        made["secret"].as_str().expect("a secret").to_owned()
    };
    let (reader, writer, finder) =
        (key("documents:read").await, key("documents:write").await, key("search").await);
    let send = |method: Method, path: &str, key: &str| {
        let request = gateway.anonymous(method.clone(), path).bearer_auth(key);
        if method == Method::POST { request.json(&json!({ "filter": {} })) } else { request }
    };
    json(send(Method::GET, LETTERS, &reader), 200).await;
    problem(send(Method::GET, LETTERS, &finder), 403, "forbidden").await;
    for path in ["/replay", "/discard"].map(|command| format!("{LETTERS}{command}")) {
        json(send(Method::POST, &path, &writer), 200).await;
        problem(send(Method::POST, &path, &reader), 403, "forbidden").await;
        problem(gateway.anonymous(Method::POST, &path), 401, "unauthorized").await;
    }
}
