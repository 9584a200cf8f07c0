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
    let body = json!({"query": format!("{MARK} gauge"), "mode": "keyword"});
    let search = || call(services.client.post(format!("{}/api/v1/search", services.url)).json(&body));
    assert!(!search().await["hits"].as_array().unwrap().is_empty());
    // The test sees what it looks for.
    let before = places(&cluster);
    for place in ["table documents", "table document_versions", "table chunks", "object "] {
        assert!(before.iter().any(|found| found.starts_with(place)), "{place}: {before:?}");
    }

    // A third version is on its way when the document is deleted.
    upload(&services, &format!("{MARK}.md"), &text("third")).await;
    call(services.client.delete(format!("{}/api/v1/documents/{id}", services.url))).await;
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
    cluster.check(&services);
}
