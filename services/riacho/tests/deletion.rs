//! A deleted document leaves nothing behind: not in PostgreSQL, not in Redis, not in the object store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, path::Path};

use serde_json::{Value, json};
use support::cluster::{Cluster, Services};

/// A word that is in no other document, and that is its own stem.
const MARK: &str = "zyqvox7";

/// Where the mark, or its bytes in hexadecimal, still stands.
fn places(cluster: &Cluster) -> Vec<String> {
    let mut places = in_postgres(cluster);
    places.extend(in_redis(cluster));
    in_files(&cluster.dir.path().join("objects"), &mut places);
    places
}

fn in_postgres(cluster: &Cluster) -> Vec<String> {
    let tables =
        "SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind = 'r'";
    let tables: Vec<String> =
        cluster.database.run(tables).into_iter().filter_map(|row| row[0].clone()).collect();
    assert!(tables.len() > 15, "{tables:?}");
    let hex: String = MARK.bytes().map(|byte| format!("{byte:02x}")).collect();
    let holds = |table: &String| {
        let sql = format!(
            "SELECT count(*) FROM {table} AS t WHERE lower(t::text) LIKE '%{MARK}%' OR t::text LIKE '%{hex}%'"
        );
        cluster.database.run(&sql)[0][0].as_deref() != Some("0")
    };
    tables.into_iter().filter(holds).map(|table| format!("table {table}")).collect()
}

fn in_redis(cluster: &Cluster) -> Vec<String> {
    let ask = |args: &[&str]| cluster.redis.command(args);
    let mut places = Vec::new();
    for key in ask(&["KEYS", "*"]).list() {
        let key = key.text();
        let held = match ask(&["TYPE", key]).text() {
            "stream" => ask(&["XRANGE", key, "-", "+"]),
            "hash" => ask(&["HGETALL", key]),
            "string" => ask(&["GET", key]),
            other => panic!("{key} is a {other}, which this test does not read"),
        };
        if format!("{key} {held:?}").to_lowercase().contains(MARK) {
            places.push(format!("key {key}"));
        }
    }
    places
}

fn in_files(directory: &Path, places: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            in_files(&path, places);
        } else if String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).to_lowercase().contains(MARK)
        {
            places.push(format!("object {}", path.display()));
        }
    }
}

async fn call(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

async fn upload(services: &Services, name: &str, body: &str) -> String {
    let url = format!("{}/api/v1/documents", services.url);
    let query = [("filename", name), ("external_id", MARK), ("metadata", &json!({"mark": MARK}).to_string())];
    let accepted = call(services.client.post(url).query(&query).body(body.to_owned())).await;
    accepted["id"].as_str().unwrap().to_owned()
}

async fn is_ready(services: &Services, id: &str, version: u64) {
    let url = format!("{}/api/v1/documents/{id}/status", services.url);
    riacho_testkit::eventually(|| async {
        let status = call(services.client.get(&url)).await;
        let ready = status["state"] == "ready" && status["version"] == version;
        if ready { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// A message with these files, each with its name and its media type.
fn mail(subject: &str, files: &[(&str, &str, &str)]) -> String {
    let boundary = format!("b{}", subject.len());
    let part = |(name, kind, body): &(&str, &str, &str)| {
        format!(
            "--{boundary}\r\nContent-Type: {kind}\r\nContent-Disposition: attachment; filename={name}\r\n\r\n{body}\r\n"
        )
    };
    let parts: String = files.iter().map(part).collect();
    format!(
        "From: a@b\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n{parts}--{boundary}--\r\n"
    )
}

/// What is attached to a document, when so many are and all are ready.
async fn attached(services: &Services, parent: &str, count: usize) -> Vec<String> {
    let url = format!("{}/api/v1/documents?parent={parent}", services.url);
    riacho_testkit::eventually(|| async {
        let list = call(services.client.get(&url)).await;
        let items = list["documents"].as_array().cloned().unwrap_or_default();
        let ready = items.len() == count && items.iter().all(|item| item["state"] == "ready");
        let ids = items.iter().filter_map(|item| item["id"].as_str()).map(str::to_owned).collect();
        if ready { Ok(ids) } else { Err(list.to_string()) }
    })
    .await
}

/// Uploads a message, in which a file and a message with a file lie. Answers the four documents.
async fn upload_mail(services: &Services) -> Vec<String> {
    let note = format!("The {MARK} gauge stood at the weir.");
    let inner = mail(&format!("Inner {MARK}"), &[("deep.txt", "text/plain", &note)]);
    let files =
        [("note.txt", "text/plain", note.as_str()), ("inner.eml", "application/octet-stream", &inner)];
    let url = format!("{}/api/v1/documents?filename=outer.eml", services.url);
    let accepted = call(services.client.post(url).body(mail(&format!("The outer {MARK}"), &files))).await;
    let outer = accepted["id"].as_str().unwrap().to_owned();
    is_ready(services, &outer, 1).await;
    let mut all = vec![outer.clone()];
    for id in attached(services, &outer, 2).await {
        let url = format!("{}/api/v1/documents/{id}", services.url);
        if call(services.client.get(url)).await["filename"] == "inner.eml" {
            all.extend(attached(services, &id, 1).await);
        }
        all.push(id);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_document_leaves_nothing_in_postgresql_redis_and_the_object_store() {
    let mut cluster = Cluster::new();
    cluster.set("RIACHO__JANITOR__PURGE_GRACE_SECONDS", "2");
    cluster.set("RIACHO__JANITOR__SCHEDULES__PURGE", "* * * * * *");
    cluster.set("RIACHO__GATEWAY__SEARCH_CACHE_SECONDS", "2");
    let mut services = cluster.start(&cluster.prepare());
    services.are_ready().await;
    services.upload("neighbour").await;
    services.all_ready().await;

    let text = |part: &str| {
        format!("# The {MARK} report\n\nThe {part} {MARK} gauge stood at the weir.\n").repeat(40)
    };
    let id = upload(&services, &format!("{MARK}.md"), &text("first")).await;
    is_ready(&services, &id, 1).await;
    assert_eq!(upload(&services, &format!("{MARK}.md"), &text("second")).await, id);
    is_ready(&services, &id, 2).await;
    let messages = upload_mail(&services).await;
    assert_eq!(messages.len(), 4, "{messages:?}");
    let body = json!({"query": format!("{MARK} gauge"), "mode": "keyword"});
    let search = || call(services.client.post(format!("{}/api/v1/search", services.url)).json(&body));
    assert!(!search().await["hits"].as_array().unwrap().is_empty());
    // The test sees what it looks for.
    let before = places(&cluster);
    for place in ["table documents", "table document_versions", "table chunks", "object "] {
        assert!(before.iter().any(|found| found.starts_with(place)), "{place}: {before:?}");
    }
    let files = before.iter().filter(|found| found.contains("/attachments/")).count();
    assert_eq!(files, 3, "the attached files: {before:?}");

    // A third version is on its way when the document is deleted.
    upload(&services, &format!("{MARK}.md"), &text("third")).await;
    for id in [&id, &messages[0]] {
        call(services.client.delete(format!("{}/api/v1/documents/{id}", services.url))).await;
    }
    assert_eq!(search().await["hits"], json!([]));
    riacho_testkit::eventually(|| async {
        let left = places(&cluster);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let receipt = cluster.database.run(&format!(
        "SELECT versions, chunks > 0, vectors = chunks, objects > 0 FROM receipts WHERE document_id = '{id}'"
    ));
    let receipt: Vec<_> = receipt[0].iter().map(|value| value.clone().unwrap_or_default()).collect();
    assert_eq!(receipt, ["3", "t", "t", "t"]);
    let of_messages =
        format!("SELECT count(*) FROM receipts WHERE document_id IN ('{}')", messages.join("', '"));
    assert_eq!(cluster.database.run(&of_messages)[0][0].as_deref(), Some("4"));
    cluster.check(&services);
}
