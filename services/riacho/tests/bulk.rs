//! Thousands of documents in a request: all become searchable, whatever breaks off, and memory stays bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{
    collections::BTreeSet,
    io::{Cursor, Write},
};

use futures::StreamExt;
use reqwest::{RequestBuilder, StatusCode};
use riacho_testkit::{
    process::{Process, install_tls},
    within,
};
use serde_json::{Value, json};
use support::{
    Deployment,
    cluster::{Cluster, PATIENCE},
};

const BULK: &str = "/api/v1/documents/bulk";
/// So many by archive, and as many by lines.
const MANY: usize = 1_000;

/// A client without a time limit: thousands of documents take what they take.
fn client(key: &str) -> reqwest::Client {
    install_tls();
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    reqwest::Client::builder().default_headers(headers).no_proxy().build().unwrap()
}

fn zip(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(name, options).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn text(word: &str) -> String {
    format!("# {word}\n\nThe keeper of the lock wrote down the draught of the barge {word}.\n")
}

fn archive_of(words: impl IntoIterator<Item = String>) -> Vec<u8> {
    zip(words.into_iter().map(|word| (format!("barges/{word}.md"), text(&word).into_bytes())))
}

/// Sends a request to its end.
async fn answer(request: RequestBuilder) -> (Vec<Value>, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
    let mut lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].take();
    assert!(summary.is_object(), "{body}");
    (lines, summary)
}

#[tokio::test]
async fn thousands_of_files_by_archive_and_by_lines_are_all_ready_once() {
    let deployment = Deployment::start(&[], &[]).await;
    let client = client(&deployment.up.api_key().unwrap());
    let post = |kind: &str| client.post(deployment.up.url(BULK)).header("content-type", kind);
    let archive = archive_of((0..MANY).map(|n| format!("packed{n}")));
    let lines: String = (0..MANY)
        .map(|n| format!("listed{n}"))
        .map(|word| format!("{}\n", json!({"filename": format!("{word}.md"), "text": text(&word)})))
        .collect();
    let both =
        [post("application/zip").body(archive.clone()), post("application/x-ndjson").body(lines.clone())];
    let [packed, listed] = both.map(answer);
    let ((packed, first), (listed, second)) = futures::join!(packed, listed);
    for summary in [first, second] {
        let counts = json!({"items": MANY, "accepted": MANY, "duplicates": 0, "refused": 0, "skipped": 0, "complete": true});
        assert_eq!(summary, counts);
    }
    let ids: BTreeSet<_> = packed.iter().chain(&listed).map(|item| item["id"].to_string()).collect();
    assert_eq!(ids.len(), 2 * MANY);
    within(PATIENCE * 4, || async {
        let documents = deployment.get("/api/v1/queue/info").await["documents"].take();
        if documents["ready"] == 2 * MANY { Ok(()) } else { Err(documents.to_string()) }
    })
    .await;
    for word in ["packed0", "packed999", "listed0", "listed999"] {
        let hits = deployment.search(json!({"query": word, "mode": "keyword"})).await;
        let names: BTreeSet<_> = hits.iter().map(|hit| hit["filename"].to_string()).collect();
        assert_eq!(names, BTreeSet::from([format!("\"{word}.md\"")]));
    }
    // All of it again: nothing runs.
    for request in [post("application/zip").body(archive), post("application/x-ndjson").body(lines)] {
        assert_eq!(answer(request).await.1["duplicates"], MANY);
    }
    let documents = deployment.get("/api/v1/queue/info").await["documents"].take();
    assert_eq!(documents["ready"], 2 * MANY, "{documents}");
}

fn count(cluster: &Cluster, sql: &str) -> usize {
    cluster.database.run(sql)[0][0].as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_gateway_that_is_killed_amid_a_bulk_request_costs_nothing_that_it_told() {
    let cluster = Cluster::new();
    let key = cluster.prepare();
    let mut services = cluster.start(&key);
    services.are_ready().await;
    let client = client(&key);
    let archive = archive_of((0..400).map(|n| format!("barge{n}")));
    let post = || client.post(format!("{}{BULK}", services.url)).header("content-type", "application/zip");
    let response = post().body(archive.clone()).send().await.unwrap();
    let mut lines = response.bytes_stream();
    let mut told = Vec::new();
    while told.iter().filter(|byte| **byte == b'\n').count() < 40 {
        told.extend_from_slice(&lines.next().await.unwrap().unwrap());
    }
    services.gateway.kill9().unwrap();
    while let Some(Ok(piece)) = lines.next().await {
        told.extend_from_slice(&piece);
    }
    let whole = told.iter().rposition(|byte| *byte == b'\n').unwrap();
    let told: Vec<Value> = String::from_utf8_lossy(&told[..whole])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(told.len() >= 40 && told.len() < 400, "{}", told.len());
    assert!(told.iter().all(|item| item["duplicate"] == false), "{told:?}");

    let listen = services.url.trim_start_matches("http://").to_owned();
    services.gateway = cluster.spawn(&["ingest-gateway", "--listen", &listen]);
    services.are_ready().await;
    let repeated = client.post(format!("{}{BULK}", services.url)).header("content-type", "application/zip");
    let (items, summary) = answer(repeated.body(archive)).await;
    assert_eq!((items.len(), &summary["complete"]), (400, &json!(true)));
    for (before, now) in told.iter().zip(&items) {
        assert_eq!((&before["id"], &now["duplicate"]), (&now["id"], &json!(true)), "{before}");
    }
    for item in &items {
        let word = item["name"].as_str().unwrap().trim_start_matches("barges/").trim_end_matches(".md");
        services.accepted.push((item["id"].as_str().unwrap().to_owned(), word.to_owned()));
    }
    services.all_ready().await;
    cluster.check(&services);
    services.stop().await;
}

#[tokio::test]
async fn while_postgresql_is_away_a_bulk_request_ends_and_says_that_it_is_not_complete() {
    let cluster = Cluster::new();
    let key = cluster.prepare();
    let services = cluster.start_with(&key, "janitor");
    services.are_ready().await;
    let client = client(&key);
    let archive = archive_of((0..200).map(|n| format!("barge{n}")));
    let post = || client.post(format!("{}{BULK}", services.url)).header("content-type", "application/zip");
    // The key is known for a while, so the request begins.
    assert_eq!(answer(post().body(archive_of(["first".to_owned()]))).await.1["accepted"], 1);
    cluster.to_postgres.refuse();
    cluster.to_postgres.cut();
    let (items, summary) = answer(post().body(archive.clone())).await;
    assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("unavailable")));
    assert!(summary["retry_after_seconds"].as_u64().is_some_and(|after| after >= 1), "{summary}");
    // Only those that were on their way have waited for it.
    assert!(!items.is_empty() && items.len() < 50, "{}", items.len());
    assert!(items.iter().all(|item| item["problem"]["code"] == "unavailable"), "{items:?}");
    cluster.to_postgres.pass();
    services.are_ready().await;
    let (_, summary) = answer(post().body(archive)).await;
    assert_eq!((&summary["accepted"], &summary["complete"]), (&json!(200), &json!(true)));
    assert_eq!(count(&cluster, "SELECT count(*) FROM documents"), 201);
}

/// The most memory that a process has had so far, in bytes.
fn most_memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Bytes that do not compress, the same each time.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut words = Vec::with_capacity(length + 8);
    while words.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words.extend_from_slice(&state.to_le_bytes());
    }
    words.truncate(length);
    words
}

#[tokio::test]
async fn a_large_archive_takes_a_gateway_little_memory() {
    let cluster = Cluster::new();
    let key = cluster.prepare();
    let services = cluster.start_with(&key, "janitor");
    services.are_ready().await;
    let client = client(&key);
    let send = |archive: Vec<u8>| {
        let url = format!("{}{BULK}", services.url);
        answer(client.post(url).header("content-type", "application/zip").body(archive))
    };
    // What the first request needs stays.
    send(zip([("a.txt".to_owned(), noise(0, 1_000_000))])).await;
    let before = most_memory(&services.gateway);
    // Small ones, some at once, and one of many pieces.
    let files = (1..300).map(|n| (format!("{n}.bin"), noise(n, 220_000)));
    let archive = zip(files.chain([("large.bin".to_owned(), noise(900, 24_000_000))]));
    let size = archive.len() as u64;
    assert!(size > 85_000_000, "{size}");
    let (items, summary) = send(archive).await;
    assert_eq!((items.len(), &summary["accepted"]), (300, &json!(300)), "{summary}");
    let grown = most_memory(&services.gateway) - before;
    assert!(grown < size / 3, "{grown} bytes more for an archive of {size}");
    println!("{grown} bytes more for an archive of {size}");
}
