//! Many documents in one request, as lines of JSON.

use std::path::PathBuf;

use crate::{
    bulk_archives::{send, zip},
    fixture::{Change, Gateway, json, problem},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Body, RequestBuilder, StatusCode};
use riacho_ingest_gateway::{BulkConfig, Config};
use riacho_store::{Limits, Quota};
use riacho_testkit::eventually;
use serde_json::{Value, json};
use zip::CompressionMethod;

pub(crate) const BULK: &str = "/api/v1/documents/bulk";

/// A configuration whose archives are unpacked by the child of this crate.
pub(crate) fn with_bulk(change: impl FnOnce(&mut BulkConfig)) -> Config {
    let command = vec![PathBuf::from(env!("CARGO_BIN_EXE_riacho-unpack-child"))];
    let mut bulk = BulkConfig { command, ..BulkConfig::default() };
    change(&mut bulk);
    Config { bulk, ..Config::default() }
}

/// Sends a request and gives the lines of its answer, the summary apart.
pub(crate) async fn answer(request: RequestBuilder) -> (Vec<Value>, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let text = response.text().await.expect("a body");
    assert_eq!(status, StatusCode::OK, "{text}");
    lines_of(&text)
}

fn lines_of(text: &str) -> (Vec<Value>, Value) {
    let parse = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let mut lines: Vec<Value> = text.lines().map(parse).collect();
    let summary = lines.pop().expect("a summary")["summary"].take();
    assert!(summary.is_object(), "{text}");
    assert_eq!(summary["items"], lines.len(), "{summary}");
    (lines, summary)
}

pub(crate) fn lines(gateway: &Gateway, body: impl Into<Body>) -> RequestBuilder {
    gateway.post(BULK).header("content-type", "application/x-ndjson").body(body)
}

pub(crate) fn line(name: &str, text: &str) -> String {
    format!("{}\n", json!({"filename": name, "text": text}))
}

/// What an item came to: its code, or what happened.
pub(crate) fn fate(item: &Value) -> String {
    match (&item["problem"]["code"], &item["skipped"], &item["duplicate"]) {
        (Value::String(code), _, _) => code.clone(),
        (_, Value::String(why), _) => format!("skipped {why}"),
        (_, _, Value::Bool(true)) => "duplicate".to_owned(),
        _ => {
            assert!(item["id"].is_string(), "{item}");
            "new".to_owned()
        }
    }
}

pub(crate) async fn documents(gateway: &Gateway) -> Vec<Value> {
    let page = json(gateway.get("/api/v1/documents?limit=200"), 200).await;
    page["documents"].as_array().unwrap().clone()
}

#[tokio::test]
async fn each_line_has_its_fate_in_order_and_a_bad_one_harms_no_other() {
    let config = with_bulk(|bulk| bulk.max_line_bytes = 2_000);
    let gateway = Gateway::with_config(config).await;
    let mut body = b"\xef\xbb\xbf".to_vec();
    let mut wanted = Vec::new();
    let mut add = |text: &[u8], number: u64, fate: &str| {
        body.extend_from_slice(text);
        wanted.push((number, fate.to_owned()));
    };
    add(line("dir/a.txt", "the first").as_bytes(), 1, "new");
    add(b"\r\n   \n{\"filename\": \"b.txt\", \"text\": \"with a carriage return\"}\r\n", 4, "new");
    add(b"{\"filename\": \n", 5, "bad_request");
    add(b"[1]\n", 6, "bad_request");
    add(b"{\"filename\": \"\xff\", \"text\": \"x\"}\n", 7, "bad_request");
    add(b"{\"filename\": \"c.txt\", \"text\": \"x\", \"colour\": \"red\"}\n", 8, "invalid_field");
    add(b"{\"filename\": \"d.txt\", \"text\": \"x\", \"base64\": \"eA==\"}\n", 9, "invalid_field");
    add(b"{\"filename\": \"e.txt\"}\n", 10, "invalid_field");
    add(b"{\"filename\": \"f.txt\", \"base64\": \"not base64!\"}\n", 11, "invalid_field");
    add(b"{\"filename\": \"\", \"text\": \"x\"}\n", 12, "invalid_field");
    add(line("g.txt", "").as_bytes(), 13, "empty");
    add(line("h.txt", &"x".repeat(5_000)).as_bytes(), 14, "too_large");
    add(b"{\"filename\": \"i.txt\", \"text\": \"x\", \"lane\": \"fast\"}\n", 15, "invalid_field");
    add(b"{\"filename\": \"j.txt\", \"text\": \"x\", \"metadata\": [1]}\n", 16, "invalid_field");
    add(b"{\"filename\": \"j.txt\", \"text\": \"x\", \"chunk_max_tokens\": 1}\n", 17, "invalid_field");
    let base64 = STANDARD.encode("in base64 ã");
    add(format!("{}\n", json!({"filename": "k.txt", "base64": base64})).as_bytes(), 18, "new");
    add(line("again.txt", "the first").as_bytes(), 19, "duplicate");
    // The last one has no line end.
    add(line("l.txt", "the last").trim_end().as_bytes(), 20, "new");

    let request = lines(&gateway, body).query(&[("collection", "Notes"), ("metadata", "{\"year\": 7}")]);
    let (items, summary) = answer(request).await;
    let seen: Vec<_> = items.iter().map(|item| (item["line"].as_u64().unwrap(), fate(item))).collect();
    assert_eq!(seen, wanted);
    let counts =
        json!({"items": 18, "accepted": 4, "duplicates": 1, "refused": 13, "skipped": 0, "complete": true});
    assert_eq!(summary, counts);
    assert_eq!((&items[0]["name"], &items[16]["id"]), (&json!("a.txt"), &items[0]["id"]));
    assert_eq!(items[5]["problem"]["errors"][0]["field"], "colour", "{}", items[5]);
    assert_eq!(items[5]["problem"]["status"], 400);
    let kept = documents(&gateway).await;
    assert_eq!(kept.len(), 4);
    assert!(
        kept.iter().all(|d| d["collection"] == "Notes" && d["metadata"] == json!({"year": 7})),
        "{kept:?}"
    );
    assert_eq!(kept.iter().filter(|d| d["size"] == "in base64 ã".len()).count(), 1);
}

#[tokio::test]
async fn lines_have_settings_of_their_own_and_one_version_of_a_document() {
    let gateway = Gateway::start().await;
    let mut body = String::new();
    for n in 0..3 {
        let versions = json!({"filename": "v.txt", "text": format!("version {n}"), "external_id": "one"});
        let own = json!({"filename": "o.txt", "text": format!("other {n}"), "collection": "Own"});
        body += &format!("{versions}\n{own}\n");
    }
    let request = || lines(&gateway, body.clone()).query(&[("collection", "All")]);
    let fates = |items: &[Value]| items.iter().map(fate).collect::<Vec<_>>().join(" ");
    let (items, _) = answer(request()).await;
    assert_eq!(fates(&items), "new new external_id_repeated new external_id_repeated new");
    // That is why: a repeated request would make versions of them again and again.
    let (items, _) = answer(request()).await;
    assert_eq!(
        fates(&items),
        "duplicate duplicate external_id_repeated duplicate external_id_repeated duplicate"
    );
    let next = json!({"filename": "v.txt", "text": "version 1", "external_id": "one"});
    let (items, _) = answer(lines(&gateway, format!("{next}\n")).query(&[("collection", "All")])).await;
    assert_eq!(items[0]["version"], 2, "in the next request it is the next version");
    let kept = documents(&gateway).await;
    let one: Vec<_> = kept.iter().filter(|document| document["external_id"] == "one").collect();
    assert!(one.len() == 1 && one[0]["version"] == 2 && one[0]["collection"] == "All", "{one:?}");
    assert_eq!(kept.iter().filter(|document| document["collection"] == "Own").count(), 3);
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_and_says_so() {
    let gateway = Gateway::with_config(with_bulk(|bulk| bulk.max_seconds = 1)).await;
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    sender.unbounded_send(Ok(line("a.txt", "text"))).unwrap();
    let (items, summary) = answer(lines(&gateway, Body::wrap_stream(body))).await;
    assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("timeout")));
    // On a busy machine the second is over before the line is read.
    assert!(items.iter().all(|item| fate(item) == "new") && items.len() <= 1, "{items:?}");
    assert!(summary["retry_after_seconds"].is_u64(), "{summary}");
    drop(sender);
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    sender.unbounded_send(Ok("PK".to_owned())).unwrap();
    let archive = gateway.post(BULK).header("content-type", "application/zip");
    problem(archive.body(Body::wrap_stream(body)), 503, "timeout").await;
    drop(sender);
}

#[tokio::test]
async fn a_key_that_is_revoked_amid_a_request_ends_it() {
    let gateway = Gateway::with_config(Config { key_cache_seconds: 0, ..with_bulk(|_| {}) }).await;
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    sender.unbounded_send(Ok(line("0.txt", "text"))).unwrap();
    let request = lines(&gateway, Body::wrap_stream(body));
    let answered = tokio::spawn(answer(request));
    eventually(|| async { documents(&gateway).await.len() == 1 }).await;
    let key_id = gateway.deployment.key.split('_').nth(1).unwrap();
    gateway.deployment.store.revoke_key(&gateway.deployment.tenant, key_id).await.unwrap();
    let mut n = 0;
    eventually(|| {
        n += 1;
        let _ = sender.unbounded_send(Ok(line(&format!("{n}.txt"), &format!("text {n}"))));
        let ended = answered.is_finished();
        async move { ended }
    })
    .await;
    let (_, summary) = answered.await.unwrap();
    assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("unauthorized")));
}

#[tokio::test]
async fn a_request_that_broke_off_is_repeated_and_nothing_is_there_twice() {
    let gateway = Gateway::start().await;
    let all: Vec<String> = (0..60).map(|n| line(&format!("{n}.txt"), &format!("text {n}"))).collect();
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    for line in &all[..30] {
        sender.unbounded_send(Ok(line.clone())).unwrap();
    }
    let request = lines(&gateway, Body::wrap_stream(body));
    let sending = tokio::spawn(request.send());
    eventually(|| async { documents(&gateway).await.len() >= 10 }).await;
    // In the middle of a line, and of the documents before.
    sender.unbounded_send(Ok(all[30][..10].to_owned())).unwrap();
    sender.unbounded_send(Err(std::io::ErrorKind::ConnectionReset.into())).unwrap();
    let _ = sending.await.unwrap();

    let (items, summary) = answer(lines(&gateway, all.concat())).await;
    assert_eq!(items.len(), 60);
    let (new, known) = (summary["accepted"].as_u64().unwrap(), summary["duplicates"].as_u64().unwrap());
    assert!(known >= 10 && new >= 29 && new + known == 60, "{summary}");
    assert_eq!(documents(&gateway).await.len(), 60);
    let (_, summary) = answer(lines(&gateway, all.concat())).await;
    assert_eq!(summary["duplicates"], 60, "{summary}");
}

#[tokio::test]
async fn each_document_of_a_request_takes_an_upload_of_the_rate() {
    let limits = Limits { uploads_per_minute: 1, upload_burst: 4, ..Limits::default() };
    let config = with_bulk(|bulk| bulk.rate_wait_seconds = 0);
    let gateway = Gateway::with(Change { limits, config, ..Change::default() }).await;
    let body: String = (0..6).map(|n| line(&format!("{n}.txt"), &format!("text {n}"))).collect();
    let (items, summary) = answer(lines(&gateway, body)).await;
    let fates: Vec<_> = items.iter().map(fate).collect();
    assert_eq!(fates, ["new", "new", "new", "new", "rate_limited", "rate_limited"]);
    assert!(items[4]["retry_after_seconds"].as_u64().is_some_and(|after| (1..=60).contains(&after)));
    assert_eq!((&summary["refused"], &summary["complete"]), (&json!(2), &json!(true)));
    assert_eq!(summary["retry_after_seconds"], items[5]["retry_after_seconds"], "it is worth a repetition");
}

/// A gateway whose tenant has so many uploads, and then one a minute, for which no request waits.
async fn slow(upload_burst: u32) -> Gateway {
    let limits = Limits { uploads_per_minute: 1, upload_burst, ..Limits::default() };
    let config = with_bulk(|bulk| bulk.rate_wait_seconds = 0);
    Gateway::with(Change { limits, config, ..Change::default() }).await
}

#[tokio::test]
async fn what_is_known_takes_nothing_of_the_rate_so_that_repetitions_get_further() {
    let gateway = slow(2).await;
    let all: Vec<String> = (0..7).map(|n| line(&format!("{n}.txt"), &format!("text {n}"))).collect();
    // Five are known by way of a gateway that has no limits.
    let other = gateway.replica(Limits::default()).await;
    let request = gateway.post(&format!("{}{BULK}", other.base));
    let request = request.header("content-type", "application/x-ndjson").body(all[..5].concat());
    assert_eq!(answer(request).await.1["accepted"], 5);
    // There is no wait, so seven tokens could not come in one request.
    let (items, summary) = answer(lines(&gateway, all.concat())).await;
    let counts = (&summary["duplicates"], &summary["accepted"], &summary["complete"]);
    assert_eq!(counts, (&json!(5), &json!(2), &json!(true)), "{items:?}");
}

#[tokio::test]
async fn what_is_refused_takes_nothing_of_the_rate_so_that_repetitions_get_further() {
    let gateway = slow(1).await;
    let files: &[(&str, &[u8])] =
        &[("damaged.txt", b"the damaged text"), ("empty.txt", b""), ("good.txt", b"the good text")];
    let mut bytes = zip(files, CompressionMethod::Stored);
    let at = bytes.windows(16).position(|part| part == files[0].1).unwrap();
    bytes[at] = b'T';
    let (items, _) = answer(send(&gateway, "zip", bytes)).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["damaged", "empty", "new"]);
}

#[tokio::test]
async fn what_a_quota_refuses_takes_nothing_of_the_rate() {
    let gateway = slow(2).await;
    let set = |quotas| gateway.deployment.janitor.set_over_quota(&gateway.deployment.tenant, quotas);
    set(&[Quota::Documents]).await.unwrap();
    let body: String = (0..6).map(|n| line(&format!("{n}.txt"), &format!("text {n}"))).collect();
    let (items, _) = answer(lines(&gateway, body)).await;
    assert!(items.iter().all(|item| fate(item) == "quota_exceeded"), "{items:?}");
    set(&[]).await.unwrap();
    let body = [line("a.txt", "text a"), line("b.txt", "text b")].concat();
    assert_eq!(answer(lines(&gateway, body)).await.1["accepted"], 2);
}

#[tokio::test]
async fn a_request_waits_for_the_rate_within_bounds() {
    let limits = Limits { uploads_per_minute: 60, upload_burst: 1, ..Limits::default() };
    let gateway = Gateway::with(Change { limits, ..Change::default() }).await;
    let body: String = (0..3).map(|n| line(&format!("{n}.txt"), &format!("text {n}"))).collect();
    let (items, _) = answer(lines(&gateway, body)).await;
    assert!(items.iter().all(|item| fate(item) == "new"), "{items:?}");
}

#[tokio::test]
async fn over_a_quota_what_is_known_is_answered_and_what_is_new_is_refused() {
    let gateway = Gateway::start().await;
    let (items, _) = answer(lines(&gateway, line("a.txt", "known"))).await;
    assert_eq!(fate(&items[0]), "new");
    let tenant = gateway.deployment.tenant.clone();
    gateway.deployment.janitor.set_over_quota(&tenant, &[Quota::Documents]).await.unwrap();
    let body = [line("b.txt", "new"), line("a.txt", "known")].concat();
    let (items, summary) = answer(lines(&gateway, body)).await;
    assert_eq!([fate(&items[0]), fate(&items[1])], ["quota_exceeded", "duplicate"]);
    assert_eq!(summary["complete"], true);
}

#[tokio::test]
async fn what_is_wrong_with_the_whole_request_is_a_problem() {
    let config = with_bulk(|bulk| (bulk.max_bytes, bulk.max_items) = (10_000, 3));
    let gateway = Gateway::with_config(config).await;
    let one = || line("a.txt", "text");
    for kind in ["application/json", "application/octet-stream", "text/plain"] {
        let request = gateway.post(BULK).header("content-type", kind).body(one());
        problem(request, 415, "unsupported_media_type").await;
    }
    problem(gateway.post(BULK).body(one()), 415, "unsupported_media_type").await;
    let packed = lines(&gateway, one()).header("content-encoding", "gzip");
    problem(packed, 415, "unsupported_media_type").await;
    let key = lines(&gateway, one()).header("idempotency-key", "k");
    problem(key, 400, "invalid_field").await;
    for query in [
        "external_id=a",
        "filename=a",
        "colour=red",
        "lane=fast",
        "chunk_max_tokens=1",
        "by_path=true",
        "by_path=1",
    ] {
        let request = gateway.post(&format!("{BULK}?{query}")).header("content-type", "application/x-ndjson");
        problem(request.body(one()), 400, "invalid_field").await;
    }
    problem(lines(&gateway, "x".repeat(10_001)), 413, "too_large").await;
    // Found out on the way, the summary says so; what came before is accepted.
    let many: String = (0..5).map(|n| line(&format!("{n}.txt"), &format!("text {n}"))).collect();
    let (items, summary) = answer(lines(&gateway, many)).await;
    assert_eq!((items.len(), &summary["complete"], &summary["accepted"]), (3, &json!(false), &json!(3)));
    assert!(summary["problem"]["detail"].as_str().unwrap().contains("more than 3 documents"), "{summary}");
    let large = [Ok::<_, std::io::Error>(one()), Ok(format!("{}\n", " ".repeat(10_000)))];
    let (items, summary) = answer(lines(&gateway, Body::wrap_stream(futures::stream::iter(large)))).await;
    assert_eq!((items.len(), &summary["problem"]["code"]), (1, &json!("too_large")), "{summary}");
}

#[tokio::test]
async fn a_gateway_that_stops_says_that_the_rest_was_not_taken() {
    let mut gateway = Gateway::with_config(with_bulk(|_| {})).await;
    let (sender, body) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    sender.unbounded_send(Ok(line("a.txt", "text"))).unwrap();
    let request = lines(&gateway, Body::wrap_stream(body));
    let answered = tokio::spawn(answer(request));
    eventually(|| async { documents(&gateway).await.len() == 1 }).await;
    let stopping = tokio::spawn(async move { gateway.stop().await });
    // Without another line: the client may wait for the fate of the one that it sent.
    let (_, summary) = answered.await.unwrap();
    assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("unavailable")));
    drop(sender);
    stopping.await.unwrap();
}
